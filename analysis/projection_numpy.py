"""The steps of the projection in numpy: always there. projection_fast.py has the same functions compiled.

Every function takes and returns plain arrays; projection.py explains the steps and puts them together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from paceline.analysis.intervals import Coverage, merge, segmented_union

NONE = -1


def partition(key: Any, num_keys: int, start: Any, end: Any | None = None) -> tuple[Any, Any]:
    """Return rows sorted by (key, start, longest first), and where each key begins, shape (num_keys + 1,)."""
    order = np.lexsort((start, key)) if end is None else np.lexsort((-end, start, key))
    bounds = np.searchsorted(key[order], np.arange(num_keys + 1))
    return order.astype(np.int32), bounds


def tree(order: Any, bounds: Any, start: Any, end: Any) -> tuple[Any, Any]:
    """Return (parent, crosses) of every row of ``order``; rows that are not in it keep parent -1 and do not cross.

        A |-----------------------|
        B    |----------|
        C      |--|  D |-----|

    parent(B) = A and parent(C) = B. D begins inside B and ends after it: it crosses, and gets no place in the tree.
    """
    parent = np.full(len(start), NONE, np.int32)
    crosses = np.zeros(len(start), bool)
    starts, ends = start.tolist(), end.tolist()
    for low, high in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        stack: list[int] = []
        for row in order[low:high].tolist():
            while stack and ends[stack[-1]] <= starts[row]:
                stack.pop()
            if stack and ends[stack[-1]] < ends[row]:
                crosses[row] = True
                continue
            parent[row] = stack[-1] if stack else NONE
            stack.append(row)
    return parent, crosses


def locate(
    order: Any, bounds: Any, start: Any, end: Any, parent: Any, crosses: Any,
    call_order: Any, call_bounds: Any, call_start: Any, call_end: Any,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """Return (range, own time) of every call, and the own times per innermost range.

    The range is the innermost one in the tree that contains the call; own time is its part of the API time.

    Own times of a thread sum to the union of its calls: a driver call inside a runtime call has none.
    """
    where = np.full(len(call_start), NONE, np.int32)
    own = np.zeros(len(call_start), np.int64)
    for low, high, first, last in zip(bounds[:-1], bounds[1:], call_bounds[:-1], call_bounds[1:], strict=True):
        calls = call_order[first:last]
        begin, finish = call_start[calls], call_end[calls]
        if len(calls):
            reach = np.maximum.accumulate(finish)
            floor = np.maximum(begin, np.concatenate([begin[:1], reach[:-1]]))
            own[calls] = np.maximum(finish - floor, 0)
        rows = order[low:high]
        rows = rows[~crosses[rows]]
        if not len(rows) or not len(calls):
            continue
        index = np.searchsorted(start[rows], begin, side="right") - 1
        found = np.where(index >= 0, rows[np.maximum(index, 0)], NONE)
        active = np.flatnonzero(found >= 0)
        while len(active):
            here = found[active]
            outside = (end[here] <= begin[active]) | (end[here] < finish[active])
            active = active[outside]
            found[active] = parent[here[outside]]
            active = active[found[active] >= 0]
        where[calls] = found
    api = np.zeros(len(start), np.int64)
    np.add.at(api, where[where >= 0], own[where >= 0])
    return where, own, api


def match(
    call_process: Any, call_correlation: Any, call_start: Any, call_end: Any, process: Any, correlation: Any
) -> Any:
    """Return the call that caused each operation, -1 if the capture has none.

    A runtime call and the driver call inside it can share an id: the inner one counts, that is the latest start, then
    the earliest end, then the first row.
    """
    calls = np.flatnonzero(call_correlation >= 0)
    if not len(calls):
        return np.full(len(process), NONE, np.int32)
    key = (call_process[calls].astype(np.int64) << 40) + call_correlation[calls]
    order = np.lexsort((calls, call_end[calls], -call_start[calls], key))
    key, calls = key[order], calls[order]
    first = np.append(True, key[1:] != key[:-1])
    key, calls = key[first], calls[first]
    wanted = (process.astype(np.int64) << 40) + correlation
    index = np.minimum(np.searchsorted(key, wanted), len(key) - 1)
    return np.where((key[index] == wanted) & (correlation >= 0), calls[index], NONE).astype(np.int32)


def first_of_call(order: Any, call: Any, usable: Any, num_calls: int) -> Any:
    """Return a mask: the first usable operation, in ``order``, of every call."""
    rows = order[usable[order] & (call[order] >= 0)]
    mask = np.zeros(len(call), bool)
    _, first = np.unique(call[rows], return_index=True)
    mask[rows[first]] = True
    return mask


def expand(range_of: Any, parent: Any) -> tuple[Any, Any]:
    """Return pairs (range, row): every row with every range that encloses it."""
    rows = np.flatnonzero(range_of >= 0)
    ranges = range_of[rows]
    found_ranges, found_rows = [np.empty(0, np.int32)], [np.empty(0, np.int64)]
    while len(rows):
        found_ranges.append(ranges)
        found_rows.append(rows)
        ranges = parent[ranges]
        inside = ranges >= 0
        rows, ranges = rows[inside], ranges[inside]
    return np.concatenate(found_ranges), np.concatenate(found_rows)


def outermost(order: Any, parent: Any, group: Any) -> Any:
    """Return a mask: ranges that no range of the same group encloses."""
    result = np.ones(len(parent), bool)
    rows = np.arange(len(parent))
    above = parent
    while len(rows):
        inside = above >= 0
        rows, above = rows[inside], above[inside]
        result[rows[group[above] == group[rows]]] = False
        above = parent[above]
    return result


def nearest(range_of: Any, parent: Any, chosen: Any) -> Any:
    """Return for each row the innermost enclosing range that is chosen (mask over ranges), -1 if there is none."""
    result = range_of.copy()
    active = np.flatnonzero(result >= 0)
    while len(active):
        active = active[~chosen[result[active]]]
        result[active] = parent[result[active]]
        active = active[result[active] >= 0]
    return result


def accumulate(
    order: Any, bounds: Any, start: Any, end: Any, range_of: Any, launch: Any,
    parent: Any, group: Any, outer: Any, num_groups: int, partition_process: Any,
) -> tuple[dict[str, Any], dict[str, Any]]:  # fmt: skip
    """Return sums per range and per group of operations in (process, device, start) order.

    Per range: ``operations``, ``launches``, ``sum``, ``busy``, ``first``, ``last``; per group: ``operations``,
    ``sum``, ``busy``. A group counts an operation once, in its outermost range.
    """
    device = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    ranges, rows = expand(range_of[order], parent)
    weights = np.stack([np.ones(len(rows), np.int64), launch[order][rows], (end - start)[order][rows]])
    first, last = start[order][rows], end[order][rows]
    per_range = sums(ranges, weights, first, last, device[rows], len(parent))
    inside = outer[ranges]
    ranges, rows = ranges[inside], rows[inside]
    per_group = sums(group[ranges], weights[:, inside], first[inside], last[inside], device[rows], num_groups)
    return per_range, {name: per_group[name] for name in ("operations", "sum", "busy")}


def sums(segment: Any, weights: Any, start: Any, end: Any, device: Any, num_segments: int) -> dict[str, Any]:
    """Return count, launches, sum, union per device, first start and last end of the intervals of each segment."""
    names = ("operations", "launches", "sum")
    result: dict[str, Any] = {name: np.zeros(num_segments, np.int64) for name in (*names, "busy", "first", "last")}
    if not len(segment):
        return result
    order = np.lexsort((start, device, segment))
    segment, device, start, end = segment[order], device[order], start[order], end[order]
    head = np.append(True, (segment[1:] != segment[:-1]) | (device[1:] != device[:-1]))
    piece = np.cumsum(head) - 1
    length = segmented_union(piece, start, end, int(piece[-1]) + 1)
    np.add.at(result["busy"], segment[head], length)
    heads = np.flatnonzero(np.append(True, segment[1:] != segment[:-1]))
    present = segment[heads]
    for name, values in zip(names, weights, strict=True):
        result[name][present] = np.add.reduceat(values[order], heads)
    result["first"][present] = np.minimum.reduceat(start, heads)
    result["last"][present] = np.maximum.reduceat(end, heads)
    return result


def roll_up(order: Any, parent: Any, values: Any) -> Any:
    """Return values per range with those of all enclosed ranges added."""
    ranges, rows = expand(np.where(values != 0, np.arange(len(values)), NONE), parent)
    result = np.zeros_like(values)
    np.add.at(result, ranges, values[rows])
    return result


def union(order: Any, start: Any, end: Any) -> tuple[Any, Any]:
    """Return the union of the intervals of the rows in ``order`` as disjoint intervals in time order."""
    return merge(start[order], end[order])


def tally(first: Any, second: Any, width: int, size: int, start: Any, end: Any) -> tuple[Any, Any, Any]:
    """Return count, summed and longest length of the rows by ``first * width + second``, shape (size,) each."""
    key = first.astype(np.int64) * width + second
    length = end - start
    total, longest = np.zeros(size, np.int64), np.zeros(size, np.int64)
    np.add.at(total, key, length)
    np.maximum.at(longest, key, length)
    return np.bincount(key, minlength=size), total, longest


def group_sums(
    group: Any, outer: Any, num_groups: int, start: Any, end: Any, thread: Any, end_thread: Any, unclosed: Any,
    operations: Any, launches: Any, api: Any, first: Any, last: Any,
) -> dict[str, Any]:  # fmt: skip
    """Return per group what follows from its ranges; ``wall``, ``launches`` and ``api`` from outermost ones only."""
    worked = operations > 0
    chosen = {
        "instances": (np.ones(len(group), np.int64), slice(None)),
        "unclosed": (unclosed, slice(None)),
        "cross_thread": (thread != end_thread, slice(None)),
        "span": (last - first, worked),
        "wall": (end - start, outer),
        "launches": (launches, outer),
        "api": (api, outer),
    }
    result = {}
    for name, (values, rows) in chosen.items():
        result[name] = np.zeros(num_groups, np.int64)
        np.add.at(result[name], group[rows], values[rows])
    return result


def add_covered(
    rows: Any,
    start: Any,
    end: Any,
    outer: Any,
    group: Any,
    covered_start: Any,
    covered_end: Any,
    before: Any,
    total: Any,
) -> None:
    """Add to ``total``, per group, how much of the outermost ranges in ``rows`` the covered intervals fill."""
    rows = rows[outer[rows]]
    coverage = Coverage(covered_start, covered_end, merged=True)
    np.add.at(total, group[rows], coverage.between(start[rows], end[rows]))
