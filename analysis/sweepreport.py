"""The report of a sweep: one HTML page, Markdown, CSV and JSON, all from the same numbers."""

from __future__ import annotations

import json
import time
from pathlib import Path

from paceline.analysis import tables
from paceline.analysis.load import load_study
from paceline.analysis.provenance import provenance
from paceline.analysis.reportfiles import csv_text, environment, for_script, read_template, write_files
from paceline.analysis.sweep import SweepAnalysis
from paceline.analysis.sweeppoints import POINT_COLUMNS, ended, folder_rows
from paceline.analysis.sweeptables import all_tables
from paceline.analysis.units import interval, show
from paceline.bench.errors import RecordError
from paceline.bench.rundir import StudyDir

_GIB = 2.0**30


def analyse_folder(folder: str | Path) -> SweepAnalysis:
    """Return the analysis of a sweep's study folder; RecordError if it is none."""
    loaded = load_study(folder)
    if loaded.kind != "sweep":
        raise RecordError(f"{loaded.path}: holds a study of kind {loaded.kind}, not a sweep")
    study = loaded.study
    facts = {key: study.get(key) for key in ("task", "trainer", "physics", "device", "start_envs", "limit_envs")}
    title = f"Environment sweep of {study.get('task')} with {study.get('trainer')}"
    found = provenance(loaded)
    analysis = SweepAnalysis(
        folder_rows(loaded),
        title=title,
        source=loaded.path.name,
        facts=facts,
        ended=ended(loaded),
        notes=[*found["differences"], *loaded.warnings],
    )
    analysis.provenance = found
    analysis.folder = loaded.path
    return analysis


def analyse_csv(path: Path) -> list[SweepAnalysis]:
    """Return one analysis for each GPU model in somebody's table; RecordError if it is no sweep."""
    from paceline.analysis.sweepcsv import csv_rows

    analyses = []
    for gpu, rows in csv_rows(path).items():
        title = f"Environment sweep in {path.name}" + (f": {gpu}" if gpu else "")
        facts = {"gpu_model": gpu or None}
        analyses.append(SweepAnalysis(rows, title=title, source=path.name, facts=facts))
    return analyses


def write(analysis: SweepAnalysis) -> Path:
    """Write report/{index.html,report.md,report.json} and combined_results.csv; return the path of index.html.

    Raises:
        RecordError: The report cannot be written there.
    """
    assert analysis.folder is not None
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    folder = StudyDir(analysis.folder).report
    files = {
        "combined_results.csv": csv_text(analysis.rows, POINT_COLUMNS),
        "report.json": json.dumps(analysis.data, indent=1, allow_nan=False, default=str) + "\n",
        "report.md": markdown(analysis, made),
        "index.html": html(analysis, made),
    }
    write_files(folder, files)
    return folder / "index.html"


# ------------------------------------------------------------------------------------------------------ words


def headline(analysis: SweepAnalysis) -> str:
    """Return the sentence at the top: the balanced recommendation, or why there is none."""
    if not analysis.recommendations:
        return "No valid point: nothing can be recommended."
    chosen = {each.purpose: each.num_envs for each in analysis.recommendations}
    if chosen["balanced"] == chosen["maximum"]:
        return f"{chosen['maximum']:,} environments per {_unit(analysis)} give the most throughput."
    return (
        f"{chosen['balanced']:,} environments per {_unit(analysis)} are a good balance; "
        f"{chosen['maximum']:,} give the most throughput."
    )


