"""The compiled part of sqlitepages.py: decodes the records of leaf pages. Needs numba.

Rows of a table mostly share a handful of headers (the list of their values' types). What follows from a header, where
each wanted value lies and how wide it is, is worked out once and kept as a layout; each leaf is then read column by
column. Rows that are different (on overflow pages, with very long headers) are read one by one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from paceline.analysis.sqlitepages_bytes import LEAF, u16, u32, varint, word
from paceline.analysis.sqlitepages_codes import code_of_key, code_of_text, first_place, mix, tail

FULL, UNKNOWN, DAMAGED, MISCOUNTED = 1, 2, 3, 4
"""Why ``decode`` stopped: a list needs more room, a value that the library should read, not a valid page, a leaf with
another number of rows than expected."""
_NO_TIME = np.int64(-(2**63))
_LAYOUTS = 256
_HEADER_WORDS = 8
_TIME, _INT, _KEY, _TEXT = 0, 1, 2, 3


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
        return np.int64(np.int32(u32(buffer, at)))
    if kind == 5:
        return (np.int64(np.int16(u16(buffer, at))) << 32) | u32(buffer, at + 2)
    if kind == 6:
        return (u32(buffer, at) << 32) | u32(buffer, at + 4)
    if kind == 3:
        return (np.int64(np.int8(buffer[np.uint64(at)])) << 16) | u16(buffer, at + 1)
    if kind == 2:
        return np.int64(np.int16(u16(buffer, at)))
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
    page = u32(buffer, at + local)
    done = local
    num_pages = len(buffer) // page_bytes
    while done < payload:
        if page < 1 or page > num_pages:
            return np.empty(0, np.uint8)
        base = (page - 1) * page_bytes
        part = min(usable - 4, payload - done)
        record[done : done + part] = buffer[base + 4 : base + 4 + part]
        page = u32(buffer, base)
        done += part
    return record


@njit(cache=True, nogil=True)
def _row(
    buffer: Any, page_bytes: Any, usable: Any, payload: Any, at: Any, number: Any, row: Any, slots: Any, kinds: Any,
    wide: Any, narrow: Any, hashes: Any, codes: Any, distinct: Any, lengths: Any, counts: Any, overflow: Any,
    too_wide: Any,
) -> Any:  # fmt: skip
    """Decode one record of any shape; return 0 or the reason why not."""
    num_narrow = len(narrow)
    local = _local(payload, usable)
    record, origin = buffer, at
    if local < payload:
        record, origin = _gather(buffer, page_bytes, usable, at, local, payload), 0
        if not len(record):
            return DAMAGED
    header_bytes, place = varint(record, origin)
    if header_bytes > payload:
        return DAMAGED
    value_at, header_end = origin + header_bytes, origin + header_bytes
    for column in range(len(slots)):
        kind = np.int64(0)  # a record may be shorter than the table: NULL
        if place < header_end:
            kind, place = varint(record, place)
        size = _size(kind)
        slot = slots[column]
        if slot >= 0:
            if size < 0 or value_at + size > origin + payload:
                return DAMAGED
            wanted = kinds[column]
            if kind == 0:
                if wanted == _TIME:
                    wide[slot][row] = _NO_TIME
                else:
                    narrow[slot][row] = -1
            elif wanted == _TEXT:
                if kind < 12:
                    return UNKNOWN
                if local < payload and value_at + size > local:
                    narrow[slot][row] = -1
                    overflow[counts[num_narrow], 0] = row
                    overflow[counts[num_narrow], 1] = number
                    overflow[counts[num_narrow], 2] = slot
                    counts[num_narrow] += 1
                else:
                    where = value_at if local == payload else at + value_at
                    narrow[slot][row] = code_of_text(
                        buffer, where, size, hashes, codes, distinct, lengths, counts, slot
                    )
            elif kind == 7 or kind >= 10:
                return UNKNOWN
            else:
                value = _integer(record, value_at, kind)
                if wanted == _TIME:
                    wide[slot][row] = value
                elif wanted == _INT:
                    if value != np.int64(np.int32(value)):
                        too_wide[slot] = True
                    narrow[slot][row] = np.int32(value)
                else:
                    narrow[slot][row] = code_of_key(value, hashes, codes, distinct, counts, slot)
        value_at += size
    return 0


@njit(cache=True, nogil=True)
def _lay_out(buffer: Any, origin: Any, header_bytes: Any, slots: Any, kinds: Any, layouts: Any, place: Any) -> Any:
    """Fill the layout of a header, shape (layouts, wanted columns, 3): type, end of the value, its bytes.

    Ends count from the end of the header. Returns the bytes of all values up to the last wanted one, -1 if a value has
    no type that its column can have.
    """
    at, header_end = varint(buffer, origin)[1], origin + header_bytes
    end = needed = 0
    j = 0
    for column in range(len(slots)):
        kind = np.int64(0)
        if at < header_end:
            kind, at = varint(buffer, at)
        size = _size(kind)
        end += size
        if slots[column] < 0:
            continue
        number = kinds[column] != _TEXT
        if (number and (kind == 7 or kind >= 10)) or (not number and 0 < kind < 12) or end < 0 or size < 0:
            return -1
        layouts[place, j, 0], layouts[place, j, 1], layouts[place, j, 2] = kind, end, size
        needed = end
        j += 1
    return needed


@njit(cache=True, nogil=True)
def _fill_wide(
    buffer: Any, values: Any, row: Any, num_cells: Any, layout_of: Any, base: Any, layouts: Any, j: Any
) -> None:
    """Fill a leaf's part of a 64-bit column."""
    for cell in range(num_cells):
        layout = layout_of[cell]
        if layout < 0:
            continue
        kind, end, size = layouts[layout, j, 0], layouts[layout, j, 1], layouts[layout, j, 2]
        # Nearly every cell has a size: looking for null first, in a function of its own, made reading 6 % slower.
        if size:
            shift = 64 - 8 * size
            values[row + cell] = (word(buffer, base[cell] + end - 8) << shift) >> shift
        else:
            values[row + cell] = _NO_TIME if kind == 0 else kind - 8


