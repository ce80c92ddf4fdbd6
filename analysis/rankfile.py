"""Reads rank-NNNN.jsonl: the header, the iteration rows and the end of what one rank measured.

Iteration rows are JSON arrays of numbers and nulls, so a whole batch of files can be read as one table of
comma-separated values: ten times as fast as JSON, row by row. Whatever does not fit that reading is read again, line by
line, to say which line is wrong.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from paceline.bench.errors import RecordError
from paceline.bench.record import RANK_SCHEMA, require_schema

Rows = npt.NDArray[np.float64]

_BATCH_BYTES = 4 * 1024 * 1024  # stays in the processor cache while it is read


@dataclass(slots=True)
class RankFile:
    """What one rank wrote. ``rows`` has shape (iterations, len(columns)); null reads as NaN."""

    path: Path
    header: dict[str, Any]
    columns: tuple[str, ...]
    end: dict[str, Any] | None
    """The end record; None if the rank never wrote one."""
    truncated: bool
    """True if the last line was cut short and left out."""
    rows: Rows


@dataclass(slots=True)
class _Text:
    """A file split into its parts, its rows not read yet."""

    path: Path
    header: dict[str, Any]
    columns: tuple[str, ...]
    end: dict[str, Any] | None
    truncated: bool
    body: bytes
    num_rows: int


def read_rank_files(paths: Sequence[Path]) -> list[RankFile | RecordError]:
    """Return what each file holds, or the error that says why it cannot be read, in the order of ``paths``."""
    found: list[RankFile | RecordError] = [RecordError(f"{path}: not read") for path in paths]
    # Reading numbers does not hold the interpreter's lock: the next files are read from disk meanwhile.
    with ThreadPoolExecutor(max_workers=1) as pool:
        pending = [(slots, pool.submit(_read_batch, batch)) for slots, batch in _batches(paths, found)]
        for slots, future in pending:
            for slot, result in zip(slots, future.result(), strict=True):
                found[slot] = result
    return found


def _batches(paths: Sequence[Path], found: list[RankFile | RecordError]) -> Iterator[tuple[list[int], list[_Text]]]:
    """Yield files of the same columns to be read at once, with their positions; errors go to ``found``."""
    batch: list[_Text] = []
    slots: list[int] = []
    size = 0
    for slot, path in enumerate(paths):
        try:
            text = _split(path)
        except RecordError as error:
            found[slot] = error
            continue
        if batch and (text.columns != batch[0].columns or size > _BATCH_BYTES):
            yield slots, batch
            batch, slots, size = [], [], 0
        slots.append(slot)
        batch.append(text)
        size += len(text.body)
    if batch:
        yield slots, batch


def _split(path: Path) -> _Text:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from error
    first_end = data.find(b"\n")
    if first_end < 0:
        raise RecordError(f"{path}: truncated: the header line is not complete")
    header = _object(data[:first_end], path, 1)
    require_schema(header, RANK_SCHEMA, str(path))
    columns = header.get("columns")
    if not isinstance(columns, list) or not columns or not all(isinstance(name, str) for name in columns):
        raise RecordError(f"{path}: line 1: columns must be a list of names")
    for key in ("rank", "world_size"):
        if not isinstance(header.get(key), int):
            raise RecordError(f"{path}: line 1: {key} must be a whole number")

    last = data.rfind(b"\n") + 1
    truncated = last < len(data)  # a line that was being written when the rank died
    tail = data.rfind(b"\n", 0, last - 1) + 1
    end: dict[str, Any] | None = None
    if tail > first_end and data[tail : tail + 1] == b"{":
        end = _object(data[tail:last], path, None)
        last = tail
    body = data[first_end + 1 : last]
    return _Text(path, header, tuple(columns), end, truncated, body, body.count(b"\n"))


def _count(text: bytes, character: bytes) -> int:
    """Return how often a character occurs; several times as fast as bytes.count where it occurs often."""
    return int(np.count_nonzero(np.frombuffer(text, dtype=np.uint8) == ord(character)))


def _object(line: bytes, path: Path, number: int | None) -> dict[str, Any]:
    where = "the last line" if number is None else f"line {number}"
    try:
        value = json.loads(line)
    except ValueError as error:
        raise RecordError(f"{path}: {where} is not valid JSON") from error
    if not isinstance(value, dict):
        raise RecordError(f"{path}: {where}: expected an object")
    return value


def _read_batch(batch: Sequence[_Text]) -> list[RankFile | RecordError]:
    """Return the rows of several files of the same columns."""
    if not batch:
        return []
    width = len(batch[0].columns)
    table = _fast(batch, width)
    results: list[RankFile | RecordError] = []
    start = 0
    for text in batch:
        if table is None:
            results.append(_carefully(text, width))
            continue
        rows = table[start : start + text.num_rows]
        start += text.num_rows
        results.append(RankFile(text.path, text.header, text.columns, text.end, text.truncated, rows))
    return results


def _fast(batch: Sequence[_Text], width: int) -> Rows | None:
    """Return the rows of all files, or None unless every line of every file is exactly one row of ``width`` values."""
    import pandas as pd

    count = sum(text.num_rows for text in batch)
    if not count:
        return np.empty((0, width))
    cells = b"".join(text.body for text in batch).translate(None, b"[] ")
    # The parser refuses rows that are longer than the first, and words that are no numbers, but fills up rows that are
    # too short and skips empty ones: with as many separators as there should be, every row is exact.
    if _count(cells, b",") != count * (width - 1) or any(letter in cells for letter in (b"{", b"t", b"f", b"i", b"I")):
        return None
    try:
        frame = pd.read_csv(
            io.BytesIO(cells),
            header=None,
            dtype=np.float64,
            na_values=["null"],
            keep_default_na=False,
            quoting=csv.QUOTE_NONE,
            engine="c",
            low_memory=False,
        )
    except ValueError:
        return None
    return frame.to_numpy() if frame.shape == (count, width) else None


def _carefully(text: _Text, width: int) -> RankFile | RecordError:
    """Return one file read line by line, or the error that names the line."""
    try:
        rows = _slow(text, width)
    except RecordError as error:
        return error
    return RankFile(text.path, text.header, text.columns, text.end, text.truncated, rows)


def _slow(text: _Text, width: int) -> Rows:
    rows: list[list[float]] = []
    for number, line in enumerate(text.body.splitlines(), start=2):
        try:
            values = json.loads(line)
        except ValueError as error:
            raise RecordError(f"{text.path}: line {number} is not valid JSON") from error
        if not isinstance(values, list) or len(values) != width:
            raise RecordError(f"{text.path}: line {number}: expected an array of {width} values")
        if not all(v is None or (isinstance(v, int | float) and not isinstance(v, bool)) for v in values):
            raise RecordError(f"{text.path}: line {number}: a value is neither a number nor null")
        rows.append([np.nan if v is None else float(v) for v in values])
    return np.array(rows, dtype=np.float64).reshape(len(rows), width)
