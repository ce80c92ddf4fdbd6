"""Charts over world size, as Vega-Lite specifications in plain dicts: speed-up, efficiency, parts of an iteration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paceline.analysis.chartstyle import Spec, heading, spec
from paceline.analysis.summary import SPLIT
from paceline.analysis.units import known, ranks

Row = Mapping[str, Any]

PART_COLOURS = {
    "physics": "var(--c1)",
    "inference": "var(--c6)",
    "update": "var(--c3)",
    "communication": "var(--c2)",
    "imbalance": "var(--c5)",
    "other": "var(--c8)",
}


def speedup(rows: Sequence[Row], runs: Sequence[Row], kind: str, device: str) -> Spec:
    """Return speed-up against world size: ideal, median, 95 % interval, single runs, n.

    Args:
        rows: Scaling rows.
        runs: One row per run: ``world_size``, ``value`` (its speed-up), ``hollow``, ``label``.
        kind: ``strong`` or ``weak``.
        device: ``cuda`` or ``cpu``.
    """
    points = [row for row in rows if known(row["speedup"])]
    first = points[0]["world_size"]
    name = "Speed-up" if kind == "strong" else "Scaled speed-up"
    title = heading(f"{name} against {ranks(first, device)}", "times the throughput, median and 95\u202f% interval")
    data = [_point(row, "speedup", 1.0, f"{row['speedup']:.2f}\u00d7", device) for row in points]
    ideal = [{"world_size": row["world_size"], "value": row["world_size"] / first} for row in points]
    return _against_size(title, data, ideal, runs, device, 340)


def efficiency(rows: Sequence[Row], runs: Sequence[Row], device: str) -> Spec:
    """Return efficiency in percent against world size; arguments as for speedup."""
    points = [row for row in rows if known(row["efficiency"])]
    title = heading("Efficiency", "% of ideal, median and 95\u202f% interval")
    data = [_point(row, "efficiency", 100.0, f"{row['efficiency'] * 100:.1f}\u202f%", device) for row in points]
    ideal = [{"world_size": row["world_size"], "value": 100.0} for row in points]
    return _against_size(title, data, ideal, [{**run, "value": run["value"] * 100.0} for run in runs], device, 240)


def _point(row: Row, name: str, factor: float, text: str, device: str) -> Row:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return {
        "world_size": row["world_size"],
        "value": row[name] * factor,
        "low": low * factor if known(low) else None,
        "high": high * factor if known(high) else None,
        "n": f"n\u2009=\u2009{row['repeats']}",
        "text": text,
        # Beside a rising line there is room below, beside a falling one above, unless the ideal line is there.
        "above": name == "efficiency" and row[name] < 0.9,
        "who": ranks(row["world_size"], device),
    }


def _against_size(
    title: Spec, data: Sequence[Row], ideal: Sequence[Row], runs: Sequence[Row], device: str, height: int
) -> Spec:
    """Return the layers that speed-up and efficiency share."""
    top = max(float(row.get("high") or row["value"]) for row in (*data, *ideal, *runs))
    encoding: Spec = {
        "x": _sizes_axis(data, device),
        "y": {
            "field": "value",
            "type": "quantitative",
            "axis": {"title": None, "tickCount": 5},
            "scale": {"domain": [0, top * 1.06], "nice": False},
        },
    }
    tip = [
        {"field": "who", "title": "size"},
        {"field": "value", "title": "median", "format": ".2f"},
        {"field": "low", "title": "95\u202f% from", "format": ".2f"},
        {"field": "high", "title": "to", "format": ".2f"},
        {"field": "n", "title": "repeats"},
    ]
    bars = [row for row in data if row["low"] is not None]
    hollow = {"test": "datum.hollow", "value": "var(--paper)"}
    edge = {"test": "datum.hollow", "value": "var(--c2)"}
    layers: list[Spec] = [
        {"data": {"values": ideal}, "mark": {"type": "line", "color": "var(--muted)", "strokeDash": [5, 4]}},
        {
            "data": {"values": ideal[-1:]},
            "mark": {"type": "text", "color": "var(--muted)", "align": "left", "dx": 8, "baseline": "middle"},
            "encoding": {"text": {"value": "ideal"}},
        },
        {"data": {"values": data}, "mark": {"type": "line", "color": "var(--c1)", "strokeWidth": 2, "opacity": 0.5}},
        {
            "data": {"values": runs},
            "mark": {"type": "point", "size": 24, "strokeWidth": 1.3, "xOffset": -11, "opacity": 0.9},
            "encoding": {
                "fill": {"condition": hollow, "value": "var(--axis)"},
                "stroke": {"condition": edge, "value": "var(--axis)"},
                "tooltip": [{"field": "label", "title": "run"}, {"field": "value", "format": ".3f"}],
            },
        },
        {
            "data": {"values": bars},
            "mark": {"type": "rule", "color": "var(--c1)", "strokeWidth": 1.8},
            "encoding": {"y": {"field": "low", "type": "quantitative"}, "y2": {"field": "high"}},
        },
        *(
            {
                "data": {"values": bars},
                "mark": {"type": "tick", "color": "var(--c1)", "orient": "horizontal", "size": 10, "thickness": 1.8},
                "encoding": {"y": {"field": end, "type": "quantitative"}},
            }
            for end in ("low", "high")
        ),
        {
            "data": {"values": data},
            "mark": {"type": "point", "filled": True, "size": 60, "color": "var(--c1)", "opacity": 1},
            "encoding": {"tooltip": tip},
        },
        *(
            {
                "data": {"values": [row for row in data[1:] if row["above"] == above]},
                "mark": {"type": "text", "align": "left", "fontWeight": 600, "dx": 9, **place},
                "encoding": {"text": {"field": "text"}},
            }
            for above, place in ((False, {"baseline": "top", "dy": 7}), (True, {"baseline": "bottom", "dy": -6}))
        ),
        {
            "data": {"values": data},
            "mark": {"type": "text", "baseline": "bottom", "dy": -4, "color": "var(--muted)", "fontSize": 11},
            "encoding": {"text": {"field": "n"}, "y": {"datum": 0}},
        },
    ]
    description = f"{title['text']} over world size, with 95 % intervals over repeats"
    return spec(height, description, layer=layers, encoding=encoding, title=title)


def _sizes_axis(rows: Sequence[Row], device: str) -> Spec:
    """Return the x encoding over world sizes: linear, or logarithmic where linear would crowd the small ones."""
    sizes = [int(row["world_size"]) for row in rows]
    smallest, largest = min(sizes), max(sizes)
    span = largest - smallest or 1
    if largest / smallest > 16:
        scale: Spec = {"type": "log", "base": 2, "domain": [smallest * 0.85, largest * 1.35]}
    else:
        scale = {"type": "linear", "zero": False, "domain": [smallest - 0.06 * span, largest + 0.12 * span]}
    noun = "GPUs" if device == "cuda" else "CPU ranks"
    axis = {"values": sizes, "format": "d", "title": f"{noun} (world size)"}
    return {"field": "world_size", "type": "quantitative", "scale": {**scale, "nice": False}, "axis": axis}


def split_bars(rows: Sequence[Row], device: str, *, cost: bool = False, legend: bool = True) -> Spec | None:
    """Return stacked bars per world size: milliseconds of an iteration by part, or what a million frames cost.

    Args:
        rows: Scaling rows.
        device: ``cuda`` or ``cpu``.
        cost: Draw GPU-seconds (rank-seconds) per million frames, the measure in which the loss adds up.
        legend: Draw the legend; a page with several of these charts has one for all.
    """
    points = [row for row in rows if known(row["total_fps"]) and all(known(row[f"{part}_s"]) for part in SPLIT)]
    if not points:
        return None
    data = []
    for row in points:
        total = sum(row[f"{part}_s"] for part in SPLIT)
        for order, part in enumerate(SPLIT):
            share = row[f"{part}_s"] / total
            value = share * row["cost_us"] if cost else row[f"{part}_s"] * 1e3
            label = f"{ranks(row['world_size'], device)}, n\u2009=\u2009{row['repeats']}"
            data.append({"size": label, "part": part, "order": order, "value": value, "share": share})
    unit = "GPU-seconds" if device == "cuda" else "rank-seconds"
    title = heading("Cost of a million frames" if cost else "One iteration", f"{unit}" if cost else "milliseconds")
    encoding = {
        "y": {
            "field": "size",
            "type": "nominal",
            "sort": None,
            "axis": {"title": None, "labelColor": "var(--ink)", "labelPadding": 8},
        },
        "x": {
            "field": "value",
            "type": "quantitative",
            "stack": "zero",
            "axis": {"title": None, "grid": True, "domain": False, "ticks": False, "tickCount": 5},
        },
        "color": {
            "field": "part",
            "type": "nominal",
            "scale": {"domain": list(SPLIT), "range": [PART_COLOURS[part] for part in SPLIT]},
            "legend": {"title": None, "symbolType": "square", "columns": 3} if legend else None,
        },
        "order": {"field": "order", "type": "quantitative"},
        "tooltip": [
            {"field": "size", "title": "size"},
            {"field": "part", "title": "part"},
            {"field": "value", "title": unit if cost else "ms", "format": ".3~f"},
            {"field": "share", "title": "share", "format": ".1%"},
        ],
    }
    mark = {"type": "bar", "height": {"band": 0.62}, "stroke": "var(--paper)", "strokeWidth": 1}
    description = f"{title['text']}, split over the parts of an iteration, per world size"
    chart = spec(38 * len(points), description, mark=mark, encoding=encoding, title=title)
    return {**chart, "data": {"values": data}}
