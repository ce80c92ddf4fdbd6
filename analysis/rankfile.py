"""Reads rank-NNNN.jsonl: the header, the iteration rows and the end of what one rank measured.

Iteration rows are JSON arrays of numbers and nulls, so a whole batch of files can be read as one table of
comma-separated values: ten times as fast as JSON, row by row. Large studies are read by compiled code where numba is
installed (rankfile_fast.py). Whatever does not fit these readers is read again, line by line, to say which is wrong.
"""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from paceline.analysis.compiled import load_numba
from paceline.analysis.rankfile_careful import rows_line_by_line
from paceline.analysis.ranktext import RankParts, RankText, count, split
from paceline.analysis.readroom import ReadRoom
from paceline.analysis.rowwriter import Reader, RowWriter, compiled_counts
from paceline.analysis.tableblocks import plain_blocks
from paceline.bench.errors import RecordError

if TYPE_CHECKING:
    from paceline.analysis.iterationcolumns import IterationColumns

Rows = npt.NDArray[np.float64]

COMPILED_FROM_BYTES = 96 * 1024 * 1024
"""Records of this size are read by compiled code, if numba is installed; loading it takes half a second."""
_BATCH_FILES = 32
_AHEAD = 4  # batches


@dataclass
class RankFile(RankParts):
    """What one rank wrote. ``rows`` has shape (num_rows, len(columns)); null reads as NaN."""

    num_rows: int
    rows: Rows | None
    """None if they were written into the table that they are for."""


Found = RankFile | RecordError
Batch = list[list[RankText | RecordError]]
Begun = tuple[Future[list[int] | None], Batch, ReadRoom]
"""The rows that each text will have, as RowWriter.begin says; the texts; what they were read into."""


def read_runs(runs: Sequence[Sequence[Path]], table: IterationColumns | None = None) -> Iterator[list[list[Found]]]:
    """Yield what the rank records of each run hold, or the error that says why one cannot be read, some runs at a time.

    Args:
        runs: Per run, its files. The order is kept.
        table: Where the rows will go. What is yielded must be appended to it before the next is asked for.

    The rows of what is yielded hold until the next is asked for: their memory is used again. Of a large study, what is
    yielded lies some batches back: what the caller does meanwhile, and reading the files, costs no time of its own.
    """
    reader = _compiled([path for paths in runs for path in paths])
    if reader is None or table is None:
        room = ReadRoom()
        for batch in _batches(runs):
            yield _read_batch(_split_batch(batch, room), reader, room)
        return
    rooms = [ReadRoom() for _ in range(_AHEAD)]
    ahead: deque[Begun] = deque()
    with RowWriter(reader, table) as writer:
        for number, batch in enumerate(_batches(runs)):
            room = rooms[number % _AHEAD]
            texts = _split_batch(batch, room)
            ahead.append((writer.begin(_sound(texts)), texts, room))
            if len(ahead) == _AHEAD:
                yield from _first_of(ahead, writer, reader)
        while ahead:
            yield from _first_of(ahead, writer, reader)


def _first_of(ahead: deque[Begun], writer: RowWriter, reader: Reader) -> Iterator[list[list[Found]]]:
    """Yield the batch begun first; all of them, read in another way, where the writer had to stop."""
    written, batch, room = ahead.popleft()
    counts = written.result()
    if counts is not None:
        each = iter(counts)
        yield [[_record(text, None, next(each)) for text in texts if isinstance(text, RankText)] for texts in batch]
        return
    yield _read_batch(batch, reader, room)
    while ahead:
        written, batch, room = ahead.popleft()
        written.result()
        yield _read_batch(batch, reader, room)
    writer.resume()


def _split_batch(runs: Sequence[Sequence[Path]], room: ReadRoom) -> Batch:
    room.clear()
    return [[split(path, room) for path in paths] for paths in runs]


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
        load_numba()
        from paceline.analysis.rankfile_fast import parse_files
    except ImportError:  # numba is the extra `fast`
        return None
    return parse_files


