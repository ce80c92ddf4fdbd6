"""The steps of the projection compiled with numba: functions and results of projection_numpy.py, in linear time.

Each step is one sweep over rows in time order; threads and processes are swept side by side on two cores.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
from numba import njit
from paceline.analysis.projection_fast_sums import add_covered as add_covered
from paceline.analysis.projection_fast_sums import group_sums as group_sums
from paceline.analysis.projection_fast_sums import tally as tally
from paceline.analysis.projection_fast_sums import union as union
from paceline.analysis.projection_numpy import match as _match_by_sorting

NONE = np.int32(-1)
_NO_TIME = np.int64(-(2**63))
_WORKERS = 2
_MAX_SPARSE = 8
"""Correlation ids spread over more than this many times the rows are matched by sorting, not by a direct table."""


def _side_by_side(function: Callable[..., None], tasks: list[tuple[Any, ...]]) -> None:
    """Run compiled functions, which release the interpreter lock, on two threads."""
    if len(tasks) < 2:
        for task in tasks:
            function(*task)
        return
    with ThreadPoolExecutor(_WORKERS) as pool:  # numba compiles for the first and lets the second wait
        list(pool.map(lambda task: function(*task), tasks))


def partition(key: Any, num_keys: int, start: Any, end: Any | None = None) -> tuple[Any, Any]:
    """Return rows sorted by (key, start, longest first), and where each key begins, shape (num_keys + 1,)."""
    order, bounds = _count_sort(key, num_keys)
    for low, high in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        part = order[low:high]
        if high - low > 1 and not (_sorted(part, start) if end is None else _sorted_longest(part, start, end)):
            if end is None:
                order[low:high] = part[np.argsort(start[part], kind="stable")]
            else:
                order[low:high] = part[np.lexsort((-end[part], start[part]))]
    return order, bounds


@njit(cache=True, nogil=True)
def _count_sort(key: Any, num_keys: int) -> tuple[Any, Any]:
    bounds = np.zeros(num_keys + 1, np.int64)
    for row in range(len(key)):
        bounds[key[row] + 1] += 1
    for i in range(num_keys):
        bounds[i + 1] += bounds[i]
    place = bounds[:-1].copy()
    order = np.empty(len(key), np.int32)
    for row in range(len(key)):
        order[place[key[row]]] = row
        place[key[row]] += 1
    return order, bounds


@njit(cache=True, nogil=True)
def _sorted(order: Any, start: Any) -> bool:
    ordered = True
    for i in range(1, len(order)):
        ordered &= start[order[i]] >= start[order[i - 1]]
    return ordered


@njit(cache=True, nogil=True)
def _sorted_longest(order: Any, start: Any, end: Any) -> bool:
    for i in range(1, len(order)):
        before, row = order[i - 1], order[i]
        if start[row] < start[before] or (start[row] == start[before] and end[row] > end[before]):
            return False
    return True


def tree(order: Any, bounds: Any, start: Any, end: Any) -> tuple[Any, Any]:
    """Return (parent, crosses) of every row of ``order``; see projection_numpy.tree."""
    parent = np.full(len(start), NONE, np.int32)
    crosses = np.zeros(len(start), np.bool_)
    parts = zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
    _side_by_side(_tree, [(order[low:high], start, end, parent, crosses) for low, high in parts])
    return parent, crosses


@njit(cache=True, nogil=True)
def _tree(order: Any, start: Any, end: Any, parent: Any, crosses: Any) -> None:
    top = np.int32(-1)  # the parents of the innermost open range are the stack
    for i in range(len(order)):
        row = order[i]
        while top >= 0 and end[top] <= start[row]:
            top = parent[top]
        if top >= 0 and end[top] < end[row]:
            crosses[row] = True
            continue
        parent[row] = top
        top = row


def locate(
    order: Any, bounds: Any, start: Any, end: Any, parent: Any, crosses: Any,
    call_order: Any, call_bounds: Any, call_start: Any, call_end: Any,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """Return (range, own time) of every call, and own times per range; see projection_numpy.locate."""
    where = np.full(len(call_start), NONE, np.int32)
    own = np.zeros(len(call_start), np.int64)
    api = np.zeros(len(start), np.int64)
    tasks = []
    for thread in range(len(bounds) - 1):
        rows = order[bounds[thread] : bounds[thread + 1]]
        calls = call_order[call_bounds[thread] : call_bounds[thread + 1]]
        if len(calls):
            tasks.append((rows, start, end, parent, crosses, calls, call_start, call_end, where, own, api))
    _side_by_side(_locate, tasks)
    return where, own, api


@njit(cache=True, nogil=True)
def _locate(
    order: Any, start: Any, end: Any, parent: Any, crosses: Any,
    calls: Any, call_start: Any, call_end: Any, where: Any, own: Any, api: Any,
) -> None:  # fmt: skip
    top, following, reach = np.int32(-1), 0, _NO_TIME
    for i in range(len(calls)):
        call = calls[i]
        begin, finish = call_start[call], call_end[call]
        own[call] = max(finish - max(begin, reach), 0)
        reach = max(reach, finish)
        while following < len(order) and start[order[following]] <= begin:
            if not crosses[order[following]]:
                top = order[following]
            following += 1
        while top >= 0 and end[top] <= begin:
            top = parent[top]
        here = top
        while here >= 0 and end[here] < finish:
            here = parent[here]
        where[call] = here
        if here >= 0:
            api[here] += own[call]


def match(
    call_process: Any, call_correlation: Any, call_start: Any, call_end: Any, process: Any, correlation: Any
) -> Any:
    """Return the call that caused each operation, -1 if the capture has none; see projection_numpy.match."""
    if not len(call_start) or not len(process):
        return np.full(len(process), NONE, np.int32)
    num_processes = int(max(call_process.max(), process.max())) + 1
    low, high = _id_bounds(call_process, call_correlation, num_processes)
    sizes = np.maximum(high - low + 1, 0)
    if sizes.sum() > _MAX_SPARSE * len(call_start) + (1 << 20):
        return _match_by_sorting(call_process, call_correlation, call_start, call_end, process, correlation)
    base = np.concatenate([[0], np.cumsum(sizes)])
    return _match(call_process, call_correlation, call_start, call_end, process, correlation, low, high, base)


@njit(cache=True, nogil=True)
def _id_bounds(process: Any, correlation: Any, num_processes: int) -> tuple[Any, Any]:
    low = np.full(num_processes, 2**62, np.int64)
    high = np.full(num_processes, -1, np.int64)
    for row in range(len(process)):
        value = correlation[row]
        if value >= 0:
            low[process[row]] = min(low[process[row]], value)
            high[process[row]] = max(high[process[row]], value)
    return low, high


@njit(cache=True, nogil=True)
def _match(
    call_process: Any, call_correlation: Any, call_start: Any, call_end: Any, process: Any, correlation: Any,
    low: Any, high: Any, base: Any,
) -> Any:  # fmt: skip
    table = np.full(base[-1], -1, np.int32)
    for call in range(len(call_process)):
        value, owner = call_correlation[call], call_process[call]
        if value < 0:
            continue
        place = base[owner] + value - low[owner]
        other = table[place]
        later = other < 0 or call_start[call] > call_start[other]
        if later or (call_start[call] == call_start[other] and call_end[call] < call_end[other]):
            table[place] = call
    result = np.full(len(process), -1, np.int32)
    for row in range(len(process)):
        value, owner = correlation[row], process[row]
        if low[owner] <= value <= high[owner] and value >= 0:
            result[row] = table[base[owner] + value - low[owner]]
    return result


@njit(cache=True, nogil=True)
def first_of_call(order: Any, call: Any, usable: Any, num_calls: int) -> Any:
    """Return a mask: the first usable operation, in ``order``, of every call."""
    seen = np.zeros(num_calls, np.bool_)
    mask = np.zeros(len(call), np.bool_)
    for i in range(len(order)):
        row = order[i]
        if usable[row] and call[row] >= 0 and not seen[call[row]]:
            seen[call[row]] = True
            mask[row] = True
    return mask


@njit(cache=True, nogil=True)
def outermost(order: Any, parent: Any, group: Any) -> Any:
    """Return a mask: ranges that no range of the same group encloses."""
    result = np.ones(len(parent), np.bool_)
    for row in range(len(parent)):
        above = parent[row]
        while above >= 0:
            if group[above] == group[row]:
                result[row] = False
                break
            above = parent[above]
    return result


@njit(cache=True, nogil=True)
def nearest(range_of: Any, parent: Any, chosen: Any) -> Any:
    """Return for each row the innermost enclosing range that is chosen (mask over ranges), -1 if there is none."""
    result = np.empty(len(range_of), np.int32)
    for row in range(len(range_of)):
        here = range_of[row]
        while here >= 0 and not chosen[here]:
            here = parent[here]
        result[row] = here
    return result


@njit(cache=True, nogil=True)
def roll_up(order: Any, parent: Any, values: Any) -> Any:
    """Return values per range with those of all enclosed ranges added; parents precede children in ``order``."""
    result = values.copy()
    for i in range(len(order) - 1, -1, -1):
        row = order[i]
        if parent[row] >= 0:
            result[parent[row]] += result[row]
    return result


def accumulate(
    order: Any, bounds: Any, start: Any, end: Any, range_of: Any, launch: Any,
    parent: Any, group: Any, outer: Any, num_groups: int, partition_process: Any,
) -> tuple[dict[str, Any], dict[str, Any]]:  # fmt: skip
    """Return sums per range and per group; see projection_numpy.accumulate."""
    num_ranges = len(parent)
    counts = np.zeros((2, num_ranges), np.int32)
    times = np.zeros((4, num_ranges), np.int64)
    group_sums = np.zeros((num_groups, 3), np.int64)
    reach = np.full(num_ranges, _NO_TIME, np.int64)
    group_reach = np.full(num_groups, _NO_TIME, np.int64)
    starts = bounds[:-1]
    cuts = np.flatnonzero(partition_process[1:] != partition_process[:-1]) + 1
    cuts = np.concatenate([[0], cuts, [len(starts)]]).tolist() if len(starts) else []
    tasks = []
    for low, high in pairwise(cuts):
        pieces = bounds[low : high + 1]
        # Unions are per device: a further device of the same process starts with nothing reached.
        ranges = (range_of, launch, parent, group, outer)
        tasks.append((order, pieces, start, end, *ranges, counts, times, group_sums, reach, group_reach))
    _side_by_side(_accumulate, tasks)
    names = ("sum", "busy", "first", "last")
    per_range = dict(zip(names, times, strict=True)) | {"operations": counts[0], "launches": counts[1]}
    per_group = dict(zip(("operations", "sum", "busy"), np.ascontiguousarray(group_sums.T), strict=True))
    return per_range, per_group


@njit(cache=True, nogil=True)
def _accumulate(
    order: Any, pieces: Any, start: Any, end: Any, range_of: Any, launch: Any, parent: Any, group: Any, outer: Any,
    counts: Any, times: Any, group_sums: Any, reach: Any, group_reach: Any,
) -> None:  # fmt: skip
    for piece in range(len(pieces) - 1):
        if piece:  # another device of this process: forget how far its ranges have reached
            for i in range(pieces[0], pieces[piece]):
                here = range_of[order[i]]
                while here >= 0 and reach[here] != _NO_TIME:
                    reach[here] = _NO_TIME
                    group_reach[group[here]] = _NO_TIME
                    here = parent[here]
        for i in range(pieces[piece], pieces[piece + 1]):
            row = order[i]
            begin, finish = start[row], end[row]
            length, starts_call = finish - begin, launch[row]
            here = range_of[row]
            while here >= 0:
                if counts[0, here] == 0:
                    times[2, here] = begin
                    times[3, here] = finish
                else:
                    times[2, here] = min(times[2, here], begin)
                    times[3, here] = max(times[3, here], finish)
                counts[0, here] += 1
                if starts_call:
                    counts[1, here] += 1
                times[0, here] += length
                times[1, here] += max(finish - max(begin, reach[here]), 0)
                reach[here] = max(reach[here], finish)
                if outer[here]:
                    own = group[here]
                    group_sums[own, 0] += 1
                    group_sums[own, 1] += length
                    group_sums[own, 2] += max(finish - max(begin, group_reach[own]), 0)
                    group_reach[own] = max(group_reach[own], finish)
                here = parent[here]
