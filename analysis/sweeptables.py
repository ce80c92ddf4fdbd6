"""The tables of a sweep's report: recommendation, curve, what was used, what was left out, runs."""

from __future__ import annotations

from typing import Any

from paceline.analysis.sweep import SweepAnalysis
from paceline.analysis.tables import Column, Table
from paceline.analysis.units import known

_GIB = 2.0**30


def recommendation_table(analysis: SweepAnalysis) -> Table:
    """Return the recommendations."""
    columns = (
        Column("purpose", "For", "text"),
        Column("num_envs", "Environments", "count"),
        Column("reason", "Why", "text"),
    )
    rows = [{"purpose": r.purpose, "num_envs": r.num_envs, "reason": r.reason} for r in analysis.recommendations]
    return Table("recommendation", "Recommendation", columns, tuple(rows))


def points_table(analysis: SweepAnalysis) -> Table:
    """Return the curve."""
    columns = [
        Column("num_envs_per_rank", "Environments", "count"),
        Column("repeats", "n", "plain"),
        Column("total_fps", "Frames/s", "fps", bounds=True),
        Column("share_of_best", "% of best", "percent"),
        Column("elasticity", "Elasticity", "ratio"),
        Column("iteration_time_s", "Iteration ms", "ms"),
        Column("bound", "Bound by", "text"),
        Column("bound_why", "Because", "text"),
    ]
    return Table(
        "points",
        "Curve",
        kept_columns(columns, analysis.points, {"num_envs_per_rank", "total_fps"}),
        tuple(analysis.points),
    )


def resources_table(analysis: SweepAnalysis) -> Table:
    """Return what each point used."""
    rows = [
        {
            **point,
            "gpu_memory_gib": _gib(point["gpu_memory_used_bytes"]),
            "host_memory_gib": _gib(point["host_memory_used_bytes"]),
            "rank_memory_gib": _gib(point["rank_memory_bytes"]),
        }
        for point in analysis.points
    ]
    columns = [
        Column("num_envs_per_rank", "Environments", "count"),
        Column("gpu_memory_gib", "GPU memory GiB", "number"),
        Column("memory_share", "of it %", "percent"),
        Column("rank_memory_gib", "Rank's host memory GiB", "number"),
        Column("host_memory_gib", "Host memory GiB", "number"),
        Column("gpu_util_pct", "GPU busy %", "pct"),
        Column("rank_cpu_pct", "Rank's CPU %", "pct"),
        Column("gpu_temperature_start_c", "Start \u00b0C", "plain"),
        Column("gpu_temperature_max_c", "Max \u00b0C", "plain"),
        Column("gpu_power_w", "Power W", "count"),
        Column("power_limited_pct", "Power-limited %", "pct"),
        Column("sm_clock_mhz", "SM clock MHz", "count"),
        Column("frames_per_j", "Frames/J", "number"),
        Column("physics_s", "Physics ms", "ms"),
        Column("inference_s", "Inference ms", "ms"),
        Column("update_s", "Update ms", "ms"),
        Column("other_s", "Other ms", "ms"),
    ]
    return Table("resources", "Memory, power, phases", kept_columns(columns, rows, {"num_envs_per_rank"}), tuple(rows))


def excluded_table(analysis: SweepAnalysis) -> Table:
    """Return what is not in the curve, and why."""
    columns = (
        Column("num_envs_per_rank", "Environments", "count"),
        Column("repeat", "Repeat", "plain"),
        Column("total_fps", "Frames/s", "fps"),
        Column("buffer_sizes", "Buffers raised to", "text"),
        Column("excluded", "Left out because", "text"),
        Column("case_id", "Case", "text"),
    )
    rows = analysis.excluded
    return Table(
        "excluded", "Not in the curve", kept_columns(columns, rows, {"num_envs_per_rank", "excluded"}), tuple(rows)
    )


def runs_table(analysis: SweepAnalysis) -> Table:
    """Return every run."""
    columns = (
        Column("num_envs_per_rank", "Environments", "count"),
        Column("repeat", "Repeat", "plain"),
        Column("attempt", "Attempt", "plain"),
        Column("verdict", "Became", "text"),
        Column("total_fps", "Frames/s", "fps"),
        Column("overflow_buffers", "Buffer overflowed", "text"),
        Column("overflow_needed", "Size asked for", "text"),
        Column("overflow_messages", "Messages", "plain"),
        Column("buffer_sizes", "Buffers raised to", "text"),
        Column("cool_down_s", "Cooled down s", "number"),
        Column("wall_s", "Wall s", "number"),
        Column("node", "Node", "text"),
        Column("case_id", "Case", "text"),
    )
    return Table(
        "runs", "Runs", kept_columns(columns, analysis.rows, {"num_envs_per_rank", "verdict"}), tuple(analysis.rows)
    )


def kept_columns(columns: Any, rows: Any, always: set[str]) -> tuple[Column, ...]:
    """Return the columns in which at least one row says something, and those named ``always``."""
    return tuple(
        c for c in columns if c.key in always or any(known(row.get(c.key)) and row.get(c.key) != "" for row in rows)
    )


def _gib(value: Any) -> float | None:
    return None if value is None else value / _GIB


def all_tables(analysis: SweepAnalysis) -> dict[str, Table]:
    """Return the tables that have rows, by name."""
    made = (recommendation_table, points_table, resources_table, excluded_table, runs_table)
    return {table.name: table for table in (make(analysis) for make in made) if table.rows}
