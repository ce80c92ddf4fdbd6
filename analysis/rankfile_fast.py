"""Reads iteration rows with compiled code (numba, the extra ``fast``): exact, several times as fast as a CSV reader.

Used for large studies only: numba takes longer to import than a small study takes to read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit

# Exact powers: a whole number below 2^53 times or over one of them is rounded once, as the number itself would be
# (Clinger 1990).
_POWERS = np.array([float(f"1e{k}") for k in range(23)])
_MAX_WHOLE = np.uint64(2**53)
_LAST_SAFE = np.uint64((2**53 - 10) // 10)  # one more digit still fits


def parse_files(data: bytearray, places: Sequence[tuple[int, int, int]], out: Any, first: int) -> list[bool]:
    """Read lines such as ``[0, 1, null, 0.25]`` of some files; False for a file unless each line is exactly such a row.

    Args:
        data: Text that holds the lines of all files.
        places: Per file, where in it its lines begin and end, and how many there should be.
        out: Where the values go, shape (columns, rows), contiguous; null becomes NaN.
        first: The row of ``out`` that the first line of the first file becomes; the others follow.

    False says only that this reading does not fit: numbers of more than 15 digits, for instance, are for another one.
    """
    text = np.frombuffer(data, dtype=np.uint8)
    text.flags.writeable = False
    good = np.zeros(len(places), dtype=np.bool_)
    _parse_files(text, np.array(places, dtype=np.int64).reshape(-1, 3), out, first, _POWERS, good)
    return good.tolist()


@njit(cache=True, nogil=True)
def _parse(text: Any, out: Any, first: int, count: int, powers: Any) -> bool:
    width = out.shape[0]
    length = len(text)
    if count == 0 or length == 0:
        return count == 0 and length == 0
    if text[length - 1] != 10:  # \n: no loop below runs past the end
        return False
    i = 0
    for row in range(first, first + count):
        if i >= length or text[i] != 91:  # [
            return False
        i += 1
        for column in range(width):
            while text[i] == 32:
                i += 1
            if text[i] == 110:  # null
                if length - i < 6 or text[i + 1] != 117 or text[i + 2] != 108 or text[i + 3] != 108:
                    return False
                out[column, row] = np.nan
                i += 4
            else:
                negative = text[i] == 45
                if negative:
                    i += 1
                whole = np.uint64(0)
                start = i
                while 48 <= text[i] <= 57:
                    if whole > _LAST_SAFE:
                        return False
                    whole = whole * np.uint64(10) + np.uint64(text[i] - 48)
                    i += 1
                if i == start or (text[start] == 48 and i > start + 1):  # no digit, or a leading zero
                    return False
                exponent = 0
                if text[i] == 46:  # .
                    i += 1
                    start = i
                    while 48 <= text[i] <= 57:
                        if whole > _LAST_SAFE:
                            return False
                        whole = whole * np.uint64(10) + np.uint64(text[i] - 48)
                        i += 1
                    if i == start:
                        return False
                    exponent = start - i
                if text[i] == 101 or text[i] == 69:  # e, E
                    i += 1
                    down = text[i] == 45
                    if down or text[i] == 43:
                        i += 1
                    start = i
                    power = 0
                    while 48 <= text[i] <= 57:
                        power = power * 10 + (text[i] - 48)
                        if power > 400:
                            return False
                        i += 1
                    if i == start:
                        return False
                    exponent += -power if down else power
                if whole > _MAX_WHOLE or exponent > 22 or exponent < -22:
                    return False
                value = np.float64(whole)
                value = value * powers[exponent] if exponent >= 0 else value / powers[-exponent]
                out[column, row] = -value if negative else value
            while text[i] == 32:
                i += 1
            if text[i] != (44 if column + 1 < width else 93):  # , between values, ] at the end
                return False
            i += 1
        if i >= length or text[i] != 10:
            return False
        i += 1
    return i == length


@njit(cache=True, nogil=True)
def _parse_files(text: Any, places: Any, out: Any, first: int, powers: Any, good: Any) -> None:
    for number in range(len(places)):
        start, stop, count = places[number]
        good[number] = _parse(text[start:stop], out, first, count, powers)
        first += count
