"""Where the time of a profiled run goes: the analysis of one capture, and the comparison of two.

``analyse`` reads a capture (nsys SQLite or Parquet export, Kineto JSON), projects GPU work onto NVTX ranges and
returns a Trace: plain tables in seconds and bytes, ready for JSON, CSV and the report. Times come from a profiled run:
never mix them with throughput.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from paceline.analysis import diagnosis, gaps, kineto, nsys, timeline
from paceline.analysis.capture import COPY_KINDS, START_END, Capture
from paceline.analysis.projection import Projection, engine, project
from paceline.bench.errors import TraceError

if TYPE_CHECKING:
    import pandas as pd

TRACE_SCHEMA = "paceline.trace/1"
DOMAIN = "paceline"
OUTSIDE = "(outside ranges)"
"""Stands for the range of work that no range caused."""
_MAX_RANGES = 40
_MAX_KERNELS = 60
_MAX_GAPS = 20
_SMALL_BYTES = 40 * 2**20


@dataclass(slots=True)
class Trace:
    """What a capture says. Times in seconds; one row per process, as ranges of different ranks are never added up."""

    source: str
    """Path of the capture."""
    ranges: list[dict[str, Any]]
    """One row per process and range name, in time order of first appearance; docs/trace.md explains the keys."""
    kernels: list[dict[str, Any]]
    """Kernels (and graph launches) by process and innermost shown range, most time first."""
    gaps: list[dict[str, Any]]
    """Longest times without GPU work, longest first."""
    api: list[dict[str, Any]]
    """CUDA calls by process, most time first."""
    processes: list[dict[str, Any]]
    """Per process: totals, and what lies outside all ranges."""
    graph_trace: str
    """``graph``, ``node`` or ``none``."""
    graph_nodes: list[dict[str, Any]]
    """Node-level graphs: kernel time by the range that was open when the graph was captured."""
    warnings: list[str]
    diagnosis: str
    details: dict[str, Any]
    timeline: dict[str, Any] | None = field(default=None, repr=False)
    """What the picture of one iteration shows, see timeline.py."""

    def to_json(self) -> dict[str, Any]:
        """Return the trace as JSON values (``paceline.trace/1``), without the picture's data."""
        names = ("ranges", "kernels", "gaps", "graph_trace", "warnings", "diagnosis")
        more = ("api", "processes", "graph_nodes", "details", "source")
        result: dict[str, Any] = {"schema": TRACE_SCHEMA}
        result |= {name: getattr(self, name) for name in (*names, *more)}
        return result

    def frame(self, table: str) -> pd.DataFrame:
        """Return ``ranges``, ``kernels``, ``gaps``, ``api`` or ``processes`` as a data frame, one column per key."""
        import pandas as pd

        rows = getattr(self, table)
        flat = [
            {
                **{k: v for k, v in row.items() if not isinstance(v, dict)},
                **{f"{k}_{inner}": x for k, v in row.items() if isinstance(v, dict) for inner, x in v.items()},
            }
            for row in rows
        ]
        return pd.DataFrame(flat)


def load(path: str | os.PathLike[str], fast: bool | None = None) -> Capture:
    """Return the capture in a file or folder, whatever its format; TraceError if it is none."""
    path = Path(path)
    if not path.exists():
        raise TraceError(f"{path}: no such file or folder")
    if path.is_file() and (path.suffix == ".json" or path.name.endswith(".json.gz")):
        return kineto.load(path)
    return nsys.load(path, fast=fast is not False)


def _worth_compiling(path: Path) -> bool:
    """Return whether a capture is so large that loading numba pays."""
    return path.is_file() and path.stat().st_size > _SMALL_BYTES


