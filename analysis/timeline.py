"""What a picture of one iteration shows: ranges and CUDA calls of the host thread, and the streams of the GPU.

A picture is about a thousand pixels wide and an iteration has thousands of kernels: neighbours that fall into one
pixel become one block, which keeps how many they are and how much of the block they fill.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from paceline.analysis.capture import GRAPH, KERNEL, MEMCPY, PUSH_POP, Capture
from paceline.analysis.projection import Projection, nccl_kernels

_STEPS = 1200
"""Resolution: blocks shorter than this part of the window are merged with their neighbours."""
_CATEGORIES = {KERNEL: "kernel", MEMCPY: "copy", GRAPH: "graph"}
_MAX_LANES = 6
_MAX_RANKS = 8


def one_iteration(capture: Capture, projection: Projection) -> dict[str, Any] | None:
    """Return the picture of a typical iteration, None for a capture without ranges.

    Keys: ``range``, ``process``, ``rank``, ``instance`` (its number among those of its name, from 0), ``duration_s``,
    and ``lanes``: lists of {"name", "kind": range | api | gpu, "items": [[start_s, duration_s, label, category, count,
    filled_fraction], ...]}.
    """
    chosen = _typical(capture, projection)
    if chosen is None:
        return None
    row, number = chosen
    ranges = capture.ranges
    begin = int(ranges.start[row])
    end = max(int(ranges.end[row]), begin + 1)
    if projection.per_range["operations"][row]:
        end = max(end, min(int(projection.per_range["last"][row]), end + (end - begin) // 4))
    thread = int(ranges.thread[row])
    process = capture.threads[thread].process
    window = (begin, end)
    lanes = _range_lanes(capture, projection, window, thread)
    lanes += _api_lane(capture, window, thread)
    lanes += _gpu_lanes(capture, projection, window, process)
    domain, name = capture.labels[int(ranges.label[row])]
    return {
        "range": name,
        "domain": domain,
        "process": capture.processes[process].pid,
        "rank": capture.processes[process].rank,
        "instance": number,
        "duration_s": (end - begin) / 1e9,
        "range_s": int(ranges.end[row] - ranges.start[row]) / 1e9,
        "lanes": lanes,
    }


def _typical(capture: Capture, projection: Projection) -> tuple[int, int] | None:
    """Return (range, its number) of the instance of median length in the later half of the outermost kind."""
    ranges = capture.ranges
    if not len(ranges):
        return None
    busy = projection.per_group["busy"] if len(capture.operations) else projection.per_group["wall"]
    top = projection.parent < 0
    candidates = []
    for index, (process, label, style) in enumerate(projection.groups):
        if style != PUSH_POP:
            continue
        rank = capture.processes[process].rank
        foreign = capture.labels[label] != ("paceline", "iteration")
        candidates.append((foreign, rank is None, rank or 0, -int(busy[index]), index))
    if not candidates:
        return None
    if not any(candidate[0] is False for candidate in candidates):
        outermost = {int(group) for group in np.unique(projection.group[top])}
        candidates = [c for c in candidates if c[4] in outermost] or candidates
        candidates.sort(key=lambda c: (c[1], c[2], c[3]))
    group = min(candidates)[4] if any(c[0] is False for c in candidates) else candidates[0][4]
    rows = np.flatnonzero(projection.group == group)
    rows = rows[np.argsort(ranges.start[rows], kind="stable")]
    later = rows[len(rows) // 2 :]
    lengths = ranges.end[later] - ranges.start[later]
    number = len(rows) // 2 + int(np.argsort(lengths, kind="stable")[(len(lengths) - 1) // 2])
    return int(rows[number]), number


def _range_lanes(
    capture: Capture, projection: Projection, window: tuple[int, int], thread: int
) -> list[dict[str, Any]]:
    ranges = capture.ranges
    rows = np.flatnonzero((ranges.thread == thread) & (ranges.start < window[1]) & (ranges.end > window[0]))
    rows = rows[(ranges.style[rows] == PUSH_POP) & ~projection.flat[rows]]
    rows = rows[np.lexsort((-ranges.end[rows], ranges.start[rows]))]
    depth: dict[int, int] = {}
    lanes: list[list[int]] = []
    for row in rows.tolist():
        above = int(projection.parent[row])
        depth[row] = depth[above] + 1 if above in depth else 0
        if depth[row] < _MAX_LANES:
            while len(lanes) <= depth[row]:
                lanes.append([])
            lanes[depth[row]].append(row)
    result = []
    for level, members in enumerate(lanes):
        index = np.array(members)
        labels = [capture.labels[int(code)][1] for code in ranges.label[index]]
        items = _blocks(window, ranges.start[index], ranges.end[index], labels, labels)
        result.append({"name": "NVTX ranges" if level == 0 else "", "kind": "range", "items": items})
    return result


def _api_lane(capture: Capture, window: tuple[int, int], thread: int) -> list[dict[str, Any]]:
    calls = capture.calls
    rows = np.flatnonzero((calls.thread == thread) & (calls.start < window[1]) & (calls.end > window[0]))
    if not len(rows):
        return []
    rows = rows[np.argsort(calls.start[rows], kind="stable")]
    labels = [capture.names[code] if code >= 0 else "call" for code in calls.name[rows].tolist()]
    categories = ["wait" if "Synchronize" in label else "launch" if "Launch" in label else "call" for label in labels]
    return [
        {
            "name": "CUDA calls",
            "kind": "api",
            "items": _blocks(window, calls.start[rows], calls.end[rows], labels, categories),
        }
    ]


def _gpu_lanes(capture: Capture, projection: Projection, window: tuple[int, int], process: int) -> list[dict[str, Any]]:
    """The streams of the process with most work first; then one lane for every other rank."""
    operations = capture.operations
    is_nccl = nccl_kernels(capture) if len(operations) else np.zeros(0, bool)
    lanes = []
    others = [p for p in range(len(capture.processes)) if p != process and p in projection.coverage]
    others.sort(key=lambda p: (capture.processes[p].rank is None, capture.processes[p].rank or 0))
    for owner in [process, *others[: _MAX_RANKS - 1]]:
        rows = projection.order[projection.process_bounds[owner] : projection.process_bounds[owner + 1]]
        rows = rows[(operations.start[rows] < window[1]) & (operations.end[rows] > window[0])]
        if not len(rows):
            continue
        rank = capture.processes[owner].rank
        who = f"rank {rank}" if rank is not None else f"process {capture.processes[owner].pid}"
        if owner == process:
            streams, counts = np.unique(operations.stream[rows], return_counts=True)
            order = np.argsort(-counts, kind="stable")[:_MAX_LANES]
            pieces = [(f"stream {streams[i]}", rows[operations.stream[rows] == streams[i]]) for i in order]
        else:
            pieces = [(f"GPU of {who}", rows)]
        for name, members in pieces:
            members = members[np.argsort(operations.start[members], kind="stable")]
            labels = [_operation_label(capture, row) for row in members.tolist()]
            kinds = [_CATEGORIES.get(kind, "copy") for kind in operations.kind[members].tolist()]
            categories = ["nccl" if nccl else kind for nccl, kind in zip(is_nccl[members], kinds, strict=True)]
            items = _blocks(window, operations.start[members], operations.end[members], labels, categories)
            lanes.append({"name": name, "kind": "gpu", "items": items})
    return lanes


def _operation_label(capture: Capture, row: int) -> str:
    code = int(capture.operations.name[row])
    if code >= 0:
        return capture.names[code]
    return ("kernel", "copy", "memory set", "CUDA graph")[int(capture.operations.kind[row])]


def _blocks(window: tuple[int, int], start: Any, end: Any, labels: list[str], categories: list[str]) -> list[list[Any]]:
    """Return items [start_s, duration_s, label, category, count, filled_fraction], small neighbours merged.

    A merged block has the category that fills most of it.
    """
    step = max((window[1] - window[0]) // _STEPS, 1)
    blocks: list[_Block] = []
    for low, high, label, category in zip(start.tolist(), end.tolist(), labels, categories, strict=True):
        low, high = max(low, window[0]), min(high, window[1])
        last = blocks[-1] if blocks else None
        if last and high - low < step and last.end - last.start < 4 * step and low - last.end < step:
            new = max(0, high - max(low, last.end))
            last.filled[category] = last.filled.get(category, 0) + new
            last.end = max(last.end, high)
            last.label = label if last.label == label else ""
            last.count += 1
        else:
            blocks.append(_Block(low, high, label, {category: high - low}))
    return [block.item(window[0]) for block in blocks]


@dataclass(slots=True)
class _Block:
    """Neighbours in a lane that are drawn as one; times in ns."""

    start: int
    end: int
    label: str
    filled: dict[str, int]
    """Time by category."""
    count: int = 1

    def item(self, origin: int) -> list[Any]:
        """Return the block as an item of a lane."""
        most = max(self.filled, key=lambda category: self.filled[category])
        length = self.end - self.start
        label = self.label or ("" if len(self.filled) == 1 else f"{most} and others")
        fraction = sum(self.filled.values()) / length if length else 1.0
        return [(self.start - origin) / 1e9, length / 1e9, label, most, self.count, fraction]
