"""The sampler of a node: once a second, what its GPUs, cores, memory, disks and the job's ranks do.

    python -m paceline.profiling.samplers --parent PID RUN_DIR

Writes samples-<node>.jsonl (docs/formats.md) in a process of its own, beside the trainers and not in them. It ends when
its parent, the node's supervisor, ends or sends TERM. A counter that the machine does not have is null.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from paceline.bench.hardware import node_name
from paceline.bench.processes import descendants
from paceline.bench.record import SAMPLES_SCHEMA, Case
from paceline.bench.rundir import RunDir, read_json
from paceline.profiling.nvml import Gpu, Nvml, foreign, open_nvml
from paceline.profiling.threads import RankThreads

INTERVAL_S = 1.0
_LOOK_FOR_RANKS_EVERY = 5  # samples: finding new processes means looking at all of the node's


class Schedule:
    """Ticks at fixed moments: a late sample is not made up for, and delays do not add up."""

    def __init__(self, interval_s: float, now: float) -> None:
        self._interval_s = interval_s
        self._origin = now
        self._tick = 0

    def wait_s(self, now: float) -> float:
        """Return how long to wait for the next tick; ticks that have passed are skipped."""
        passed = int((now - self._origin) / self._interval_s)
        self._tick = max(self._tick, passed) + 1
        return self._origin + self._tick * self._interval_s - now


class HostSampler:
    """Cores, load, memory and disks of the node, all jobs together."""

    def __init__(self) -> None:
        try:
            import psutil
        except ImportError:
            psutil = None
        self._psutil = psutil
        self._disk = self._disk_counters()
        if psutil is not None:
            psutil.cpu_percent(percpu=True)  # the first call only sets the start

    def facts(self) -> dict[str, Any]:
        """Return what does not change."""
        return {
            "logical_cores": os.cpu_count(),
            "job_cores": sorted(os.sched_getaffinity(0)),
            "ram_total_bytes": self._psutil.virtual_memory().total if self._psutil else None,
        }

    def sample(self) -> dict[str, Any]:
        """Return the values since the last sample."""
        if self._psutil is None:
            return dict.fromkeys(("cpu_pct", "ram_used_bytes", "disk_read_bytes", "disk_written_bytes")) | {
                "load_1m": os.getloadavg()[0]
            }
        memory = self._psutil.virtual_memory()
        disk = self._disk_counters()
        known = disk is not None and self._disk is not None
        return {
            "cpu_pct": self._psutil.cpu_percent(percpu=True),
            "load_1m": round(os.getloadavg()[0], 2),
            "ram_used_bytes": memory.total - memory.available,
            "disk_read_bytes": disk[0] - self._disk[0] if known and disk and self._disk else None,
            "disk_written_bytes": disk[1] - self._disk[1] if known and disk and self._disk else None,
        }

    def _disk_counters(self) -> tuple[int, int] | None:
        if self._psutil is None:
            return None
        try:
            counters = self._psutil.disk_io_counters()
        except (OSError, RuntimeError, NotImplementedError):
            return None
        return None if counters is None else (counters.read_bytes, counters.write_bytes)


class RankSampler:
    """The ranks of this node: processes below the supervisor that run the worker and know their rank."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._ranks: dict[int, RankThreads] = {}
        self._known: set[int] = set()
        self.pids: set[int] = set()
        """All processes of the job on this node, as of the last look."""

    def find(self) -> None:
        """Look for new ranks."""
        self.pids = descendants(self._root)
        for pid in self.pids - self._known:
            rank = worker_rank(pid)
            if rank is not None:
                self._ranks[rank] = RankThreads(rank, pid)
        self._known = set(self.pids)

    def sample(self) -> list[dict[str, Any]]:
        """Return one entry for each rank that lives."""
        found = []
        for rank, threads in sorted(self._ranks.items()):
            use = threads.look()
            if use is not None:
                found.append({"rank": rank, **use._asdict()})
        return found


def worker_rank(pid: int) -> int | None:
    """Return the global rank of a process that runs the worker, None for any other process."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"paceline.bench.worker" not in command or b"torch.distributed.run" in command:
            return None
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    ranks = [entry.partition(b"=")[2] for entry in variables if entry.startswith(b"RANK=")]
    return int(ranks[0]) if ranks and ranks[0].isdigit() else None


def gpu_samples(nvml: Nvml, gpus: list[Gpu], ranks: RankSampler) -> list[dict[str, Any]]:
    """Return one entry for each GPU: its counters, and how many processes use it."""
    users = [nvml.processes(gpu) for gpu in gpus]
    if any(set(pids or ()) - ranks.pids for pids in users):
        ranks.find()  # a process of ours may have started since the last look
    return [
        {
            **nvml.sample(gpu),
            "processes": None if pids is None else len(pids),
            "foreign_processes": foreign(pids, ranks.pids),
        }
        for gpu, pids in zip(gpus, users, strict=True)
    ]


def sample_node(run: RunDir, case: Case, parent: int, stream: TextIO) -> None:
    """Write the header and then samples, until the parent has ended."""
    nvml = open_nvml() if case.device == "cuda" else None
    gpus = nvml.of_job(os.environ.get("CUDA_VISIBLE_DEVICES"), case.local_world_size) if nvml else []
    host, ranks = HostSampler(), RankSampler(parent)
    origin, origin_unix = time.monotonic(), time.time()
    header = {
        "type": "header",
        "schema": SAMPLES_SCHEMA,
        "node": node_name(),
        "hostname": platform.node(),
        "interval_s": INTERVAL_S,
        "clock_origin_unix_s": origin_unix,
        "case_id": case.case_id,
        "attempt": run.attempt,
        "gpus": [nvml.facts(gpu) for gpu in gpus] if nvml else [],
        **host.facts(),
    }
    _line(stream, header)
    schedule = Schedule(INTERVAL_S, origin)
    number = 0
    while True:
        time.sleep(schedule.wait_s(time.monotonic()))
        if os.getppid() != parent:
            return
        if number % _LOOK_FOR_RANKS_EVERY == 0:
            ranks.find()
        number += 1
        sample = {
            "t_s": round(time.monotonic() - origin, 3),
            "gpus": gpu_samples(nvml, gpus, ranks) if nvml else [],
        }
        _line(stream, sample | host.sample() | {"ranks": ranks.sample()})


def _line(stream: TextIO, value: dict[str, Any]) -> None:
    stream.write(json.dumps(value, separators=(",", ":"), allow_nan=False) + "\n")
    stream.flush()


def main(arguments: list[str] | None = None) -> int:
    """Sample this node for the run in RUN_DIR until the parent ends."""
    parser = argparse.ArgumentParser(
        prog="python -m paceline.profiling.samplers", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--parent", type=int, default=os.getppid(), help="process to end with, and whose children to look at"
    )
    parser.add_argument("run", type=Path, metavar="RUN_DIR")
    options = parser.parse_args(arguments)

    def stop(number: int, frame: FrameType | None) -> None:
        sys.exit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the supervisor, and the sampler ends with it
    run = RunDir(options.run.absolute())
    case = Case.from_json(read_json(run.case_json), str(run.case_json))
    with suppress(BrokenPipeError), open(run.samples_jsonl(node_name()), "w", encoding="utf-8") as stream:
        sample_node(run, case, options.parent, stream)
    return 0


if __name__ == "__main__":
    sys.exit(main())
