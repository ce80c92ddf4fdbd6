"""Re-analysis of somebody's table: speed-up, cost, loss and laws, as far as its columns can carry them.

A table, log or bundle holds rates, mostly of rank 0. Throughput, efficiency, the split of the lost efficiency into
step, inference and update, and the laws follow from them; load balance, serialisation and transfer do not.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from paceline.analysis import tables
from paceline.analysis.attribution import NOT_APPLICABLE, costs_from_rates, loss_attribution
from paceline.analysis.checks import check_table
from paceline.analysis.curves import Curve, Series, curves
from paceline.analysis.frames import mode_of
from paceline.analysis.lawtable import law_rows, serial_fractions, shown_laws
from paceline.analysis.reportfiles import terminal
from paceline.analysis.table import RATE_WORDS, RATES, Mode, Table
from paceline.analysis.units import interval, show

SCHEMA = "paceline.reanalysis/1"
_PARTS = ("env_step", "inference", "update")


def reanalyse(table: Table) -> dict[str, Any]:
    """Return what a table's own numbers say, JSON-able: ``curves`` and ``findings``.

    A curve has ``label``, ``mode`` (``strong``, ``weak``; None where its columns do not say, or contradict what was
    declared), ``metric`` (the rate that speed-up is made of), ``rows``, ``laws`` and ``between_ranks``, a sentence.
    """
    findings = check_table(table)
    contradicted = any(finding.id == "F-MODE" for finding in findings)
    found = [_curve(curve, contradicted) for curve in curves(table)]
    return {
        "schema": SCHEMA,
        "source": table.source,
        "curves": [curve for curve in found if curve is not None],
        "findings": [finding.to_json() for finding in findings],
    }


def _curve(curve: Curve, contradicted: bool) -> dict[str, Any] | None:
    rates = {name: series for name in RATES if (series := curve.series(name)) is not None}
    if not rates:
        return None
    metric = next(name for name in reversed(RATES) if name in rates)
    head = rates[metric]
    mode: Mode | None = mode_of(curve) or curve.table.declared_mode
    mode = None if contradicted else mode
    rows = [_row(head, rates, i) for i in range(len(head.world_sizes))]
    if mode is not None:
        for row, found in zip(
            rows, serial_fractions(mode, head.world_sizes.tolist(), head.values.tolist()), strict=True
        ):
            row |= found
    _add_losses(rows, rates)
    laws = law_rows(mode, head.world_sizes.tolist(), [r.tolist() for r in head.repeats]) if mode is not None else []
    return {
        "label": curve.label,
        "mode": mode,
        "metric": metric,
        "rows": rows,
        "laws": shown_laws(laws),
        "between_ranks": NOT_APPLICABLE if curve.table.scope != "all" else "paceline report FOLDER has them",
    }


def _row(head: Series, rates: dict[str, Series], i: int) -> dict[str, Any]:
    size = float(head.world_sizes[i])
    speedup = float(head.values[i] / head.values[0])
    scale = float(head.world_sizes[0]) / size
    change = head.change(0, i) if i else None
    row: dict[str, Any] = {"world_size": round(size), "repeats": len(head.repeats[i])}
    row |= {name: _at(series, size) for name, series in rates.items()}
    low, high = (change[1], change[2]) if change else (None, None)
    row |= {"speedup": speedup, "speedup_low": low, "speedup_high": high, "efficiency": speedup * scale}
    row |= {"efficiency_low": low * scale if low else None, "efficiency_high": high * scale if high else None}
    row |= {"serial_fraction": None, "incremental_efficiency": None, "cost_us": size / float(head.values[i]) * 1e6}
    return row | {f"cost_{part}_us": None for part in _PARTS} | {f"loss_{part}": None for part in _PARTS}


def _at(series: Series, world_size: float) -> float | None:
    place = np.flatnonzero(series.world_sizes == world_size)
    return float(series.values[place[0]]) if len(place) else None


def _add_losses(rows: list[dict[str, Any]], rates: dict[str, Series]) -> None:
    """Split cost and lost efficiency by step, inference and update, where all three rates are there."""
    names = ("fps_step", "fps_step_inference", "total_fps")
    if not all(name in rates for name in names) or any(row[name] is None for row in rows for name in names):
        return
    sizes = np.array([float(row["world_size"]) for row in rows])
    columns = [np.array([row[name] for row in rows], dtype=np.float64) for name in names]
    costs = costs_from_rates(sizes, *columns)
    split = [{part: float(values[i]) for part, values in costs.items()} for i in range(len(rows))]
    for row, own in zip(rows, split, strict=True):
        lost = loss_attribution(split[0], own).loss
        row |= {f"cost_{part}_us": own[part] * 1e6 for part in _PARTS}
        row |= {f"loss_{part}": lost[part] for part in _PARTS}


def as_text(found: dict[str, Any]) -> str:
    """Return a re-analysis for a terminal."""
    shown: list[tables.Table] = []
    lines: list[str] = []
    for curve in found["curves"]:
        shown += _tables(curve)
        lines += _law_lines(curve)
        if curve["mode"] is None and len(curve["rows"]) > 1:
            name = f"{curve['label']}: " if curve["label"] else ""
            lines.append(f"{name}strong or weak scaling is not told or contradicted: no serial fraction and no laws.")
    between = dict.fromkeys(curve["between_ranks"] for curve in found["curves"])
    lines += [f"Load balance, serialisation, transfer: {text}." for text in between]
    errors = sum(finding["severity"] == "error" for finding in found["findings"])
    warnings = len(found["findings"]) - errors
    if found["findings"]:
        lines.append(
            f"The checks found {errors} error(s) and {warnings} warning(s): `paceline check {found['source']}` lists "
            "them." + (" No headline number may be taken from this table." if errors else "")
        )
    head = "" if shown else f"{found['source']}: no rate in it"
    return terminal(head, [], shown, lines).strip("\n")


def _tables(curve: dict[str, Any]) -> list[tables.Table]:
    column = tables.Column
    rows = tuple(curve["rows"])
    title = ", ".join(filter(None, (curve["label"], f"{curve['mode']} scaling" if curve["mode"] else "")))
    rates = [column(name, f"{RATE_WORDS[name].capitalize()} frames/s", "fps") for name in RATES if name in rows[0]]
    columns = [column("world_size", "GPUs", "plain"), column("repeats", "n", "plain"), *rates]
    columns += [
        column("speedup", f"Speed-up ({RATE_WORDS[curve['metric']]})", "ratio", bounds=True),
        column("efficiency", "Efficiency %", "percent", bounds=True),
    ]
    if curve["mode"] is not None:
        name = "Karp\u2013Flatt fraction" if curve["mode"] == "strong" else "Scaled serial fraction"
        columns.append(column("serial_fraction", name, "fraction"))
    columns.append(column("incremental_efficiency", "Incremental %", "percent"))
    out = [tables.Table("curve", title or "Scaling", tuple(columns), rows)]
    if any(row["loss_update"] is not None and not math.isnan(row["loss_update"]) for row in rows):
        costs = [column(f"cost_{part}_us", f"{part.replace('_', ' ')} \u00b5s", "number") for part in _PARTS]
        losses = [column(f"loss_{part}", f"lost to {part.replace('_', ' ')}", "points") for part in _PARTS]
        heads = (column("world_size", "GPUs", "plain"), column("cost_us", "GPU-\u00b5s per frame", "number"))
        out.append(tables.Table("losses", "Cost, and points of efficiency lost", (*heads, *costs, *losses), rows))
    return out


def _law_lines(curve: dict[str, Any]) -> list[str]:
    """Return one sentence per law and parameter: the table of the page is too wide for a terminal."""
    out = []
    for row in curve["laws"]:
        name = f"{row['law']} {row['parameter']}"
        if not row["identifiable"]:
            out.append(f"{name}: not identifiable, {row['reason']}.")
            continue
        bounds = interval(row["low"], row["high"], "fraction")
        between = interval(row["leave_one_out_low"], row["leave_one_out_high"], "fraction")
        known_by = f"95\u202f% interval {bounds}" if bounds else "no interval"
        ahead = f"extrapolated to N={row['next_world_size']}: {show(row['next_speedup'], 'ratio')} times"
        out.append(
            f"{name} = {show(row['value'], 'fraction')} ({known_by}; {between} with one point left out), residual "
            f"{show(row['rms_log_residual'], 'percent')}\u202f%; {ahead}."
        )
    return out
