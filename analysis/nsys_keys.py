"""Processes, threads and columns of an nsys export: what all readers of its tables share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from paceline.analysis.tablesource import Column, TableSource
from paceline.bench.errors import TraceError

LOW_BITS = 0xFFFFFF
"""The thread's part of a globalTid; the rest is the process, its globalPid."""


class Keys:
    """Numbers the processes and threads of an export in the order in which tables name them."""

    def __init__(self, source: TableSource) -> None:
        self.source = source
        self.tables = source.tables()
        self.warnings: list[str] = []
        self.process_of: dict[int, int] = {}
        self.thread_of: dict[int, int] = {}

    def columns(self, table: str, wanted: dict[str, str], required: Iterable[str]) -> dict[str, Column]:
        """Read those of the wanted columns that the table has."""
        present = self.tables[table]
        missing = [name for name in required if name not in present]
        if missing:
            raise TraceError(
                f"{self.source.path}: table {table} lacks column {', '.join(missing)}: unknown nsys schema"
            )
        return self.source.read(table, {name: kind for name, kind in wanted.items() if name in present})

    def codes_of(self, column: Column, lookup: dict[int, int]) -> Any:
        """Return indices into ``lookup`` (which grows) for a key column; NULL stays -1."""
        table = np.array([lookup.setdefault(int(key), len(lookup)) for key in column.distinct] + [-1], np.int32)
        if np.array_equal(table[:-1], np.arange(len(table) - 1)):
            return column.values
        return table[column.values]

    def threads(self, column: Column) -> Any:
        """Return thread indices for a globalTid column; NULL is -1."""
        for key in column.distinct:
            self.process_of.setdefault(int(key) & ~LOW_BITS, len(self.process_of))
        return self.codes_of(column, self.thread_of)
