"""Starts one node's ranks, watches their records, and ends them if they hang. Scope: node.

    python -m paceline.bench.supervise [--exit-grace-s 60] [--stall-s 1800] [--kill-s 15] [--left-s 0] -- COMMAND...

Why: Isaac Sim can hang when it exits, after the last iteration is recorded; a rank stuck in a collective never ends at
all. Neither may hold an allocation. Where hung ranks were is kept in stacks-<node>.txt. The command runs in a process
group of its own; TERM and INT are handed on to the group, USR1 is not (it belongs to the batch shell: Isaac Sim dies of
it). The node's sampler is started here, too, outside the trainer's processes. Standard library only. Exit status: the
command's (128 + signal if it was killed).
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

from paceline.bench import stacks, watchdog
from paceline.bench.assignment import load_run
from paceline.bench.cgroup import oom_kills
from paceline.bench.errors import PacelineError
from paceline.bench.hardware import node_name
from paceline.bench.processes import (
    adopt_orphans,
    descendants,
    end_descendants,
    end_with_parent,
    kill_descendants,
    send,
)
from paceline.bench.rankscan import last_line
from paceline.bench.rundir import RunDir

_POLL_S = 0.2
_LOOK_EVERY_S = 1.0
_PATIENCE = 100.0
_LEAST_STALL_S = 300.0
_MEASURED_ROWS = 5  # before that, kernels are compiled: an iteration says nothing about the next
_SIGNAL_TO_KILL_S = 30.0  # the job script kills this supervisor 45 s after it has sent TERM


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How patient the supervisor is; 0 switches a limit off."""

    exit_grace_s: float = 60.0
    """Time the processes may live after all ranks have written their end."""
    stall_s: float = 1800.0
    """Time without a new line in a rank's record. Once iterations are measured, _PATIENCE times the longest of them
    counts if that is shorter, but at least _LEAST_STALL_S: a checkpoint or an evaluation may lie between two."""
    kill_s: float = 15.0
    """Time from TERM to KILL when the supervisor ends the processes itself; never off."""
    left_s: float = 0.0
    """Time that the job has left at the start; only to tell what was saved."""


class Watch:
    """What the records of the local ranks say about the progress of the run."""

    def __init__(self, run: RunDir, ranks: Sequence[int], now: float) -> None:
        self._ranks = list(ranks)
        self._paths = [run.rank_jsonl(rank) for rank in ranks]
        self._sizes = [0] * len(self._paths)
        self._ended = [False] * len(self._paths)
        self._growth = [now] * len(self._paths)
        self._growths = [0] * len(self._paths)
        self.longest_gap_s = 0.0
        """Longest time between two lines of a rank, the first ones left out."""
        self.ended_at: float | None = None

    def look(self, now: float) -> None:
        """Take note of records that grew, and of the moment when all of them had ended."""
        for index, path in enumerate(self._paths):
            with suppress(OSError):
                size = path.stat().st_size
                if size != self._sizes[index]:
                    self._sizes[index] = size
                    self._ended[index] = _is_end(last_line(path))
                    self._growths[index] += 1
                    if self._growths[index] > 2:  # header, first iteration
                        self.longest_gap_s = max(self.longest_gap_s, now - self._growth[index])
                    self._growth[index] = now
        if self.ended_at is None and all(self._ended):
            self.ended_at = now

    def silent(self, now: float, limits: Limits) -> tuple[list[int], float]:
        """Return the ranks that have recorded nothing for too long and have not ended, and how long that is."""
        limit_s = limits.stall_s
        if max(self._growths, default=0) >= _MEASURED_ROWS:
            limit_s = min(limit_s, max(_LEAST_STALL_S, _PATIENCE * self.longest_gap_s))
        found = [index for index, ended in enumerate(self._ended) if not ended and now - self._growth[index] >= limit_s]
        return [self._ranks[i] for i in found], min((now - self._growth[i] for i in found), default=0.0)

    @property
    def ranks(self) -> int:
        """How many ranks are watched."""
        return len(self._ranks)


def _is_end(line: Any) -> bool:
    return isinstance(line, dict) and line.get("type") == "end"


def verdict(watch: Watch, limits: Limits, now: float) -> str | None:
    """Return why the processes must be ended now, None if they may go on."""
    if watch.ended_at is not None:
        if limits.exit_grace_s and now - watch.ended_at >= limits.exit_grace_s:
            return f"all ranks ended {now - watch.ended_at:.0f} s ago, but the processes hang at exit"
        return None
    if limits.stall_s:
        ranks, silent_s = watch.silent(now, limits)
        if len(ranks) == watch.ranks:
            return f"no rank has recorded anything for {silent_s:.0f} s"
        if ranks:
            have = "has" if len(ranks) == 1 else "have"
            return f"rank {', '.join(map(str, ranks))} {have} recorded nothing for {silent_s:.0f} s"
    return None