def _sound(batch: Batch) -> list[RankText] | None:
    """Return the texts of a batch if all could be read, have the same columns and follow their ranks, else None."""
    sound: list[RankText] = []
    for texts in batch:
        good = [text for text in texts if isinstance(text, RankText)]
        ranks = [text.header["rank"] for text in good]
        if len(good) < len(texts) or ranks != sorted(ranks):
            return None
        sound += good
    return None if any(text.columns != sound[0].columns for text in sound) else sound


def _read_batch(batch: Batch, reader: Reader | None, room: ReadRoom) -> list[list[Found]]:
    """Return what the files of some runs hold, neighbours of the same columns read at once."""
    found: list[Found] = []
    texts: list[RankText] = []
    for text in (text for each in batch for text in each):
        if texts and (isinstance(text, RecordError) or text.columns != texts[0].columns):
            found += _rows(texts, reader, room)
            texts = []
        if isinstance(text, RecordError):
            found.append(text)
        else:
            texts.append(text)
    found += _rows(texts, reader, room)
    each_found = iter(found)
    return [list(islice(each_found, len(each))) for each in batch]


def _rows(texts: Sequence[RankText], reader: Reader | None, room: ReadRoom) -> list[Found]:
    """Return the rows of files of the same columns: compiled, else as a table of values, else line by line."""
    if not texts:
        return []
    width = len(texts[0].columns)
    found: list[Found | None] = [None] * len(texts)
    if reader is not None:
        values = room.numbers(width, sum(text.num_rows for text in texts))
        start = 0
        for slot, length in enumerate(compiled_counts(texts, reader, plain_blocks(values), 0)):
            if length >= 0:
                found[slot] = _record(texts[slot], values[:, start : start + length].T, length)
                start += length
    rest = [slot for slot, record in enumerate(found) if record is None]
    table = _fast([texts[slot] for slot in rest], width) if rest else None
    start = 0
    for slot in rest:
        text = texts[slot]
        if table is None:
            found[slot] = _carefully(text, width)
        else:
            found[slot] = _record(text, table[start : start + text.num_rows], text.num_rows)
            start += text.num_rows
    return [record for record in found if record is not None]


def _record(text: RankText, rows: Rows | None, num_rows: int) -> RankFile:
    return RankFile(text.path, text.header, text.columns, text.end, text.truncated, num_rows, rows)


def _fast(batch: Sequence[RankText], width: int) -> Rows | None:
    """Return the rows of all files, or None unless every line of every file is exactly one row of ``width`` values."""
    import pandas as pd

    expected = sum(text.num_rows for text in batch)
    if not expected:
        return np.empty((0, width))
    lines = b"".join(text.body for text in batch)
    letters = np.frombuffer(lines, dtype=np.uint8)
    ends = np.flatnonzero(letters == ord("\n"))
    starts = np.append(0, ends[:-1] + 1)
    if (letters[starts] != ord("[")).any() or (letters[ends - 1] != ord("]")).any():
        return None
    if count(lines, b"[") != expected or count(lines, b"]") != expected:  # [[1], 2]
        return None
    cells = lines.translate(None, b"[]")
    # The parser refuses rows that are longer than the first, and words that are no numbers, but fills up rows that are
    # too short and skips empty ones: with as many separators as there should be, every row is exact.
    words = any(letter in cells for letter in (b"{", b"t", b"f", b"i", b"I"))
    if words or count(cells, b",") != expected * (width - 1):
        return None
    try:
        frame = pd.read_csv(
            io.BytesIO(cells),
            header=None,
            dtype=np.float64,
            na_values=["null"],
            keep_default_na=False,
            skipinitialspace=True,
            quoting=csv.QUOTE_NONE,
            engine="c",
            low_memory=False,
        )
    except ValueError:
        return None
    return frame.to_numpy() if frame.shape == (expected, width) else None


def _carefully(text: RankText, width: int) -> Found:
    """Return one file read line by line, or the error that names the line."""
    try:
        rows = rows_line_by_line(bytes(text.body), width, text.path)
    except RecordError as error:
        return error
    return _record(text, rows, len(rows))
