"""The report of a GPU comparison: one HTML page, Markdown, CSV and JSON, all from the same numbers."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paceline.analysis import tables
from paceline.analysis.gpucharts import charts
from paceline.analysis.gpurows import RUN_COLUMNS, read
from paceline.analysis.gpus import GpuComparison
from paceline.analysis.gputables import all_tables
from paceline.analysis.reportfiles import csv_text, environment, for_script, read_template, terminal, write_files
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
    if len(comparison.sides) == 1:
        return (
            f"Only {comparison.reference} was measured; with the records of another host, "
            "`paceline compare-gpus --from FOLDER FOLDER` compares the two."
        )
    if not others:
        why = next((case["not_comparable"] for case in comparison.cases if case["not_comparable"]), "one side only")
        return f"Nothing is compared: {why}."
    best = max(others, key=lambda case: case["ratio"])
    bounds = interval(best["ratio_low"], best["ratio_high"], "ratio")
    if best["verdict"] == "inconclusive":
        return (
            f"Inconclusive: {best['side']} gave {show(best['ratio'], 'ratio')} times the throughput of "
            f"{comparison.reference}; the 95 % interval {bounds} includes no change: {case_words(best)}."
        )
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
