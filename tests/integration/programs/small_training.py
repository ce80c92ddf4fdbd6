"""A small training that goes wrong as it is told. Takes the place of bench/worker.py in a study's copy of the code.

Everything around it is real: the job script, torchrun, the supervisor, the sampler, the sentinel; its records are like
those of the worker. Where the fault of one rank is felt by the others, they meet through gloo and reduce a gradient in
every iteration; elsewhere torch is not imported, which would take most of the time of a test.
`faults.json` in the study folder says what goes wrong at which repeat, in the first attempt or in as many as `attempts`
says; what a run survives may happen together.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from paceline.bench import hardware, stacks
from paceline.bench.assignment import load_run
from paceline.bench.rankfile import RankFile
from paceline.bench.record import Case
from paceline.bench.rundir import RunDir

FELT_BY_OTHERS = ("kill rank", "hang in all-reduce", "pause")
RANK = int(os.environ.get("RANK", "0"))
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"
OVERFLOW = "PhysX error: Patch buffer overflow detected, please increase its size to at least {} in the scene desc!"


def wanted_fault(run: RunDir, case: Case) -> str:
    faults = json.loads((run.path.parents[2] / "faults.json").read_text())
    name = "warmup" if case.kind == "warmup" else str(case.repeat)
    return str(faults.get(name, "")) if run.attempt <= int(faults.get("attempts", 1)) else ""


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    time.sleep(60)


def job_script() -> int:
    """Return the process id of the bash that runs job.sh: torchrun's grandparent."""
    pid = os.getpid()
    while b"job.sh" not in (words := Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"))[-2]:
        assert words and pid > 1
        pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    return pid


def become_read_only(folder: Path) -> None:
    """Mount a folder over itself, read-only from the first moment: a mount being written to cannot be made so."""
    aside, here = tempfile.mkdtemp(), str(folder)
    subprocess.run(["mount", "--bind", here, aside], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", aside], check=True)
    subprocess.run(["mount", "--bind", aside, here], check=True)
    subprocess.run(["umount", aside], check=True)
    os.rmdir(aside)


def stuck_in_step() -> None:
    time.sleep(600)


def misbehave(fault: str, run: RunDir, iteration: int) -> None:
    """Do what goes wrong in the middle of the training."""
    if iteration != 3:
        return
    if "clock" in fault and RANK == 0:
        Path(os.environ["FAKETIME_TIMESTAMP_FILE"]).write_text("-3600")
    if "secret" in fault:
        print("environment:", dict(os.environ), flush=True)
    if fault == "kill rank" and RANK == 1:
        kill(os.getpid())
    elif fault == "kill torchrun" and RANK == 0:
        kill(os.getppid())
    elif fault == "kill script" and RANK == 0:
        kill(job_script())
    elif fault == "hang in step" or (fault == "hang in all-reduce" and RANK == 1):
        stuck_in_step()
    elif fault in ("wait", "pause"):
        time.sleep(600 if fault == "wait" else 25)
    elif fault == "bug":
        raise ValueError("a mistake in the reward function")
    elif fault == "out of memory" and RANK == 0:
        hog = []
        while True:
            hog.append(bytearray(16 << 20))
    elif fault == "disk full" and RANK == 0:
        with open(run.path / "checkpoint.pt", "wb") as stream:
            while True:
                stream.write(b"x" * 65536)
                stream.flush()
    elif fault == "read-only" and RANK == 0:
        become_read_only(run.path.parents[2])
        (run.path / "checkpoint.pt").touch()
    elif fault == "overflow" and RANK == 0:
        print(OVERFLOW.format(150_000), flush=True)
        print(OVERFLOW.format(200_000), flush=True)
    elif fault == "long log" and RANK == 0:
        print(OVERFLOW.format(200_000), flush=True)
        descriptor = os.open(run.train_log, os.O_WRONLY)
        for offset in range(1 << 20, 5 << 30, 1 << 20):
            os.pwrite(descriptor, b"\n", offset)  # 5 GB with little on the disk
        raise ValueError("at the end of a long log")


def fake_clock(run: RunDir) -> None:
    """Start this process again under libfaketime, so that its clock can be set back by a file."""
    if "FAKETIME_TIMESTAMP_FILE" not in os.environ:
        stamp = run.path / f"clock-{RANK}"
        stamp.write_text("+0")
        changed = {"LD_PRELOAD": FAKETIME, "FAKETIME_TIMESTAMP_FILE": str(stamp), "FAKETIME_NO_CACHE": "1"}
        environment = {**os.environ, **changed, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        os.execve(sys.executable, [sys.executable, "-m", "paceline.bench.worker"], environment)


def header(run: RunDir, case: Case, origin: float) -> dict[str, Any]:
    derived = case.to_json()["derived"]
    problem = {**derived, "horizon": case.horizon, "num_minibatches": case.num_minibatches}
    return {
        "case_id": case.case_id, "attempt": run.attempt, "rank": RANK, "local_rank": RANK, "node_rank": 0,
        "world_size": case.world_size, "local_world_size": case.world_size, "num_nodes": 1,
        "node": hardware.node_name(), "hostname": "", "pid": os.getpid(), "clock_origin_unix_s": origin,
        "seed": case.seed + RANK, "problem": {**problem, "max_iterations": case.iterations}, "backend": "gloo",
        "device": {"kind": "cpu", "name": "cpu", "uuid": None, "memory_total_bytes": None}, "versions": {},
        "cpu": hardware.cpu_facts(), "threads": {}, "slurm": hardware.slurm_facts(),
    }  # fmt: skip


def join() -> Callable[[], None]:
    """Join the other ranks; return what reduces a gradient with them."""
    import torch
    import torch.distributed

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    gradient = torch.ones(1000)

    def reduce() -> None:
        torch.distributed.all_reduce(gradient)
        gradient.div_(torch.distributed.get_world_size())

    return reduce


def main() -> int:
    run, case = load_run()
    stacks.register()
    fault = wanted_fault(run, case)
    if "clock" in fault:
        fake_clock(run)
    reduce = join() if fault in FELT_BY_OTHERS else lambda: None
    origin, start = time.time(), time.perf_counter()
    file = RankFile(run.rank_jsonl(RANK))
    file.header(header(run, case, origin))
    for iteration in range(case.iterations):
        began = time.perf_counter()
        select.select([], [], [], 0.02)  # not sleep, which libfaketime does not bear
        misbehave(fault, run, iteration)
        collected = time.perf_counter()
        reduce()
        ended = time.perf_counter()
        file.iteration(
            (
                iteration, 0, int(iteration < case.warmup_iterations), began - start, ended - began, collected - began,
                collected - began, 0.5 * (collected - began), 0.0, ended - collected, ended - collected, 1,
                case.num_envs_per_rank * case.horizon, 1.0, 10.0, None, hardware.resident_bytes(),
                case.optimizer_steps_per_iteration, ended - began,
            )
        )  # fmt: skip
    if fault == "truncated" and RANK == 1:
        return 0
    file.end("completed", time.perf_counter() - start)
    if "hang at exit" in fault:
        select.select([], [], [], 600)
    if fault in FELT_BY_OTHERS:
        import torch.distributed

        torch.distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
