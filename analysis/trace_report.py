"""Writes the trace report: trace.html with its picture and tables, and the same numbers as CSV and JSON.

The page shows one trace, or two side by side.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.resources import files
from pathlib import Path
from typing import Any

from paceline.analysis import diagnosis, trace_picture, trace_tables
from paceline.analysis.trace import Trace, compare
from paceline.analysis.units import significant
from paceline.bench.errors import TraceError

_MAX_SHARES = 12


def write(traces: Trace | Sequence[Trace], folder: str | os.PathLike[str]) -> Path:
    """Write the report of one trace, or of two side by side, into a folder and return the path of trace.html.

    Beside it: trace.json, ranges.csv, kernels.csv, gaps.csv, api.csv; with two traces each name ends in _a or _b, and
    comparison.csv is added. TraceError if the folder cannot be written.
    """
    sides = [traces] if isinstance(traces, Trace) else list(traces)
    if not 1 <= len(sides) <= 2:
        raise ValueError(f"{len(sides)} traces: one or two")
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = _data(sides, folder)
        page = folder / "trace.html"
        page.write_text(html(sides, names), encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise TraceError(f"{folder}: the trace report cannot be written ({error.strerror or error})") from error
    return page


def _data(sides: list[Trace], folder: Path) -> list[str]:
    """Write CSV and JSON and return the names of the files."""
    names = []
    for index, trace in enumerate(sides):
        end = f"_{'ab'[index]}" if len(sides) > 1 else ""
        name = f"trace{end}.json"
        (folder / name).write_text(json.dumps(trace.to_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        names.append(name)
        for table in ("ranges", "kernels", "gaps", "api"):
            names.append(f"{table}{end}.csv")
            _csv(folder / names[-1], getattr(trace, table))
    if len(sides) == 2:
        names.append("comparison.csv")
        _csv(folder / "comparison.csv", compare(*sides))
    return names


def _csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as CSV; values that are objects become one column per key."""
    flat: list[dict[str, Any]] = []
    for row in rows:
        out: dict[str, Any] = {}
        for key, value in row.items():
            if isinstance(value, dict):
                out |= {f"{key}_{inner}": one for inner, one in value.items()}
            else:
                out[key] = value
        flat.append(out)
    with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        writer = csv.DictWriter(stream, list(flat[0]) if flat else ["empty"])
        writer.writeheader()
        writer.writerows(flat)


