"""Memory of a table's columns by type, as compiled code takes it: one array for all columns of a type."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Blocks(NamedTuple):
    """Arrays of shape (columns of the type, rows), and in which of them each column of a record lies."""

    float64: npt.NDArray[np.float64]
    float32: npt.NDArray[np.float32]
    int32: npt.NDArray[np.int32]
    """Numbers from 0, never null."""
    int8: npt.NDArray[np.int8]
    """0 or 1, never null."""
    kinds: npt.NDArray[np.uint64]
    """Per column of the record: which of the four arrays, counted from 0."""
    positions: npt.NDArray[np.uint64]
    """Per column of the record: which row of that array."""


def plain_blocks(values: npt.NDArray[np.float64]) -> Blocks:
    """Return a matrix of shape (columns, rows) as blocks."""
    width = len(values)
    others = np.empty((0, 0), np.float32), np.empty((0, 0), np.int32), np.empty((0, 0), np.int8)
    return Blocks(values, *others, np.zeros(width, np.uint64), np.arange(width, dtype=np.uint64))
