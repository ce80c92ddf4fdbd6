"""The rows of a Trace: ranges, kernels, calls and processes, from a capture and its projection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from paceline.analysis import graphnodes
from paceline.analysis.capture import COPY_KINDS, START_END, Capture
from paceline.analysis.projection import Projection
from paceline.bench.errors import TraceError

DOMAIN = "paceline"
OUTSIDE = "(outside ranges)"
"""Stands for the range of work that no range caused."""
_MAX_RANGES = 40
_MAX_KERNELS = 60
_MAX_INSTANCES = 20_000


def _label(capture: Capture, label: int) -> tuple[str, str]:
    return capture.labels[label]


def shown(capture: Capture, projection: Projection, wanted: Sequence[str] | None, warnings: list[str]) -> list[int]:
    """Return the groups to show, in order of their first range."""
    groups, group = projection.groups, projection.group
    first = np.full(len(groups), np.iinfo(np.int64).max)
    np.minimum.at(first, group, capture.ranges.start)
    by_time = _in_order(capture, groups, first)
    if wanted:
        names = [{name, f"{domain}:{name}"} for domain, name in capture.labels]
        known = set().union(*names) if names else set()
        missing = [name for name in wanted if name not in known]
        if missing:
            raise TraceError(f"no range named {missing[0]!r} in the capture; it has {_some(capture)}")
        asked = set(wanted)
        return [g for g in by_time if names[groups[g][1]] & asked]
    own = [g for g in by_time if capture.labels[groups[g][1]][0] == DOMAIN]
    if own:
        return own
    time = projection.per_group["busy"] if len(capture.operations) else projection.per_group["wall"]
    labels: dict[int, int] = {}
    for index, (_, label, _) in enumerate(groups):
        labels[label] = labels.get(label, 0) + int(time[index])
    top = sorted(labels, key=lambda label: -labels[label])[:_MAX_RANGES]
    if len(labels) > len(top):
        warnings.append(
            f"{len(labels):,} distinct ranges: the {len(top)} with the most GPU time are shown (--range names others)"
        )
    return [g for g in by_time if groups[g][1] in set(top)]


def _in_order(capture: Capture, groups: list[tuple[int, int, int]], first: Any) -> list[int]:
    """Return the groups by the first appearance of their label in any process, then by rank."""
    appeared: dict[int, int] = {}
    for (_, label, _), time in zip(groups, first.tolist(), strict=True):
        appeared[label] = min(appeared.get(label, time), time)

    def place(index: int) -> tuple[int, int, int, int]:
        process, label, _ = groups[index]
        rank = capture.processes[process].rank
        return appeared[label], label, -1 if rank is None else rank, capture.processes[process].pid

    return sorted(range(len(groups)), key=place)


def _some(capture: Capture) -> str:
    names = sorted({f"{domain}:{name}" if domain else name for domain, name in capture.labels})
    return ", ".join(names[:12]) + (f" and {len(names) - 12:,} more" if len(names) > 12 else "") if names else "none"


def range_rows(capture: Capture, projection: Projection, shown: list[int]) -> list[dict[str, Any]]:
    """Return one row per shown group; docs/trace.md explains the keys."""
    values = {name: column[shown] for name, column in projection.per_group.items()}
    rows = []
    for index, group in enumerate(shown):
        process, label, style = projection.groups[group]
        domain, name = _label(capture, label)
        seconds = {
            key: int(values[key][index]) / 1e9
            for key in ("wall", "busy", "sum", "span", "nccl", "nccl_exposed", "api", "active")
        }
        wall, launches = seconds["wall"], int(values["launches"][index])
        rows.append(
            {
                "name": name,
                "domain": domain,
                "process": capture.processes[process].pid,
                "rank": capture.processes[process].rank,
                "instances": int(values["instances"][index]),
                "wall_s": wall,
                "gpu_busy_s": seconds["busy"],
                "gpu_sum_s": seconds["sum"],
                "gpu_span_s": seconds["span"],
                "launches": launches,
                "memcpy_bytes": {kind: int(values["copied"][index][i]) for i, kind in enumerate(COPY_KINDS)},
                "nccl_s": seconds["nccl"],
                "nccl_exposed_s": seconds["nccl_exposed"],
                "gpu_active_s": seconds["active"],
                "gpu_idle_s": wall - seconds["active"],
                "api_s": seconds["api"],
                "operations": int(values["operations"][index]),
                "kernels": int(values["kernels"][index]),
                "graph_launches": int(values["graph_launches"][index]),
                "copies": int(values["copies"][index]),
                "launches_per_s": launches / wall if wall else None,
                "kernels_per_s": int(values["kernels"][index]) / wall if wall else None,
                "style": "start_end" if style == START_END else "push_pop",
                "unclosed": int(values["unclosed"][index]),
                "cross_thread": int(values["cross_thread"][index]),
            }
        )
    return rows


def warn_of_start_up(capture: Capture, projection: Projection, shown: list[int], warnings: list[str]) -> None:
    """Say which ranges took far longer the first time: sums over all instances then do not show the steady state."""
    ranges, found = capture.ranges, []
    # With very many instances the first one does not matter. Ranges with NCCL in them wait for other ranks, longest in
    # the first of an update: that is no start-up.
    for group in shown[:_MAX_RANGES]:
        if not 4 <= projection.per_group["instances"][group] <= _MAX_INSTANCES or projection.per_group["nccl"][group]:
            continue
        rows = np.flatnonzero(projection.group == group)
        lengths = ranges.end[rows] - ranges.start[rows]
        first, middle = int(lengths[np.argmin(ranges.start[rows])]), float(np.median(lengths))
        if first > 5 * middle and first > 10_000_000:
            name = _label(capture, projection.groups[group][1])[1]
            found.append(f"{name} {first / 1e6:,.0f} ms (median {middle / 1e6:,.1f} ms)")
    if found:
        warnings.append(
            "sums are no steady state: the first instances, of the program or of the capture, took far longer: "
            + ", ".join(dict.fromkeys(found))
        )


def process_rows(capture: Capture, projection: Projection, warnings: list[str]) -> list[dict[str, Any]]:
    """Totals per process with GPU work, and work that no range or call explains."""
    operations = capture.operations
    length = operations.end - operations.start
    in_range = projection.operation_range >= 0
    in_range[projection.flat_pairs[1]] = True
    lost = projection.operation_call < 0
    rows = []
    for index, process in enumerate(capture.processes):
        low, high = projection.process_bounds[index], projection.process_bounds[index + 1]
        mine = projection.order[low:high]
        if not len(mine):
            continue
        outside = mine[~in_range[mine]]
        coverage = projection.coverage[index]
        rows.append(
            {
                "process": process.pid,
                "rank": process.rank,
                "name": process.name,
                "gpu_busy_s": coverage.total / 1e9,
                "gpu_sum_s": int(length[mine].sum()) / 1e9,
                "operations": len(mine),
                "outside_operations": len(outside),
                "outside_sum_s": int(length[outside].sum()) / 1e9,
                "uncaused_operations": int(lost[mine].sum()),
            }
        )
    uncaused = int(lost.sum())
    if uncaused:
        warnings.append(f"{uncaused:,} GPU operations have no CUDA call in the capture: counted as outside ranges")
    return rows


def kernel_rows(capture: Capture, projection: Projection, shown: list[int]) -> list[dict[str, Any]]:
    """Kernels and graphs by (process, innermost shown range, name): the most time first."""
    operations = capture.operations
    if not len(operations):
        return []
    chosen = np.zeros(len(projection.groups) + 1, bool)
    chosen[shown] = True
    mask = chosen[projection.group] if len(projection.group) else np.zeros(0, bool)
    nearest = projection.engine.nearest(projection.operation_range, projection.parent, mask)
    phase = np.where(nearest >= 0, projection.group[nearest], -1) if len(projection.group) else nearest
    # Codes of the shown groups only keep the table small enough to count in place: (process, range, name).
    code_of = np.zeros(len(projection.groups) + 1, np.int32)
    code_of[shown] = np.arange(1, len(shown) + 1)
    num_names = len(capture.names) + 4  # names, then one name per kind for operations without a name
    name = np.where(operations.name >= 0, operations.name, operations.kind.astype(np.int32) + len(capture.names))
    place = operations.process * (len(shown) + 1) + code_of[phase]
    size = len(capture.processes) * (len(shown) + 1) * num_names
    tally = projection.engine.tally
    if size <= max(4 * len(place), 1 << 22):
        distinct = np.arange(size)
        count, total, longest = tally(place, name, num_names, size, operations.start, operations.end)
    else:
        distinct, inverse = np.unique(place.astype(np.int64) * num_names + name, return_inverse=True)
        nothing = np.zeros(len(inverse), np.int32)
        count, total, longest = tally(nothing, inverse, 1, len(distinct), operations.start, operations.end)
    found = np.flatnonzero(count)
    rows = []
    for index in found[np.argsort(-total[found], kind="stable")].tolist():
        rest, code = divmod(int(distinct[index]), num_names)
        process, group = divmod(rest, len(shown) + 1)
        kind = code - len(capture.names)
        if kind in (1, 2):
            continue
        rows.append(
            {
                "name": capture.names[code] if kind < 0 else ("kernel", "", "", "CUDA graph")[kind],
                "range": _label(capture, projection.groups[shown[group - 1]][1])[1] if group else OUTSIDE,
                "process": capture.processes[process].pid,
                "rank": capture.processes[process].rank,
                "instances": int(count[index]),
                "sum_s": int(total[index]) / 1e9,
                "mean_s": int(total[index]) / int(count[index]) / 1e9,
                "max_s": int(longest[index]) / 1e9,
            }
        )
    return rows[: _MAX_KERNELS * max(1, len({row["process"] for row in rows}))]


def api_rows(capture: Capture, projection: Projection) -> list[dict[str, Any]]:
    """CUDA calls by process and name: count and time, the most time first."""
    calls = capture.calls
    if not len(calls):
        return []
    num_names = len(capture.names) + 1  # the last one: without a name
    by_thread = projection.engine.tally(
        calls.thread, np.where(calls.name < 0, num_names - 1, calls.name), num_names,
        len(capture.threads) * num_names, calls.start, calls.end,
    )  # fmt: skip
    process = np.array([thread.process for thread in capture.threads])
    table = np.zeros((2, len(capture.processes), num_names), np.int64)
    np.add.at(table[0], process, by_thread[0].reshape(-1, num_names))
    np.add.at(table[1], process, by_thread[1].reshape(-1, num_names))
    count, total = table.reshape(2, -1)
    rows = []
    for index in np.flatnonzero(count)[np.argsort(-total[np.flatnonzero(count)], kind="stable")].tolist():
        owner, code = divmod(index, num_names)
        rows.append(
            {
                "name": capture.names[code] if code < num_names - 1 else "(unnamed)",
                "process": capture.processes[owner].pid,
                "rank": capture.processes[owner].rank,
                "calls": int(count[index]),
                "sum_s": int(total[index]) / 1e9,
                "mean_s": int(total[index]) / int(count[index]) / 1e9,
            }
        )
    return rows


def graph_node_rows(capture: Capture, projection: Projection, warnings: list[str]) -> list[dict[str, Any]]:
    """Time of kernels replayed from graphs by the range that was open when they were captured (node level only)."""
    operations, nodes = capture.operations, capture.graph_nodes
    if operations.graph_node is None:
        return []
    if nodes is None:
        warnings.append("the capture does not say where graph nodes were created: no ranges inside CUDA graphs")
        return []
    return graphnodes.by_creation(capture, projection, warnings)
