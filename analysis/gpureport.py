"""The report of a GPU comparison: one HTML page, Markdown, CSV and JSON, all from the same numbers."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paceline.analysis import tables
from paceline.analysis.gpucharts import charts
from paceline.analysis.gpurows import PHASES, RUN_COLUMNS, read
from paceline.analysis.gpus import GpuComparison
from paceline.analysis.reportfiles import csv_text, environment, for_script, read_template, terminal, write_files
from paceline.analysis.sweepreport import kept_columns
from paceline.analysis.tables import Column, Table
from paceline.analysis.units import interval, known, show
from paceline.bench.rundir import StudyDir

_CASE_WORDS = {"task": "", "trainer": "", "physics": "", "num_envs_per_rank": "environments per GPU"}


def compare_sources(
    sources: Sequence[Path], reference: str | None = None, prices: Mapping[str, float] | None = None
) -> GpuComparison:
    """Return the comparison of the runs in study folders or a CSV table.

    Prices given here win over those of the folders' cluster profiles. RecordError if there is nothing to compare.
    """
    rows, folders = read(sources)
    stated: dict[str, float] = {}
    currency = "EUR"
    for loaded in folders:
        profile = loaded.cluster.get("prices") or {}
        stated |= {str(name): float(price) for name, price in (profile.get("gpu_hour") or {}).items() if price}
        currency = str(profile.get("currency") or currency)
    if reference is None and len(folders) == 1:
        reference = _first_group(rows, folders[0].study)
    warnings = [warning for loaded in folders for warning in loaded.warnings]
    return GpuComparison(rows, reference, {**stated, **(prices or {})}, currency, warnings)


def _first_group(rows: Sequence[Mapping[str, Any]], study: Mapping[str, Any]) -> str | None:
    """Return what the first side of a study is called here, None where that cannot be told yet."""
    from paceline.analysis.gpus import GpuComparison

    first = next((str(group.get("name")) for group in study.get("groups") or ()), None)
    named = GpuComparison(rows).rows
    return next((str(row["side"]) for row in named if row["group"] == first), None) if first else None


def report_folder(sources: Sequence[Path]) -> Path | None:
    """Return where the report goes when nobody says: into a single study folder; None for several, or a table."""
    return StudyDir(sources[0]).report if len(sources) == 1 and sources[0].is_dir() else None


def write(comparison: GpuComparison, folder: Path) -> Path:
    """Write index.html, report.md, report.json and combined_results.csv into a folder; return the page."""
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    write_files(
        folder,
        {
            "combined_results.csv": csv_text(comparison.rows, ("side", *RUN_COLUMNS)),
            "report.json": json.dumps(comparison.data, indent=1, allow_nan=False, default=str) + "\n",
            "report.md": markdown(comparison, made),
            "index.html": html(comparison, made),
        },
    )
    return folder / "index.html"


def case_words(case: Mapping[str, Any]) -> str:
    """Return a case in words: task, trainer, physics, size."""
    parts = [str(case[name]) for name in ("task", "trainer", "physics") if case.get(name)]
    if case.get("num_envs_per_rank"):
        parts.append(f"{case['num_envs_per_rank']:,} environments per GPU")
    size = case.get("world_size") or 1
    return ", ".join([*parts, f"{size} GPU" + ("s" if size > 1 else "")])


def headline(comparison: GpuComparison) -> str:
    """Return the sentence at the top: the fastest side against the reference, or why nothing is said."""
    others = [case for case in comparison.cases if known(case["ratio"])]
    if not others:
        why = next((case["not_comparable"] for case in comparison.cases if case["not_comparable"]), "one side only")
        return f"Nothing is compared: {why}."
    best = max(others, key=lambda case: case["ratio"])
    bounds = interval(best["ratio_low"], best["ratio_high"], "ratio")
    text = f"{best['side']} reaches {show(best['ratio'], 'ratio')} times the throughput of {comparison.reference}"
    text += f" (95 % interval {bounds})" if bounds else " (n=1, no interval)"
    return f"{text}: {case_words(best)}."


def details(comparison: GpuComparison) -> list[str]:
    """Return what each side gains elsewhere, phase by phase, and which nodes are slow."""
    lines = []
    for case in comparison.cases:
        if case["verdict"] in ("reference", "no number") or not known(case["ratio"]):
            continue
        own = [
            f"{gain['phase']} {gain['gain']:.2f}"
            for gain in comparison.phase_gains
            if gain["side"] == case["side"]
            and all(gain[k] == case[k] for k in ("task", "world_size", "num_envs_per_rank"))
        ]
        text = f"{case['side']}, {case_words(case)}: {case['verdict']} ({show(case['ratio'], 'ratio')}x)"
        lines.append(text + (f"; by phase: {', '.join(own)}" if own else "") + ".")
    for node in comparison.nodes:
        if node["verdict"] == "slow":
            bounds = interval(node["ratio_low"], node["ratio_high"], "ratio")
            lines.append(f"Node {node['node']} is slow: {show(node['ratio'], 'ratio')} ({bounds}) of the others.")
    return lines[:12]


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
        Column("gain", "Times as fast", "ratio"),
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


def text(comparison: GpuComparison) -> str:
    """Return the comparison for a terminal."""
    found = all_tables(comparison)
    names = ("throughput", "per_unit", "phases", "gains", "cpus", "nodes")
    shown = [found[name] for name in names if name in found]
    return terminal(headline(comparison), [], shown, comparison.notes)


def markdown(comparison: GpuComparison, made: str) -> str:
    """Return the report as Markdown."""
    return (
        environment()
        .get_template("gpus.md.j2")
        .render(
            headline=headline(comparison),
            details=details(comparison),
            notes=[tables.plain_text(note) for note in comparison.notes],
            tables={name: (table.title, tables.markdown(table)) for name, table in all_tables(comparison).items()},
            made=made,
            escape=tables.plain_text,
        )
    )


def html(comparison: GpuComparison, made: str) -> str:
    """Return the self-contained page."""
    from paceline.analysis.bundle import javascript

    specs = {f"{name}-{i}": chart for name, group in charts(comparison).items() for i, chart in enumerate(group)}
    return (
        environment()
        .get_template("gpus.html.j2")
        .render(
            headline=headline(comparison),
            details=details(comparison),
            notes=comparison.notes,
            tables=all_tables(comparison),
            charts={
                name: [key for key in specs if key.startswith(f"{name}-")] for name in ("throughput", "phases", "per")
            },
            made=made,
            css=read_template("report.css"),
            script=read_template("report.js"),
            bundle=javascript(),
            specs=for_script(specs),
        )
    )