def analyse(
    path: str | os.PathLike[str], ranges: Sequence[str] | None = None, fast: bool | None = None, picture: bool = True
) -> Trace:
    """Return the analysis of a capture.

    Args:
        path: nsys export (.sqlite, folder of .parquet) or Kineto trace (.json, .json.gz).
        ranges: Names of ranges to show, as ``name`` or ``domain:name``; None shows Paceline's, or in a capture without
        them those
            with the most GPU time, 40 at most. Every name must exist.
        fast: Use compiled code: True insists, False never, None if it is installed and the file is large.
        picture: Also collect what the picture of one iteration needs.

    Raises:
        TraceError: The capture cannot be read, or a range does not exist.
    """
    if fast is None and not _worth_compiling(Path(path)):
        fast = False
    capture = load(path, fast)
    projection = project(capture, engine(fast))
    return from_capture(capture, projection, str(path), ranges, picture)


def from_capture(
    capture: Capture, projection: Projection, source: str, ranges: Sequence[str] | None = None, picture: bool = True
) -> Trace:
    """Return the Trace of a capture and its projection."""
    warnings = list(capture.warnings)
    shown = _shown(capture, projection, ranges, warnings)
    if projection.backwards:
        warnings.append(
            f"{projection.backwards:,} records end before they start (clock went backwards): counted as empty"
        )
    rows = _range_rows(capture, projection, shown)
    _warn_of_start_up(capture, projection, shown, warnings)
    processes = _process_rows(capture, projection, warnings)
    kernels = _kernel_rows(capture, projection, shown)
    trace = Trace(
        source=source,
        ranges=rows,
        kernels=kernels,
        gaps=gaps.longest(capture, projection, _MAX_GAPS),
        api=_api_rows(capture, projection),
        processes=processes,
        graph_trace=capture.graph_trace,
        graph_nodes=_graph_node_rows(capture, projection, warnings),
        warnings=warnings,
        diagnosis="",
        details=capture.details
        | {
            "span_s": (capture.span_ns[1] - capture.span_ns[0]) / 1e9,
            "num_ranges": len(capture.ranges),
            "num_calls": len(capture.calls),
            "num_operations": len(capture.operations),
            "launch_delay": gaps.launches_in_flight(capture, projection),
        },
    )
    trace.diagnosis = diagnosis.sentence(trace)
    if picture:
        trace.timeline = timeline.one_iteration(capture, projection)
    return trace


def _label(capture: Capture, label: int) -> tuple[str, str]:
    return capture.labels[label]


def _shown(capture: Capture, projection: Projection, wanted: Sequence[str] | None, warnings: list[str]) -> list[int]:
    """Return the groups to show, in order of their first range."""
    groups, group = projection.groups, projection.group
    first = np.full(len(groups), np.iinfo(np.int64).max)
    np.minimum.at(first, group, capture.ranges.start)
    by_time = np.argsort(first, kind="stable").tolist()
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


def _some(capture: Capture) -> str:
    names = sorted({f"{domain}:{name}" if domain else name for domain, name in capture.labels})
    return ", ".join(names[:12]) + (f" and {len(names) - 12:,} more" if len(names) > 12 else "") if names else "none"


def _range_rows(capture: Capture, projection: Projection, shown: list[int]) -> list[dict[str, Any]]:
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
                "style": "start_end" if style == START_END else "push_pop",
                "unclosed": int(values["unclosed"][index]),
                "cross_thread": int(values["cross_thread"][index]),
            }
        )
    return rows


def _warn_of_start_up(capture: Capture, projection: Projection, shown: list[int], warnings: list[str]) -> None:
    """Say which ranges took far longer the first time: sums over all instances then do not show the steady state."""
    ranges, found = capture.ranges, []
    for group in shown[:_MAX_RANGES]:
        rows = np.flatnonzero(projection.group == group)
        if len(rows) < 4:
            continue
        lengths = ranges.end[rows] - ranges.start[rows]
        first, middle = int(lengths[np.argmin(ranges.start[rows])]), float(np.median(lengths))
        if first > 5 * middle and first > 10_000_000:
            name = _label(capture, projection.groups[group][1])[1]
            found.append(f"{name} {first / 1e6:,.0f} ms (median {middle / 1e6:,.1f} ms)")
    if found:
        warnings.append(f"start-up is part of the capture; first instances: {', '.join(dict.fromkeys(found))}")


def _process_rows(capture: Capture, projection: Projection, warnings: list[str]) -> list[dict[str, Any]]:
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


