"""Numbers for the distinct values of a column, found while a table is read; compiled with numba.

Open addressing: ``hashes`` and ``codes`` have shape (columns, capacity), ``distinct`` and ``lengths`` (columns,
capacity / 2), ``counts`` the number of distinct values of every column. A text stands by its place in the file.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from paceline.analysis.sqlitepages_bytes import word

_GOLDEN = np.uint64(11400714819323198485)
_PRIME = np.int64(1099511628211)
_SEED = np.int64(-3750763034362895579)


@njit(cache=True, nogil=True)
def first_place(value: Any, mask: Any) -> Any:
    """Return where the search for a hash begins in a table of ``mask + 1`` places."""
    return np.int64((np.uint64(value) * _GOLDEN) >> np.uint64(32)) & mask


@njit(cache=True, nogil=True)
def code_of_key(value: Any, hashes: Any, codes: Any, distinct: Any, counts: Any, slot: Any) -> Any:
    """Return the code of a value, a new one if it was not seen before."""
    mask = hashes.shape[1] - 1
    place = first_place(value, mask)
    while codes[slot, place] >= 0:
        if hashes[slot, place] == value:
            return codes[slot, place]
        place = (place + 1) & mask
    # Written out here and in code_of_text: handing on the arrays takes longer than this (measured).
    code = counts[slot]
    hashes[slot, place] = value
    codes[slot, place] = code
    distinct[slot, code] = value
    counts[slot] += 1
    return code


@njit(cache=True, nogil=True)
def tail(buffer: Any, stop: Any, size: Any) -> Any:
    """Return the last ``size`` (0 to 7) bytes before ``stop`` as a number: seven bytes before them are read as well."""
    return word(buffer, stop - 8) & ((np.int64(1) << (8 * size)) - 1)


@njit(cache=True, nogil=True)
def mix(state: Any, value: Any) -> Any:
    """Return a hash with eight more bytes in it."""
    state = (state ^ value) * _PRIME
    return state ^ (state >> 29)


@njit(cache=True, nogil=True)
def code_of_text(
    buffer: Any, at: Any, size: Any, hashes: Any, codes: Any, distinct: Any, lengths: Any, counts: Any, slot: Any
) -> Any:
    """Return the code of a text on a leaf page, a new one if it is new. Texts are compared byte by byte."""
    rest = size & 7
    full = at + size - rest
    value = mix(_SEED, size)
    for place in range(at, full, 8):
        value = mix(value, word(buffer, place))
    ending = tail(buffer, at + size, rest)
    value = mix(value, ending)
    mask = hashes.shape[1] - 1
    place = first_place(value, mask)
    while codes[slot, place] >= 0:
        if hashes[slot, place] == value:
            code = codes[slot, place]
            other = distinct[slot, code]
            same = lengths[slot, code] == size
            i = 0
            while same and i < size - rest:
                same = word(buffer, other + i) == word(buffer, at + i)
                i += 8
            if same and tail(buffer, other + size, rest) == ending:
                return code
        place = (place + 1) & mask
    code = counts[slot]
    hashes[slot, place] = value
    codes[slot, place] = code
    distinct[slot, code] = at
    lengths[slot, code] = size
    counts[slot] += 1
    return code


@njit(cache=True, nogil=True)
def rehash(old_hashes: Any, old_codes: Any, hashes: Any, codes: Any) -> None:
    """Move the entries of a small hash table into a larger one."""
    mask = hashes.shape[1] - 1
    for slot in range(old_hashes.shape[0]):
        for old in range(old_hashes.shape[1]):
            if old_codes[slot, old] < 0:
                continue
            place = first_place(old_hashes[slot, old], mask)
            while codes[slot, place] >= 0:
                place = (place + 1) & mask
            hashes[slot, place] = old_hashes[slot, old]
            codes[slot, place] = old_codes[slot, old]
