"""Reads integer and text columns straight from the pages of an SQLite file: about ten times as fast as the library.

Follows the documented format (https://www.sqlite.org/fileformat2.html), nothing else of SQLite:

    table   interior page (type 5): left children and the right-most child, in row order
            leaf page (type 13): cells | payload size | row number | record, maybe continued on overflow pages |
    record  | header size | one type per column | values |

Only wanted columns are decoded. Files it is not made for (a write-ahead log beside it, other encodings, tables without
row numbers) are read by the library. The compiled part is sqlitepages_fast.py and needs numba. Pages are mapped and
given back as the reading goes on, so that a file of any size takes little memory.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from itertools import pairwise
from typing import Any

import numpy as np
from paceline.analysis.capture import NO_TIME
from paceline.analysis.compiled import load_numba
from paceline.analysis.tablesource import Column, SqliteSource, decode, quoted
from paceline.bench.errors import TraceError

_BATCH_LEAVES = 8192
_WORKERS = 2
_CODES = {"time": 0, "int": 1, "key": 2, "text": 3}
MAX_WIDE, MAX_NARROW = 5, 8
"""Columns of 64 and of 32 bits that one pass can fill: a fixed number, so that everything is compiled once."""


class PageSource(SqliteSource):
    """A SQLite file, its large tables read page by page."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        with open(self.path, "rb") as stream:
            header = stream.read(100)
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        size = int.from_bytes(header[16:18], "big")
        self._page_bytes = 65536 if size == 1 else size
        self._usable = self._page_bytes - header[20]
        utf8 = int.from_bytes(header[56:60], "big") in (0, 1)
        wal = os.path.exists(f"{self.path}-wal") and os.path.getsize(f"{self.path}-wal") > 0
        self._plain = utf8 and not wal
        with self._guard(), closing(self.connect()) as connection:
            rows = connection.execute("SELECT name, rootpage, sql FROM sqlite_master WHERE type = 'table'")
            self._roots = {decode(name): (int(root or 0), decode(sql) or "") for name, root, sql in rows}

    def read(self, table: str, columns: Mapping[str, str]) -> dict[str, Column]:
        """Return columns of all rows of a table in row order."""
        root, sql = self._roots[table]
        wide = sum(kind == "time" for kind in columns.values())
        plain = self._plain and root > 0 and "WITHOUT ROWID" not in sql.upper() and "PRIMARY KEY" not in sql.upper()
        if not plain or wide > MAX_WIDE or len(columns) - wide > MAX_NARROW:
            return super().read(table, columns)
        found = _TableReader(self, table, root, columns).read()
        return super().read(table, columns) if found is None else found

    def text_at(self, table: str, column: str, row: int) -> bytes | None:
        """Return one text by row number, through the library."""
        with self._guard(), closing(self.connect()) as connection:
            query = f"SELECT {quoted(column)} FROM {quoted(table)} WHERE rowid = ?"
            value = connection.execute(query, (row,)).fetchone()[0]
            return value if value is None or isinstance(value, bytes) else str(value).encode()


class _MiscountedError(TraceError):
    """A leaf has another number of rows than it was said to have."""


