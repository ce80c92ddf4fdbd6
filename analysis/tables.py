"""The tables of the report: columns, titles and formats, shared by HTML, Markdown and terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paceline.analysis.finding import Finding
from paceline.analysis.summary import SPLIT
from paceline.analysis.units import NONE, interval, known, show

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One column: a key of the row, its title, and how its numbers are printed (``text``: as they are)."""

    key: str
    title: str
    form: str
    bounds: bool = False
    """Print the 95 % interval (key_low, key_high) beside the value."""

    @property
    def numeric(self) -> bool:
        """Whether the column holds numbers."""
        return self.form != "text"

    def text(self, row: Row) -> str:
        """Return the cell as text, without its interval."""
        value = row.get(self.key)
        if self.form == "text":
            return NONE if value in (None, "") else str(value)
        return show(value, self.form)

    def interval(self, row: Row) -> str:
        """Return the interval as text, empty if there is none."""
        return interval(row.get(f"{self.key}_low"), row.get(f"{self.key}_high"), self.form) if self.bounds else ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its rows, ready to be printed."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


def scaling(rows: Sequence[Row], kind: str, device: str) -> Table:
    """Return the main table."""
    unit = "GPUs" if device == "cuda" else "Ranks"
    columns = [Column("world_size", unit, "plain")]
    if any((row.get("num_nodes") or 1) > 1 for row in rows):
        columns.append(Column("num_nodes", "Nodes", "plain"))
    columns += [
        Column("num_envs", "Envs, all ranks", "count"),
        Column("num_envs_per_rank", "Envs per rank", "count"),
        Column("global_batch", "Global batch", "count"),
        Column("repeats", "n", "plain"),
        Column("total_fps", "Frames/s", "fps", bounds=True),
        Column("speedup", "Speed-up" if kind == "strong" else "Scaled speed-up", "ratio", bounds=True),
        Column("efficiency", "Efficiency %", "percent", bounds=True),
        Column("iteration_time_s", "Iteration ms", "ms", bounds=True),
        Column("status", "Status", "text"),
    ]
    return Table("scaling", "Scaling", tuple(columns), tuple(rows))


def rates(rows: Sequence[Row], device: str) -> Table:
    """Return the rates of each part: undisturbed ones with their interval, those of sync iterations likewise."""
    unit = "GPUs" if device == "cuda" else "Ranks"
    columns = [
        Column("world_size", unit, "plain"),
        Column("total_fps", "Total frames/s", "fps", bounds=True),
        Column("collection_fps", "Collection frames/s", "fps", bounds=True),
        Column("step_inference_fps", "Step + inference frames/s (sync)", "fps", bounds=True),
        Column("step_fps", "Step frames/s (sync)", "fps", bounds=True),
    ]
    return Table("rates", "Rates", tuple(columns), tuple(rows))


def parts(rows: Sequence[Row], device: str) -> Table:
    """Return milliseconds per part of a device-complete iteration, and the spread between ranks."""
    unit = "GPUs" if device == "cuda" else "Ranks"
    columns = [Column("world_size", unit, "plain")]
    columns += [Column(f"{part}_s", f"{part.capitalize()} ms", "ms") for part in SPLIT]
    columns += [
        Column("sync_iteration_s", "Sum ms", "ms"),
        Column("sync_overhead_pct", "Sync overhead %", "pct"),
    ]
    return Table("parts", "Parts of an iteration", tuple(columns), tuple(rows))


def losses(rows: Sequence[Row], device: str) -> Table:
    """Return the attribution of the lost efficiency, in points of efficiency; the parts sum to the loss."""
    unit = "GPUs" if device == "cuda" else "Ranks"
    shown = [{**row, "lost": 1.0 - row["efficiency"] if known(row["efficiency"]) else None} for row in rows]
    columns = [Column("world_size", unit, "plain"), Column("lost", "Lost, points", "points")]
    columns += [Column(f"loss_{part}", part.capitalize(), "points") for part in SPLIT]
    columns.append(Column("cost_us", "Cost, \u00b5s per frame", "number"))
    return Table("losses", "Where the efficiency went", tuple(columns), tuple(shown))