def supervise(
    command: Sequence[str], run: RunDir, ranks: Sequence[int], limits: Limits, spare: frozenset[int] = frozenset()
) -> int:
    """Run a command to its end or end it, and return its exit status (128 + signal if it was killed).

    Args:
        command: The launcher of the ranks and its arguments.
        run: The run's folder.
        ranks: Global ranks whose records are watched: all of the run. Which of them a node has is decided by the
            rendezvous, they advance together, and their records lie in one folder.
        limits: How long to wait for a hanging exit and for a stalled run.
        spare: Children of this process that are none of the command's.
    """
    adopt_orphans()
    kept = run.stacks_txt(node_name())
    kills = oom_kills()
    child = subprocess.Popen(
        command,
        start_new_session=True,
        preexec_fn=end_with_parent,
        env={**os.environ, stacks.FILE_VARIABLE: str(kept)},
    )

    kill_at: float | None = None

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal kill_at
        kill_at = kill_at or time.monotonic() + _SIGNAL_TO_KILL_S
        _say(f"got {signal.Signals(number).name}, handing it on to the ranks")
        for pid in descendants(os.getpid(), spare):
            send(pid, number)

    previous = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    began = looked = time.monotonic()
    watch = Watch(run, ranks, looked)
    try:
        while True:
            if child.poll() is not None:
                return _status(child.returncode)
            time.sleep(_POLL_S)
            now = time.monotonic()
            if kill_at is not None and now >= kill_at:
                _say(f"the processes live {_SIGNAL_TO_KILL_S:.0f} s after the signal: killing them")
                kill_descendants(spare)
                return _status(child.wait())
            if now - looked < _LOOK_EVERY_S:
                continue
            looked = now
            watch.look(now)
            reason = verdict(watch, limits, now)
            if reason is not None:
                _say(f"{reason}: ending them")
                watchdog.write(run, node_name(), reason, limits.left_s - (now - began))
                if stacks.dump(descendants(os.getpid(), spare), kept):
                    _say(f"where they were: {kept.name}")
                end_descendants(limits.kill_s, spare)
                return _status(child.wait())
    finally:
        # Whatever way the launcher ended, no rank of it may keep a device or a port.
        kill_descendants(spare)
        for number, handler in previous.items():
            signal.signal(number, handler)
        with suppress(OSError):
            if kept.stat().st_size == 0:
                kept.unlink()  # the ranks keep it open for a hang that did not come
        killed = (oom_kills() or 0) - (kills or 0)
        if kills is not None and killed > 0:
            _say(f"the kernel killed {killed} process(es) of this job for memory")


def _status(returncode: int) -> int:
    return 128 - returncode if returncode < 0 else returncode


def start_sampler(run: RunDir) -> subprocess.Popen[bytes] | None:
    """Start this node's sampler; a run without samples is still a run, so a failure is only told."""
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "paceline.profiling.samplers", "--parent", str(os.getpid()), str(run.path)],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # it ends with this process, not with a signal to the job's group
        )
    except OSError as error:
        _say(f"the sampler does not start: {error}")
        return None


def _say(text: str) -> None:
    print(f"paceline supervise: {text}", file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Supervise the command after ``--`` in the run folder that PACELINE_RUN_DIR names."""
    parser = argparse.ArgumentParser(
        prog="python -m paceline.bench.supervise", description=(__doc__ or "").split("\n")[0]
    )
    defaults = Limits()
    parser.add_argument("--exit-grace-s", type=float, default=defaults.exit_grace_s, help="default %(default)s; 0: off")
    parser.add_argument("--stall-s", type=float, default=defaults.stall_s, help="default %(default)s; 0: off")
    parser.add_argument("--kill-s", type=float, default=defaults.kill_s, help="from TERM to KILL, default %(default)s")
    parser.add_argument("--left-s", type=float, default=defaults.left_s, help="time that the job has left, seconds")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND ...")
    options = parser.parse_args(arguments)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error("a command is needed after --")
    run, case = load_run()
    end_with_parent()  # a job script that is killed must not leave its training behind
    sampler = start_sampler(run)
    try:
        named = {name: getattr(options, name) for name in ("exit_grace_s", "stall_s", "kill_s", "left_s")}
        limits = Limits(**named)
        spare = frozenset() if sampler is None else frozenset({sampler.pid})
        return supervise(command, run, range(case.world_size), limits, spare)
    finally:
        if sampler is not None:
            sampler.terminate()
            with suppress(subprocess.TimeoutExpired):
                sampler.wait(timeout=5)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PacelineError as error:
        print(f"paceline: {error}", file=sys.stderr)
        sys.exit(2)
