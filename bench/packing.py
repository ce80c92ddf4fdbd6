"""Packs cells of an evaluation onto GPUs (or CPU cores): as many processes at once as memory and cores allow.

The first cell runs alone and is measured. After that each GPU gets as many processes as fit by device memory, host
memory and cores. When memory runs out all the same, one process fewer runs there from then on and the cell is run
again; a cell that crashes is run again twice at most.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paceline.bench.checkpointcontents import ANOTHER_NETWORK
from paceline.bench.evaluation import Cell, EvaluationDir

_HEADROOM = 1.15
_ROUNDING = 0.25
"""A process that keeps 1.1 cores busy shares two with another."""
_RESERVE_BYTES = 1 << 30
_TRIES = 3
_POLL_S = 0.3
OUT_OF_MEMORY = re.compile(
    r"CUDA out of memory|OutOfMemoryError|cudaErrorMemoryAllocation|CUDA error 2: out of memory|"
    r"Failed to allocate \d+ bytes on device|std::bad_alloc|MemoryError|Cannot allocate memory"
)


@dataclass(slots=True)
class Place:
    """Where processes run: one GPU, or the CPU."""

    name: str
    """What CUDA_VISIBLE_DEVICES says; empty for the CPU."""
    free_bytes: int | None
    """Device memory that is free before anything runs; None for the CPU."""
    slots: int = 1
    """Processes at once."""
    limited_by: str = "one process is measured first"


@dataclass(slots=True)
class Job:
    """A cell that is being played."""

    cell: Cell
    place: Place
    process: subprocess.Popen[bytes]
    log: Path
    attempt: int
    began: float


@dataclass(slots=True)
class Progress:
    """How an evaluation stands; handed to whoever shows it."""

    cells: Sequence[Cell]
    states: dict[str, str] = field(default_factory=dict)
    """By cell_id: waiting, running, completed, failed."""
    episodes: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What is worth saying, oldest first."""