@njit(cache=True, nogil=True)
def _fill_int(
    buffer: Any, values: Any, row: Any, num_cells: Any, layout_of: Any, base: Any, layouts: Any, j: Any
) -> Any:
    """Fill a leaf's part of a 32-bit column; return whether a value needs more bits."""
    wide = False
    for cell in range(num_cells):
        layout = layout_of[cell]
        if layout < 0:
            continue
        kind, end, size = layouts[layout, j, 0], layouts[layout, j, 1], layouts[layout, j, 2]
        value = np.int64(-1) if kind == 0 else kind - 8
        if size:
            shift = 64 - 8 * size
            value = (word(buffer, base[cell] + end - 8) << shift) >> shift
        wide |= value != np.int64(np.int32(value))
        values[row + cell] = np.int32(value)
    return wide


@njit(cache=True, nogil=True)
def _fill_key(
    buffer: Any, values: Any, row: Any, num_cells: Any, layout_of: Any, base: Any, layouts: Any, j: Any,
    hashes: Any, codes: Any, distinct: Any, count: Any,
) -> Any:  # fmt: skip
    """Fill a leaf's part of a column of codes; arrays as in ``code_of_key``, of this column. Return the new count."""
    mask = len(hashes) - 1
    last_key, last_code = np.int64(0), np.int32(-1)
    for cell in range(num_cells):
        layout = layout_of[cell]
        if layout < 0:
            continue
        kind, end, size = layouts[layout, j, 0], layouts[layout, j, 1], layouts[layout, j, 2]
        if kind == 0:
            values[row + cell] = -1
            continue
        value = kind - 8
        if size:
            shift = 64 - 8 * size
            value = (word(buffer, base[cell] + end - 8) << shift) >> shift
        if last_code < 0 or last_key != value:
            # The same search as in code_of_key: calling it with its arrays takes longer than the search.
            place = first_place(value, mask)
            while codes[place] >= 0 and hashes[place] != value:
                place = (place + 1) & mask
            if codes[place] < 0:
                hashes[place], codes[place], distinct[count] = value, count, value
                count += 1
            last_key, last_code = value, codes[place]
        values[row + cell] = last_code
    return count


@njit(cache=True, nogil=True)
def _fill_text(
    buffer: Any, values: Any, row: Any, num_cells: Any, layout_of: Any, base: Any, layouts: Any, j: Any,
    slot: Any, hashes: Any, codes: Any, distinct: Any, lengths: Any, counts: Any,
) -> None:  # fmt: skip
    """Fill a leaf's part of a column of codes of texts."""
    for cell in range(num_cells):
        layout = layout_of[cell]
        if layout < 0:
            continue
        kind, end, size = layouts[layout, j, 0], layouts[layout, j, 1], layouts[layout, j, 2]
        code = np.int64(-1)
        if kind:
            at = base[cell] + end - size
            code = code_of_text(buffer, at, size, hashes, codes, distinct, lengths, counts, slot)
        values[row + cell] = code


