"""How much processor time the threads of a rank use, by group of threads. Linux, from /proc. Scope: rank.

Threads are grouped by name without numbers: pt_autograd_0 and pt_autograd_1 are ``pt_autograd``. The main thread is
``main``; other threads that kept the name of the program are ``unnamed``.
"""

from __future__ import annotations

import os
import re
import time
from collections import defaultdict
from typing import NamedTuple

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_NUMBERS = re.compile(r"[-_:#/.\s]*\d+.*$")
_MAX_GROUPS = 12


class ThreadTime(NamedTuple):
    """Name of a thread and the processor time it has used."""

    name: str
    ticks: int


class RankUse(NamedTuple):
    """What a rank's process used since it was last looked at."""

    cpu_pct: float
    """100 = one core."""
    threads: int
    rss_bytes: int | None
    thread_groups: dict[str, float]
    """Group -> percent of one core, the busiest groups by name, the rest as ``other``."""


def read_threads(pid: int) -> dict[int, ThreadTime]:
    """Return the threads of a process by thread id; OSError if it has ended."""
    folder = f"/proc/{pid}/task"
    found = {}
    for name in os.listdir(folder):
        try:
            with open(f"{folder}/{name}/stat", "rb") as stream:
                head, _, tail = stream.read().rpartition(b")")
        except OSError:  # the thread has ended
            continue
        fields = tail.split()  # from the third field of proc(5) on: utime and stime are the 14th and 15th
        comm = head.partition(b"(")[2].decode(errors="replace")
        found[int(name)] = ThreadTime(comm, int(fields[11]) + int(fields[12]))
    return found


def group_name(name: str, tid: int, pid: int, program: str) -> str:
    """Return the group of a thread."""
    if tid == pid:
        return "main"
    if name == program:
        return "unnamed"
    return _NUMBERS.sub("", name) or "unnamed"


class RankThreads:
    """Looks at one rank's process again and again."""

    def __init__(self, rank: int, pid: int) -> None:
        self.rank = rank
        self.pid = pid
        self._before: dict[int, ThreadTime] = {}
        self._at = 0.0

    def look(self, now: float | None = None) -> RankUse | None:
        """Return the use since the last look, None on the first look or if the process has ended."""
        now = time.monotonic() if now is None else now
        try:
            threads = read_threads(self.pid)
        except OSError:
            return None
        before, elapsed = self._before, now - self._at
        self._before, self._at = threads, now
        if not before or elapsed <= 0 or not threads:
            return None
        program = threads[self.pid].name if self.pid in threads else ""
        groups: defaultdict[str, float] = defaultdict(float)
        for tid, thread in threads.items():
            used = thread.ticks - (before[tid].ticks if tid in before else 0)
            groups[group_name(thread.name, tid, self.pid, program)] += 100 * used / _TICKS_PER_S / elapsed
        return RankUse(
            cpu_pct=round(sum(groups.values()), 1),
            threads=len(threads),
            rss_bytes=_resident_bytes(self.pid),
            thread_groups=largest(groups),
        )


def largest(groups: dict[str, float]) -> dict[str, float]:
    """Return the busiest groups, rounded; what does not fit is summed up as ``other``."""
    ordered = sorted(groups.items(), key=lambda item: (-item[1], item[0]))
    kept = {name: round(value, 1) for name, value in ordered[:_MAX_GROUPS]}
    rest = sum(value for _, value in ordered[_MAX_GROUPS:])
    return {**kept, "other": round(rest, 1)} if len(ordered) > _MAX_GROUPS else kept


def _resident_bytes(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/statm", "rb") as stream:
            return int(stream.read().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return None
