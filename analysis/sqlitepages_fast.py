"""The compiled part of sqlitepages.py: walks b-tree pages and decodes records. Needs numba."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

FULL, UNKNOWN, DAMAGED = 1, 2, 3
"""Why ``decode`` stopped: a list needs more room, a value that the library should read, not a valid page."""
_INTERIOR, _LEAF = 5, 13
_NO_TIME = np.int64(-(2**63))
_ONE = np.uint64(1)
_FNV_OFFSET = np.uint64(14695981039346656037)
_FNV_PRIME = np.uint64(1099511628211)


@njit(cache=True, nogil=True)
def _u16(buffer: Any, at: Any) -> Any:
    place = np.uint64(at)  # an index that cannot be negative needs no look whether it is
    return (np.int64(buffer[place]) << 8) | np.int64(buffer[place + _ONE])


@njit(cache=True, nogil=True)
def _u32(buffer: Any, at: Any) -> Any:
    place = np.uint64(at)
    return (
        (np.int64(buffer[place]) << 24)
        | (np.int64(buffer[place + _ONE]) << 16)
        | (np.int64(buffer[place + np.uint64(2)]) << 8)
        | np.int64(buffer[place + np.uint64(3)])
    )


@njit(cache=True, nogil=True)
def _varint(buffer: Any, at: Any) -> Any:
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
    """Return the numbers of a table's leaf pages in row order; a single -1 if it is not a plain table b-tree."""
    num_pages = len(buffer) // page_bytes
    result = np.empty(1024, np.int64)
    count = 0
    bad = np.full(1, -1, np.int64)
    stack = np.empty((64, 2), np.int64)  # page, next child; a b-tree is never this deep
    stack[0, 0], stack[0, 1] = root, 0
    depth = 1
    while depth:
        page, child = stack[depth - 1, 0], stack[depth - 1, 1]
        if page < 1 or page > num_pages or count > num_pages:
            return bad
        base = (page - 1) * page_bytes
        head = base + (100 if page == 1 else 0)
        kind = buffer[head]
        if kind == _LEAF:
            if count == len(result):
                grown = np.empty(2 * count, np.int64)
                grown[:count] = result
                result = grown
            result[count] = page
            count += 1
            depth -= 1
            continue
        if kind != _INTERIOR or depth == 64:
            return bad
        cells = _u16(buffer, head + 3)
        if child > cells or head + 12 + 2 * cells > base + page_bytes:
            depth -= 1
            continue
        if child == cells:
            following = _u32(buffer, head + 8)
        else:
            pointer = _u16(buffer, head + 12 + 2 * child)
            if pointer + 4 > page_bytes:
                return bad
            following = _u32(buffer, base + pointer)
        stack[depth - 1, 1] = child + 1
        stack[depth, 0], stack[depth, 1] = following, 0
        depth += 1
    return result[:count]


@njit(cache=True, nogil=True)
def cells(buffer: Any, page_bytes: Any, pages: Any) -> Any:
    """Return the number of rows on each leaf page."""
    result = np.empty(len(pages), np.int64)
    for i in range(len(pages)):
        base = (pages[i] - 1) * page_bytes
        result[i] = _u16(buffer, base + (100 if pages[i] == 1 else 0) + 3)
    return result


@njit(cache=True, nogil=True)
def _size(kind: Any) -> Any:
    """Return the bytes that a value of a record type takes."""
    if kind >= 12:
        return (kind - 12) // 2
    if kind <= 4:
        return kind
    if kind == 5:
        return 6
    if kind <= 7:
        return 8
    return 0


@njit(cache=True, nogil=True)
def _integer(buffer: Any, at: Any, kind: Any) -> Any:
    """Return a big-endian integer of record type 1 to 6, 8 or 9."""
    if kind == 4:
        return np.int64(np.int32(_u32(buffer, at)))
    if kind == 5:
        return (np.int64(np.int16(_u16(buffer, at))) << 32) | _u32(buffer, at + 2)
    if kind == 6:
        return (_u32(buffer, at) << 32) | _u32(buffer, at + 4)
    if kind == 3:
        return (np.int64(np.int8(buffer[np.uint64(at)])) << 16) | _u16(buffer, at + 1)
    if kind == 2:
        return np.int64(np.int16(_u16(buffer, at)))
    if kind == 1:
        return np.int64(np.int8(buffer[np.uint64(at)]))
    return kind - 8


@njit(cache=True, nogil=True)
def _local(payload: Any, usable: Any) -> Any:
    """Return how much of a record lies on its leaf page; the rest is on overflow pages."""
    most = usable - 35
    if payload <= most:
        return payload
    least = (usable - 12) * 32 // 255 - 23
    part = least + (payload - least) % (usable - 4)
    return part if part <= most else least


@njit(cache=True, nogil=True)
def _gather(buffer: Any, page_bytes: Any, usable: Any, at: Any, local: Any, payload: Any) -> Any:
    """Return a record that continues on overflow pages as one array; empty if the chain is broken."""
    record = np.empty(payload, np.uint8)
    record[:local] = buffer[at : at + local]
    page = _u32(buffer, at + local)
    done = local
    num_pages = len(buffer) // page_bytes
    while done < payload:
        if page < 1 or page > num_pages:
            return np.empty(0, np.uint8)
        base = (page - 1) * page_bytes
        part = min(usable - 4, payload - done)
        record[done : done + part] = buffer[base + 4 : base + 4 + part]
        page = _u32(buffer, base)
        done += part
    return record


