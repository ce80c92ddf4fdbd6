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
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from paceline.analysis.rankfile_careful import rows_line_by_line
from paceline.analysis.readroom import ReadRoom
from paceline.bench.errors import RecordError
from paceline.bench.record import RANK_SCHEMA, require_schema

Rows = npt.NDArray[np.float64]

Reader = Callable[[bytearray, Sequence[tuple[int, int, int]], Any, int], list[bool]]

COMPILED_FROM_BYTES = 96 * 1024 * 1024
"""Records of this size are read by compiled code, if numba is installed; loading it takes half a second."""
_BATCH_FILES = 16
_AHEAD = 3  # batches


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
    data: bytearray
    start: int
    """Where in ``data`` the rows begin."""
    stop: int
    num_rows: int

    @property
    def body(self) -> memoryview:
        """The lines between header and end record."""
        return memoryview(self.data)[self.start : self.stop]


Found = RankFile | RecordError


def read_runs(runs: Sequence[Sequence[Path]]) -> Iterator[list[list[Found]]]:
    """Yield what the rank records of each run hold, or the error that says why one cannot be read, some runs at a time.

    Args:
        runs: Per run, its files. The order is kept.

    The rows of what is yielded hold until the next is asked for: their memory is used again. Files are read here, and
    their numbers meanwhile on a thread of its own, a whole batch in one call: threads that take turns at the
    interpreter's lock for each file cost more time than they save.
    """
    compiled = _compiled([path for paths in runs for path in paths])
    rooms = [ReadRoom() for _ in range(_AHEAD)]
    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead: deque[Future[list[list[Found]]]] = deque()
        for number, batch in enumerate(_batches(runs)):
            if len(ahead) == _AHEAD:
                yield ahead.popleft().result()
            room = rooms[number % _AHEAD]
            room.clear()
            texts = [[_split_or_error(path, room) for path in paths] for paths in batch]
            ahead.append(pool.submit(_read_batch, texts, compiled, room))
        while ahead:
            yield ahead.popleft().result()


def _batches(runs: Sequence[Sequence[Path]]) -> Iterator[list[Sequence[Path]]]:
    """Yield the runs, as many at a time as make a batch of files."""
    batch: list[Sequence[Path]] = []
    files = 0
    for paths in runs:
        batch.append(paths)
        files += len(paths)
        if files >= _BATCH_FILES:
            yield batch
            batch, files = [], 0
    if batch:
        yield batch


def _compiled(paths: Sequence[Path]) -> Reader | None:
    """Return the compiled reader where it is worth loading and installed, else None."""
    try:
        size = paths[0].stat().st_size * len(paths) if paths else 0
    except OSError:
        size = 0
    if size < COMPILED_FROM_BYTES:
        return None
    try:
        from paceline.analysis.rankfile_fast import parse_files
    except ImportError:  # numba is the extra `fast`
        return None
    return parse_files


def _split(path: Path, room: ReadRoom) -> _Text:
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
    count = _count(memoryview(data)[first_end + 1 : last], b"\n")
    return _Text(path, header, tuple(columns), end, truncated, data, first_end + 1, last, count)


def _count(text: bytes | memoryview, character: bytes) -> int:
    """Return how often a character occurs; several times as fast as bytes.count where it occurs often."""
    return int(np.count_nonzero(np.frombuffer(text, dtype=np.uint8) == ord(character)))


def _object(line: bytearray, path: Path, number: int | None) -> dict[str, Any]:
    where = "the last line" if number is None else f"line {number}"
    try:
        value = json.loads(line)
    except ValueError as error:
        raise RecordError(f"{path}: {where} is not valid JSON") from error
    if not isinstance(value, dict):
        raise RecordError(f"{path}: {where}: expected an object")
    return value


def _split_or_error(path: Path, room: ReadRoom) -> _Text | RecordError:
    try:
        return _split(path, room)
    except RecordError as error:
        return error


def _read_batch(
    runs: Sequence[Sequence[_Text | RecordError]], compiled: Reader | None, room: ReadRoom
) -> list[list[Found]]:
    """Return what the files of some runs hold, neighbours of the same columns read at once."""
    found: list[Found] = []
    texts: list[_Text] = []
    for text in (text for each in runs for text in each):
        if texts and (isinstance(text, RecordError) or text.columns != texts[0].columns):
            found += _rows(texts, compiled, room)
            texts = []
        if isinstance(text, RecordError):
            found.append(text)
        else:
            texts.append(text)
    found += _rows(texts, compiled, room)
    each_found = iter(found)
    return [list(islice(each_found, len(each))) for each in runs]


def _rows(texts: Sequence[_Text], compiled: Reader | None, room: ReadRoom) -> list[Found]:
    """Return the rows of files of the same columns: compiled, else as a table of values, else line by line."""
    if not texts:
        return []
    width = len(texts[0].columns)
    found: list[Found | None] = [None] * len(texts)
    if compiled is not None:
        values = room.numbers(width, sum(text.num_rows for text in texts))
        start = 0
        for _, own in groupby(enumerate(texts), key=lambda item: id(item[1].data)):
            slots = [slot for slot, _ in own]
            places = [(texts[slot].start, texts[slot].stop, texts[slot].num_rows) for slot in slots]
            for slot, good in zip(slots, compiled(texts[slots[0]].data, places, values, start), strict=True):
                stop = start + texts[slot].num_rows
                if good:
                    found[slot] = _record(texts[slot], values[:, start:stop].T)
                start = stop
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


def _carefully(text: _Text, width: int) -> Found:
    """Return one file read line by line, or the error that names the line."""
    try:
        rows = rows_line_by_line(bytes(text.body), width, text.path)
    except RecordError as error:
        return error
    return _record(text, rows)