class _TableReader:
    """One pass over one table."""

    def __init__(self, source: PageSource, table: str, root: int, columns: Mapping[str, str]) -> None:
        self.source, self.table, self.root, self.columns = source, table, root, columns
        self.buffer = np.frombuffer(source._map, np.uint8)
        present = source.tables()[table]
        self.slot = np.full(max(present.index(name) for name in columns) + 1, -1, np.int64)
        self.kind = np.zeros(len(self.slot), np.int64)
        self.place: dict[str, int] = {}
        wide = narrow = 0
        for name, kind in columns.items():
            index = present.index(name)
            self.kind[index] = _CODES[kind]
            self.place[name] = wide if kind == "time" else narrow
            self.slot[index] = self.place[name]
            wide, narrow = (wide + 1, narrow) if kind == "time" else (wide, narrow + 1)
        self.num_wide, self.num_narrow = wide, narrow

    def read(self) -> dict[str, Column] | None:
        """Return the columns, None if the library has to read this table."""
        load_numba()
        from paceline.analysis import sqlitepages_bytes as pages

        page_bytes = self.source._page_bytes
        leaves, last = pages.leaves(self.buffer, page_bytes, self.root)
        if len(leaves) and leaves[0] < 0:
            return None
        count = pages.rows_without_gaps(self.buffer, page_bytes, leaves, last)
        if len(count) == len(leaves) and count[0] >= 0:
            with suppress(_MiscountedError):  # rows were deleted
                return self._read(leaves, count)
        return self._read(leaves, self._counted(leaves))

    def _counted(self, leaves: Any) -> Any:
        """Return the rows on each leaf, from the leaves: a pass over all of the table."""
        from paceline.analysis import sqlitepages_bytes as pages

        count = np.zeros(len(leaves), np.int64)
        for low in range(0, len(leaves), 4 * _BATCH_LEAVES):
            part = leaves[low : low + 4 * _BATCH_LEAVES]
            count[low : low + len(part)] = pages.cells(self.buffer, self.source._page_bytes, part)
            self._give_back()
        return count

    def _read(self, leaves: Any, count: Any) -> dict[str, Column] | None:
        """Return the columns from leaves with so many rows each; _MiscountedError if one has another number."""
        from paceline.analysis import sqlitepages_fast as fast

        first = np.concatenate([[0], np.cumsum(count)])
        rows = int(first[-1])
        wide = tuple(np.empty(rows if i < self.num_wide else 0, np.int64) for i in range(MAX_WIDE))
        narrow = tuple(np.empty(rows if i < self.num_narrow else 0, np.int32) for i in range(MAX_NARROW))
        cut = [len(leaves) * i // _WORKERS for i in range(_WORKERS + 1)]
        parts = [_Part(self, leaves, first, low, high, wide, narrow) for low, high in pairwise(cut)]
        parts = [part for part in parts if part.low < part.high]
        if parts:
            parts[0].run(stop=1)  # compiles, or loads what was compiled, once
            with ThreadPoolExecutor(_WORKERS) as pool:
                list(pool.map(lambda part: part.run(), parts))
        if any(part.status == fast.UNKNOWN for part in parts):
            return None
        damaged = f"{self.source.path}: damaged SQLite file (table {self.table}); export the report again"
        if any(part.status == fast.MISCOUNTED for part in parts):
            raise _MiscountedError(damaged)
        if any(part.status == fast.DAMAGED for part in parts):
            raise TraceError(damaged)
        return self._columns(parts, first, wide, narrow)

    def _give_back(self) -> None:
        """Let the system drop the pages read so far from this process."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self.source._map.madvise(mmap.MADV_DONTNEED)

    def _columns(self, parts: list[_Part], first: Any, wide: Any, narrow: Any) -> dict[str, Column]:
        result: dict[str, Column] = {}
        for name, kind in self.columns.items():
            slot = self.place[name]
            if kind == "time":
                result[name] = Column(wide[slot])
            elif kind == "int":
                if any(part.too_wide[slot] for part in parts):
                    values = self.source.read(self.table, {name: "time"})[name].values
                    result[name] = Column(np.where(values == NO_TIME, -1, values))
                else:
                    result[name] = Column(narrow[slot])
            else:
                result[name] = self._coded(name, kind, slot, parts, first, narrow[slot])
        return result

    def _coded(self, name: str, kind: str, slot: int, parts: list[_Part], first: Any, values: Any) -> Column:
        """Bring the codes of all parts onto one list of distinct values."""
        codes: dict[Any, int] = {}
        for part in parts:
            own = part.distinct[slot, : part.counts[slot]].tolist()
            if kind == "text":
                lengths = part.lengths[slot, : part.counts[slot]].tolist()
                own = [bytes(self.source._map[at : at + n]) for at, n in zip(own, lengths, strict=True)]
            table = np.array([codes.setdefault(value, len(codes)) for value in own] + [-1], np.int32)
            low, high = int(first[part.low]), int(first[part.high])
            long_rows = [(i, r) for i, r, s in part.overflow[: part.counts[-1]].tolist() if s == slot]
            if len(table) - 1 and not np.array_equal(table[:-1], np.arange(len(table) - 1)):
                values[low:high] = table[values[low:high]]
            for index, row in long_rows:
                text = self.source.text_at(self.table, name, row)
                values[index] = -1 if text is None else codes.setdefault(text, len(codes))
        return Column(values, [decode(value) for value in codes])


class _Part:
    """The leaves that one worker reads, with its own lists of distinct values."""

    def __init__(
        self, reader: _TableReader, leaves: Any, first: Any, low: int, high: int, wide: Any, narrow: Any
    ) -> None:
        self.reader, self.leaves, self.first, self.low, self.high = reader, leaves, first, low, high
        self.wide, self.narrow = wide, narrow
        self.next = low
        self.status = 0
        self.counts = np.zeros(MAX_NARROW + 1, np.int64)  # distinct values per column; last: texts on overflow pages
        self.overflow = np.zeros((1024, 3), np.int64)
        self.too_wide = np.zeros(MAX_NARROW, np.bool_)
        self._allot(1 << 12)

    def _allot(self, capacity: int) -> None:
        self.hashes = np.zeros((MAX_NARROW, capacity), np.int64)
        self.codes = np.full((MAX_NARROW, capacity), -1, np.int32)
        self.distinct = np.zeros((MAX_NARROW, capacity // 2), np.int64)
        self.lengths = np.zeros((MAX_NARROW, capacity // 2), np.int64)

    def run(self, stop: int | None = None) -> None:
        """Read leaves up to the end, or only ``stop`` of them."""
        from paceline.analysis import sqlitepages_fast as fast

        reader = self.reader
        end = self.high if stop is None else min(self.low + stop, self.high)
        while self.next < end and self.status == 0:
            last = min(self.next + _BATCH_LEAVES, end)
            done, status = fast.decode(
                reader.buffer, reader.source._page_bytes, reader.source._usable, self.leaves, self.next, last,
                self.first, reader.slot, reader.kind, self.wide, self.narrow, self.hashes, self.codes, self.distinct,
                self.lengths, self.counts, self.overflow, self.too_wide,
            )  # fmt: skip
            self.next = done
            if status == fast.FULL:
                self._grow()
            elif status:
                self.status = status
            reader._give_back()

    def _grow(self) -> None:
        """Make room for more distinct values."""
        from paceline.analysis.sqlitepages_codes import rehash

        if self.counts[-1] + 512 > len(self.overflow):
            self.overflow = np.concatenate([self.overflow, np.zeros_like(self.overflow)])
        distinct, lengths, hashes, codes = self.distinct, self.lengths, self.hashes, self.codes
        self._allot(4 * hashes.shape[1])
        self.distinct[:, : distinct.shape[1]] = distinct
        self.lengths[:, : lengths.shape[1]] = lengths
        rehash(hashes, codes, self.hashes, self.codes)
