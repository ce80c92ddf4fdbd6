"""The longest times in which a process's GPU did nothing, and what its host was doing meanwhile.

device   |#####|            gap            |####|
host     ...       |cudaStreamSynchronize|  |L|       L: the call that ends the gap
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise
from typing import Any

import numpy as np
from paceline.analysis.capture import GRAPH, KERNEL, Capture
from paceline.analysis.projection import Projection

_KIND_NAMES = ("kernel", "memcpy", "memset", "CUDA graph")


def longest(capture: Capture, projection: Projection, count: int) -> list[dict[str, Any]]:
    """Return the ``count`` longest gaps between GPU work of one process, longest first.

    Keys: ``process``, ``rank``, ``start_s`` (since the start of the capture), ``duration_s``, ``range`` (innermost
    range open in the middle of the gap, on the thread that launches what ends it), ``host`` (the CUDA call that takes
    most of the gap, or ``host code``), ``host_fraction`` (its part of the gap), ``next`` (what ends the gap),
    ``launch_delay_s`` (from the start of the launch that ends the gap to the gap's end; longer than the gap if it was
    queued before).
    """
    found = []
    for process, coverage in projection.coverage.items():
        lengths = coverage.start[1:] - coverage.end[:-1]
        top = np.argsort(-lengths, kind="stable")[:count] if len(lengths) <= count else _top(lengths, count)
        found += [(int(lengths[i]), process, int(coverage.end[i]), int(coverage.start[i + 1])) for i in top]
    found.sort(key=lambda gap: (-gap[0], gap[1], gap[2]))
    hosts = _Hosts(capture, projection)
    return [_describe(capture, projection, hosts, process, start, end) for _, process, start, end in found[:count]]


def _top(values: Any, count: int) -> Any:
    """Return the indices of the largest values, largest first."""
    largest = np.argpartition(-values, count - 1)[:count]
    return largest[np.lexsort((largest, -values[largest]))]


def _describe(
    capture: Capture, projection: Projection, hosts: _Hosts, process: int, start: int, end: int
) -> dict[str, Any]:
    operations, calls = capture.operations, capture.calls
    row = _first_at(capture, projection, process, end)
    call = int(projection.operation_call[row])
    name = capture.names[operations.name[row]] if operations.name[row] >= 0 else _KIND_NAMES[operations.kind[row]]
    result: dict[str, Any] = {
        "process": capture.processes[process].pid,
        "rank": capture.processes[process].rank,
        "start_s": (start - capture.span_ns[0]) / 1e9,
        "duration_s": (end - start) / 1e9,
        "range": None,
        "host": None,
        "host_fraction": None,
        "next": name,
        "launch_delay_s": None,
    }
    if call < 0:
        return result
    thread = int(calls.thread[call])
    result["launch_delay_s"] = (end - int(calls.start[call])) / 1e9
    result["range"] = hosts.open_range(thread, (start + end) // 2)
    mine = hosts.calls_between(thread, start, end)
    overlap = np.minimum(calls.end[mine], end) - np.maximum(calls.start[mine], start)
    by_name: dict[int, int] = {}
    for code, length in zip(calls.name[mine].tolist(), overlap.tolist(), strict=True):
        by_name[code] = by_name.get(code, 0) + length
    best = max(by_name, key=lambda code: by_name[code], default=-1)
    share = by_name.get(best, 0) / (end - start)
    result["host"] = capture.names[best] if best >= 0 and share >= 0.5 else "host code"
    result["host_fraction"] = min(share if share >= 0.5 else 1 - sum(by_name.values()) / (end - start), 1.0)
    result["host_fraction"] = max(result["host_fraction"], 0.0)
    return result


def _first_at(capture: Capture, projection: Projection, process: int, time: int) -> int:
    """Return the first operation of a process, in the projection's order, that starts at a time."""
    order, starts, bounds = projection.order, capture.operations.start, projection.device_bounds
    first, stop = projection.process_bounds[process], projection.process_bounds[process + 1]
    for low, high in pairwise(bounds[np.searchsorted(bounds, first) : np.searchsorted(bounds, stop) + 1].tolist()):
        place = bisect_left(order[low:high], time, key=lambda row: starts[row])
        if low + place < high and starts[order[low + place]] == time:
            return int(order[low + place])
    raise ValueError(f"no operation of process {process} starts at {time}")


class _Hosts:
    """Answers what a host thread was doing at a time; sorts a thread's rows once."""

    def __init__(self, capture: Capture, projection: Projection) -> None:
        self.capture, self.projection = capture, projection
        self._calls: dict[int, tuple[Any, Any, Any]] = {}
        self._ranges: dict[int, tuple[Any, Any]] = {}

    def calls_between(self, thread: int, start: int, end: int) -> Any:
        """Return the calls of a thread that overlap a time window; one that began long before may still run in it."""
        calls, bounds = self.capture.calls, self.projection.call_bounds
        if thread not in self._calls:
            rows = self.projection.call_order[bounds[thread] : bounds[thread + 1]]
            self._calls[thread] = (rows, calls.start[rows], np.maximum.accumulate(calls.end[rows]))
        rows, starts, reach = self._calls[thread]
        found = rows[np.searchsorted(reach, start, side="right") : np.searchsorted(starts, end, side="left")]
        return found[calls.end[found] > start]

    def open_range(self, thread: int, time: int) -> str | None:
        """Return the label of the innermost push/pop range that is open on a thread at a time."""
        ranges, bounds = self.capture.ranges, self.projection.range_bounds
        if thread not in self._ranges:
            rows = self.projection.range_order[bounds[thread] : bounds[thread + 1]]
            rows = rows[~self.projection.crosses[rows]]
            self._ranges[thread] = (rows, ranges.start[rows])
        rows, starts = self._ranges[thread]
        place = int(np.searchsorted(starts, time, side="right")) - 1
        row = int(rows[place]) if place >= 0 else -1
        while row >= 0 and ranges.end[row] <= time:
            row = int(self.projection.parent[row])
        if row < 0:
            return None
        domain, name = self.capture.labels[ranges.label[row]]
        return f"{domain}:{name}" if domain and domain != "paceline" else name


def launches_in_flight(capture: Capture, projection: Projection) -> dict[str, float]:
    """Return quantiles of the time from launch call to start of the work (s), over kernels and graphs."""
    operations, calls = capture.operations, capture.calls
    rows = np.flatnonzero((projection.operation_call >= 0) & ((operations.kind == KERNEL) | (operations.kind == GRAPH)))
    if not len(rows):
        return {}
    rows = rows[:: max(1, len(rows) // 200_000)]
    delay = operations.start[rows] - calls.start[projection.operation_call[rows]]
    low, middle, high = np.quantile(delay, [0.05, 0.5, 0.95]) / 1e9
    return {"p5_s": float(low), "median_s": float(middle), "p95_s": float(high)}
