"""The tables of the trace report and of `paceline trace`: which columns, under which title, in which format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paceline.analysis.tables import Column, Table
from paceline.analysis.trace import Trace, compare

_MAX_RANGE_ROWS = 400
_MAX_KERNEL_ROWS = 60
_MAX_API_ROWS = 25
_GPU_COLUMNS = ("idle_fraction", "gpu_busy_s", "gpu_sum_s", "launches_each", "kernels_per_s", "api_s")


def several_ranks(trace: Trace) -> bool:
    """Return whether rows of more than one process are shown."""
    return len({row["process"] for row in trace.ranges} | {row["process"] for row in trace.processes}) > 1


def has_gpu_work(trace: Trace) -> bool:
    """Return whether anything ran on a GPU in the capture: columns that could only be 0 say nothing."""
    return bool(trace.processes)


def all_tables(trace: Trace) -> dict[str, Table]:
    """Return the tables of one trace by name; those without rows are left out."""
    made = (ranges(trace), traffic(trace), balance(trace), kernels(trace), api(trace), gaps(trace), graphs(trace))
    return {table.name: table for table in made if table is not None and table.rows}


def _named(row: Mapping[str, Any]) -> str:
    """Return the name of a range with its domain, unless that is Paceline's own or none."""
    return f"{row['domain']}:{row['name']}" if row["domain"] not in ("", "paceline") else row["name"]


def _rank_columns(trace: Trace) -> list[Column]:
    return [Column("rank", "Rank", "plain")] if several_ranks(trace) else []


def range_rows(trace: Trace) -> list[dict[str, Any]]:
    """Return the rows of the main table: times per instance beside the totals, shares as fractions."""
    rows = []
    for row in trace.ranges[:_MAX_RANGE_ROWS]:
        instances, wall = row["instances"], row["wall_s"]
        rows.append(
            {
                **row,
                "range": _named(row),
                "wall_each_s": wall / instances,
                "busy_each_s": row["gpu_busy_s"] / instances,
                "idle_fraction": row["gpu_idle_s"] / wall if wall else None,
                "launches_each": row["launches"] / instances,
                "overlap": row["gpu_sum_s"] / row["gpu_busy_s"] if row["gpu_busy_s"] else None,
            }
        )
    return rows


def ranges(trace: Trace) -> Table:
    """Return the main table: one row per range and rank."""
    columns = [
        Column("range", "Range", "text"),
        *_rank_columns(trace),
        Column("instances", "Instances", "count"),
        Column("wall_s", "Wall time, ms", "ms"),
        Column("wall_each_s", "each, ms", "ms"),
        Column("idle_fraction", "GPU idle, %", "percent"),
        Column("gpu_busy_s", "GPU work (union), ms", "ms"),
        Column("gpu_sum_s", "GPU work (sum), ms", "ms"),
        Column("launches_each", "Launches, each", "number"),
        Column("kernels_per_s", "Kernels per s", "count"),
        Column("api_s", "In CUDA calls, ms", "ms"),
    ]
    if not has_gpu_work(trace):
        columns = [column for column in columns if column.key not in _GPU_COLUMNS]
    return Table("ranges", "Where the time goes", tuple(columns), tuple(range_rows(trace)))


def traffic(trace: Trace) -> Table | None:
    """Return copies and communication per range, None if there were none."""
    rows = []
    for row in trace.ranges:
        copied = {f"{kind}_mb": size / 1e6 for kind, size in row["memcpy_bytes"].items()}
        if any(copied.values()) or row["nccl_s"]:
            hidden = 1 - row["nccl_exposed_s"] / row["nccl_s"] if row["nccl_s"] else None
            rows.append({**row, **copied, "range": _named(row), "hidden_fraction": hidden})
    kinds = {"h2d": "Host to device, MB", "d2h": "Device to host, MB", "d2d": "On the device, MB"}
    kinds |= {"p2p": "Between devices, MB", "other": "Other, MB"}
    columns = [Column("range", "Range", "text"), *_rank_columns(trace), Column("copies", "Copies", "count")]
    columns += [Column(f"{k}_mb", title, "number") for k, title in kinds.items() if any(r[f"{k}_mb"] for r in rows)]
    if any(row["nccl_s"] for row in rows):
        columns += [Column("nccl_s", "NCCL, ms", "ms"), Column("nccl_exposed_s", "exposed, ms", "ms")]
        columns += [Column("hidden_fraction", "hidden, %", "percent")]
    return Table("traffic", "Copies and communication", tuple(columns), tuple(rows))


