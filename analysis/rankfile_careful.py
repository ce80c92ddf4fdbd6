"""Reads iteration rows line by line: slow, and able to say which line is wrong. The reference for the quick readers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
from paceline.bench import jsontext
from paceline.bench.errors import RecordError


def rows_line_by_line(body: bytes, width: int, path: Path) -> npt.NDArray[np.float64]:
    """Return the rows of a rank record, shape (rows, width); RecordError naming the first line that is none.

    Args:
        body: The lines between header and end record.
        width: Values per row.
        path: The file, for errors; ``body`` starts at its second line.
    """
    rows: list[list[float]] = []
    for number, line in enumerate(body.splitlines(), start=2):
        try:
            values = jsontext.loads(line)
        except ValueError as error:
            raise RecordError(f"{path}: line {number} is not valid JSON") from error
        if not isinstance(values, list) or len(values) != width:
            raise RecordError(f"{path}: line {number}: expected an array of {width} values")
        if not all(v is None or (isinstance(v, int | float) and not isinstance(v, bool)) for v in values):
            raise RecordError(f"{path}: line {number}: a value is neither a number nor null")
        rows.append([math.nan if v is None else _float(v) for v in values])
    return np.array(rows, dtype=np.float64).reshape(len(rows), width)


def _float(value: float) -> float:
    """Return a number as float; one of hundreds of digits becomes infinite, as it does in the other readers."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
