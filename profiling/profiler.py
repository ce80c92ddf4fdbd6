"""Which profiler records a run, and what it left. The job script of a profiled run calls this. Scope: job.

    python -m paceline.profiling.profiler choose [--also NSYS]   prints the nsys to use, or nothing: torch.profiler
    python -m paceline.profiling.profiler run -- COMMAND...      runs nsys; outlives an nsys that is killed
    python -m paceline.profiling.profiler export                 exports nsys's reports to SQLite, for the analysis

nsys is tried out before the training starts: one that is too old for the driver ends the program that it should
profile. Whatever goes wrong with a profiler is one line, here and in profiler.json, and never the end of the training.
Exports hold the environment of the job; only this user may read them, until `paceline profile` has scrubbed them.
Standard library only.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paceline.bench.assignment import load_run
from paceline.bench.errors import PacelineError, RecordError, TraceError
from paceline.bench.processes import adopt_orphans, descendants, kill_descendants
from paceline.bench.record import PROFILER_SCHEMA, Case
from paceline.bench.rundir import RunDir, read_json, write_json
from paceline.profiling import nsys

_PROBE_TIMEOUT_S = 120.0
_REPORT_S = 300.0  # time that nsys gets to write its report when the program has ended
# What an nsys must survive: the driver is initialised and a context made, as torch does.
_PROBE_CUDA = """
import ctypes
driver = ctypes.CDLL("libcuda.so.1")
assert driver.cuInit(0) == 0, "cuInit"
device, context, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
assert driver.cuDeviceGet(ctypes.byref(device), 0) == 0, "cuDeviceGet"
assert driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0, "cuDevicePrimaryCtxRetain"
assert driver.cuCtxPushCurrent_v2(context) == 0, "cuCtxPushCurrent"
assert driver.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(4096)) == 0, "cuMemAlloc"
assert driver.cuMemsetD8_v2(memory, ctypes.c_ubyte(1), ctypes.c_size_t(4096)) == 0, "cuMemsetD8"
assert driver.cuCtxSynchronize() == 0, "cuCtxSynchronize"
"""


def kineto_file(run: RunDir, rank: int) -> Path:
    """Return where a rank's torch.profiler trace goes."""
    return run.profile / f"kineto-rank-{rank:04d}.json.gz"


def facts(run: RunDir) -> dict[str, Any]:
    """Return what profiler.json says, nothing if it is absent or damaged."""
    try:
        return read_json(run.profiler_json)
    except (OSError, RecordError):
        return {}


def chosen(run: RunDir) -> str:
    """Return the profiler of a run that is starting: ``nsys`` or ``torch``."""
    return str(facts(run).get("profiler", "torch"))


def problem(run: RunDir) -> str | None:
    """Return why a run that has ended cannot be analysed, one line; None if it can."""
    if run.captures():
        return None
    said = facts(run).get("problems") or ["the profiler left nothing"]
    return f"the training completed, but there is no trace of it: {said[0]}"


def choose(run: RunDir, case: Case, also: str | None = None) -> str | None:
    """Find out which profiler works here, write profiler.json, and return the path of nsys; None for torch.profiler.

    Args:
        run: The run's folder.
        case: Says which profiler is wanted, and whether there is a GPU.
        also: A further nsys to try: that of the node, shown to a container.

    Raises:
        TraceError: nsys is insisted on and does not work, or PACELINE_NSYS names none.
    """
    found: dict[str, Any] = {"nsys": None, "nsys_version": None}
    note = "torch.profiler was asked for"
    if case.profiler != "torch":
        note = _try_nsys(found, case, also) or ""
        if note and case.profiler == "nsys":
            raise TraceError(note)
    use = None if note else str(found["nsys"])
    run.profile.mkdir(exist_ok=True)
    run.profile.chmod(0o700)  # reports hold the environment of the job, tokens included
    write_json(
        run.profiler_json,
        {
            "schema": PROFILER_SCHEMA,
            "profiler": "nsys" if use else "torch",
            **found,
            "cuda": case.device == "cuda",
            "graph_trace": case.graph_trace if use and case.device == "cuda" else None,
            "window": case.profile_window,
            "note": f"{note}: torch.profiler is used" if note and case.profiler != "torch" else None,
            "problems": [],
        },
    )
    return use


def _try_nsys(found: dict[str, Any], case: Case, also: str | None) -> str | None:
    """Return why nsys cannot be used here, None if it can; put path and version into ``found``."""
    path = nsys.find() or (Path(also) if also and os.access(also, os.X_OK) else None)
    if path is None:
        return f"nsys is not installed on {os.uname().nodename}"
    cuda = case.device == "cuda"
    try:
        version = nsys.version(path)
        found |= {"nsys": str(path), "nsys_version": ".".join(map(str, version))}
        objection = nsys.problem(version, driver_version()) if cuda else None
        return objection or probe(path, cuda)
    except TraceError as error:
        return str(error)