def between_ranks(rows: Sequence[Row], device: str) -> Table:
    """Return the POP efficiencies: parallel = load balance x serialisation x transfer; 100 % is ideal."""
    columns = [
        Column("world_size", "GPUs" if device == "cuda" else "Ranks", "plain"),
        Column("pop_parallel_efficiency", "POP parallel efficiency %", "percent"),
        Column("pop_load_balance", "Load balance %", "percent"),
        Column("pop_serialisation", "Serialisation %", "percent"),
        Column("pop_transfer", "Transfer %", "percent"),
        Column("pop_computation_scaling", "Computation scaling %", "percent"),
        Column("rank_spread_pct", "Rank spread %", "pct"),
    ]
    return Table("between_ranks", "Between ranks", tuple(columns), tuple(rows))


def resources(rows: Sequence[Row], device: str, currency: str | None = None) -> Table:
    """Return what each world size used; with costs if the cluster profile has a price."""
    cuda = device == "cuda"
    columns = [Column("world_size", "GPUs" if cuda else "Ranks", "plain")]
    if cuda:
        columns += [
            Column("gpu_util_pct", "GPU use %", "pct"),
            Column("power_w", "Power W, all GPUs", "count"),
            Column("energy_j_per_million_frames", "Energy J per million frames", "number"),
            Column("frames_per_joule", "Frames per joule", "count"),
        ]
        if any(row.get("power_limited_pct") for row in rows):
            columns.append(Column("power_limited_pct", "At power limit, % of samples", "pct"))
    columns.append(Column("gpu_hours", "GPU-hours, all attempts" if cuda else "Rank-hours, all attempts", "hours"))
    if currency is not None:
        columns += [
            Column("cost_per_million_frames", f"{currency} per million frames", "number"),
            Column("cost", f"{currency}, all attempts", "number"),
        ]
    return Table("resources", "Resources", tuple(columns), tuple(rows))


def learning(rows: Sequence[Row], kind: str, device: str, threshold: float | None) -> Table:
    """Return the time to reward: throughput speed-up, statistical efficiency, and their product."""
    columns = [
        Column("world_size", "GPUs" if device == "cuda" else "Ranks", "plain"),
        Column("global_batch", "Global batch", "count"),
        Column("optimizer_steps_per_iteration", "Optimiser steps per iteration", "count"),
        Column("minibatch_size_per_rank", "Mini-batch per rank", "count"),
    ]
    if threshold is not None:
        columns += [
            Column("frames_to_reward", "Frames to reward", "large"),
            Column("runs_reaching_reward", "Runs reaching it", "plain"),
            Column("time_to_reward_s", "Time to reward s", "number"),
            Column("speedup", "Speed-up" if kind == "strong" else "Scaled speed-up", "ratio", bounds=True),
            Column("statistical_efficiency", "\u00d7 statistical efficiency", "ratio", bounds=True),
            Column("time_to_reward_speedup", "= speed-up in time to reward", "ratio", bounds=True),
        ]
    columns += [
        Column("mean_reward", "Mean reward, equal frames", "number"),
        Column("final_reward", "Final reward", "number"),
    ]
    return Table("learning", "Time to reward", tuple(columns), tuple(rows))


def serial(rows: Sequence[Row], kind: str, device: str) -> Table:
    """Return the serial fraction that each point shows, and the efficiency of each step between points."""
    name = "Karp\u2013Flatt serial fraction" if kind == "strong" else "Scaled serial fraction"
    columns = (
        Column("world_size", "GPUs" if device == "cuda" else "Ranks", "plain"),
        Column("serial_fraction", name, "fraction"),
        Column("incremental_efficiency", "Incremental efficiency %", "percent"),
    )
    return Table("serial", name, columns, tuple(rows))


