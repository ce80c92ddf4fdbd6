"""Writes the record of one rank (rank-NNNN.jsonl): header, one line per iteration, end. Scope: rank."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paceline.bench.record import ITERATION_COLUMNS, RANK_SCHEMA


class RankFile:
    """The open record of one rank.

    Every line goes to the operating system as soon as it is made, so a killed process loses at most the line it was
    writing. Nothing is forced to disk: that would make the trainer wait for the file system.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._stream = open(self.path, "w", encoding="utf-8")  # noqa: SIM115 (open until `end`)
        self._has_header = False
        self.iterations = 0
        self.ended = False

    def header(self, facts: dict[str, Any]) -> None:
        """Write the first line; ``facts`` are the keys of docs/formats.md after type and schema."""
        values = {"type": "header", "schema": RANK_SCHEMA, **facts, "columns": list(ITERATION_COLUMNS)}
        self._line(values)
        self._has_header = True

    @property
    def has_header(self) -> bool:
        """Whether the header was written."""
        return self._has_header

    def iteration(self, row: Sequence[float | int | None]) -> None:
        """Write one iteration, values in the order of ITERATION_COLUMNS; a number that is not finite becomes null."""
        if len(row) != len(ITERATION_COLUMNS):
            raise ValueError(f"a row has {len(row)} values, the columns are {len(ITERATION_COLUMNS)}")
        self._line([_finite(value) for value in row])
        self.iterations += 1

    def end(self, status: str, end_s: float, error: str | None = None, **further: Any) -> None:
        """Write the last line, once: later calls change nothing. ``further`` are more keys of it."""
        if self.ended:
            return
        self.ended = True
        facts = {"status": status, "iterations": self.iterations, "end_s": round(end_s, 6), "error": error}
        self._line({"type": "end", **facts, **further})
        self._stream.close()

    def _line(self, value: Any) -> None:
        self._stream.write(json.dumps(value, separators=(",", ":"), allow_nan=False) + "\n")
        self._stream.flush()


def _finite(value: float | int | None) -> float | int | None:
    if isinstance(value, float):
        # round() keeps lines short; nanoseconds are finer than the clock is right. nan != nan, inf - inf is nan.
        return round(value, 9) if value - value == 0.0 else None
    return value


def one_line(error: BaseException) -> str:
    """Return an exception as one line of at most 300 characters: type and first line of its message."""
    text = str(error).strip().splitlines()
    message = f"{type(error).__name__}: {text[0].strip()}" if text else type(error).__name__
    return message if len(message) <= 300 else message[:299] + "…"
