"""Bytes of an SQLite page as numbers, and the pages of a table; compiled with numba, part of sqlitepages.py."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

INTERIOR, LEAF = 5, 13
_ONE = np.uint64(1)


@njit(cache=True, nogil=True)
def u16(buffer: Any, at: Any) -> Any:
    """Return two bytes, big-endian."""
    place = np.uint64(at)  # an index that cannot be negative needs no look whether it is
    return (np.int64(buffer[place]) << 8) | np.int64(buffer[place + _ONE])


@njit(cache=True, nogil=True)
def u32(buffer: Any, at: Any) -> Any:
    """Return four bytes, big-endian."""
    place = np.uint64(at)
    return (
        (np.int64(buffer[place]) << 24)
        | (np.int64(buffer[place + _ONE]) << 16)
        | (np.int64(buffer[place + np.uint64(2)]) << 8)
        | np.int64(buffer[place + np.uint64(3)])
    )


@njit(cache=True, nogil=True)
def word(buffer: Any, at: Any) -> Any:
    """Return eight bytes, big-endian: one load and one swap for the processor."""
    place = np.uint64(at)
    return (
        (np.int64(buffer[place]) << 56)
        | (np.int64(buffer[place + _ONE]) << 48)
        | (np.int64(buffer[place + np.uint64(2)]) << 40)
        | (np.int64(buffer[place + np.uint64(3)]) << 32)
        | (np.int64(buffer[place + np.uint64(4)]) << 24)
        | (np.int64(buffer[place + np.uint64(5)]) << 16)
        | (np.int64(buffer[place + np.uint64(6)]) << 8)
        | np.int64(buffer[place + np.uint64(7)])
    )


@njit(cache=True, nogil=True)
def varint(buffer: Any, at: Any) -> Any:
    """Return (value, position after it) of a variable-length integer: 7 bits a byte, the ninth byte whole."""
    byte = np.int64(buffer[np.uint64(at)])
    if byte < 128:
        return byte, at + 1
    value = np.int64(0)
    for _ in range(8):
        byte = np.int64(buffer[np.uint64(at)])
        at += 1
        value = (value << 7) | (byte & 127)
        if byte < 128:
            return value, at
    return (value << 8) | np.int64(buffer[np.uint64(at)]), at + 1


@njit(cache=True, nogil=True)
def leaves(buffer: Any, page_bytes: Any, root: Any) -> Any:
    """Return the leaf pages of a table in row order, and the largest row number that each can hold.

    The latter is what interior pages say, -1 where they say nothing (the last leaf). A single page -1: this is not a
    plain table b-tree.
    """
    num_pages = len(buffer) // page_bytes
    result = np.empty((2, 1024), np.int64)
    count = 0
    bad = np.full((2, 1), -1, np.int64)
    stack = np.empty((64, 3), np.int64)  # page, next child, largest row number; a b-tree is never this deep
    stack[0, 0], stack[0, 1], stack[0, 2] = root, 0, -1
    depth = 1
    while depth:
        page, child, last = stack[depth - 1, 0], stack[depth - 1, 1], stack[depth - 1, 2]
        if page < 1 or page > num_pages or count > num_pages:
            return bad
        base = (page - 1) * page_bytes
        head = base + (100 if page == 1 else 0)
        kind = buffer[head]
        if kind == LEAF:
            if count == result.shape[1]:
                grown = np.empty((2, 2 * count), np.int64)
                grown[:, :count] = result
                result = grown
            result[0, count], result[1, count] = page, last
            count += 1
            depth -= 1
            continue
        if kind != INTERIOR or depth == 64:
            return bad
        cells = u16(buffer, head + 3)
        if child > cells or head + 12 + 2 * cells > base + page_bytes:
            depth -= 1
            continue
        if child == cells:
            following = u32(buffer, head + 8)
        else:
            pointer = u16(buffer, head + 12 + 2 * child)
            if pointer + 4 > page_bytes:
                return bad
            following = u32(buffer, base + pointer)
            last = varint(buffer, base + pointer + 4)[0] if base + pointer + 13 <= len(buffer) else np.int64(-1)
        stack[depth - 1, 1] = child + 1
        stack[depth, 0], stack[depth, 1], stack[depth, 2] = following, 0, last
        depth += 1
    return result[:, :count]


@njit(cache=True, nogil=True)
def rows_without_gaps(buffer: Any, page_bytes: Any, pages: Any, last: Any) -> Any:
    """Return the rows on each leaf if rows are numbered from 1 without gaps; a single -1 if they cannot be.

    Only the last leaf is looked at. A table from which rows were deleted has fewer on some: ``decode`` finds out.
    """
    result = np.empty(len(pages), np.int64)
    bad = np.full(1, -1, np.int64)
    before = np.int64(0)
    for i in range(len(pages)):
        if last[i] >= 0:
            result[i] = last[i] - before
            before = last[i]
        elif i == len(pages) - 1:
            result[i] = u16(buffer, (pages[i] - 1) * page_bytes + (100 if pages[i] == 1 else 0) + 3)
        else:
            return bad
        if result[i] < 0 or result[i] > page_bytes // 4:
            return bad
    return result


@njit(cache=True, nogil=True)
def cells(buffer: Any, page_bytes: Any, pages: Any) -> Any:
    """Return the number of rows on each leaf page, from the pages themselves."""
    result = np.empty(len(pages), np.int64)
    for i in range(len(pages)):
        base = (pages[i] - 1) * page_bytes
        result[i] = u16(buffer, base + (100 if pages[i] == 1 else 0) + 3)
    return result
