"""Projects ranges that are not part of a tree, one by one: start/end ranges, and push/pop ranges that cross others.

    thread 1   |== a ============|
                    |== b ==============|

Ranges a and b overlap: each takes the calls that lie wholly inside it. A range that was closed on another thread takes
the calls of all threads of its process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from paceline.analysis.intervals import Coverage, merge
from paceline.analysis.projection_numpy import sums

if TYPE_CHECKING:
    from paceline.analysis.capture import Capture
    from paceline.analysis.projection import Projection

_CHUNK_PAIRS = 4_000_000


def project(projection: Projection, capture: Capture, own: Any, launch: Any) -> None:
    """Fill in everything about the flat ranges and their groups, in place."""
    operations = capture.operations
    rows = np.flatnonzero(projection.flat)
    num_operations = max(len(operations), 1)
    for name in projection.per_range:
        projection.per_range[name][rows] = 0

    by_call, call_heads = _by_call(projection.operation_call, len(capture.calls))
    order_of = np.empty(len(operations), np.int64)
    order_of[projection.order] = np.arange(len(operations))
    keys = [np.empty(0, np.int64)]
    call_keys = [np.empty(0, np.int64)]
    for found_ranges, found_calls in _contained(capture, rows, projection.call_order, projection.call_bounds):
        np.add.at(projection.per_range["api"], found_ranges, own[found_calls])
        group = projection.group[found_ranges].astype(np.int64)
        call_keys.append(np.unique(group * max(len(capture.calls), 1) + found_calls))
        counts = call_heads[found_calls + 1] - call_heads[found_calls]
        pair_ranges = np.repeat(found_ranges, counts)
        if not len(pair_ranges):
            continue
        pair_rows = by_call[_spread(call_heads[found_calls], counts)]
        length = operations.end[pair_rows] - operations.start[pair_rows]
        weights = np.stack([np.ones(len(pair_rows), np.int64), launch[pair_rows], length])
        distinct, segment = np.unique(pair_ranges, return_inverse=True)
        values = sums(
            segment, weights, operations.start[pair_rows], operations.end[pair_rows],
            operations.device[pair_rows].astype(np.int64), len(distinct),
        )  # fmt: skip
        for name, column in values.items():
            projection.per_range[name][distinct] = column
        keys.append(np.unique(projection.group[pair_ranges].astype(np.int64) * num_operations + pair_rows))
    key = np.unique(np.concatenate(keys))
    projection.flat_pairs = (key // num_operations, key % num_operations)
    _groups(projection, capture, launch, own, np.unique(np.concatenate(call_keys)))


def _by_call(call: Any, num_calls: int) -> tuple[Any, Any]:
    """Return operations grouped by their call, and where each call's operations begin, shape (num_calls + 1,)."""
    rows = np.flatnonzero(call >= 0)
    order = rows[np.argsort(call[rows], kind="stable")]
    heads = np.zeros(num_calls + 1, np.int64)
    np.cumsum(np.bincount(call[rows], minlength=num_calls), out=heads[1:])
    return order, heads


def _spread(start: Any, count: Any) -> Any:
    """Return start[0], start[0] + 1, ... (count[0] of them), start[1], ... as one array."""
    total = int(count.sum())
    shift = np.repeat(start - (np.cumsum(count) - count), count)
    return shift + np.arange(total)


def _contained(capture: Capture, rows: Any, call_order: Any, call_bounds: Any) -> Any:
    """Yield arrays (range, call) of flat ranges with the calls they contain. All calls of a range come in one piece."""
    ranges, calls = capture.ranges, capture.calls
    process = np.array([thread.process for thread in capture.threads] or [0])
    crossing = ranges.thread[rows] != ranges.end_thread[rows]
    low = np.zeros((len(rows), 0), np.int64)
    # A range on one thread looks at that thread's calls, one that crosses threads at those of every thread of its
    # process.
    columns_low, columns_high = [low[:, :0]], [low[:, :0]]
    for thread in range(len(capture.threads)):
        first, last = int(call_bounds[thread]), int(call_bounds[thread + 1])
        if first == last:
            continue
        wanted = (ranges.thread[rows] == thread) | (crossing & (process[ranges.thread[rows]] == process[thread]))
        if not wanted.any():
            continue
        starts = calls.start[call_order[first:last]]
        begin = first + np.searchsorted(starts, ranges.start[rows], side="left")
        finish = first + np.searchsorted(starts, ranges.end[rows], side="left")
        columns_low.append(begin[:, None])
        columns_high.append(np.where(wanted, finish, begin)[:, None])
    begins, finishes = np.concatenate(columns_low, axis=1), np.concatenate(columns_high, axis=1)
    counts = np.maximum(finishes - begins, 0)
    total = counts.sum(axis=1)
    piece = np.cumsum(total) // _CHUNK_PAIRS
    for low_row, high_row in _runs(piece):
        part = slice(low_row, high_row)
        found = call_order[_spread(begins[part].ravel(), counts[part].ravel())]
        owner = np.repeat(rows[part], total[part])
        inside = calls.end[found] <= ranges.end[owner]
        yield owner[inside], found[inside]


def _runs(piece: Any) -> list[tuple[int, int]]:
    heads = np.flatnonzero(np.append(True, piece[1:] != piece[:-1]))
    return list(zip(heads.tolist(), [*heads[1:].tolist(), len(piece)], strict=True))


def _groups(projection: Projection, capture: Capture, launch: Any, own: Any, call_key: Any) -> None:
    """Sums of the flat groups: every operation, call and moment once."""
    ranges, operations, per_group = capture.ranges, capture.operations, projection.per_group
    group, row = projection.flat_pairs
    count = len(projection.groups)
    weights = np.stack([np.ones(len(row), np.int64), launch[row], operations.end[row] - operations.start[row]])
    device = operations.device[row].astype(np.int64)
    values = sums(group, weights, operations.start[row], operations.end[row], device, count)
    flat_groups = np.unique(projection.group[projection.flat])
    for name in ("operations", "launches", "sum", "busy"):
        per_group[name][flat_groups] = values[name][flat_groups]
    api = np.zeros(count, np.int64)
    num_calls = max(len(capture.calls), 1)
    np.add.at(api, call_key // num_calls, own[call_key % num_calls])
    per_group["api"][flat_groups] = api[flat_groups]
    rows = np.flatnonzero(projection.flat)
    order = rows[np.lexsort((ranges.thread[rows], projection.group[rows]))]
    per_group["wall"][flat_groups] = per_group["active"][flat_groups] = 0
    per_group["span"][flat_groups] = 0
    worked = rows[projection.per_range["operations"][rows] > 0]
    hull = projection.per_range["last"] - projection.per_range["first"]
    np.add.at(per_group["span"], projection.group[worked], hull[worked])
    for low, high in _runs(
        projection.group[order].astype(np.int64) * (len(capture.threads) + 1) + ranges.thread[order]
    ):
        index = int(projection.group[order[low]])
        start, end = merge(ranges.start[order[low:high]], ranges.end[order[low:high]])
        coverage: Coverage = projection.coverage[projection.groups[index][0]]
        per_group["wall"][index] += int((end - start).sum())
        per_group["active"][index] += int(coverage.between(start, end).sum())
