"""Slots: equal shares of a machine, a GPU and some cores each, so that several trainings run side by side.

Not a benchmark. Those that repeat short single-GPU trainings use it on a host with several GPUs: it gives as many pairs
an hour as there are GPUs, and each pair stays on one GPU and on the same cores.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import threading
from collections.abc import Sequence
from math import exp, log, sqrt
from pathlib import Path

from paceline.analysis.stats import t_quantile


def cores_of(slot: int, slots: int) -> list[int]:
    """Return the cores of a slot: neighbours, so that they share a memory node where the numbering follows it."""
    cores = sorted(os.sched_getaffinity(0))
    share = max(1, len(cores) // slots)
    return cores[slot * share : (slot + 1) * share] or cores


def pinned(slot: int, slots: int, command: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the command restricted to the cores of a slot, and an environment with its GPU."""
    if shutil.which("taskset") is None:
        raise SystemExit("taskset is missing (package util-linux)")
    gpus = [entry for entry in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if entry.strip()]
    gpu = gpus[slot] if gpus else str(slot)
    cores = ",".join(map(str, cores_of(slot, slots)))
    return ["taskset", "--cpu-list", cores, *command], {**os.environ, "CUDA_VISIBLE_DEVICES": gpu}


def side_by_side(slots: int, script: str, arguments: Sequence[str]) -> list[str]:
    """Run a benchmark once in each slot, all at once; return what each printed.

    ``{slot}`` in an argument becomes the slot's number.
    """
    printed = [""] * slots
    failed: list[int] = []

    def run(slot: int) -> None:
        own = [argument.replace("{slot}", str(slot)) for argument in arguments]
        command, environment = pinned(slot, slots, [sys.executable, str(Path(script).resolve()), *own])
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
        printed[slot] = done.stdout
        print(f"slot {slot} ended with {done.returncode}", file=sys.stderr, flush=True)
        if done.returncode or not done.stdout:
            failed.append(slot)

    threads = [threading.Thread(target=run, args=(slot,)) for slot in range(slots)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise SystemExit(f"nothing came from slots {failed}")
    return printed


def paired_interval(ratios: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Return the geometric mean of paired ratios with its 95 % interval (Student's t on their logarithms)."""
    logs = [log(ratio) for ratio in ratios]
    middle = statistics.fmean(logs)
    if len(logs) < 2:
        return exp(middle), None, None
    half = t_quantile(len(logs) - 1) * statistics.stdev(logs) / sqrt(len(logs))
    return exp(middle), exp(middle - half), exp(middle + half)
