"""Reads the records of ranks while or after they are written, for the supervisor and the sentinel.

Standard library only. A record may be truncated at any byte: its last line counts only if it is whole.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paceline.bench import jsontext
from paceline.bench.record import RANK_SCHEMA, Case

_TAIL_BYTES = 65536


@dataclass(frozen=True, kw_only=True, slots=True)
class RankSummary:
    """What a rank's record says about its outcome."""

    rank: int
    header: dict[str, Any] | None
    """First line, None if it is missing, broken or of another schema."""
    iterations: int
    """Iterations recorded in whole lines."""
    end: dict[str, Any] | None
    """Last line if it is an end, None if the record was cut."""

    def completed(self, case: Case) -> bool:
        """Return whether this rank did all its iterations and said so.

        A start of a campaign resumes at an iteration, and is done early when another goal of the campaign is reached.
        """
        return (
            self.header is not None
            and self.header.get("case_id") == case.case_id
            and self.header.get("rank") == self.rank
            and self.end is not None
            and self.end.get("status") == "completed"
            and (self.end.get("goal") is not None or self.start_iteration + self.iterations == case.iterations)
        )

    @property
    def start_iteration(self) -> int:
        """Iteration that this start resumed at; 0 for a run from the beginning."""
        return int((self.header or {}).get("start_iteration", 0))


def read_rank(path: Path, rank: int) -> RankSummary:
    """Return the summary of one rank's record; a missing file gives one with nothing in it."""
    header: dict[str, Any] | None = None
    end: dict[str, Any] | None = None
    iterations = 0
    try:
        with open(path, "rb") as stream:
            for number, line in enumerate(stream):
                value = _parse(line)
                if number == 0:
                    if isinstance(value, dict) and value.get("schema") == RANK_SCHEMA:
                        header = value
                elif isinstance(value, list):
                    iterations += 1
                elif isinstance(value, dict) and value.get("type") == "end":
                    end = value
    except OSError:
        pass
    return RankSummary(rank=rank, header=header, iterations=iterations, end=end)


def last_line(path: Path) -> Any:
    """Return the last line of a record as a JSON value; None if there is none or it is not whole."""
    try:
        with open(path, "rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - _TAIL_BYTES))
            lines = stream.read().splitlines(keepends=True)
    except OSError:
        return None
    return _parse(lines[-1]) if lines else None


def _parse(line: bytes) -> Any:
    if not line.endswith(b"\n"):
        return None
    try:
        return jsontext.loads(line)
    except ValueError:
        return None