def _kernel_rows(capture: Capture, projection: Projection, shown: list[int]) -> list[dict[str, Any]]:
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
    code_of = np.zeros(len(projection.groups) + 1, np.int64)
    code_of[shown] = np.arange(1, len(shown) + 1)
    num_names = len(capture.names) + 4  # names, then one name per kind for operations without a name
    name = np.where(operations.name >= 0, operations.name, operations.kind.astype(np.int32) + len(capture.names))
    place = (operations.process * (len(shown) + 1) + code_of[phase]) * num_names + name
    size = len(capture.processes) * (len(shown) + 1) * num_names
    if size <= max(4 * len(place), 1 << 22):
        distinct, inverse = np.arange(size), place
    else:
        distinct, inverse = np.unique(place, return_inverse=True)
    length = operations.end - operations.start
    count = np.bincount(inverse, minlength=len(distinct))
    total = np.zeros(len(distinct), np.int64)
    np.add.at(total, inverse, length)
    longest = np.zeros(len(distinct), np.int64)
    np.maximum.at(longest, inverse, length)
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


def _api_rows(capture: Capture, projection: Projection) -> list[dict[str, Any]]:
    """CUDA calls by process and name: count and time, the most time first."""
    calls = capture.calls
    if not len(calls):
        return []
    process = np.array([thread.process for thread in capture.threads], np.int64)[calls.thread]
    num_names = len(capture.names) + 1
    key = process * num_names + (calls.name + 1)
    size = len(capture.processes) * num_names
    count = np.bincount(key, minlength=size)
    total = np.zeros(size, np.int64)
    np.add.at(total, key, calls.end - calls.start)
    rows = []
    for index in np.flatnonzero(count)[np.argsort(-total[np.flatnonzero(count)], kind="stable")].tolist():
        owner, code = divmod(index, num_names)
        rows.append(
            {
                "name": capture.names[code - 1] if code else "(unnamed)",
                "process": capture.processes[owner].pid,
                "rank": capture.processes[owner].rank,
                "calls": int(count[index]),
                "sum_s": int(total[index]) / 1e9,
                "mean_s": int(total[index]) / int(count[index]) / 1e9,
            }
        )
    return rows


def _graph_node_rows(capture: Capture, projection: Projection, warnings: list[str]) -> list[dict[str, Any]]:
    """Time of kernels replayed from graphs by the range that was open when they were captured (node level only)."""
    operations, nodes = capture.operations, capture.graph_nodes
    if operations.graph_node is None:
        return []
    if nodes is None:
        warnings.append("the capture does not say where graph nodes were created: no ranges inside CUDA graphs")
        return []
    from paceline.analysis.graphnodes import by_creation

    return by_creation(capture, projection, warnings)


def compare(a: Trace, b: Trace) -> list[dict[str, Any]]:
    """Return the ranges of two traces side by side, per name: per instance, on the rank of each that takes longest.

    Keys: ``name``, ``domain``, ``style``; for each of ``wall_s``, ``gpu_busy_s``, ``gpu_idle_s``, ``nccl_s``,
    ``launches`` the values
    ``<key>_a`` and ``<key>_b`` per instance, and ``<key>_ratio`` (None if a is 0 or either trace lacks the range).
    """
    keys = ("wall_s", "gpu_busy_s", "gpu_idle_s", "nccl_s", "launches")
    sides = []
    for trace in (a, b):
        slowest: dict[tuple[str, str, str], dict[str, Any]] = {}
        for one in trace.ranges:
            name = (one["domain"], one["name"], one["style"])
            best = slowest.get(name)
            if best is None or one["wall_s"] / one["instances"] > best["wall_s"] / best["instances"]:
                slowest[name] = one
        sides.append(slowest)
    rows = []
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        row: dict[str, Any] = {"name": name[1], "domain": name[0], "style": name[2]}
        for key in keys:
            values = [side[name][key] / side[name]["instances"] if name in side else None for side in sides]
            row[f"{key}_a"], row[f"{key}_b"] = values
            row[f"{key}_ratio"] = values[1] / values[0] if values[0] and values[1] is not None else None
        rows.append(row)
    return rows
