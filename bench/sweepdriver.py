"""Runs a sweep to its end: one point after the other, each a fresh process, the next chosen by what became of it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from paceline.bench import jsontext
from paceline.bench.display import Display
from paceline.bench.driver import Driver
from paceline.bench.errors import LaunchError, RecordError
from paceline.bench.launch import JobSide, OpenStudy
from paceline.bench.plan import Plan, warmup_case
from paceline.bench.record import Case, Result
from paceline.bench.rundir import RunDir, read_json, write_json
from paceline.bench.status import process_start_ticks
from paceline.bench.sweep import Point, Stop, case_of
from paceline.bench.sweepledger import Entry, Ledger

_GUARD_EVERY_S = 2.0
_FREE_FRACTION = 0.04
"""Of this machine's memory: below it, a run is ended before the system begins to kill processes of its own choice."""


class SweepDriver:
    """Drives the sweep in one study folder."""

    def __init__(self, opened: OpenStudy, job_side: JobSide, display: Display) -> None:
        self._opened = opened
        self._job_side = job_side
        self._display = display
        self._ledger = Ledger(opened.directory, opened.study, opened.cluster)

    def run(self) -> tuple[list[Entry], Stop]:
        """Run points until the sweep has ended; return what ran and why it ended.

        Raises:
            LaunchError: the warm-up fails, or a run is cancelled; what ran stays, and the sweep can go on from there.
        """
        while True:
            entries, following = self._ledger.replay(again=True)
            if isinstance(following, Stop):
                self._ledger.write(entries, following)
                return entries, following
            self._ledger.write(entries, None)
            room = self._room_on_this_machine(entries, following)
            if room is not None:
                self._ledger.write(entries, room)
                return entries, room
            self._run_point(entries, following)

    def _run_point(self, entries: Sequence[Entry], point: Point) -> None:
        study, cluster = self._opened.study, self._opened.cluster
        case = case_of(study, cluster, point)
        self._display.say(f"next: {point.num_envs_per_rank:,} environments ({point.why})")
        cases = tuple(dict.fromkeys([*(entry.case for entry in entries), case]))
        warmup = warmup_case(study, cluster)
        opened = replace(self._opened, plan=Plan(warmup=warmup, cases=cases, gpu_hours=0.0, node_hours=0.0))
        self._ledger.retried.add(case.case_id)
        before = len(opened.directory.attempts(case.case_id))
        with _Guard(opened, case, before):
            statuses = Driver(opened, self._job_side, self._display).run(
                lambda status: status.case.case_id in (case.case_id, warmup.case_id)
            )
        state = next(status for status in statuses if status.case.case_id == case.case_id)
        if state.state in ("missing", "lost", "cancelled") or state.cause == "cancelled":
            first = statuses[0]
            if state.state == "missing" and first.case.kind == "warmup" and not first.done:
                log = opened.directory.run(first.case.case_id, first.attempt or 1).train_log
                raise LaunchError(f"the warm-up of the sweep failed: {first.cause}: {first.message} (log: {log})")
            raise LaunchError(
                f"{point.num_envs_per_rank:,} environments: {state.state}"
                + (f" ({state.message})" if state.message else "")
                + "; the sweep goes on from here when it is started again"
            )

    def _room_on_this_machine(self, entries: Sequence[Entry], point: Point) -> Stop | None:
        """Return that host memory ends the sweep if the next point would not fit into this machine, by extrapolation.

        For ranks on CPU of this machine only: on a GPU the driver refuses an allocation and nothing else suffers, and
        on a cluster the job has a limit of its own.
        """
        if self._opened.cluster.scheduler != "local" or self._opened.study.device != "cpu":
            return None
        known = {
            entry.outcome.point.num_envs_per_rank: peak
            for entry in entries
            if entry.outcome.verdict == "valid"
            and (peak := peak_memory_bytes(self._opened.directory.run(entry.case.case_id, entry.attempt))) is not None
        }
        if len(known) < 2:
            return None
        (small, low), (large, high) = sorted(known.items())[-2:]
        ranks = case_of(self._opened.study, self._opened.cluster, point).local_world_size
        needed = ranks * (high + max(high - low, 0) / (large - small) * (point.num_envs_per_rank - large))
        free = free_memory_bytes()
        if free is None or needed <= free:
            return None
        return Stop(
            by="memory",
            why=(
                f"{point.num_envs_per_rank:,} environments would need about {needed / 1e9:.1f} GB of this machine's "
                f"memory, {free / 1e9:.1f} GB are free"
            ),
        )


