"""Sums over ranges, operations and calls, compiled with numba; part of projection_fast.py."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from paceline.analysis.intervals import merge


@njit(cache=True, nogil=True)
def _sorted(order: Any, start: Any) -> Any:
    ordered = True
    for i in range(1, len(order)):
        ordered &= start[order[i]] >= start[order[i - 1]]
    return ordered


def union(order: Any, start: Any, end: Any) -> tuple[Any, Any]:
    """Return the union of the intervals of the rows in ``order`` as disjoint intervals in time order."""
    if not _sorted(order, start):
        return merge(start[order], end[order])
    starts, ends = np.empty(len(order), np.int64), np.empty(len(order), np.int64)
    count = _union(order, start, end, starts, ends)
    return starts[:count], ends[:count]  # memory behind them was never touched: it takes no room


@njit(cache=True, nogil=True)
def _union(order: Any, start: Any, end: Any, starts: Any, ends: Any) -> Any:
    count = 0
    for i in range(len(order)):
        begin, finish = start[order[i]], end[order[i]]
        if finish <= begin:
            continue
        if count and begin <= ends[count - 1]:
            ends[count - 1] = max(ends[count - 1], finish)
        else:
            starts[count], ends[count] = begin, finish
            count += 1
    return count


@njit(cache=True, nogil=True)
def tally(first: Any, second: Any, width: Any, size: Any, start: Any, end: Any) -> Any:
    """Return count, summed and longest length of the rows by ``first * width + second``, shape (size,) each."""
    count = np.zeros(size, np.int64)
    total = np.zeros(size, np.int64)
    longest = np.zeros(size, np.int64)
    for row in range(len(start)):
        place = np.int64(first[row]) * width + second[row]
        length = end[row] - start[row]
        count[place] += 1
        total[place] += length
        longest[place] = max(longest[place], length)
    return count, total, longest


def group_sums(
    group: Any, outer: Any, num_groups: int, start: Any, end: Any, thread: Any, end_thread: Any, unclosed: Any,
    operations: Any, launches: Any, api: Any, first: Any, last: Any,
) -> dict[str, Any]:  # fmt: skip
    """Return per group what follows from its ranges; see projection_numpy.group_sums."""
    sums = np.zeros((num_groups, 7), np.int64)
    _group_sums(
        group, outer, start, end, thread, end_thread, unclosed, operations, launches, api, first, last, sums
    )  # fmt: skip
    names = ("instances", "unclosed", "cross_thread", "span", "wall", "launches", "api")
    return dict(zip(names, np.ascontiguousarray(sums.T), strict=True))


@njit(cache=True, nogil=True)
def _group_sums(
    group: Any, outer: Any, start: Any, end: Any, thread: Any, end_thread: Any, unclosed: Any, operations: Any,
    launches: Any, api: Any, first: Any, last: Any, sums: Any,
) -> None:  # fmt: skip
    for row in range(len(group)):
        own = group[row]
        sums[own, 0] += 1
        sums[own, 1] += unclosed[row]
        sums[own, 2] += thread[row] != end_thread[row]
        if operations[row]:
            sums[own, 3] += last[row] - first[row]
        if outer[row]:
            sums[own, 4] += end[row] - start[row]
            sums[own, 5] += launches[row]
            sums[own, 6] += api[row]


@njit(cache=True, nogil=True)
def _covered_until(time: Any, place: Any, covered_start: Any, covered_end: Any, before: Any) -> Any:
    """Return (covered length before a time, first interval that starts after it), searching from ``place`` on."""
    size, step = len(covered_start), 1
    low = place  # no interval before it starts after the time
    while low + step <= size and covered_start[low + step - 1] <= time:
        low += step
        step *= 2
    high = min(low + step, size)
    while low < high:
        middle = (low + high) // 2
        if covered_start[middle] <= time:
            low = middle + 1
        else:
            high = middle
    overhang = max(covered_end[low - 1] - time, 0) if low else 0
    return before[low] - overhang, low


@njit(cache=True, nogil=True)
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
    place = 0
    for i in range(len(rows)):
        row = rows[i]
        if not outer[row]:
            continue
        until_start, place = _covered_until(start[row], place, covered_start, covered_end, before)
        until_end, _ = _covered_until(end[row], place, covered_start, covered_end, before)
        total[group[row]] += until_end - until_start
