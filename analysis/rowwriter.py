"""Writes the rows of rank records into the iterations table on a thread of its own, by compiled code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from types import TracebackType
from typing import TYPE_CHECKING

from paceline.analysis.ranktext import RankText
from paceline.analysis.tableblocks import Blocks

if TYPE_CHECKING:
    from paceline.analysis.iterationcolumns import IterationColumns

Reader = Callable[[bytearray, Sequence[tuple[int, int]], Blocks, int], list[int]]
"""``parse_files`` of rankfile_fast.py."""


class RowWriter:
    """Puts batch after batch into the table, until one does not fit; then none until ``resume``.

    Compiled code leaves the interpreter to others while it reads numbers, and the rest of loading a study is plain
    Python: with all of that on one thread and the numbers on this one, both work all the time. More threads of plain
    Python take turns at the interpreter's lock, at every file they open, and were slower than one.
    """

    def __init__(self, reader: Reader, table: IterationColumns) -> None:
        self._reader = reader
        self._table = table
        self._row: int | None = len(table)
        self._pool = ThreadPoolExecutor(max_workers=1)

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)

    def begin(self, texts: Sequence[RankText] | None) -> Future[list[int] | None]:
        """Return the number of rows that each text will have, all of them behind those of the batch begun before.

        All texts must have the same columns.
        The result is None, and nothing in the table counts, if a line is not as it should be, or ``texts`` is None, or
        the batch before had no result either.
        """
        blocks = self._table.blocks(texts[0].columns) if texts else None
        return self._pool.submit(self._write, texts or (), blocks)

    def resume(self) -> None:
        """Go on behind what the table holds by now; nothing that was begun may be under way."""
        self._row = len(self._table)

    def _write(self, texts: Sequence[RankText], blocks: Blocks | None) -> list[int] | None:
        row, self._row = self._row, None
        if row is None or blocks is None:
            return None
        counts = compiled_counts(texts, self._reader, blocks, row)
        if min(counts) < 0:
            return None
        self._row = row + sum(counts)
        return counts


def compiled_counts(texts: Sequence[RankText], reader: Reader, blocks: Blocks, first: int) -> list[int]:
    """Have the rows of files written one after the other; return how many each has, -1 for one that does not fit."""
    counts: list[int] = []
    for _, own in groupby(texts, key=lambda text: id(text.data)):
        files = list(own)
        new = reader(files[0].data, [(text.start, text.stop) for text in files], blocks, first)
        first += sum(length for length in new if length > 0)
        counts += new
    return counts
