"""Nsight Systems on the command line: finding it, judging its version, and the commands that profile and export.

Standard library only: the plan side puts ``profile_command`` into job scripts, the job side runs ``export``. The
options:

    --sample=none --cpuctxsw=none   no perf events, which locked-down kernels refuse (perf_event_paranoid >= 2)
    --capture-range=cudaProfilerApi --capture-range-end=stop
                                    records between cudaProfilerStart and -Stop only, then lets the program go on: the
                                    report is closed before a simulator that may hang or crash at exit; the default
                                    would kill it
    --cuda-graph-trace=graph|node   one row per graph launch, or one per kernel in it (which slows the program down)
    --resolve-symbols=false, DEBUGINFOD_URLS empty
                                    no search for debug symbols on the network after the run

Reports hold the whole environment, the output of the program and the process list of the node: share only exports that
``paceline trace scrub`` has cleaned.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from paceline.bench.errors import TraceError

GraphTrace = Literal["graph", "node"]
ENVIRONMENT = {"DEBUGINFOD_URLS": ""}
"""Variables to set for ``nsys profile`` and ``nsys export``."""
_PLACES = ("/opt/nvidia/nsight-systems*/*/bin/nsys", "/opt/nvidia/nsight-systems*/*/target-linux-x64/nsys")
_MORE_PLACES = ("/usr/local/cuda*/bin/nsys", "/usr/lib/nsight-systems/bin/nsys")
_VERSION = re.compile(r"\b(20\d\d)\.(\d+)(?:\.(\d+))?(?:\.(\d+))?")
_EXPORT_TIMEOUT_S = 1800.0

# Oldest nsys that traces CUDA with a driver of this major version. With CUDA 13 (driver 580), 2023.4 ends the program
# with a segmentation fault when it traces CUDA; 2024.2 records it correctly.
_OLDEST_FOR_DRIVER = {580: (2024, 2)}


def find(explicit: str | os.PathLike[str] | None = None) -> Path | None:
    """Return the nsys to use, None if there is none.

    Looks at ``explicit``, then at the variable PACELINE_NSYS, PATH and the usual folders (newest first). TraceError if
    the first or second is given and is not an executable file.
    """
    for origin, value in (("given path", explicit), ("PACELINE_NSYS", os.environ.get("PACELINE_NSYS"))):
        if value:
            path = Path(value)
            if not (path.is_file() and os.access(path, os.X_OK)):
                raise TraceError(f"{origin} {value}: not an executable nsys")
            return path
    if on_path := shutil.which("nsys"):
        return Path(on_path)
    found = [path for pattern in (*_PLACES, *_MORE_PLACES) for path in Path("/").glob(pattern.lstrip("/"))]
    runnable = [path for path in found if os.access(path, os.X_OK)]
    return max(runnable, key=lambda path: _numbers(str(path)), default=None)


def version(nsys: str | os.PathLike[str]) -> tuple[int, ...]:
    """Return the version of an nsys, such as (2024, 2, 3, 38); TraceError if it does not run or names none."""
    try:
        done = subprocess.run([os.fspath(nsys), "--version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TraceError(f"{os.fspath(nsys)}: does not run ({error})") from error
    numbers = _numbers(done.stdout)
    if done.returncode or not numbers:
        raise TraceError(f"{os.fspath(nsys)}: --version says {(done.stdout or done.stderr).strip()[:200]!r}")
    return numbers


def problem(nsys_version: Sequence[int], driver_version: str | None) -> str | None:
    """Return why an nsys must not trace CUDA with a driver, one line; None if nothing speaks against it.

    Args:
        nsys_version: As ``version`` returns it.
        driver_version: NVIDIA driver, such as ``580.159.04``; None if there is no GPU or it is not known.
    """
    match = re.match(r"\d+", driver_version or "")
    if match is None:
        return None
    for driver, oldest in _OLDEST_FOR_DRIVER.items():
        if int(match.group()) >= driver and tuple(nsys_version[:2]) < oldest:
            have, need = (".".join(map(str, numbers)) for numbers in (nsys_version, oldest))
            return (
                f"nsys {have} crashes programs that use CUDA with driver {driver_version}; "
                f"it needs nsys {need} or newer (torch.profiler is used instead)"
            )
    return None


def profile_command(
    nsys: str | os.PathLike[str],
    command: Sequence[str],
    output: str | os.PathLike[str],
    *,
    graph_trace: GraphTrace = "graph",
    cuda: bool = True,
    window: bool = True,
) -> list[str]:
    """Return the argument list that runs a command under nsys. All of the command's processes go into one report.

    Args:
        nsys: The program.
        command: What to run, for example torchrun with its arguments.
        output: Report to write; nsys adds ``.nsys-rep`` to a name without it. An older report is replaced.
        graph_trace: How CUDA graphs are recorded.
        cuda: Trace CUDA as well as NVTX; False on machines without a GPU.
        window: Record only between cudaProfilerStart and cudaProfilerStop; False records everything.
    """
    if not command:
        raise ValueError("no command to profile")
    options = profile_options(graph_trace=graph_trace, cuda=cuda, window=window)
    return [os.fspath(nsys), "profile", f"--output={os.fspath(output)}", *options, *command]


def profile_options(*, graph_trace: GraphTrace = "graph", cuda: bool = True, window: bool = True) -> list[str]:
    """Return the options of ``nsys profile``, see ``profile_command``."""
    if graph_trace not in ("graph", "node"):
        raise ValueError(f"graph_trace {graph_trace!r}: graph or node")
    options = ["--force-overwrite=true", f"--trace={'cuda,nvtx' if cuda else 'nvtx'}"]
    options += ["--sample=none", "--cpuctxsw=none", "--resolve-symbols=false"]
    if cuda:
        options += [f"--cuda-graph-trace={graph_trace}"]
    if window:
        options += ["--capture-range=cudaProfilerApi", "--capture-range-end=stop"]
    return options


def export_command(
    nsys: str | os.PathLike[str],
    report: str | os.PathLike[str],
    output: str | os.PathLike[str],
    kind: Literal["sqlite", "parquetdir"] = "sqlite",
) -> list[str]:
    """Return the argument list that exports a report; an older export is replaced."""
    arguments = [os.fspath(nsys), "export", f"--type={kind}", "--force-overwrite=true", "--quiet=true"]
    return [*arguments, f"--output={os.fspath(output)}", os.fspath(report)]


def export(
    nsys: str | os.PathLike[str],
    report: str | os.PathLike[str],
    output: str | os.PathLike[str],
    kind: Literal["sqlite", "parquetdir"] = "sqlite",
    environment: Mapping[str, str] | None = None,
) -> Path:
    """Export a report and return the path of the export.

    TraceError if the report is missing or empty (profiled program killed, capture range never opened), if nsys cannot
    read it, or if the disk is full; what was written of the export is removed then.
    """
    report, output = Path(report), Path(output)
    if not report.is_file():
        raise TraceError(f"{report}: no such report; the profiled run was killed, or its capture range never opened")
    if report.stat().st_size == 0:
        raise TraceError(f"{report}: empty report; the profiled run was killed while nsys wrote it")
    command = export_command(nsys, report, output, kind)
    variables = {**os.environ, **ENVIRONMENT, **(environment or {})}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            env=variables,
            timeout=_EXPORT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        _remove(output)
        raise TraceError(f"{report}: export failed ({error})") from error
    if done.returncode or not output.exists():
        _remove(output)
        lines = [line.strip() for line in (done.stderr + "\n" + done.stdout).splitlines() if line.strip()]
        said = next(
            (line for line in lines if "error" in line.lower() or "No space" in line), lines[-1] if lines else ""
        )
        free = shutil.disk_usage(output.parent).free if output.parent.is_dir() else 0
        room = f"; only {free / 1e6:.0f} MB are free in {output.parent}" if free < report.stat().st_size else ""
        raise TraceError(f"{report}: nsys could not export it (exit code {done.returncode}): {said[:300]}{room}")
    return output


def _remove(path: Path) -> None:
    """Remove what a failed export left."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _numbers(text: str) -> tuple[int, ...]:
    """Return the version in a text, () if there is none."""
    match = _VERSION.search(text)
    return tuple(int(part) for part in match.groups() if part is not None) if match else ()
