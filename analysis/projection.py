"""Attributes GPU work to the NVTX ranges that caused it.

    host    range   |--------------------------|
            calls      |L|   |L|   |L|                       L: the call that launches (same process and correlation id)
    device  work            |-----| |--|    |-------|

An operation belongs to every range that contains the call that caused it: ``range.start <= call.start < range.end`` and
``call.end <= range.end``, on the same thread (for a range that was closed on another thread: on any thread of the
process). When the work ran does not matter: launches are asynchronous. Per range:

    sum     lengths of the operations, added up
    busy    length of their union, per device, added up over devices: time the GPU worked on what the range caused
    span    first start to last end, what nsys calls the projected duration; it contains gaps and the work of others

Push/pop ranges form one tree per thread and are projected by one sweep. Start/end ranges, and push/pop ranges that
overlap without nesting (two domains, a clock that jumped), are projected one by one. Ranges with the same process,
label and style are a group; a group counts an operation once, and a moment once, however deeply its ranges nest in
each other.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
from paceline.analysis import flatranges, projection_numpy
from paceline.analysis.capture import COPY_KINDS, GRAPH, KERNEL, MEMCPY, START_END, Calls, Capture, Operations, Ranges
from paceline.analysis.compiled import load_numba
from paceline.analysis.intervals import Coverage, merge

_WORKERS = 2


@dataclass(slots=True)
class Projection:
    """Which range caused what. Arrays over ranges, groups and operations of the capture."""

    engine: Any
    groups: list[tuple[int, int, int]]
    """(process, label, style) of every group."""
    group: Any
    """Group of every range."""
    parent: Any
    """Innermost enclosing range of every range in the tree, else -1."""
    crosses: Any
    """Mask: push/pop ranges that overlap another without nesting."""
    flat: Any
    """Mask: ranges that are projected one by one."""
    outer: Any
    """Mask: ranges that no range of the same group encloses."""
    call_range: Any
    """Innermost tree range of every call, else -1."""
    operation_call: Any
    """The call that caused every operation, -1 if the capture has none."""
    operation_range: Any
    """Innermost tree range of every operation, else -1."""
    order: Any
    """Operations by (process, device, start)."""
    process_bounds: Any
    """Where the operations of each process begin in ``order``."""
    device_bounds: Any
    """Where the operations of each device of each process begin in ``order``."""
    flat_pairs: tuple[Any, Any]
    """(group, operation) of groups that are projected one by one, each pair once."""
    per_range: dict[str, Any]
    """``operations``, ``launches``, ``sum``, ``busy``, ``first``, ``last``, ``api``: shape (ranges,)."""
    per_group: dict[str, Any]
    """See ``_group_sums``: shape (groups,), times in ns."""
    coverage: dict[int, Coverage]
    """Process to the union of all of its GPU work."""
    range_order: Any
    range_bounds: Any
    """Push/pop ranges by (thread, start, longest first), and where each thread begins."""
    call_order: Any
    call_bounds: Any
    """Calls by (thread, start), and where each thread begins."""
    backwards: int
    """Ranges, calls and operations whose end lies before their start: they count as empty."""


def engine(fast: bool | None = None) -> ModuleType:
    """Return the functions to project with: compiled ones if numba is installed, else numpy.

    Args:
        fast: True or False insists on one of them, None takes what there is.
    """
    if fast is False:
        return projection_numpy
    try:
        load_numba()
        from paceline.analysis import projection_fast
    except ImportError:
        if fast:
            raise
        return projection_numpy
    return projection_fast


def project(capture: Capture, steps: ModuleType | None = None) -> Projection:
    """Return the projection of a capture. Ends that lie before their starts are moved to the starts, in place."""
    steps = steps or engine()
    ranges, calls, operations = capture.ranges, capture.calls, capture.operations
    backwards = sum(_straighten(part) for part in (ranges, calls, operations))
    process_of_thread = np.array([thread.process for thread in capture.threads] or [0], np.int32)
    num_threads, num_processes = len(capture.threads), len(capture.processes)

    groups, group = _groups(ranges, process_of_thread, len(capture.labels))
    is_flat = ranges.style == START_END
    nested = ~is_flat
    key = np.where(nested, ranges.thread, num_threads) if is_flat.any() else ranges.thread
    order, bounds = steps.partition(key, num_threads + 1, ranges.start, ranges.end)
    order, bounds = order[: bounds[num_threads]], bounds[: num_threads + 1]
    parent, crosses = steps.tree(order, bounds, ranges.start, ranges.end)
    is_flat |= crosses

    call_order, call_bounds = steps.partition(calls.thread, num_threads, calls.start)
    call_range, own, api = steps.locate(
        order, bounds, ranges.start, ranges.end, parent, crosses, call_order, call_bounds, calls.start, calls.end
    )
    call = steps.match(
        process_of_thread[calls.thread] if len(calls) else calls.thread,
        calls.correlation, calls.start, calls.end, operations.process, operations.correlation,
    )  # fmt: skip
    caused = call >= 0
    operation_range = np.full(len(operations), -1, np.int32)
    if len(calls):
        operation_range = np.where(caused, call_range[call], np.int32(-1))

    # Groups with a range outside the tree are projected one by one as a whole, so that their unions are right.
    flat_group = np.zeros(len(groups), bool)
    flat_group[group[is_flat]] = True
    flat = flat_group[group] if flat_group.any() else is_flat

    device_order, device_bounds, device_process = _device_order(steps, operations, num_processes)
    launch = steps.first_of_call(
        device_order, call, (operations.kind == KERNEL) | (operations.kind == GRAPH), len(calls)
    )
    outer = steps.outermost(order, parent, group)
    per_range, per_group = steps.accumulate(
        device_order, device_bounds, operations.start, operations.end, operation_range, launch,
        parent, group, outer, len(groups), device_process,
    )  # fmt: skip
    per_range["api"] = steps.roll_up(order, parent, api)

    result = Projection(
        engine=steps,
        groups=groups,
        group=group,
        parent=parent,
        crosses=crosses,
        flat=flat,
        outer=outer,
        call_range=call_range,
        operation_call=call,
        operation_range=operation_range,
        order=device_order,
        device_bounds=device_bounds,
        process_bounds=np.searchsorted(device_process, np.arange(num_processes + 1)),
        flat_pairs=(np.empty(0, np.int64), np.empty(0, np.int64)),
        per_range=per_range,
        per_group=per_group,
        coverage={},
        range_order=order,
        range_bounds=bounds,
        call_order=call_order,
        call_bounds=call_bounds,
        backwards=backwards,
    )
    result.process_bounds = device_bounds[result.process_bounds]
    with ThreadPoolExecutor(_WORKERS) as pool:
        pieces = [device_order[low:high] for low, high in pairwise(result.process_bounds.tolist())]
        unions = pool.map(lambda rows: steps.union(rows, operations.start, operations.end), pieces)
        result.coverage = {i: Coverage(start, end, merged=True) for i, (start, end) in enumerate(unions)}
    _group_sums(result, capture)
    if flat.any():
        flatranges.project(result, capture, own, launch)
    _details(result, capture, launch)
    return result


def pairs(projection: Projection, subset: Any) -> tuple[Any, Any]:
    """Return (group, operation) pairs of a subset (mask) of operations: every group that each belongs to, once."""
    rows = np.flatnonzero(subset)
    ranges, index = projection_numpy.expand(projection.operation_range[rows], projection.parent)
    keep = projection.outer[ranges] & ~projection.flat[ranges]
    groups, operations = projection.group[ranges[keep]], rows[index[keep]]
    flat_groups, flat_operations = projection.flat_pairs
    inside = subset[flat_operations]
    return np.concatenate([groups, flat_groups[inside]]), np.concatenate([operations, flat_operations[inside]])


def _straighten(part: Ranges | Calls | Operations) -> int:
    """Move ends that lie before their starts to the starts; return how many."""
    backwards = part.end < part.start
    count = int(np.count_nonzero(backwards))
    if count:
        part.end = np.maximum(part.end, part.start)
    return count


def _groups(ranges: Ranges, process_of_thread: Any, num_labels: int) -> tuple[list[tuple[int, int, int]], Any]:
    """Return the groups and the group of every range."""
    if not len(ranges):
        return [], np.empty(0, np.int32)
    key = (process_of_thread[ranges.thread].astype(np.int64) * num_labels + ranges.label) * 2 + ranges.style
    size = int(key.max()) + 1
    if size <= max(4 * len(key), 1 << 20):
        used = np.zeros(size, bool)
        used[key] = True
        distinct = np.flatnonzero(used)
        code = np.empty(size, np.int32)
        code[distinct] = np.arange(len(distinct))
        group = code[key]
    else:
        distinct, inverse = np.unique(key, return_inverse=True)
        group = inverse.astype(np.int32)
    groups = []
    for value in distinct.tolist():
        rest, style = divmod(value, 2)
        process, label = divmod(rest, num_labels)
        groups.append((process, label, style))
    return groups, group


def _device_order(steps: ModuleType, operations: Operations, num_processes: int) -> tuple[Any, Any, Any]:
    """Return operations by (process, device, start), where each (process, device) begins, and the process of each."""
    num_devices = int(operations.device.max(initial=-1)) + 2
    key = operations.process.astype(np.int32) * num_devices + (operations.device.astype(np.int32) + 1)
    order, bounds = steps.partition(key, num_processes * num_devices, operations.start)
    used = np.flatnonzero(np.diff(bounds))
    return order, np.append(bounds[used], bounds[-1]), used // num_devices


def _group_sums(projection: Projection, capture: Capture) -> None:
    """Fill per_group for groups in the tree; flatranges.py overwrites those that are not."""
    ranges, per_range, steps = capture.ranges, projection.per_range, projection.engine
    count = len(projection.groups)
    projection.per_group |= steps.group_sums(
        projection.group, projection.outer, count, ranges.start, ranges.end, ranges.thread, ranges.end_thread,
        ranges.unclosed, per_range["operations"], per_range["launches"], per_range["api"], per_range["first"],
        per_range["last"],
    )  # fmt: skip
    active = np.zeros(count, np.int64)
    for thread, (low, high) in enumerate(pairwise(projection.range_bounds.tolist())):
        coverage = projection.coverage[capture.threads[thread].process]
        rows = projection.range_order[low:high]
        if coverage.total and len(rows):
            covered = (coverage.start, coverage.end, coverage.before)
            steps.add_covered(rows, ranges.start, ranges.end, projection.outer, projection.group, *covered, active)
    projection.per_group["active"] = active


def _details(projection: Projection, capture: Capture, launch: Any) -> None:
    """Add what needs a subset of the operations: copies, kinds, graphs, NCCL."""
    operations, per_group, count = capture.operations, projection.per_group, len(projection.groups)
    groups, rows = pairs(projection, (operations.kind != KERNEL))
    kinds = np.zeros((count, 4), np.int64)
    np.add.at(kinds, (groups, operations.kind[rows]), 1)
    per_group["copies"], per_group["sets"], per_group["graph_rows"] = kinds[:, 1], kinds[:, 2], kinds[:, 3]
    per_group["kernels"] = per_group["operations"] - kinds.sum(axis=1)

    is_graph = operations.kind == GRAPH
    if operations.in_graph is not None:
        is_graph = is_graph | operations.in_graph
    groups, rows = pairs(projection, is_graph & launch)
    per_group["graph_launches"] = np.bincount(groups.astype(np.int64), minlength=count)

    per_group["copied"] = np.zeros((count, len(COPY_KINDS)), np.int64)
    groups, rows = pairs(projection, operations.kind == MEMCPY)
    which = np.searchsorted(capture.copies.operation, rows)
    np.add.at(per_group["copied"], (groups, capture.copies.direction[which]), capture.copies.bytes[which])

    per_group["nccl"] = np.zeros(count, np.int64)
    per_group["nccl_exposed"] = np.zeros(count, np.int64)
    is_nccl = nccl_kernels(capture)
    if is_nccl.any():
        _nccl(projection, operations, is_nccl)


def nccl_kernels(capture: Capture) -> Any:
    """Return a mask of the operations that are kernels of NCCL."""
    names = np.array([name.startswith("nccl") for name in capture.names] + [False])
    return names[capture.operations.name] & (capture.operations.kind == KERNEL)


def _nccl(projection: Projection, operations: Operations, is_nccl: Any) -> None:
    """Time in NCCL kernels, and the part of it that no other kernel of the process hides."""
    groups, rows = pairs(projection, is_nccl)
    order = np.argsort(groups, kind="stable")
    groups, rows = groups[order], rows[order]
    compute: dict[int, Coverage] = {}
    if not len(groups):
        return
    heads = np.flatnonzero(np.append(True, groups[1:] != groups[:-1]))
    for low, high in zip(heads, np.append(heads[1:], len(groups)), strict=True):
        group = int(groups[low])
        process = projection.groups[group][0]
        if process not in compute:
            own = projection.order[projection.process_bounds[process] : projection.process_bounds[process + 1]]
            own = own[((operations.kind[own] == KERNEL) | (operations.kind[own] == GRAPH)) & ~is_nccl[own]]
            compute[process] = Coverage(operations.start[own], operations.end[own])
        start, end = merge(operations.start[rows[low:high]], operations.end[rows[low:high]])
        total = int((end - start).sum())
        projection.per_group["nccl"][group] = total
        projection.per_group["nccl_exposed"][group] = total - int(compute[process].between(start, end).sum())