def probe(path: Path, cuda: bool) -> str | None:
    """Profile a program that does next to nothing; return why nsys does not work here, None if it does.

    Tried twice: beside another version of nsys on one node, one start in a hundred fails for want of its own agent.
    """
    return _probe_once(path, cuda) and _probe_once(path, cuda)


def _probe_once(path: Path, cuda: bool) -> str | None:
    with tempfile.TemporaryDirectory(prefix="paceline-nsys-") as folder:
        report = Path(folder) / "probe.nsys-rep"
        program = [sys.executable, "-c", _PROBE_CUDA if cuda else "pass"]
        command = nsys.profile_command(path, program, report, cuda=cuda, window=False)
        variables = {**os.environ, **nsys.ENVIRONMENT}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", env=variables, timeout=_PROBE_TIMEOUT_S,
                check=False, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{path} does not work here ({error})"
        if done.returncode or not report.is_file() or not report.stat().st_size:
            said = [line.strip() for line in (done.stdout + "\n" + done.stderr).splitlines() if line.strip()]
            detail = f": {said[-1][:200]}" if said else ""
            return f"{path} does not work here (a program profiled with it ends with {done.returncode}){detail}"
    return None


def driver_version() -> str | None:
    """Return the version of the NVIDIA driver, None without one."""
    for text in (_output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"), _kernel_module()):
        match = re.search(r"\b\d{3,}\.\d+(?:\.\d+)?\b", text)
        if match:
            return match.group()
    return None


def _output_of(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _kernel_module() -> str:
    try:
        return Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return ""


def run_command(command: Sequence[str]) -> int:
    """Run nsys and return its exit status; if it dies, go on until the program that it profiled has ended.

    The program does not end with an nsys that is killed (by hand, for its memory), and nsys's agent often still writes
    the report.
    """
    adopt_orphans()
    child = subprocess.Popen(list(command), env={**os.environ, **nsys.ENVIRONMENT})
    status = child.wait()
    if status < 0:
        print(f"paceline: nsys was killed by signal {-status}: the training goes on", file=sys.stderr, flush=True)
        alone_since: float | None = None
        while left := descendants(os.getpid()):
            _reap()
            if all(_is_nsys(pid) for pid in left):
                alone_since = alone_since or time.monotonic()
                if time.monotonic() - alone_since > _REPORT_S:
                    break
            time.sleep(0.5)
        kill_descendants()
    return 128 - status if status < 0 else status


def _is_nsys(pid: int) -> bool:
    try:
        return "nsys" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
    except OSError:
        return True  # has just ended


def _reap() -> None:
    """Take the exit status of orphans that this process adopted."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def export(run: RunDir) -> list[Path]:
    """Export every nsys report of a run that is not exported yet, note what failed, and return what can be analysed."""
    known = facts(run)
    if known.get("profiler") != "nsys":
        return run.captures()
    problems: list[str] = []
    reports = sorted(run.profile.glob("nsys-*.nsys-rep"))
    if not reports:
        cut = sorted(run.profile.glob("nsys-*.qdstrm"))
        problems.append(
            f"nsys was stopped before it had made a report of {cut[0].name}" if cut else
            "nsys left no report: it was killed, or its capture range never opened"
        )  # fmt: skip
    umask = os.umask(0o077)
    for report in reports:
        output = report.with_suffix(".sqlite")
        if output.exists() and output.stat().st_mtime >= report.stat().st_mtime:
            continue
        try:
            nsys.export(str(known["nsys"]), report, output)
        except TraceError as error:
            problems.append(str(error).replace(f"{run.path}/", ""))
    os.umask(umask)
    for line in problems:
        print(f"paceline: {line}", file=sys.stderr, flush=True)
    write_json(run.profiler_json, known | {"problems": problems})
    return run.captures()


def main(arguments: list[str] | None = None) -> int:
    """Do one step of a profiled run; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m paceline.profiling.profiler", description=(__doc__ or "").split("\n")[0]
    )
    steps = parser.add_subparsers(dest="step", required=True)
    steps.add_parser("choose").add_argument("--also", metavar="NSYS", help="a further nsys to try")
    steps.add_parser("run").add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND ...")
    steps.add_parser("export")
    options = parser.parse_args(arguments)
    if options.step == "run":
        command = options.command[1:] if options.command[:1] == ["--"] else options.command
        return run_command(command)
    run, case = load_run()
    if options.step == "export":
        return 0 if export(run) else 1
    use = choose(run, case, options.also)
    if use:
        print(use)
    else:
        print(f"paceline: {facts(run).get('note') or 'torch.profiler records this run'}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PacelineError as error:
        print(f"paceline: {error}", file=sys.stderr)
        sys.exit(2)