def html(sides: list[Trace], names: Sequence[str]) -> str:
    """Return the self-contained page; ``names`` are the files beside it."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(_read), undefined=StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    two = len(sides) == 2
    return environment.get_template("trace.html.j2").render(
        title="Two traces" if two else f"Trace of {Path(sides[0].source).name}",
        headline=_compared(*sides) if two else "",
        sides=[_side(trace, "AB"[index]) for index, trace in enumerate(sides)],
        comparison=trace_tables.comparison(*sides) if two else None,
        files=names,
        made=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        css=_read("report.css") + _read("trace.css"),
        script=_read("report.js"),
    )


def _side(trace: Trace, letter: str) -> dict[str, Any]:
    """Return what the page shows of one trace."""
    picture = trace.timeline
    tables = dict.fromkeys(("ranges", "traffic", "balance", "gaps", "kernels", "graphs", "api"))
    return {
        "letter": letter,
        "name": Path(trace.source).name,
        "headline": trace.diagnosis[:1].upper() + trace.diagnosis[1:],
        "details": _details(trace),
        "numbers": _numbers(trace),
        "warnings": trace.warnings,
        "picture": trace_picture.svg(picture) if picture else "",
        "legend": trace_picture.legend(picture) if picture else [],
        "picture_title": f"One {picture['range']}, {_milliseconds(picture['range_s'])}" if picture else "",
        "picture_note": _picture_note(trace) if picture else "",
        "shares": _shares(trace),
        "tables": tables | trace_tables.all_tables(trace),
    }


def _details(trace: Trace) -> list[str]:
    details = trace.details
    gpus = [gpu for gpu in details.get("gpus", []) if gpu]
    kinds = ", ".join(f"{gpus.count(gpu)} \u00d7 {gpu}" for gpu in dict.fromkeys(gpus)) or "no GPU recorded"
    graphs = {
        "graph": "CUDA graphs recorded whole",
        "node": "CUDA graphs recorded kernel by kernel",
        "none": "no CUDA graphs",
    }[trace.graph_trace]
    count = len(trace.processes)
    ranks = f"{count} process{'es' if count != 1 else ''} with GPU work"
    return [
        f"{details['profiler']}; {kinds}; {ranks}; {graphs}.",
        f"{significant(details['span_s'])} s captured: {details['num_operations']:,} GPU operations, "
        f"{details['num_calls']:,} CUDA calls, {details['num_ranges']:,} ranges.",
    ]


def _numbers(trace: Trace) -> list[dict[str, str]]:
    """Return the numbers at the top, of the longest range of the rank that the diagnosis is about."""
    rows = diagnosis.deciding(trace)
    if not rows or not trace.processes:
        return []
    iterations = [row for row in rows if row["name"] == "iteration"] or rows
    row = max(iterations, key=lambda row: float(row["wall_s"]))
    if not row["wall_s"]:
        return []
    where = f"{row['name']}, rank {row['rank']}" if trace_tables.several_ranks(trace) else row["name"]
    each = row["wall_s"] / row["instances"]
    idle = 100 * row["gpu_idle_s"] / row["wall_s"]
    numbers = [
        {
            "value": _milliseconds(each),
            "label": f"per {row['name']}",
            "note": f"mean of {row['instances']:,}, profiled",
        },
        {"value": f"{idle:.0f}\u202f%", "label": "of it the GPU idles", "note": where},
        {
            "value": f"{row['launches'] / row['instances']:,.0f}",
            "label": f"launches per {row['name']}",
            "note": f"{row['launches'] / row['wall_s']:,.0f} per second",
        },
    ]
    if row["nccl_s"]:
        share = 100 * row["nccl_exposed_s"] / row["wall_s"]
        numbers.append(
            {
                "value": f"{share:.1f}\u202f%",
                "label": "NCCL that nothing hides",
                "note": f"of {_milliseconds(row['nccl_s'])} in all",
            }
        )
    return numbers


def _shares(trace: Trace) -> list[dict[str, Any]]:
    """Return per range of the same rank: percent of its wall time with GPU work, and idle inside CUDA calls."""
    if not trace.processes:
        return []
    out: list[dict[str, Any]] = []
    for row in diagnosis.deciding(trace):
        if not row["wall_s"] or len(out) == _MAX_SHARES:
            continue
        active = 100 * row["gpu_active_s"] / row["wall_s"]
        # Calls overlap GPU work by an amount that sums do not tell: what is certain is shown.
        waiting = max(min(100 * row["api_s"] / row["wall_s"], 100.0) - active, 0.0)
        each = _milliseconds(row["wall_s"] / row["instances"])
        out.append(
            {
                "name": row["name"],
                "active": round(active, 2),
                "waiting": round(waiting, 2),
                "text": f"{active:.0f}\u202f% GPU, {row['instances']:,} \u00d7 {each}",
            }
        )
    return out


def _picture_note(trace: Trace) -> str:
    picture = trace.timeline
    assert picture is not None
    who = f" of rank {picture['rank']}" if picture["rank"] is not None and trace_tables.several_ranks(trace) else ""
    note = (
        f"Instance {picture['instance'] + 1}{who}: the one of median length in the later half of the capture. "
        "Neighbours closer than a pixel are one block, paler the less of it is filled; point at a block for its name."
    )
    if trace.graph_trace == "graph":
        note += " A CUDA graph is one block from its first to its last kernel."
    return note


def _compared(a: Trace, b: Trace) -> str:
    """Return one sentence about two traces."""
    rows = [row for row in compare(a, b) if row["wall_s_ratio"]]
    whole = next((row for row in rows if row["name"] == "iteration"), None)
    whole = whole or max(rows, key=lambda row: float(row["wall_s_a"]), default=None)
    if whole is None:
        return "The two traces have no range in common"
    parts = [row for row in rows if row is not whole and row["name"] not in ("rollout",)]
    text = f"B takes {whole['wall_s_ratio']:.2f} times as long as A per {whole['name']}"
    grown = max(parts, key=lambda row: abs(row["wall_s_b"] - row["wall_s_a"]), default=None)
    return f"{text}; {grown['name']} changes most, by a factor of {grown['wall_s_ratio']:.2f}" if grown else text


def _milliseconds(seconds: float) -> str:
    return f"{significant(seconds * 1e3)}\u202fms"


def _read(name: str) -> str:
    return files("paceline.analysis").joinpath("templates", name).read_text(encoding="utf-8")