@njit(cache=True, nogil=True)
def _code_of_key(value: Any, hashes: Any, codes: Any, distinct: Any, counts: Any, slot: Any) -> Any:
    """Return the code of a value, a new one if it was not seen before."""
    mask = hashes.shape[1] - 1
    mixed = np.uint64(value) * np.uint64(11400714819323198485)
    place = np.int64(mixed >> np.uint64(32)) & mask
    while codes[slot, place] >= 0:
        if hashes[slot, place] == value:
            return codes[slot, place]
        place = (place + 1) & mask
    code = counts[slot]
    hashes[slot, place] = value
    codes[slot, place] = code
    distinct[slot, code] = value
    counts[slot] += 1
    return code


@njit(cache=True, nogil=True)
def _code_of_text(
    buffer: Any, at: Any, size: Any, hashes: Any, codes: Any, distinct: Any, lengths: Any, counts: Any, slot: Any
) -> Any:
    """Return the code of a text on a leaf page, a new one if it is new. Texts are compared byte by byte."""
    mixed = _FNV_OFFSET
    for i in range(size):
        mixed = (mixed ^ np.uint64(buffer[at + i])) * _FNV_PRIME
    value = np.int64(mixed)
    mask = hashes.shape[1] - 1
    place = np.int64((mixed * np.uint64(11400714819323198485)) >> np.uint64(32)) & mask
    while codes[slot, place] >= 0:
        if hashes[slot, place] == value:
            code = codes[slot, place]
            other, same = distinct[slot, code], lengths[slot, code] == size
            i = 0
            while same and i < size:
                same = buffer[other + i] == buffer[at + i]
                i += 1
            if same:
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
            mixed = np.uint64(old_hashes[slot, old]) * np.uint64(11400714819323198485)
            place = np.int64(mixed >> np.uint64(32)) & mask
            while codes[slot, place] >= 0:
                place = (place + 1) & mask
            hashes[slot, place] = old_hashes[slot, old]
            codes[slot, place] = old_codes[slot, old]


@njit(cache=True, nogil=True)
def decode(
    buffer: Any, page_bytes: Any, usable: Any, pages: Any, begin: Any, stop: Any, first: Any,
    slots: Any, kinds: Any, wide: Any, narrow: Any, hashes: Any, codes: Any, distinct: Any, lengths: Any,
    counts: Any, overflow: Any, too_wide: Any,
) -> Any:  # fmt: skip
    """Decode leaves ``begin`` to ``stop`` into the columns; return (next leaf, 0 or the reason to stop there)."""
    num_columns = len(slots)
    num_narrow = len(narrow)
    last_key = np.zeros(num_narrow, np.int64)
    last_code = np.full(num_narrow, -1, np.int64)
    room = distinct.shape[1]
    for leaf in range(begin, stop):
        base = (pages[leaf] - 1) * page_bytes
        head = base + (100 if pages[leaf] == 1 else 0)
        num_cells = _u16(buffer, head + 3)
        if buffer[head] != _LEAF or num_cells != first[leaf + 1] - first[leaf]:
            return leaf, DAMAGED
        if head + 8 + 2 * num_cells > base + page_bytes:
            return leaf, DAMAGED
        for slot in range(num_narrow):
            if counts[slot] + num_cells > room:
                return leaf, FULL
        if counts[num_narrow] + num_cells > len(overflow):
            return leaf, FULL
        for cell in range(num_cells):
            row = first[leaf] + cell
            pointer = _u16(buffer, head + 8 + 2 * cell)
            if pointer + 4 > page_bytes:
                return leaf, DAMAGED
            payload, at = _varint(buffer, base + pointer)
            number, at = _varint(buffer, at)
            local = _local(payload, usable)
            if payload < 1 or at + local > base + page_bytes:
                return leaf, DAMAGED
            record, origin = buffer, at
            if local < payload:
                record, origin = _gather(buffer, page_bytes, usable, at, local, payload), 0
                if not len(record):
                    return leaf, DAMAGED
            header_bytes, place = _varint(record, origin)
            value_at, header_end = origin + header_bytes, origin + header_bytes
            if header_bytes > payload:
                return leaf, DAMAGED
            for column in range(num_columns):
                kind = np.int64(0)  # a record may be shorter than the table: NULL
                if place < header_end:
                    kind = np.int64(record[place])
                    place += 1
                    if kind >= 128:
                        kind, place = _varint(record, place - 1)
                size = _size(kind)
                slot = slots[column]
                if slot >= 0:
                    if value_at + size > origin + payload:
                        return leaf, DAMAGED
                    wanted = kinds[column]
                    if kind == 0:
                        if wanted == 0:
                            wide[slot][row] = _NO_TIME
                        else:
                            narrow[slot][row] = -1
                    elif wanted == 3:
                        if kind < 12:
                            return leaf, UNKNOWN
                        if local < payload and value_at + size > local:
                            narrow[slot][row] = -1
                            overflow[counts[num_narrow], 0] = row
                            overflow[counts[num_narrow], 1] = number
                            overflow[counts[num_narrow], 2] = slot
                            counts[num_narrow] += 1
                        else:
                            where = value_at if local == payload else at + value_at
                            narrow[slot][row] = _code_of_text(
                                buffer, where, size, hashes, codes, distinct, lengths, counts, slot
                            )
                    elif kind == 7 or kind >= 12:
                        return leaf, UNKNOWN
                    else:
                        value = _integer(record, value_at, kind)
                        if wanted == 0:
                            wide[slot][row] = value
                        elif wanted == 1:
                            if value > 2147483647 or value < -2147483648:
                                too_wide[slot] = True
                            narrow[slot][row] = np.int32(value)
                        else:
                            if last_code[slot] < 0 or last_key[slot] != value:
                                last_key[slot] = value
                                last_code[slot] = _code_of_key(value, hashes, codes, distinct, counts, slot)
                            narrow[slot][row] = last_code[slot]
                value_at += size
    return stop, 0