class Packer:
    """Plays cells, several at a time."""

    def __init__(
        self,
        folder: EvaluationDir,
        cells: Sequence[Cell],
        command: Sequence[str],
        environment: Mapping[str, str],
        show: Callable[[Progress], None],
        *,
        most: int | None = None,
        only: int | None = None,
        places: list[Place] | None = None,
    ) -> None:
        """Prepare.

        Args:
            folder: Where records and logs go.
            cells: What to play; those that are completed in the folder are left out.
            command: The jobs' Python and its arguments; the cell's file and the record's path follow.
            environment: Environment of the processes.
            show: Called with the progress, again and again.
            most: Processes at once on each GPU at most; 1 plays one by one. None: as many as fit.
            only: GPUs to use at most; None: all.
            places: Where to run; what this machine has if None.
        """
        self.folder = folder
        self.progress = Progress(cells)
        self._command, self._environment, self._show, self._most = list(command), dict(environment), show, most
        on_gpu = any(cell.device.startswith("cuda") for cell in cells)
        self.places = places if places is not None else (gpus() if on_gpu else [Place("", None)])
        self.places = self.places[:only]
        self._waiting: list[tuple[Cell, int]] = []
        self._running: list[Job] = []
        self._measured: dict[str, Any] | None = None
        for cell in cells:
            outcome = folder.outcome(cell)
            done = outcome.get("status") == "completed"
            self.progress.states[cell.cell_id] = "completed" if done else "waiting"
            self.progress.episodes[cell.cell_id] = int(outcome["episodes"]) if done else 0
            if done:
                self._measured = self._measured or outcome
            else:
                self._waiting.append((cell, 1))

    def run(self) -> Progress:
        """Play all cells; return how they ended. An exception ends what is running and leaves records readable."""
        if self._measured is not None:
            self._fit()
        try:
            while self._waiting or self._running:
                self._start()
                self._show(self.progress)
                time.sleep(_POLL_S)
                for job in list(self._running):
                    self._look(job)
        except BaseException:
            self._end_all()
            raise
        self._show(self.progress)
        return self.progress

    def _start(self) -> None:
        for place in self.places:
            while self._waiting and sum(job.place is place for job in self._running) < place.slots:
                if self._measured is None and self._running:
                    return  # the first one runs alone
                cell, attempt = self._waiting.pop(0)
                self._begin(cell, attempt, place)

    def _begin(self, cell: Cell, attempt: int, place: Place) -> None:
        environment = dict(self._environment)
        if place.name:
            environment["CUDA_VISIBLE_DEVICES"] = place.name
        log = self.folder.log(cell, attempt)
        with open(log, "wb") as stream:
            process = subprocess.Popen(
                [*self._command, str(self.folder.cell_json(cell)), str(self.folder.record(cell))],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running.append(Job(cell, place, process, log, attempt, time.time()))
        self.progress.states[cell.cell_id] = "running"

    def _look(self, job: Job) -> None:
        outcome = self.folder.outcome(job.cell)
        self.progress.episodes[job.cell.cell_id] = int(outcome.get("episodes", 0))
        code = job.process.poll()
        if code is None:
            return
        self._running.remove(job)
        ok = outcome.get("status") == "completed"  # by its record, not by its exit code: simulators crash at exit
        again = None
        if not ok:
            again = self._after_failure(job, code, outcome)
        self._note_schedule(job, code, outcome, again)
        self.progress.states[job.cell.cell_id] = "completed" if ok else ("waiting" if again else "failed")
        if ok and self._measured is None:
            self._measured = outcome
            self._fit()

    def _after_failure(self, job: Job, code: int, outcome: Mapping[str, Any]) -> str | None:
        """Return why a cell is run again, None if it is given up."""
        text = _tail(job.log)
        alone = not any(other.place is job.place for other in self._running) and job.place.slots == 1
        if (OUT_OF_MEMORY.search(text) or code == -signal.SIGKILL) and not alone:
            beside = sum(other.place is job.place for other in self._running)
            job.place.slots = max(1, min(job.place.slots - 1, beside))
            job.place.limited_by = "memory ran out with one more"
            self._say(f"{job.cell.name}: out of memory; {job.place.slots} at once from now on")
            self._waiting.append((job.cell, job.attempt + 1))
            return "memory"
        if ANOTHER_NETWORK in str(outcome.get("error")):
            self._say(f"{job.cell.name}: {outcome['error']}")
            return None  # it would fail again
        if job.attempt < _TRIES:
            reason = outcome.get("error") or _last_error(text) or f"ended with exit status {code}"
            self._say(f"{job.cell.name}: {reason}; once more")
            self._waiting.append((job.cell, job.attempt + 1))
            return "crash"
        self._say(f"{job.cell.name}: failed {_TRIES} times (log: {job.log})")
        return None

    def _fit(self) -> None:
        """Set the processes at once of every place, by what the first cell needed."""
        assert self._measured is not None
        rss = int(self._measured.get("rss_bytes") or 0)
        device = self._measured.get("device_memory_bytes")
        busy = max(
            0.5, float(self._measured.get("cpu_s") or 1.0) / max(1e-9, float(self._measured.get("wall_s") or 1.0))
        )
        cores = len(os.sched_getaffinity(0))
        by_host = {
            "cores": int(cores / busy + _ROUNDING),
            "host memory": int((host_memory_free() + rss * len(self._running)) / (rss * _HEADROOM)) if rss else 10**6,
        }
        share = {name: max(1, value // len(self.places)) for name, value in by_host.items()}
        for place in self.places:
            fits = dict(share)
            if place.free_bytes is not None and device:
                fits["device memory"] = int((place.free_bytes - _RESERVE_BYTES) / (device * _HEADROOM))
            if self._most is not None:
                fits["--at-once"] = self._most
            name, count = min(fits.items(), key=lambda item: item[1])
            place.slots, place.limited_by = max(1, count), name
        per_gpu = f"{device / 2**30:.1f} GiB of device memory, " if device else ""
        where = ", ".join(
            f"{place.name or 'CPU'}: {place.slots} at once, by {place.limited_by}" for place in self.places
        )
        self._say(f"one process needs {per_gpu}{rss / 2**30:.1f} GiB and {busy:.2g} cores; {where}")

    def _say(self, text: str) -> None:
        self.progress.notes.append(text)
        self._show(self.progress)

    def _note_schedule(self, job: Job, code: int, outcome: Mapping[str, Any], again: str | None) -> None:
        line = {
            "cell_id": job.cell.cell_id,
            "attempt": job.attempt,
            "place": job.place.name or "cpu",
            "began_unix_s": job.began,
            "ended_unix_s": time.time(),
            "slots": job.place.slots,
            "exit_status": code,
            "status": outcome.get("status", "killed"),
            "error": outcome.get("error"),
            "again": again,
        }
        with open(self.folder.schedule_jsonl, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    def _end_all(self) -> None:
        for job in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.process.pid, signal.SIGKILL)
            job.process.wait()
        self._running.clear()


def gpus() -> list[Place]:
    """Return the GPUs that processes may use, with their free memory; CUDA_VISIBLE_DEVICES is honoured."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return [Place("0", None)]
    answer = subprocess.run(
        [program, "--query-gpu=index,uuid,memory.free", "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found = [[part.strip() for part in line.split(",")] for line in answer.stdout.splitlines() if line.count(",") == 2]
    mask = os.environ.get("CUDA_VISIBLE_DEVICES")
    wanted = [name.strip() for name in mask.split(",") if name.strip()] if mask is not None else None
    places = [
        Place(index if wanted is None or index in wanted else uuid, int(free) * 2**20 if free.isdigit() else None)
        for index, uuid, free in found
        if wanted is None or index in wanted or any(uuid.startswith(name) for name in wanted)
    ]
    return places or [Place("0", None)]


def host_memory_free() -> int:
    """Return bytes of memory that new processes may use: of the machine, and of the control group if it limits them."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    with contextlib.suppress(OSError, ValueError):
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit != "max":
            free = min(free, int(limit) - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    return max(0, free)


def _last_error(text: str) -> str | None:
    """Return the last line of a log that names an error."""
    lines = [line.strip() for line in text.splitlines() if re.match(r"\s*[\w.]*(Error|Exception)\b", line)]
    return lines[-1][:200] if lines else None


def _tail(path: Path, size: int = 65536) -> str:
    try:
        with open(path, "rb") as stream:
            stream.seek(max(0, path.stat().st_size - size))
            return stream.read().decode("utf-8", "replace")
    except OSError:
        return ""
