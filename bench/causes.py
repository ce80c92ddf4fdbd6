"""Why a run failed, and whether its physics was valid, as its log tells. Standard library only. Scope: job.

The texts and what they mean are in bench/failures.json, buffers that overflow in bench/overflow.py. Why a run ended
stands in the last megabyte of its log: what lies further back was survived. Overflows are looked for everywhere,
because an engine that overflows goes on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from paceline.bench import logscan, overflow
from paceline.bench.failures import FailureText, last_lines, texts
from paceline.bench.overflow import Overflow

_EVIDENCE = 5
_LINE_LIMIT = 2000
_OVERFLOW_WORDS = (
    "buffer overflow detected",
    "DynamicsMemoryConfig::",
    "exceeded MJWarp limit",
    "buffer overflowed",
    "maxNbContactDataBlocks",
    "Contact reduction hashtable",
    "overflow - please increase",
)
# torchrun and Isaac Lab put the rank before a line; our own errors have a module path before their name.
_WHO = re.compile(r"^(?:\[\w+\]:\s*)?(?:paceline\.bench\.errors\.)?")
# The last line of a traceback: `package.Name: message`, or a bare name.
_EXCEPTION = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit)(?::.*)?$")
_LAUNCHER = re.compile(r"(?:torch\.distributed\.elastic\S*)?ChildFailedError")
_OURS = "paceline supervise: "
# What an overflow can end in; any other cause stands for itself.
_AFTER_OVERFLOW = frozenset({"physics_failed", "physx_kernel", "physx_crash", "segfault", "unknown", "truncated"})


# What other ranks report after one of them has raised an exception of its own.
_CONSEQUENCES = frozenset({"nccl", "gloo", "rendezvous", "segfault", "signal", "killed", "no_trace"})


class Cause(NamedTuple):
    """Class of a failure, one line for a person, and the lines of the log that say so."""

    cause: str
    message: str
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LogFindings:
    """What the log of a run says."""

    cause: Cause
    """Why it failed, if it did."""
    overflows: tuple[Overflow, ...]
    size_bytes: int
    searched_bytes: int

    @property
    def invalid_physics(self) -> str | None:
        """One line: which buffers were too small and the sizes they need; None if none was."""
        if not self.overflows:
            return None
        told = []
        for each in self.overflows:
            size = f": it needs at least {each.needed}" if each.needed is not None else ""
            name = f" ({each.setting})" if each.setting and each.setting.rpartition(".")[2] != each.buffer else ""
            told.append(f"{each.buffer} buffer overflow{size}{name}, {each.count} messages")
        return shorten("; ".join(told))

    def root_cause(self, cause: Cause) -> Cause:
        """Return the cause, or the overflow that came before it where it can have led there."""
        if self.overflows and cause.cause in _AFTER_OVERFLOW:
            lines = tuple(each.first for each in self.overflows)
            return Cause("invalid_physics", self.invalid_physics or "", (*lines, *cause.evidence)[:_EVIDENCE])
        return cause


def read_log(path: Path, num_envs_per_rank: int) -> LogFindings:
    """Return what a log says; nothing known if there is none."""
    scan = logscan.scan(path, _OVERFLOW_WORDS)
    return LogFindings(
        cause=classify(scan.tail),
        overflows=overflow.scan_counted(scan.lines.items(), num_envs_per_rank).overflows,
        size_bytes=scan.size_bytes,
        searched_bytes=scan.searched_bytes,
    )


def classify(log: str) -> Cause:
    """Return the cause of a failure from the end of a log: a known class, else the first exception, else unknown."""
    lines = [_WHO.sub("", line.strip()[:_LINE_LIMIT]) for line in log.splitlines()]
    exceptions = [line for line in lines if _EXCEPTION.match(line) and not _LAUNCHER.match(line)]
    for row in texts():
        found = _matching(row, lines)
        if found and row.cause in _CONSEQUENCES and (own := [line for line in exceptions if not _known(line)]):
            return Cause("error", shorten(own[0]), _kept(own))
        if found:
            cause = Cause(row.cause, shorten(found[0]), _kept(found))
            return _hang(cause, lines) if row.cause == "stalled" else cause
    if exceptions:
        return Cause("error", shorten(exceptions[0]), _kept(exceptions))
    return Cause("unknown", "the log names no error", _kept(_theirs(lines)[-3:]))


def _known(line: str) -> bool:
    return any(_matching(row, [line]) for row in texts())


def _theirs(lines: Sequence[str]) -> list[str]:
    """Return the lines that are not empty and not Paceline's own."""
    return [line for line in lines if line and not line.startswith("paceline")]


def _matching(row: FailureText, lines: Iterable[str]) -> list[str]:
    return [line for line in lines if any(word in line for word in row.words) and row.pattern.search(line)]


def _hang(cause: Cause, lines: Sequence[str]) -> Cause:
    """Return a hang's own class if the last lines before it was noticed tell one."""
    first = next(index for index, line in enumerate(lines) if line.startswith(_OURS))
    before = _theirs(lines[:first])[-_EVIDENCE:]
    for row in last_lines():
        found = _matching(row, before)
        if found:
            return Cause(row.cause, cause.message, _kept([*found, *cause.evidence]))
    return cause._replace(evidence=_kept([*cause.evidence, *before[-2:]]))


def _kept(lines: Sequence[str]) -> tuple[str, ...]:
    """Return the first lines and the last, without doubles, each shortened."""
    different = list(dict.fromkeys(shorten(line) for line in lines))
    return tuple(different if len(different) <= _EVIDENCE else [*different[: _EVIDENCE - 1], different[-1]])


def shorten(text: str) -> str:
    """Return a text as one line of at most 300 characters."""
    line = " ".join(text.split())
    return line if len(line) <= 300 else line[:299] + "…"
