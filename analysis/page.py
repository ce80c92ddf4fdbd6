"""Puts an analysis into its templates: the HTML page and the Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from paceline.analysis import charts, chartseries, rank_phases, series, tables
from paceline.analysis.bundle import javascript
from paceline.analysis.checks import RULES
from paceline.analysis.reportfiles import environment, for_script, read_template
from paceline.analysis.tuning_report import METHOD, tuning_table
from paceline.analysis.units import interval, known, ranks, show

if TYPE_CHECKING:
    from paceline.analysis.report import Analysis

MAX_RUN_ROWS = 1500  # in the page; runs.csv has all


def html(analysis: Analysis, made: str) -> str:
    """Return the self-contained page."""
    specs = chart_specs(analysis)
    text = (
        environment()
        .get_template("report.html.j2")
        .render(
            title=_title(analysis),
            analysis=analysis,
            study=analysis.loaded.study,
            kind=analysis.loaded.kind,
            device=analysis.device,
            findings=analysis.findings,
            rules=len(RULES),
            usage=analysis.usage,
            target=analysis.target,
            verdict=analysis.verdict,
            numbers=_numbers(analysis),
            notes=analysis.notes,
            tables=_tables(analysis),
            tuning_method=METHOD,
            failures=_failures(analysis),
            runs_left_out=max(len(analysis.runs) + len(analysis.missing) - MAX_RUN_ROWS, 0),
            provenance=analysis.provenance,
            charts={name: [part["id"] for part in group] for name, group in specs.items()},
            parts=charts.PART_COLOURS,
            study_text=_yaml(analysis.loaded.study),
            cluster_text=_yaml(analysis.loaded.cluster),
            made=made,
            css=read_template("report.css"),
            script=read_template("report.js"),
            bundle=javascript(),
            specs=for_script({part["id"]: part["spec"] for group in specs.values() for part in group}),
        )
    )
    return text


def markdown(analysis: Analysis, made: str) -> str:
    """Return the report as Markdown, short enough for a pull request."""
    return (
        environment()
        .get_template("report.md.j2")
        .render(
            title=_title(analysis),
            verdict=analysis.verdict,
            findings=analysis.findings,
            rules=len(RULES),
            usage=analysis.usage,
            target=analysis.target,
            device=analysis.device,
            tuning=bool(analysis.tuning),
            tables={name: tables.markdown(table) for name, table in _tables(analysis).items() if name != "runs"},
            kind=analysis.loaded.kind,
            notes=[tables.plain_text(note) for note in analysis.notes],
            failures=tables.markdown(tables.runs(_failures(analysis))) if _failures(analysis) else "",
            provenance=analysis.provenance,
            made=made,
            escape=tables.plain_text,
        )
    )


def chart_specs(analysis: Analysis, *, legends: bool = False) -> dict[str, list[dict[str, Any]]]:
    """Return the charts of the report by section: lists of ``{"id", "spec"}``, empty where there is nothing to draw.

    Args:
        analysis: The study.
        legends: Give each chart its own legend; the page has one for several.
    """
    rows, device = analysis.rows, analysis.device
    measured = [row for row in rows if known(row["speedup"])]
    groups: dict[str, list[Any]] = {}
    if measured:
        kind = analysis.loaded.kind
        groups["speedup"] = [charts.speedup(rows, _single(analysis, "speedup"), kind, device)]
        groups["efficiency"] = [charts.efficiency(rows, _single(analysis, "efficiency"), device)]
        groups["parts"] = [charts.split_bars(rows, device, cost=cost, legend=legends) for cost in (False, True)]
    repeats = dict(enumerate(analysis.loaded.runs["repeat"].tolist()))
    picked = series.chosen_runs(analysis.loaded.runs, analysis.summaries)
    throughput, use, reward, names = [], [], [], []
    for size, own in picked.items():
        name = ranks(size, device)
        clean = [run for run in own if not analysis.summaries.at[run, "flags"]]
        lines = []
        for run in own:
            label = f"repeat {repeats[run]}" + ("" if run in clean else ", left out")
            lines += series.throughput_rows(analysis.arrays[run], label, run not in clean)
        if not lines:
            continue
        warmup = int(analysis.arrays[own[0]].warmup.sum())
        throughput.append(chartseries.throughput(lines, warmup, f"{name}, n\u2009=\u2009{len(clean)}"))
        if not clean:
            continue
        names.append(f"{name}, n\u2009=\u2009{len(clean)}")
        reward += series.reward_rows([analysis.arrays[run] for run in clean], names[-1])
        typical = series.typical_run(clean, analysis.summaries)
        gpu, cpu = series.device_rows(analysis.loaded, typical)
        title = f"{name}, repeat {repeats[typical]}, n\u2009=\u20091"
        use += [chartseries.gpu_use(gpu, title)] if gpu else []
        use += [chartseries.cpu_use(cpu, title)] if cpu else []
    groups |= {"throughput": throughput, "use": use}
    groups["reward"] = [chartseries.reward(reward, names)] if reward else []
    return {
        name: [{"id": f"{name}-{i}", "spec": spec} for i, spec in enumerate(spec for spec in group if spec)]
        for name, group in groups.items()
    }


def _single(analysis: Analysis, name: str) -> list[dict[str, Any]]:
    """Return the single runs for a chart, each relative to the median of the smallest world size."""
    first = next(row for row in analysis.rows if known(row["speedup"]))
    out = []
    for run in analysis.runs:
        if not run["counts"] or not known(run["total_fps"]):
            continue
        speedup = run["total_fps"] / first["total_fps"]
        value = speedup if name == "speedup" else speedup * first["world_size"] / run["world_size"]
        label = f"repeat {run['repeat']}" + (f", left out: {run['flags']}" if run["flags"] else "")
        out.append({"world_size": run["world_size"], "value": value, "hollow": bool(run["flags"]), "label": label})
    return out[:400]


def _title(analysis: Analysis) -> str:
    study = analysis.loaded.study
    of = f" of {study['task']}" if study.get("task") else ""
    what = "Levers" if analysis.tuning else f"{analysis.loaded.kind.capitalize()} scaling"
    return f"{what}{of}" + (f" with {study['trainer']}" if study.get("trainer") else "")


def _numbers(analysis: Analysis) -> list[dict[str, Any]]:
    """Return the three numbers at the top: those of the world size that the verdict is about."""
    measured = [row for row in analysis.rows if known(row["total_fps"])]
    if not measured or analysis.verdict.world_size is None:
        return []
    first = measured[0]
    last = next(row for row in measured if row["world_size"] == analysis.verdict.world_size)
    where, against = ranks(last["world_size"], analysis.device), ranks(first["world_size"], analysis.device)
    repeats = f"n\u2009=\u2009{last['repeats']}"
    name = "speed-up" if analysis.loaded.kind == "strong" else "scaled speed-up"
    out = []
    for key, form, unit, label in (
        ("speedup", "ratio", "\u00d7", f"{name}, {where} against {against}"),
        ("efficiency", "percent", "\u202f%", f"efficiency at {where}"),
        ("total_fps", "large", "", f"frames per second on {where}"),
    ):
        bounds = interval(last[f"{key}_low"], last[f"{key}_high"], form)
        note = f"95\u202f% interval {bounds}, {repeats}" if bounds else f"{repeats}, no interval"
        out.append(
            {"key": key, "exact": last[key], "value": show(last[key], form) + unit, "label": label, "note": note}
        )
    return out


def _tables(analysis: Analysis) -> dict[str, tables.Table]:
    rows, device = analysis.rows, analysis.device
    every = [*analysis.runs, *analysis.missing]
    made = [
        tables.scaling(rows, analysis.loaded.kind, device),
        tables.rates(rows, device),
        tables.parts(rows, device),
        tables.losses(rows, device),
        tables.between_ranks(rows, device),
        rank_phases.table(analysis.phases, device),
        tables.serial([row for row in rows if known(row["serial_fraction"])], analysis.loaded.kind, device),
        tables.laws(analysis.laws),
        tables.learning(rows, analysis.loaded.kind, device, analysis.target.threshold),
        tables.resources(rows, device, analysis.usage["currency"]),
        tables.findings(analysis.findings),
        tuning_table(analysis.tuning, device),
        tables.runs(every[:MAX_RUN_ROWS]),
    ]
    return {table.name: table for table in made}


def _failures(analysis: Analysis) -> list[dict[str, Any]]:
    rows = [row for row in (*analysis.runs, *analysis.missing) if row["status"] != "completed"]
    return rows[:200]


def _yaml(data: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True) if data else ""
