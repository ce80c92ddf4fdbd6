"""The report of an evaluation: report.md, report.json and report.csv in its folder."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paceline.analysis.evaluation import MEASURES, CellResult, Ranking, Speed, load, ranking, speed, table

REPORT_SCHEMA = "paceline.evaluation-report/1"


def write(folder: Path) -> str:
    """Write the report of an evaluation folder and return its Markdown; RecordError if it is no such folder."""
    cells = load(folder)
    rows = table(cells)
    rankings = [found for name in MEASURES if (found := ranking(cells, name)) is not None]
    gain = speed(folder, cells)
    text = markdown(folder, cells, rows, rankings, gain)
    (folder / "report.md").write_text(text, encoding="utf-8")
    data = {
        "schema": REPORT_SCHEMA,
        "cells": rows,
        "rankings": [
            {"measure": r.measure, "order": list(r.order), "ties_with_first": list(r.ties), "p_values": r.p_values}
            for r in rankings
        ],
        "speed": None
        if gain is None
        else {
            "wall_s": gain.wall_s,
            "one_by_one_s": gain.one_by_one_s,
            "one_by_one_measured": gain.measured,
            "one_by_one_measured_cells": gain.measured_cells,
            "most_at_once": gain.most_at_once,
            "speedup": gain.speedup,
        },
    }
    (folder / "report.json").write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    with (folder / "report.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]) if rows else ["label"])
        writer.writeheader()
        writer.writerows(rows)
    return text


def markdown(
    folder: Path,
    cells: Sequence[CellResult],
    rows: Sequence[dict[str, Any]],
    rankings: Sequence[Ranking],
    gain: Speed | None,
) -> str:
    """Return the report as Markdown."""
    lines = [f"# Evaluation: {folder.name}", ""]
    lines += verdicts(rankings)
    if gain is not None:
        lines += ["", speed_line(gain)]
    lines += ["", "| checkpoint | task | variant | seed | episodes | success | reward | length (steps) | status |"]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        status = row["status"] if row["status"] == "completed" else f"{row['status']}: {row['error'] or ''}"
        figures = [_figure(row, "success", 100.0, " %"), _figure(row, "reward"), _figure(row, "length")]
        first = [row["label"], row["task"], row["variant"] or "-", row["seed"], row["episodes"]]
        lines.append("| " + " | ".join(_cell(value) for value in [*first, *figures, status]) + " |")
    lines += ["", *_notes(cells)]
    return "\n".join(lines) + "\n"


def verdicts(rankings: Sequence[Ranking]) -> list[str]:
    """Return one sentence per measure: which checkpoint is best, or which of them tie."""
    found = []
    for r in rankings:
        if r.ties:
            found.append(
                f"Best by {r.measure}: {r.order[0]}, but {', '.join(r.ties)} may be as good "
                f"(p = {max(r.p_values[label] for label in r.ties):.2g}): a tie."
            )
        else:
            p = max(r.p_values.values())
            chance = f"p = {p:.1g}" if p >= 1e-4 else "p < 0.0001"
            found.append(f"Best by {r.measure}: {r.order[0]} ({chance} against the others).")
    return [f"- {sentence}" for sentence in found] or ["- One checkpoint, or none in common: nothing to rank."]


def speed_line(gain: Speed) -> str:
    """Return one sentence on what packing gained."""
    if gain.most_at_once == 1:
        return f"One by one: {gain.wall_s:.0f} s."
    how = "estimated from the cell that ran alone"
    if gain.measured_cells:
        how = "measured" if gain.measured else f"measured for {gain.measured_cells} of {gain.cells} cells"
    return (
        f"{gain.wall_s:.0f} s with up to {gain.most_at_once} at once; one by one {gain.one_by_one_s:.0f} s ({how}): "
        f"{gain.speedup:.2f} times as fast."
    )


def _notes(cells: Sequence[CellResult]) -> list[str]:
    lines = [
        "Intervals are 95 %: Wilson's for success, Student's t for means over episodes. Every environment plays the"
    ]
    lines[0] += " same number of episodes from the beginning."
    if any(cell.end.get("success_from") == "time_out" for cell in cells):
        lines.append("Success: the episode lasted to its time limit; the tasks report none of their own.")
    return lines


def _figure(row: dict[str, Any], name: str, scale: float = 1.0, unit: str = "") -> str:
    value, low, high = (row[key] for key in (name, f"{name}_low", f"{name}_high"))
    if value is None:
        return "-"
    if low is None:
        return f"{scale * value:.4g}{unit}"
    return f"{scale * value:.4g}{unit} ({scale * low:.4g} to {scale * high:.4g})"


def _cell(value: Any) -> str:
    return " ".join(str(value).replace("|", "\\|").split())
