"""The text of rank-NNNN.jsonl, split into its header, the lines of its iterations and its end record."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from paceline.analysis.jsontext import loads
from paceline.analysis.readroom import ReadRoom
from paceline.bench.errors import RecordError
from paceline.bench.record import RANK_SCHEMA, require_schema


@dataclass
class RankParts:
    """What a file holds beside its iteration rows."""

    path: Path
    header: dict[str, Any]
    columns: tuple[str, ...]
    end: dict[str, Any] | None
    """The end record; None if the rank never wrote one."""
    truncated: bool
    """True if the last line was cut short and left out."""


@dataclass
class RankText(RankParts):
    """A file whose iteration rows are not read yet."""

    data: bytearray
    start: int
    """Where in ``data`` the rows begin."""
    stop: int

    @property
    def body(self) -> memoryview:
        """The lines between header and end record."""
        return memoryview(self.data)[self.start : self.stop]

    @cached_property
    def num_rows(self) -> int:
        """How many lines that is; counted when asked for, as the compiled reader finds out on the way."""
        return count(self.body, b"\n")


def count(text: bytes | memoryview, character: bytes) -> int:
    """Return how often a character occurs; several times as fast as bytes.count where it occurs often."""
    return int(np.count_nonzero(np.frombuffer(text, dtype=np.uint8) == ord(character)))


def split(path: Path, room: ReadRoom) -> RankText | RecordError:
    """Return the parts of one file, read into ``room``, or the error that says why there are none."""
    try:
        return _split(path, room)
    except RecordError as error:
        return error


def _split(path: Path, room: ReadRoom) -> RankText:
    data, first, stop = room.text(path)
    first_end = data.find(b"\n", first, stop)
    if first_end < 0:
        raise RecordError(f"{path}: truncated: the header line is not complete")
    header = _object(data[first:first_end], path, 1)
    require_schema(header, RANK_SCHEMA, str(path))
    columns = header.get("columns")
    if not isinstance(columns, list) or not columns or not all(isinstance(name, str) for name in columns):
        raise RecordError(f"{path}: line 1: columns must be a list of names")
    for key in ("rank", "world_size"):
        if not isinstance(header.get(key), int):
            raise RecordError(f"{path}: line 1: {key} must be a whole number")

    last = data.rfind(b"\n", first, stop) + 1
    truncated = last < stop  # a line that was being written when the rank died
    tail = data.rfind(b"\n", first, last - 1) + 1
    end: dict[str, Any] | None = None
    if tail > first_end and data[tail : tail + 1] == b"{":
        end = _object(data[tail:last], path, None)
        last = tail
    return RankText(path, header, tuple(columns), end, truncated, data, first_end + 1, last)


def _object(line: bytearray, path: Path, number: int | None) -> dict[str, Any]:
    where = "the last line" if number is None else f"line {number}"
    try:
        value = loads(line)
    except ValueError as error:
        raise RecordError(f"{path}: {where} is not valid JSON") from error
    if not isinstance(value, dict):
        raise RecordError(f"{path}: {where}: expected an object")
    return value