def details(analysis: SweepAnalysis) -> list[str]:
    """Return what the curve, the memory and the end of the sweep say, one sentence each."""
    lines = []
    if analysis.fit is not None:
        fitted = analysis.fit
        knee = interval(fitted.knee_envs.low, fitted.knee_envs.high, "count")
        most = interval(fitted.max_fps.low, fitted.max_fps.high, "fps")
        lines.append(
            f"Saturation model: knee at {show(fitted.knee_envs.value, 'count')} environments (95 % interval {knee}), "
            f"no more than {show(fitted.max_fps.value, 'fps')} frames/s ({most}); "
            f"the points lie within {100 * abs(fitted.worst_residual):.0f} % of it."
        )
    else:
        lines.append(f"No saturation model: {analysis.why_no_fit}.")
    if analysis.knee_measured is not None and analysis.knee_measured == analysis.points[0]["num_envs_per_rank"]:
        lines.append(
            f"The knee is at or below {analysis.knee_measured:,.0f}, the smallest point: doubling it gains little."
        )
    elif analysis.knee_measured is not None:
        lines.append(
            f"Among the measured points the knee is at {analysis.knee_measured:,.0f}: doubling gains little after it."
        )
    elif analysis.points:
        lines.append("No knee among the measured points: every doubling still gains much.")
    if analysis.memory is not None:
        slope = analysis.memory.bytes_per_env
        bounds = interval(
            None if slope.low is None else slope.low / 1024, None if slope.high is None else slope.high / 1024, "number"
        )
        text = f"Memory grows by {show((slope.value or 0.0) / 1024, 'number')} KiB per environment"
        text += f" (95 % interval {bounds})" if bounds else " (two points, no interval)"
        text += f" from {analysis.memory.fixed_bytes / _GIB:.1f} GiB"
        wall = analysis.memory.wall_envs
        if wall is not None and analysis.memory.total_bytes:
            text += f"; the line meets the {analysis.memory.total_bytes / _GIB:.0f} GiB of the device at {wall:,.0f}"
        lines.append(text + ".")
    else:
        lines.append(f"Memory per environment is not known: {analysis.why_no_memory}.")
    if analysis.ended_by:
        why = str(analysis.ended_why).rstrip(".")
        lines.append(f"The sweep ended by {_ENDS.get(analysis.ended_by, analysis.ended_by)}: {why}.")
    elif analysis.folder is not None:
        lines.append("The sweep has not ended: the same command goes on with it.")
    if analysis.largest_valid is not None and analysis.smallest_out_of_memory is not None:
        lines.append(
            f"{analysis.largest_valid:,} environments fit, {analysis.smallest_out_of_memory:,} do not (both tried)."
        )
    return lines


_ENDS = {
    "limit": "its limit",
    "memory": "memory",
    "physics": "invalid physics",
    "time": "time",
    "failed": "a failure",
}


def _unit(analysis: SweepAnalysis) -> str:
    return "rank" if analysis.facts.get("device") == "cpu" else "GPU"


# ------------------------------------------------------------------------------------------------------ forms


def text(analysis: SweepAnalysis) -> str:
    """Return the sweep for a terminal: what to use, why, the curve, what was left out."""
    from paceline.analysis.reportfiles import terminal

    found = all_tables(analysis)
    shown = [found[name] for name in ("points", "recommendation", "excluded") if name in found]
    return terminal(headline(analysis), details(analysis), shown, analysis.notes)


def markdown(analysis: SweepAnalysis, made: str) -> str:
    """Return the report as Markdown."""
    return (
        environment()
        .get_template("sweep.md.j2")
        .render(
            title=analysis.title,
            headline=headline(analysis),
            details=details(analysis),
            notes=[tables.plain_text(note) for note in analysis.notes],
            tables={name: (table.title, tables.markdown(table)) for name, table in all_tables(analysis).items()},
            made=made,
            escape=tables.plain_text,
        )
    )


def html(analysis: SweepAnalysis, made: str) -> str:
    """Return the self-contained page."""
    from paceline.analysis.bundle import javascript
    from paceline.analysis.sweepcharts import charts

    specs = {f"{name}-{i}": chart for name, group in charts(analysis).items() for i, chart in enumerate(group)}
    return (
        environment()
        .get_template("sweep.html.j2")
        .render(
            title=analysis.title,
            headline=headline(analysis),
            tone="good" if analysis.recommendations else "bad",
            details=details(analysis),
            recommendations=analysis.recommendations,
            unit=_unit(analysis),
            notes=analysis.notes,
            tables=all_tables(analysis),
            charts={name: [key for key in specs if key.startswith(f"{name}-")] for name in ("throughput", "resources")},
            has_fit=analysis.fit is not None,
            provenance=analysis.provenance,
            made=made,
            css=read_template("report.css"),
            script=read_template("report.js"),
            bundle=javascript(),
            specs=for_script(specs),
        )
    )
