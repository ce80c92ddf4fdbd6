"""Reads rank-NNNN.jsonl: the header, the iteration rows and the end of what one rank measured.

Iteration rows are JSON arrays of numbers and nulls, so a whole batch of files can be read as one table of
comma-separated values: ten times as fast as JSON, row by row. Large studies are read by compiled code where numba is
installed (rankfile_fast.py). Whatever does not fit these readers is read again, line by line, to say which is wrong.
"""

from __future__ import annotations

import csv
import io
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from paceline.bench.errors import RecordError
from paceline.bench.record import RANK_SCHEMA, require_schema

Rows = npt.NDArray[np.float64]

Reader = Callable[[bytes, Any], bool]

COMPILED_FROM_BYTES = 96 * 1024 * 1024
"""Records of this size are read by compiled code, if numba is installed; loading it takes half a second."""
_BATCH_FILES = 32
_WORKERS = 2
_AHEAD = 6  # batches


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


def read_rank_files(paths: Sequence[Path]) -> Iterator[RankFile | RecordError]:
    """Yield what each file holds, or the error that says why it cannot be read, in the order of ``paths``.

    A few files ahead are read meanwhile, on two threads: reading numbers does not hold the interpreter's lock.
    """
    compiled = _compiled(paths)
    batches = [paths[first : first + _BATCH_FILES] for first in range(0, len(paths), _BATCH_FILES)]
    with ThreadPoolExecutor(max_workers=_WORKERS) as pool:
        ahead: deque[Future[list[RankFile | RecordError]]] = deque()
        for batch in batches:
            ahead.append(pool.submit(_read_batch, batch, compiled))
            if len(ahead) > _AHEAD:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()


def _compiled(paths: Sequence[Path]) -> Reader | None:
    """Return the compiled reader where it is worth loading and installed, else None."""
    try:
        size = paths[0].stat().st_size * len(paths) if paths else 0
    except OSError:
        size = 0
    if size < COMPILED_FROM_BYTES:
        return None
    try:
        from paceline.analysis.rankfile_fast import parse_rows
    except ImportError:  # numba is the extra `fast`
        return None
    return parse_rows


def _split(path: Path) -> _Text:
    try:
        with open(path, "rb", buffering=0) as stream:  # one read, without a buffer in between
            data = stream.readall()
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
    return _Text(path, header, tuple(columns), end, truncated, body, _count(body, b"\n"))


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


def _read_batch(paths: Sequence[Path], compiled: Reader | None) -> list[RankFile | RecordError]:
    """Return what some files hold, those of the same columns read at once."""
    found: list[RankFile | RecordError] = []
    texts: list[_Text] = []
    for path in paths:
        try:
            text = _split(path)
        except RecordError as error:
            found += _rows(texts, compiled)
            texts = []
            found.append(error)
            continue
        if texts and text.columns != texts[0].columns:
            found += _rows(texts, compiled)
            texts = []
        texts.append(text)
    return found + _rows(texts, compiled)


def _rows(texts: Sequence[_Text], compiled: Reader | None) -> list[RankFile | RecordError]:
    """Return the rows of files of the same columns: compiled, else as a table of values, else line by line."""
    if not texts:
        return []
    width = len(texts[0].columns)
    found: list[RankFile | RecordError | None] = [None] * len(texts)
    if compiled is not None:
        for slot, text in enumerate(texts):
            values = np.empty((width, text.num_rows))
            if compiled(text.body, values):
                found[slot] = _record(text, values.T)
    rest = [slot for slot, record in enumerate(found) if record is None]
    table = _fast([texts[slot] for slot in rest], width) if rest else None
    start = 0
    for slot in rest:
        text = texts[slot]
        found[slot] = _carefully(text, width) if table is None else _record(text, table[start : start + text.num_rows])
        start += text.num_rows
    return [record for record in found if record is not None]


def _record(text: _Text, rows: Rows) -> RankFile:
    return RankFile(text.path, text.header, text.columns, text.end, text.truncated, rows)


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
    return _record(text, rows)


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
