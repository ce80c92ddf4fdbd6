"""Reads iteration rows with compiled code (numba, the extra ``fast``): exact, several times as fast as a CSV reader.

Used for large studies only: numba takes longer to import than a small study takes to read.

Digits are read eight at a time, as one number of 64 bits whose lowest byte is the first character (Lemire, "Number
parsing at a gigabyte per second", 2021): rows hold some ten million numbers of seven digits or so, and a loop over
digits mispredicts the end of each.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from paceline.analysis.tableblocks import Blocks

if sys.byteorder != "little":
    raise ImportError("written for processors whose first byte is the lowest")

# Exact powers: a whole number below 2^53 times or over one of them is rounded once, as the number itself would be
# (Clinger 1990).
_POWERS = np.array([float(f"1e{k}") for k in range(23)])
_TENS = np.array([10**k for k in range(9)], dtype=np.uint64)
_LARGEST = np.uint64(2**53 - 3)  # the last that may end in any digit
_MOST_DIGITS = np.uint64(19)  # always fit 64 bits
_WORD_BYTES = 8
_BEYOND_INT32 = float(2**31)

# An index that cannot be negative needs no look whether it is.
_0, _1, _2, _3, _4, _6, _7, _8, _16, _32, _56, _63, _64 = map(np.uint64, (0, 1, 2, 3, 4, 6, 7, 8, 16, 32, 56, 63, 64))
_TEN, _HUNDRED, _TEN_THOUSAND = map(np.uint64, (10, 100, 10_000))
# One value for each of the eight characters.
_ZEROS = np.uint64(0x3030303030303030)
_BEYOND_9 = np.uint64(0x7676767676767676)  # added to 10 or more, the highest bit is set
_HIGHEST_BITS = np.uint64(0x8080808080808080)
_ONES = np.uint64(0x0101010101010101)
_OF_2, _OF_4, _OF_8 = map(np.uint64, (0x00FF00FF00FF00FF, 0x0000FFFF0000FFFF, 0x00000000FFFFFFFF))


def parse_files(data: bytearray, places: Sequence[tuple[int, int]], blocks: Blocks, first: int) -> list[int]:
    """Read lines such as ``[0, 1, null, 0.25]`` of some files, one file after the other.

    Args:
        data: Text that holds the lines of all files.
        places: Per file, where in it its lines begin and end.
        blocks: Where the values go; null becomes NaN.
        first: The row of ``blocks`` that the first line becomes; the others follow.

    Returns:
        Per file, its number of rows; -1 unless each line is exactly such a row, there is room for it, and a column of
        whole numbers has no others than it may have. The next file then takes the place of this one.

    -1 says only that this reading does not fit: numbers of more than 15 digits, for instance, are for another one.
    """
    if max((stop for _, stop in places), default=0) + _WORD_BYTES > len(data):
        data = data + bytes(_WORD_BYTES)  # eight characters can be read from the last one on
    text = np.frombuffer(data, dtype=np.uint8)
    # The eight characters from each on.
    words: Any = np.ndarray((len(data) - _WORD_BYTES + 1,), dtype=np.uint64, buffer=data, strides=(1,))
    text.flags.writeable = words.flags.writeable = False
    counts = np.empty(len(places), dtype=np.int64)
    _parse_files(text, words, np.array(places, dtype=np.int64).reshape(-1, 2), blocks, first, counts)
    return counts.tolist()


@njit(cache=True, nogil=True)
def _digits(words: Any, at: Any, before: Any) -> Any:
    """Return the whole number that ``before`` becomes with the digits from a place on, and how many these are."""
    whole, length = before, _0
    while length <= _16:
        eight = words[at + length] ^ _ZEROS
        others = (((eight + _BEYOND_9) | eight) & _HIGHEST_BITS) >> _7  # 1 for what is no digit
        count = ((((others - _1) & ~others) & _ONES) * _ONES) >> _56  # bytes below the first of them
        if count == _0:
            break
        eight <<= (_64 - _8 * count) & _63  # zeros in front, and nothing behind the digits
        eight = (eight * _TEN + (eight >> _8)) & _OF_2
        eight = (eight * _HUNDRED + (eight >> _16)) & _OF_4
        eight = (eight * _TEN_THOUSAND + (eight >> _32)) & _OF_8
        whole = whole * _TENS[count] + eight
        length += count
        if count < _8:
            break
    return whole, length


@njit(cache=True, nogil=True)
def _parse(text: Any, words: Any, start: Any, stop: Any, blocks: Any, first: Any) -> Any:
    # Not as blocks[...]: a tuple's members of several types are told apart by name only.
    wide, single, whole_numbers, flags = blocks.float64, blocks.float32, blocks.int32, blocks.int8
    kinds, positions = blocks.kinds, blocks.positions
    width = np.uint64(len(kinds))
    room = np.uint64(wide.shape[1])
    row = first
    if start == stop:
        return 0
    if text[stop - _1] != 10:  # \n: nothing below runs past the end
        return -1
    i = start
    while i < stop:
        if row >= room or text[i] != 91:  # [
            return -1
        i += _1
        for column in range(width):
            while text[i] == 32:
                i += _1
            if text[i] == 110:  # null
                if stop - i < _6 or text[i + _1] != 117 or text[i + _2] != 108 or text[i + _3] != 108:
                    return -1
                value = np.nan
                i += _4
            else:
                negative = text[i] == 45
                if negative:
                    i += _1
                if 48 <= text[i] <= 57 and text[i + _1] == 46:  # most numbers: one digit and a point
                    whole, length = np.uint64(text[i] - np.uint8(48)), _1
                else:
                    whole, length = _digits(words, i, _0)
                    if length == _0 or (text[i] == 48 and length > _1):  # no digit, or a leading zero
                        return -1
                i += length
                exponent: Any = 0
                if text[i] == 46:  # .
                    whole, decimals = _digits(words, i + _1, whole)
                    if decimals == _0:
                        return -1
                    i += _1 + decimals
                    length += decimals
                    exponent = -np.int64(decimals)
                if text[i] == 101 or text[i] == 69:  # e, E
                    i += _1
                    down = text[i] == 45
                    if down or text[i] == 43:
                        i += _1
                    power, figures = _digits(words, i, _0)
                    if figures == _0 or figures > _3:
                        return -1
                    i += figures
                    exponent += -np.int64(power) if down else np.int64(power)
                if length > _MOST_DIGITS or whole > _LARGEST or exponent > 22 or exponent < -22:
                    return -1
                value = np.float64(whole)
                if exponent < 0:
                    value /= _POWERS[np.uint64(-exponent)]
                elif exponent > 0:
                    value *= _POWERS[np.uint64(exponent)]
                if negative:
                    value = -value
            kind, position = kinds[column], positions[column]
            if kind == _0:
                wide[position, row] = value
            elif kind == _1:
                single[position, row] = value
            elif kind == _2:
                if not 0 <= value < _BEYOND_INT32:
                    return -1
                whole_numbers[position, row] = np.int32(value)
            else:
                if not 0 <= value <= 1:
                    return -1
                flags[position, row] = np.int8(value)
            while text[i] == 32:
                i += _1
            if text[i] != (44 if column + _1 < width else 93):  # , between values, ] at the end
                return -1
            i += _1
        if i >= stop or text[i] != 10:
            return -1
        i += _1
        row += _1
    return np.int64(row - first)


@njit(cache=True, nogil=True)
def _parse_files(text: Any, words: Any, places: Any, blocks: Any, first: int, counts: Any) -> None:
    for number in range(len(places)):
        start, stop = places[number]
        counts[number] = _parse(text, words, np.uint64(start), np.uint64(stop), blocks, np.uint64(first))
        first += max(counts[number], 0)
