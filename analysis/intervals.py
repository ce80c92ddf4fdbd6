"""Unions of time intervals. Times are int64 nanoseconds, intervals are half-open [start, end)."""

from __future__ import annotations

from typing import Any

import numpy as np


def merge(start: Any, end: Any) -> tuple[Any, Any]:
    """Return the union of intervals as disjoint intervals (starts, ends) in time order.

        |-----|   |---|        ->   |--------|  |---|
           |-----|
    Touching intervals become one. Empty intervals vanish. The input need not be sorted.
    """
    keep = end > start
    if not keep.all():
        start, end = start[keep], end[keep]
    if not len(start):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    if np.any(start[1:] < start[:-1]):
        order = np.argsort(start, kind="stable")
        start, end = start[order], end[order]
    reach = np.maximum.accumulate(end)
    first = np.empty(len(start), bool)
    first[0] = True
    np.greater(start[1:], reach[:-1], out=first[1:])
    last = np.append(first[1:], True)
    return start[first], reach[last]


class Coverage:
    """A union of intervals that answers how much of a time window it covers."""

    def __init__(self, start: Any, end: Any, merged: bool = False) -> None:
        """Take any intervals, or with ``merged`` the disjoint ones that ``merge`` returns."""
        self.start, self.end = (start, end) if merged else merge(start, end)
        self.before = np.concatenate([[0], np.cumsum(self.end - self.start)])

    @property
    def total(self) -> int:
        """Length of the union."""
        return int(self.before[-1])

    def until(self, time: Any) -> Any:
        """Return the covered length before each time."""
        index = np.searchsorted(self.start, time, side="right")
        if not len(self.start):
            return np.zeros(np.shape(time), np.int64)
        previous = np.maximum(index - 1, 0)
        overhang = np.where(index > 0, np.maximum(self.end[previous] - time, 0), 0)
        return self.before[index] - overhang

    def between(self, start: Any, end: Any) -> Any:
        """Return the covered length inside each window [start, end)."""
        return self.until(end) - self.until(start)


def segmented_union(segment: Any, start: Any, end: Any, num_segments: int) -> Any:
    """Return the length of the union of the intervals of each segment, shape (num_segments,).

    The rows must be sorted by segment and, within a segment, by start.
    """
    rows = len(start)
    if not rows:
        return np.zeros(num_segments, np.int64)
    # Running maximum of the ends inside each segment: ranks of the ends, lifted by the segment so that they never mix.
    order = np.argsort(end, kind="stable")
    rank = np.empty(rows, np.int64)
    rank[order] = np.arange(rows)
    lifted = np.maximum.accumulate(rank + segment.astype(np.int64) * rows)
    reach = end[order[lifted % rows]]
    new = np.empty(rows, bool)
    new[0] = True
    np.not_equal(segment[1:], segment[:-1], out=new[1:])
    floor = start.copy()
    later = ~new[1:]
    floor[1:][later] = np.maximum(start[1:][later], reach[:-1][later])
    gain = np.maximum(end - floor, 0)
    heads = np.flatnonzero(new)
    result = np.zeros(num_segments, np.int64)
    result[segment[heads]] = np.add.reduceat(gain, heads)
    return result
