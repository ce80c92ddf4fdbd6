"""Reads rank-NNNN.jsonl: the header, the iteration rows and the end of what one rank measured.

Iteration rows are JSON arrays of numbers and nulls, so a whole batch of files can be read as one table of
comma-separated values: ten times as fast as JSON, row by row. Large studies are read by compiled code where numba is
installed (rankfile_fast.py). Whatever does not fit these readers is read again, line by line, to say which is wrong.
"""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from paceline.analysis.rankfile_careful import rows_line_by_line
from paceline.analysis.ranktext import RankParts, RankText, count, split
from paceline.analysis.readroom import ReadRoom
from paceline.analysis.tableblocks import Blocks, plain_blocks
from paceline.bench.errors import RecordError

if TYPE_CHECKING:
    from paceline.analysis.iterationcolumns import IterationColumns

Rows = npt.NDArray[np.float64]

Reader = Callable[[bytearray, Sequence[tuple[int, int]], Blocks, int], list[int]]

COMPILED_FROM_BYTES = 96 * 1024 * 1024
"""Records of this size are read by compiled code, if numba is installed; loading it takes half a second."""
_BATCH_FILES = 16
_AHEAD = 3  # batches


@dataclass
class RankFile(RankParts):
    """What one rank wrote. ``rows`` has shape (num_rows, len(columns)); null reads as NaN."""

    num_rows: int
    rows: Rows | None
    """None if they were written into the table that they are for."""


Found = RankFile | RecordError


def read_runs(runs: Sequence[Sequence[Path]], table: IterationColumns | None = None) -> Iterator[list[list[Found]]]:
    """Yield what the rank records of each run hold, or the error that says why one cannot be read, some runs at a time.

    Args:
        runs: Per run, its files. The order is kept.
        table: Where the rows will go. What is yielded must be appended to it before the next is asked for.

    The rows of what is yielded hold until the next is asked for: their memory is used again. Files are read and split
    on a thread of its own, a whole batch in one call, and their numbers meanwhile here by compiled code, which leaves
    the interpreter to the other: threads that take turns at its lock for each file cost more time than they save.
    """
    compiled = _compiled([path for paths in runs for path in paths])
    rooms = [ReadRoom() for _ in range(_AHEAD)]
    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead: deque[tuple[Future[list[list[RankText | RecordError]]], ReadRoom]] = deque()
        for number, batch in enumerate(_batches(runs)):
            if len(ahead) == _AHEAD:
                split_runs, room = ahead.popleft()
                yield _read_batch(split_runs.result(), compiled, room, table)
            room = rooms[number % _AHEAD]
            ahead.append((pool.submit(_split_batch, batch, room), room))
        for split_runs, room in ahead:
            yield _read_batch(split_runs.result(), compiled, room, table)


def _split_batch(runs: Sequence[Sequence[Path]], room: ReadRoom) -> list[list[RankText | RecordError]]:
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
        from paceline.analysis.rankfile_fast import parse_files
    except ImportError:  # numba is the extra `fast`
        return None
    return parse_files


def _read_batch(
    runs: Sequence[Sequence[RankText | RecordError]],
    compiled: Reader | None,
    room: ReadRoom,
    table: IterationColumns | None,
) -> list[list[Found]]:
    """Return what the files of some runs hold, neighbours of the same columns read at once."""
    found = None if compiled is None or table is None else _stored(runs, compiled, table)
    if found is None:
        found = []
        texts: list[RankText] = []
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


def _stored(
    runs: Sequence[Sequence[RankText | RecordError]], compiled: Reader, table: IterationColumns
) -> list[Found] | None:
    """Have the rows of a sound batch written into the table's own memory; None if anything is not as it should be."""
    texts: list[RankText] = []
    for each in runs:
        good = [text for text in each if isinstance(text, RankText)]
        ranks = [text.header["rank"] for text in good]
        if len(good) < len(each) or ranks != sorted(ranks):
            return None
        texts += good
    blocks = table.blocks(texts[0].columns) if texts else None
    if blocks is None or any(text.columns != texts[0].columns for text in texts):
        return None
    counts = _compiled_counts(texts, compiled, blocks, len(table))
    if min(counts) < 0:
        return None
    return [_record(text, None, count) for text, count in zip(texts, counts, strict=True)]


def _compiled_counts(texts: Sequence[RankText], compiled: Reader, blocks: Blocks, first: int) -> list[int]:
    """Have the rows of files written one after the other; return how many each has, -1 for one that does not fit."""
    counts: list[int] = []
    for _, own in groupby(texts, key=lambda text: id(text.data)):
        files = list(own)
        new = compiled(files[0].data, [(text.start, text.stop) for text in files], blocks, first)
        first += sum(length for length in new if length > 0)
        counts += new
    return counts


def _rows(texts: Sequence[RankText], compiled: Reader | None, room: ReadRoom) -> list[Found]:
    """Return the rows of files of the same columns: compiled, else as a table of values, else line by line."""
    if not texts:
        return []
    width = len(texts[0].columns)
    found: list[Found | None] = [None] * len(texts)
    if compiled is not None:
        values = room.numbers(width, sum(text.num_rows for text in texts))
        start = 0
        for slot, length in enumerate(_compiled_counts(texts, compiled, plain_blocks(values), 0)):
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
