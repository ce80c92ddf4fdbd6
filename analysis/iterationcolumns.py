"""The iterations table of a study, column by column, as the rank records are read."""

from __future__ import annotations

import contextlib
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt
from paceline.analysis.rankfile import RankFile
from paceline.bench.record import ITERATION_COLUMNS

Column = npt.NDArray[Any]

# Times need all their digits; what only counts, labels or draws is kept small, for studies with millions of rows.
_SMALL: dict[str, type[np.number[Any]]] = {"iteration": np.int32, "sync": np.int8, "warmup": np.int8}
_SMALL |= dict.fromkeys(
    ("collectives", "optimizer_steps", "reward", "episode_length", "reported_iteration_time_s"), np.float32
)
_LARGE_BYTES = 4 * 1024 * 1024


class IterationColumns:
    """The columns while they grow. Room is made at once: new memory costs more time than what is done with it.

    ``capacity`` is the number of rows expected; more are taken too.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = max(capacity, 1)
        self._length = 0
        self._arrays: dict[str, Column] = {
            "run": _empty(self._capacity, np.int32),
            "rank": _empty(self._capacity, np.int16),
        }
        for name in ITERATION_COLUMNS:
            self._add(name)

    def _add(self, name: str) -> None:
        self._arrays[name] = _empty(self._capacity, _SMALL.get(name, np.float64))
        if self._length:
            self._arrays[name][: self._length] = np.nan  # rows of records that have no such column

    def extend(self, kept: list[tuple[int, RankFile]]) -> None:
        """Append the rows of rank records, each with the number of its run."""
        lengths = [len(record.rows) for _, record in kept]
        start, stop = self._length, self._length + sum(lengths)
        if stop > self._capacity:
            self._capacity = max(stop, 2 * self._capacity)
            self._arrays = {name: np.resize(values, (self._capacity,)) for name, values in self._arrays.items()}
        for name in dict.fromkeys(name for _, record in kept for name in record.columns):
            if name not in self._arrays:
                self._add(name)
        self._arrays["run"][start:stop] = np.repeat([number for number, _ in kept], lengths)
        self._arrays["rank"][start:stop] = np.repeat([record.header["rank"] for _, record in kept], lengths)
        each = {record.columns: {name: i for i, name in enumerate(record.columns)} for _, record in kept}
        positions = [each[record.columns] for _, record in kept]
        values_of = [list(record.rows.T) for _, record in kept]
        for name, values in self._arrays.items():
            if name in ("run", "rank") or not kept:
                continue
            parts = [
                own[position[name]] if name in position else np.full(length, np.nan)
                for own, position, length in zip(values_of, positions, lengths, strict=True)
            ]
            with np.errstate(over="ignore"):  # a damaged reward of 1e300 becomes infinite, which no statistic takes
                np.concatenate(parts, out=values[start:stop], casting="unsafe")
        self._length = stop

    def columns(self) -> dict[str, Column]:
        """Return the columns by name."""
        return {name: values[: self._length] for name, values in self._arrays.items()}


def _empty(count: int, dtype: type[np.number[Any]]) -> Column:
    """Return new memory for a column, in pages of the usual size.

    numpy asks for huge pages. They are quicker where some are free; on a node whose memory is full of cached files the
    kernel first moves those out of the way, which takes several times as long as all the rest.
    """
    size = count * np.dtype(dtype).itemsize
    if size < _LARGE_BYTES or not hasattr(mmap, "MADV_NOHUGEPAGE"):  # Linux has it
        return np.empty(count, dtype)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype=dtype)