@njit(cache=True, nogil=True)
def decode(
    buffer: Any, page_bytes: Any, usable: Any, pages: Any, begin: Any, stop: Any, first: Any,
    slots: Any, kinds: Any, wide: Any, narrow: Any, hashes: Any, codes: Any, distinct: Any, lengths: Any,
    counts: Any, overflow: Any, too_wide: Any,
) -> Any:  # fmt: skip
    """Decode leaves ``begin`` to ``stop`` into the columns; return (next leaf, 0 or the reason to stop there)."""
    num_narrow = len(narrow)
    room = distinct.shape[1]
    wanted = np.flatnonzero(slots >= 0)
    headers = np.zeros((_LAYOUTS, _HEADER_WORDS + 1), np.int64)
    header_sizes = np.zeros(_LAYOUTS, np.int64)
    used_by = np.full(_LAYOUTS, -1, np.int64)
    layouts = np.zeros((_LAYOUTS, len(wanted), 3), np.int64)
    needed = np.zeros(_LAYOUTS, np.int64)
    layout_of = np.empty(page_bytes // 2, np.int32)
    base = np.empty(page_bytes // 2, np.int64)
    for leaf in range(begin, stop):
        page = (pages[leaf] - 1) * page_bytes
        page_end = page + page_bytes
        head = page + (100 if pages[leaf] == 1 else 0)
        num_cells = u16(buffer, head + 3)
        row = first[leaf]
        if buffer[head] != LEAF or head + 8 + 2 * num_cells > page_end:
            return leaf, DAMAGED
        if num_cells != first[leaf + 1] - row:
            return leaf, MISCOUNTED
        for slot in range(num_narrow):
            if counts[slot] + num_cells > room:
                return leaf, FULL
        if counts[num_narrow] + num_cells > len(overflow):
            return leaf, FULL
        for cell in range(num_cells):
            pointer = u16(buffer, head + 8 + 2 * cell)
            if pointer + 4 > page_bytes:
                return leaf, DAMAGED
            payload, at = varint(buffer, page + pointer)
            number, at = varint(buffer, at)
            if payload < 1 or at + _local(payload, usable) > page_end:
                return leaf, DAMAGED
            header_bytes = np.int64(buffer[np.uint64(at)])
            layout = np.int64(-1)
            if payload <= usable - 35 and header_bytes <= min(8 * _HEADER_WORDS, payload):
                # Looked up here, not in a function: calling one with all these arrays takes longer than the search.
                full = header_bytes >> 3
                ending = tail(buffer, at + header_bytes, header_bytes & 7)
                mixed = mix(ending, header_bytes)
                for i in range(full):
                    mixed = mix(mixed, word(buffer, at + 8 * i))
                layout = (mixed ^ (mixed >> 17)) & (_LAYOUTS - 1)
                same = header_sizes[layout] == header_bytes and headers[layout, full] == ending
                for i in range(full):
                    same &= headers[layout, i] == word(buffer, at + 8 * i)
                if not same and used_by[layout] == leaf:
                    layout = np.int64(-1)  # other rows of this leaf have the header that is kept there
                else:
                    if not same:
                        header_sizes[layout], headers[layout, full] = header_bytes, ending
                        for i in range(full):
                            headers[layout, i] = word(buffer, at + 8 * i)
                        needed[layout] = _lay_out(buffer, at, header_bytes, slots, kinds, layouts, layout)
                    used_by[layout] = leaf
                    if needed[layout] < 0 or needed[layout] > payload - header_bytes:
                        layout = np.int64(-1)
            layout_of[cell], base[cell] = layout, at + header_bytes
            if layout < 0:
                status = _row(
                    buffer, page_bytes, usable, payload, at, number, row + cell, slots, kinds, wide, narrow, hashes,
                    codes, distinct, lengths, counts, overflow, too_wide,
                )  # fmt: skip
                if status:
                    return leaf, status
        for j in range(len(wanted)):
            slot, kind = slots[wanted[j]], kinds[wanted[j]]
            if kind == _TIME:
                _fill_wide(buffer, wide[slot], row, num_cells, layout_of, base, layouts, j)
            elif kind == _INT:
                if _fill_int(buffer, narrow[slot], row, num_cells, layout_of, base, layouts, j):
                    too_wide[slot] = True
            elif kind == _KEY:
                counts[slot] = _fill_key(
                    buffer, narrow[slot], row, num_cells, layout_of, base, layouts, j, hashes[slot], codes[slot],
                    distinct[slot], counts[slot],
                )  # fmt: skip
            else:
                _fill_text(
                    buffer, narrow[slot], row, num_cells, layout_of, base, layouts, j, slot, hashes, codes, distinct,
                    lengths, counts,
                )  # fmt: skip
    return stop, 0
