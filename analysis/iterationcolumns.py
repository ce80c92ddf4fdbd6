"""The iterations table of a study, column by column, as the rank records are read."""

from __future__ import annotations

import contextlib
import math
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt
from paceline.analysis.rankfile import RankFile
from paceline.analysis.tableblocks import Blocks
from paceline.bench.record import ITERATION_COLUMNS

Column = npt.NDArray[Any]

# Times need all their digits; what only counts, labels or draws is kept small, for studies with millions of rows.
_SMALL: dict[str, type[np.number[Any]]] = {"iteration": np.int32, "sync": np.int8, "warmup": np.int8}
_SMALL |= dict.fromkeys(
    ("collectives", "optimizer_steps", "reward", "episode_length", "reported_iteration_time_s"), np.float32
)
_TYPES: tuple[type[np.number[Any]], ...] = (np.float64, np.float32, np.int32, np.int8)  # as in Blocks
_LARGE_BYTES = 4 * 1024 * 1024


class IterationColumns:
    """The columns while they grow. Room is made at once: new memory costs more time than what is done with it.

    ``capacity`` is the number of rows expected; more are taken too.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = max(capacity, 1)
        self._length = 0
        self._blocks = _new_blocks(self._capacity)
        self._arrays: dict[str, Column] = {
            "run": _empty((self._capacity,), np.int32),
            "rank": _empty((self._capacity,), np.int16),
        }
        self._arrays |= _columns_of(self._blocks)

    def __len__(self) -> int:
        return self._length

    def blocks(self, columns: tuple[str, ...]) -> Blocks | None:
        """Return where records of these columns may be written from row ``len`` on, None if they are not the usual.

        The rows become part of the table when ``extend`` is given the records, and only then.
        """
        usual = columns == ITERATION_COLUMNS and len(self._arrays) == len(ITERATION_COLUMNS) + 2
        return self._blocks if usual else None

    def extend(self, kept: list[tuple[int, RankFile]]) -> None:
        """Append the rows of rank records, each with the number of its run; either all are in the blocks, or none."""
        lengths = [record.num_rows for _, record in kept]
        start, stop = self._length, self._length + sum(lengths)
        if stop > self._capacity:
            self._grow(max(stop, 2 * self._capacity))
        self._length = stop
        self._arrays["run"][start:stop] = np.repeat([number for number, _ in kept], lengths)
        self._arrays["rank"][start:stop] = np.repeat([record.header["rank"] for _, record in kept], lengths)
        if kept and kept[0][1].rows is not None:
            self._copy([record for _, record in kept], start, stop)

    def _grow(self, capacity: int) -> None:
        self._capacity = capacity
        old, self._blocks = self._blocks, _new_blocks(capacity)
        for new_block, block in zip(self._blocks[: len(_TYPES)], old[: len(_TYPES)], strict=True):
            new_block[:, : self._length] = block[:, : self._length]
        new = _columns_of(self._blocks)
        self._arrays = {
            name: new[name] if name in new else np.resize(values, (capacity,)) for name, values in self._arrays.items()
        }

    def _copy(self, records: list[RankFile], start: int, stop: int) -> None:
        for name in dict.fromkeys(name for record in records for name in record.columns):
            if name not in self._arrays:
                self._arrays[name] = _empty((self._capacity,), np.float64)
                self._arrays[name][:start] = np.nan  # rows of records that have no such column
        each = {record.columns: {name: i for i, name in enumerate(record.columns)} for record in records}
        values_of = [[] if record.rows is None else list(record.rows.T) for record in records]
        for name, values in self._arrays.items():
            if name in ("run", "rank"):
                continue
            parts = [
                own[each[record.columns][name]] if name in each[record.columns] else np.full(record.num_rows, np.nan)
                for own, record in zip(values_of, records, strict=True)
            ]
            with np.errstate(over="ignore"):  # a damaged reward of 1e300 becomes infinite, which no statistic takes
                np.concatenate(parts, out=values[start:stop], casting="unsafe")

    def columns(self) -> dict[str, Column]:
        """Return the columns by name."""
        return {name: values[: self._length] for name, values in self._arrays.items()}


def _new_blocks(capacity: int) -> Blocks:
    kinds = np.array([_TYPES.index(_SMALL.get(name, np.float64)) for name in ITERATION_COLUMNS], dtype=np.uint64)
    positions = np.array([(kinds[:i] == kind).sum() for i, kind in enumerate(kinds)], dtype=np.uint64)
    arrays = [_empty((int((kinds == kind).sum()), capacity), dtype) for kind, dtype in enumerate(_TYPES)]
    return Blocks(arrays[0], arrays[1], arrays[2], arrays[3], kinds, positions)


def _columns_of(blocks: Blocks) -> dict[str, Column]:
    places = zip(ITERATION_COLUMNS, blocks.kinds.tolist(), blocks.positions.tolist(), strict=True)
    return {name: blocks[kind][position] for name, kind, position in places}


def _empty(shape: tuple[int, ...], dtype: type[np.number[Any]]) -> Column:
    """Return new memory for columns, in pages of the usual size.

    numpy asks for huge pages. They are quicker where some are free; on a node whose memory is full of cached files the
    kernel first moves those out of the way, which takes several times as long as all the rest.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < _LARGE_BYTES or not hasattr(mmap, "MADV_NOHUGEPAGE"):  # Linux has it
        return np.empty(shape, dtype)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype=dtype).reshape(shape)