def balance(trace: Trace) -> Table | None:
    """Return the spread between ranks per range, None with one rank."""
    if not several_ranks(trace):
        return None
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in range_rows(trace):
        groups.setdefault(row["range"], []).append(row)
    rows = []
    for name, members in groups.items():
        walls = [row["wall_each_s"] for row in members]
        slowest = max(members, key=lambda row: float(row["wall_each_s"]))
        mean = sum(walls) / len(walls)
        rows.append(
            {
                "range": name,
                "ranks": len(members),
                "mean_s": mean,
                "fastest_s": min(walls),
                "slowest_s": max(walls),
                "slowest_rank": slowest["rank"],
                "balance": mean / max(walls) if max(walls) else None,
            }
        )
    columns = (
        Column("range", "Range", "text"),
        Column("ranks", "Ranks", "count"),
        Column("mean_s", "Mean, ms", "ms"),
        Column("fastest_s", "Fastest, ms", "ms"),
        Column("slowest_s", "Slowest, ms", "ms"),
        Column("slowest_rank", "Slowest rank", "plain"),
        Column("balance", "Mean / slowest, %", "percent"),
    )
    return Table("balance", "Between ranks, per instance", columns, tuple(rows))


def kernels(trace: Trace) -> Table:
    """Return kernels and graph launches by range, the most time first."""
    total = sum(row["gpu_sum_s"] for row in trace.processes)
    rows = [{**row, "share": row["sum_s"] / total if total else None} for row in trace.kernels[:_MAX_KERNEL_ROWS]]
    columns = (
        Column("name", "Kernel", "text"),
        Column("range", "Range", "text"),
        *_rank_columns(trace),
        Column("instances", "Count", "count"),
        Column("sum_s", "Time, ms", "ms"),
        Column("share", "of GPU work, %", "percent"),
        Column("mean_us", "Mean, \u00b5s", "number"),
        Column("max_us", "Longest, \u00b5s", "number"),
    )
    rows = [{**row, "mean_us": row["mean_s"] * 1e6, "max_us": row["max_s"] * 1e6} for row in rows]
    return Table("kernels", "Kernels that take most time", columns, tuple(rows))


def api(trace: Trace) -> Table:
    """Return CUDA calls, the most time first."""
    rows = [{**row, "mean_us": row["mean_s"] * 1e6} for row in trace.api[:_MAX_API_ROWS]]
    columns = (
        Column("name", "CUDA call", "text"),
        *_rank_columns(trace),
        Column("calls", "Calls", "count"),
        Column("sum_s", "Time, ms", "ms"),
        Column("mean_us", "Mean, \u00b5s", "number"),
    )
    return Table("api", "CUDA calls on the host", columns, tuple(rows))


def gaps(trace: Trace) -> Table:
    """Return the longest times without GPU work."""
    rows = [
        {**row, "launch_delay_us": None if row["launch_delay_s"] is None else row["launch_delay_s"] * 1e6}
        for row in trace.gaps
    ]
    columns = (
        Column("duration_s", "Idle, ms", "ms"),
        Column("start_s", "At, s", "number"),
        *_rank_columns(trace),
        Column("range", "Range", "text"),
        Column("host", "The host was in", "text"),
        Column("host_fraction", "for, %", "percent"),
        Column("next", "Ended by", "text"),
        Column("launch_delay_us", "launched before, \u00b5s", "number"),
    )
    return Table("gaps", "Longest idle gaps of the GPU", columns, tuple(rows))


def graphs(trace: Trace) -> Table:
    """Return what runs inside CUDA graphs (node-level captures)."""
    columns = (
        Column("range", "Captured in", "text"),
        *_rank_columns(trace),
        Column("nodes", "Nodes", "count"),
        Column("kernels", "Kernels", "count"),
        Column("sum_s", "Time, ms", "ms"),
    )
    return Table("graphs", "Inside CUDA graphs", columns, tuple(trace.graph_nodes))


def comparison(a: Trace, b: Trace) -> Table:
    """Return two traces side by side: per instance, on one rank of each (``trace.compare``)."""
    rows = [{**row, "range": _named(row)} for row in compare(a, b)]
    columns: tuple[Column, ...] = (
        Column("range", "Range", "text"),
        Column("wall_s_a", "A: wall, ms", "ms"),
        Column("wall_s_b", "B: wall, ms", "ms"),
        Column("wall_s_ratio", "B / A", "ratio"),
        Column("gpu_busy_s_a", "A: GPU work, ms", "ms"),
        Column("gpu_busy_s_b", "B: GPU work, ms", "ms"),
        Column("gpu_idle_s_a", "A: GPU idle, ms", "ms"),
        Column("gpu_idle_s_b", "B: GPU idle, ms", "ms"),
        Column("nccl_s_a", "A: NCCL, ms", "ms"),
        Column("nccl_s_b", "B: NCCL, ms", "ms"),
        Column("launches_a", "A: launches", "number"),
        Column("launches_b", "B: launches", "number"),
    )
    if not any(row["nccl_s_a"] or row["nccl_s_b"] for row in rows):
        columns = tuple(column for column in columns if "nccl" not in column.key)
    if not has_gpu_work(a) and not has_gpu_work(b):
        columns = tuple(column for column in columns if column.key == "range" or column.key.startswith("wall"))
    return Table("comparison", "Side by side, per instance", columns, tuple(rows))