class _Guard:
    """Ends a run on this machine that outlives its time limit or, on CPU, takes the last of the memory. Slurm does so.

    The job script gets the signal that Slurm sends before a time limit, and ends the same way.
    """

    def __init__(self, opened: OpenStudy, case: Case, attempts_before: int) -> None:
        self._opened = opened
        self._case = case
        self._before = attempts_before
        self._done = threading.Event()
        self._ended_for: str | None = None
        self._thread = threading.Thread(target=self._watch, name="sweep guard", daemon=True)

    def __enter__(self) -> _Guard:
        if self._opened.cluster.scheduler == "local":
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self._ended_for == "memory":
            self._call_it_memory()

    def _watch(self) -> None:
        while not self._done.wait(_GUARD_EVERY_S):
            run = self._current()
            if run is None:
                continue
            with suppress(OSError, RecordError, KeyError, ValueError, TypeError):
                launch = read_json(run.launch_json)
                pid = int(launch["pid"])
                if process_start_ticks(pid) != str(launch.get("start_ticks")):
                    continue
                limit_s = 60.0 * (self._opened.study.time_limit_min or 60)
                if time.time() - float(launch["submitted_unix_s"]) > limit_s:
                    self._ended_for = "time"
                elif self._opened.study.device == "cpu" and memory_is_ending():
                    self._ended_for = "memory"
                if self._ended_for:
                    os.kill(pid, signal.SIGUSR1)
                    return

    def _current(self) -> RunDir | None:
        """Return the run that is going on, None before it has started."""
        attempts = self._opened.directory.attempts(self._case.case_id)
        return attempts[-1] if len(attempts) > self._before and attempts[-1].launch_json.exists() else None

    def _call_it_memory(self) -> None:
        """Say in the sentinel why the run was ended: the job script only knows that it was."""
        run = self._current()
        with suppress(OSError, RecordError):
            if run is not None:
                result = Result.from_json(read_json(run.result_json))
                if result.status != "completed":
                    message = "this machine's memory was nearly used up, so the run was ended"
                    write_json(
                        run.result_json,
                        replace(result, status="failed", cause="oom_host", message=message).to_json(),
                    )


def peak_memory_bytes(run: RunDir) -> int | None:
    """Return the most memory that a rank of a run had in use (on CPU: resident), None without a readable record."""
    most = None
    for path in run.rank_files():
        try:
            with path.open(encoding="utf-8") as stream:
                column = jsontext.loads(next(stream))["columns"].index("memory_used_bytes")
                used = [row[column] for row in map(jsontext.loads, stream) if isinstance(row, list)]
        except (OSError, ValueError, KeyError, IndexError, StopIteration):
            return None
        most = max([value for value in used if value is not None], default=0) if most is None else max(most, *used)
    return most


def _meminfo() -> dict[str, int]:
    """Return the fields of /proc/meminfo in bytes, empty on other systems."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    except (OSError, ValueError, IndexError):
        return {}


def free_memory_bytes() -> int | None:
    """Return the memory that programs may still take on this machine, None where the system does not tell."""
    return _meminfo().get("MemAvailable")


def memory_is_ending() -> bool:
    """Return whether so little memory is left on this machine that the system may begin to kill processes."""
    info = _meminfo()
    return "MemAvailable" in info and info["MemAvailable"] < _FREE_FRACTION * info.get("MemTotal", 0)
