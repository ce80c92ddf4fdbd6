"""The tables of a GPU comparison's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paceline.analysis.gpurows import PHASES
from paceline.analysis.gpus import GpuComparison
from paceline.analysis.sweeptables import kept_columns
from paceline.analysis.tables import Column, Table
from paceline.analysis.units import known


def all_tables(comparison: GpuComparison) -> dict[str, Table]:
    """Return the tables that have rows, by name."""
    made = (_throughput, _per_unit, _phases, _gains, _cpus, _nodes, _specs, _runs)
    found = [make(comparison) for make in made]
    return {table.name: table for table in found if table.rows}


def _case_columns(comparison: GpuComparison, rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Return the columns that tell cases apart."""
    columns = []
    for key, title, form in (
        ("task", "Task", "text"),
        ("trainer", "Trainer", "text"),
        ("physics", "Physics", "text"),
        ("num_envs_per_rank", "Envs per GPU", "count"),
        ("world_size", "GPUs", "plain"),
    ):
        if len({row.get(key) for row in rows}) > 1 or key == "world_size":
            columns.append(Column(key, title, form))
    return columns


def _throughput(comparison: GpuComparison) -> Table:
    columns = [
        *_case_columns(comparison, comparison.cases),
        Column("side", "Side", "text"),
        Column("repeats", "n", "plain"),
        Column("total_fps", "Frames/s", "fps", bounds=True),
        Column("ratio", "Against the reference", "ratio", bounds=True),
        Column("verdict", "Verdict", "text"),
        Column("gpu_util_pct", "GPU busy %", "pct"),
        Column("sm_clock_mhz", "SM clock MHz", "count"),
        Column("power_w", "Power W", "count"),
    ]
    return _table("throughput", "Throughput", columns, comparison.cases)


def _per_unit(comparison: GpuComparison) -> Table:
    columns = [
        *_case_columns(comparison, comparison.cases),
        Column("side", "Side", "text"),
        Column("frames_per_j", "Frames per joule (fps per W)", "number"),
        Column("frames_per_price", f"Frames per {comparison.currency}", "large"),
        Column("fps_per_gb_per_s", "Frames/s per GB/s", "number"),
        Column("fps_per_tflop_per_s", "Frames/s per TFLOP/s", "number"),
    ]
    names = ("frames_per_j", "frames_per_price", "fps_per_gb_per_s", "fps_per_tflop_per_s")
    return _table("per_unit", "Per watt, price, GB/s, TFLOP/s", columns, _with_any(comparison.cases, names))


def _phases(comparison: GpuComparison) -> Table:
    columns = [*_case_columns(comparison, comparison.cases), Column("side", "Side", "text")]
    columns += [Column(f"{phase}_us_per_frame", f"{phase.capitalize()} \u00b5s", "number") for phase in PHASES]
    columns.append(Column("cost_us_per_frame", "Sum \u00b5s", "number"))
    names = tuple(f"{phase}_us_per_frame" for phase in PHASES)
    return _table("phases", "GPU time per frame, by phase", columns, _with_any(comparison.cases, names))


def _gains(comparison: GpuComparison) -> Table:
    columns = [
        *_case_columns(comparison, comparison.phase_gains),
        Column("side", "Side", "text"),
        Column("phase", "Phase", "text"),
        Column("gain", "Times as fast", "ratio", bounds=True),
        Column("share_of_reference", "% of the reference's time", "percent"),
        Column("like", "Gains", "text"),
    ]
    return _table("gains", "Which phase gains from what", columns, comparison.phase_gains)


def _cpus(comparison: GpuComparison) -> Table:
    columns = [
        Column("gpu_model", "GPU", "text"),
        Column("cpu_model", "CPU", "text"),
        Column("reference_cpu_model", "against CPU", "text"),
        Column("repeats", "n", "plain"),
        Column("ratio", "Throughput", "ratio", bounds=True),
    ]
    return _table("cpus", "The same GPU on two CPUs", columns, comparison.cpu_checks)


def _nodes(comparison: GpuComparison) -> Table:
    columns = [
        *_case_columns(comparison, comparison.nodes),
        Column("gpu_model", "GPU", "text"),
        Column("node", "Node", "text"),
        Column("repeats", "n", "plain"),
        Column("total_fps", "Frames/s", "fps"),
        Column("ratio", "Against the other nodes", "ratio", bounds=True),
        Column("verdict", "Verdict", "text"),
    ]
    return _table("nodes", "Node by node", columns, comparison.nodes)


def _specs(comparison: GpuComparison) -> Table:
    rows = [
        {
            "side": side,
            "name": spec.name,
            "memory_gib": spec.memory_bytes / 2**30,
            "bandwidth": spec.memory_bandwidth_gb_per_s,
            "fp32": spec.fp32_tflop_per_s,
            "power": spec.power_limit_w,
            "source": spec.source,
        }
        for side, spec in comparison.specs.items()
        if spec is not None
    ]
    columns = [
        Column("side", "Side", "text"),
        Column("name", "Model", "text"),
        Column("memory_gib", "Memory GiB", "number"),
        Column("bandwidth", "GB/s", "count"),
        Column("fp32", "FP32 TFLOP/s", "number"),
        Column("power", "Power limit W", "count"),
        Column("source", "Source", "text"),
    ]
    return _table("specifications", "Specifications", columns, rows)


def _runs(comparison: GpuComparison) -> Table:
    columns = [
        *_case_columns(comparison, comparison.rows),
        Column("side", "Side", "text"),
        Column("repeat", "Repeat", "plain"),
        Column("total_fps", "Frames/s", "fps"),
        Column("node", "Node", "text"),
        Column("cpu_model", "CPU", "text"),
        Column("source", "From", "text"),
        Column("excluded", "Left out because", "text"),
        Column("case_id", "Case", "text"),
    ]
    return _table("runs", "Runs", columns, comparison.rows)


def _table(name: str, title: str, columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> Table:
    return Table(name, title, kept_columns(columns, rows, {"side", "verdict", "gain"}), tuple(rows))


def _with_any(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[Mapping[str, Any]]:
    return [row for row in rows if any(known(row.get(name)) for name in names)]