def laws(rows: Sequence[Row]) -> Table:
    """Return what the scaling laws say, or why they cannot be fitted."""
    columns = (
        Column("law", "Law", "text"),
        Column("parameter", "Parameter", "text"),
        Column("value", "Value", "fraction", bounds=True),
        Column("leave_one_out_low", "Leave one out, least", "fraction"),
        Column("leave_one_out_high", "Leave one out, most", "fraction"),
        Column("rms_log_residual", "Residual %", "percent"),
        Column("aicc", "AICc", "number"),
        *([Column("peak_world_size", "Peak at N", "number")] if any(row["peak_world_size"] for row in rows) else []),
        Column("next_world_size", "Extrapolated to N", "plain"),
        Column("next_speedup", "Speed-up there", "ratio", bounds=True),
        Column("reason", "Not identifiable because", "text"),
    )
    # The interval of the value lies under low and high.
    shown = tuple({**row, "value_low": row["low"], "value_high": row["high"]} for row in rows)
    return Table("laws", "Scaling laws", columns, shown)


def finding_row(finding: Finding) -> dict[str, str]:
    """Return a finding as a row of text, ``rows`` joined by spaces."""
    return {**finding.to_json(), "rows": " ".join(map(str, finding.rows))}


def findings(found: Sequence[Finding]) -> Table:
    """Return what the honesty checks found, errors first."""
    columns = (
        Column("severity", "Severity", "text"),
        Column("id", "Check", "text"),
        Column("message", "What", "text"),
        Column("advice", "What to do", "text"),
        Column("rows", "Runs", "text"),
    )
    return Table("findings", "Findings", columns, tuple(finding_row(finding) for finding in found))


def runs(rows: Sequence[Row]) -> Table:
    """Return every attempt, whatever became of it."""
    columns = (
        Column("world_size", "World size", "plain"),
        Column("repeat", "Repeat", "plain"),
        Column("attempt", "Attempt", "plain"),
        Column("kind", "Kind", "text"),
        Column("status", "Status", "text"),
        Column("total_fps", "Frames/s", "fps"),
        Column("iteration_median_s", "Median ms", "ms"),
        Column("iteration_p95_s", "95th percentile ms", "ms"),
        Column("rank_spread_pct", "Rank spread %", "pct"),
        Column("wall_s", "Wall s", "number"),
        Column("note", "Note", "text"),
        Column("case_id", "Case", "text"),
    )
    return Table("runs", "Runs", columns, tuple(rows))


def markdown(table: Table) -> str:
    """Return the table in GitHub's Markdown."""
    head = "| " + " | ".join(column.title for column in table.columns) + " |"
    rule = "|" + "|".join("---:" if column.numeric else "---" for column in table.columns) + "|"
    lines = [head, rule]
    for row in table.rows:
        cells = []
        for column in table.columns:
            bounds = column.interval(row)
            text = column.text(row) + (f" ({bounds})" if bounds else "")
            cells.append(plain_text(text))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plain_text(text: str) -> str:
    """Return text for Markdown that cannot break a table or start markup: it may come from a log."""
    text = re.sub(r"[ \t\r\n\f\v]+", " ", text)  # not the thin spaces before units
    for character in ("\\", "|", "`", "*", "_", "[", "]", "#"):
        text = text.replace(character, "\\" + character)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


_LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
          "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\u2013": "--", "\u2014": "---", "\u2212": "$-$",
          "\u00b5": r"$\mu$", "\u00d7": r"$\times$", "\u202f": r"\,"}  # fmt: skip


def latex(table: Table) -> str:
    """Return the table as LaTeX for the package booktabs; intervals stand in brackets."""

    def text(value: str) -> str:
        return "".join(_LATEX.get(character, character) for character in value)

    align = "".join("r" if column.numeric else "l" for column in table.columns)
    lines = [rf"\begin{{tabular}}{{{align}}}", r"\toprule"]
    lines += [" & ".join(text(column.title) for column in table.columns) + r" \\", r"\midrule"]
    for row in table.rows:
        cells = []
        for column in table.columns:
            bounds = column.interval(row)
            cells.append(text(column.text(row)) + (f" [{text(bounds)}]" if bounds else ""))
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])
