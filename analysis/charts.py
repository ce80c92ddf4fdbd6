"""Vega-Lite specifications of the report's charts, as plain dicts.

Colours are CSS variables (``var(--c1)``), so that a page follows the reader's light or dark scheme, and paper, without drawing anew;
``figures.py`` puts the light values in for files. The palette is Okabe and Ito's, which colour-blind readers can tell apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paceline.analysis.summary import SPLIT
from paceline.analysis.units import known, ranks

Spec = dict[str, Any]
Row = Mapping[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"

# Light values; templates/report.css has the dark ones.
LIGHT = {
    **{
        "ink": "#1d2329",
        "muted": "#5b6570",
        "grid": "#e3e6e9",
        "axis": "#9aa3ac",
        "paper": "#ffffff",
        "shade": "#eceff2",
    },
    **{"c1": "#0072b2", "c2": "#d55e00", "c3": "#009e73", "c4": "#cc79a7", "c5": "#e69f00", "c6": "#56b4e9"},
    **{"c7": "#8a8f00", "c8": "#6b7280"},
}
PART_COLOURS = {
    "physics": "var(--c1)",
    "inference": "var(--c6)",
    "update": "var(--c3)",
    "communication": "var(--c2)",
    "imbalance": "var(--c5)",
    "other": "var(--c8)",
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

CONFIG: Spec = {
    "background": "transparent",
    "font": FONT,
    "view": {"stroke": None},
    "axis": {
        "domainColor": "var(--axis)",
        "tickColor": "var(--axis)",
        "gridColor": "var(--grid)",
        "labelColor": "var(--muted)",
        "titleColor": "var(--ink)",
        "labelFontSize": 12,
        "titleFontSize": 12.5,
        "titleFontWeight": 500,
        "titlePadding": 10,
        "labelPadding": 5,
        "tickSize": 4,
    },
    "axisX": {"grid": False},
    "axisY": {
        "domain": False,
        "ticks": False,
        "titleAngle": 0,
        "titleAlign": "left",
        "titleAnchor": "start",
        "titleX": 0,
        "titleY": -16,
    },
    "legend": {
        "labelColor": "var(--ink)",
        "titleColor": "var(--muted)",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": 500,
        "orient": "top",
        "direction": "horizontal",
        "symbolStrokeWidth": 2.5,
        "offset": 12,
    },
    "text": {"color": "var(--ink)", "fontSize": 12},
    "title": {"color": "var(--ink)", "fontSize": 13, "fontWeight": 600, "anchor": "start", "offset": 12},
}


def _spec(height: int, description: str, **rest: Any) -> Spec:
    base = {"$schema": SCHEMA, "width": "container", "height": height, "description": description, "padding": 4}
    return {**base, "autosize": {"type": "fit-x", "contains": "padding"}, "config": CONFIG, **rest}


def _sizes_axis(rows: Sequence[Row], device: str) -> Spec:
    """Return the x encoding over world sizes: linear for a few GPUs, logarithmic where linear would crowd the small ones."""
    sizes = [int(row["world_size"]) for row in rows]
    noun = "GPUs" if device == "cuda" else "CPU ranks"
    log = max(sizes) / min(sizes) > 16
    scale: Spec = {"type": "log", "base": 2} if log else {"type": "linear", "zero": False, "nice": False}
    span = max(sizes) - min(sizes) or 1
    scale["domain"] = (
        [min(sizes) * 0.85, max(sizes) * 1.3] if log else [min(sizes) - 0.06 * span, max(sizes) + 0.11 * span]
    )
    axis = {"values": sizes, "format": "d", "title": f"{noun} (world size)"}
    return {"field": "world_size", "type": "quantitative", "scale": scale, "axis": axis}


def speedup(
    rows: Sequence[Row], runs: Sequence[Row], device: str, *, efficiency: bool = False, height: int = 340
) -> Spec:
    """Return speed-up (or efficiency) against world size: ideal, median, 95 % interval, single runs, n.

    Args:
        rows: Scaling rows.
        runs: One row per run: ``world_size``, ``value`` (its speed-up or efficiency), ``hollow``, ``label``.
        device: ``cuda`` or ``cpu``.
        efficiency: Draw efficiency in percent, not speed-up.
        height: Pixels.
    """
    name, factor = ("efficiency", 100.0) if efficiency else ("speedup", 1.0)
    points = [row for row in rows if known(row[name])]
    first = points[0]["world_size"]
    data = [
        {
            "world_size": row["world_size"],
            "value": row[name] * factor,
            "low": row[f"{name}_low"] * factor if known(row[f"{name}_low"]) else None,
            "high": row[f"{name}_high"] * factor if known(row[f"{name}_high"]) else None,
            "n": f"n\u2009=\u2009{row['repeats']}",
            "text": f"{row[name] * factor:.0f}\u202f%" if efficiency else f"{row[name]:.2f}\u00d7",
            "who": ranks(row["world_size"], device),
        }
        for row in points
    ]
    singles = [{**run, "value": run["value"] * factor} for run in runs]
    sizes = [row["world_size"] for row in points]
    tops = [d["high"] or d["value"] for d in data] + [run["value"] for run in singles]
    if efficiency:
        title, ideal = "Efficiency in % (of the ideal, 100 %)", [{"world_size": s, "value": 100.0} for s in sizes]
        top = max([104.0, *tops]) * 1.02
    else:
        title = f"Speed-up against {ranks(first, device)}"
        ideal = [{"world_size": s, "value": s / first} for s in sizes]
        top = max([max(sizes) / first, *tops]) * 1.05
    x = _sizes_axis(points, device)
    y: Spec = {"field": "value", "type": "quantitative", "axis": {"title": title, "tickCount": 5}}
    y["scale"] = {"domain": [0, top], "nice": False}
    tip = [
        {"field": "who", "title": "size"},
        {"field": "value", "title": name, "format": ".2f"},
        {"field": "low", "title": "95 % from", "format": ".2f"},
        {"field": "high", "title": "to", "format": ".2f"},
        {"field": "n", "title": "repeats"},
    ]
    layers: list[Spec] = [
        {
            "data": {"values": ideal},
            "mark": {"type": "line", "color": "var(--muted)", "strokeDash": [5, 4], "strokeWidth": 1.4},
        },
        {
            "data": {"values": ideal[-1:]},
            "mark": {"type": "text", "color": "var(--muted)", "align": "left", "dx": 7, "baseline": "middle"},
            "encoding": {"text": {"value": "ideal"}},
        },
        {"data": {"values": data}, "mark": {"type": "line", "color": "var(--c1)", "strokeWidth": 2, "opacity": 0.55}},
        {
            "data": {"values": singles},
            "mark": {"type": "point", "size": 26, "strokeWidth": 1.3, "xOffset": -9},
            "encoding": {
                "fill": {"condition": {"test": "datum.hollow", "value": "var(--paper)"}, "value": "var(--axis)"},
                "stroke": {"condition": {"test": "datum.hollow", "value": "var(--c2)"}, "value": "var(--axis)"},
                "tooltip": [{"field": "label", "title": "run"}, {"field": "value", "title": name, "format": ".3f"}],
            },
        },
        {
            "data": {"values": [d for d in data if d["low"] is not None]},
            "mark": {
                "type": "errorbar",
                "ticks": {"size": 9, "color": "var(--c1)"},
                "rule": {"strokeWidth": 1.8, "color": "var(--c1)"},
            },
            "encoding": {"y": {"field": "low", "type": "quantitative", "title": title}, "y2": {"field": "high"}},
        },
        {
            "data": {"values": data},
            "mark": {"type": "point", "filled": True, "size": 62, "color": "var(--c1)", "opacity": 1},
            "encoding": {"tooltip": tip},
        },
        {
            "data": {"values": data},
            "mark": {"type": "text", "align": "left", "baseline": "top", "dx": 8, "dy": 6, "fontWeight": 600},
            "encoding": {"text": {"field": "text"}},
        },
        {
            "data": {"values": data},
            "mark": {"type": "text", "baseline": "bottom", "dy": -4, "color": "var(--muted)", "fontSize": 11},
            "encoding": {"text": {"field": "n"}, "y": {"datum": 0}},
        },
    ]
    return _spec(
        height, f"{title} over world size, with 95 % intervals over repeats", layer=layers, encoding={"x": x, "y": y}
    )


def split_bars(rows: Sequence[Row], device: str, *, cost: bool = False) -> Spec | None:
    """Return stacked bars per world size: milliseconds of one iteration per part, or GPU-seconds per million frames."""
    points = [row for row in rows if all(known(row[f"{part}_s"]) for part in SPLIT)]
    if not points or (cost and not all(known(row["cost_us"]) for row in points)):
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
    title = f"{unit} per million frames" if cost else "Milliseconds per iteration (device-complete)"
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
            "axis": {"title": title, "grid": True, "domain": False, "ticks": False, "tickCount": 5},
        },
        "color": {
            "field": "part",
            "type": "nominal",
            "scale": {"domain": list(SPLIT), "range": [PART_COLOURS[part] for part in SPLIT]},
            "legend": {"title": None, "symbolType": "square", "columns": 3},
        },
        "order": {"field": "order", "type": "quantitative"},
        "tooltip": [
            {"field": "size", "title": "size"},
            {"field": "part", "title": "part"},
            {"field": "value", "title": title, "format": ".3~f"},
            {"field": "share", "title": "share", "format": ".1%"},
        ],
    }
    mark = {"type": "bar", "height": {"band": 0.62}, "stroke": "var(--paper)", "strokeWidth": 1}
    spec = _spec(0, f"{title}, split over the parts of an iteration, per world size", mark=mark, encoding=encoding)
    return {**spec, "data": {"values": data}, "height": {"step": 38}}


def throughput(rows: Sequence[Row], warmup: int, title: str) -> Spec:
    """Return throughput per iteration of the runs of one world size, warm-up shaded."""
    top = max(row["fps"] for row in rows)
    layers: list[Spec] = []
    if warmup:
        layers += [
            {
                "data": {"values": [{"from": 0, "to": warmup - 0.5}]},
                "mark": {"type": "rect", "color": "var(--shade)"},
                "encoding": {"x": {"field": "from", "type": "quantitative"}, "x2": {"field": "to"}},
            },
            {
                "data": {"values": [{"from": 0}]},
                "mark": {
                    "type": "text",
                    "align": "left",
                    "baseline": "bottom",
                    "dx": 5,
                    "dy": -5,
                    "color": "var(--muted)",
                    "fontSize": 11,
                },
                "encoding": {
                    "x": {"field": "from", "type": "quantitative"},
                    "y": {"datum": 0},
                    "text": {"value": "warm-up"},
                },
            },
        ]
    names = list(dict.fromkeys(row["run"] for row in rows))
    x: Spec = {
        "field": "iteration",
        "type": "quantitative",
        "axis": {"title": "Iteration", "tickMinStep": 1, "tickCount": 6},
    }
    x["scale"] = {"nice": False, "zero": True}
    y: Spec = {"field": "fps", "type": "quantitative", "axis": {"title": "Frames/s", "format": "~s", "tickCount": 4}}
    y["scale"] = {"domain": [0, top * 1.06], "nice": False}
    line = {
        "data": {"values": list(rows)},
        "mark": {"type": "line", "strokeWidth": 1.4},
        "encoding": {
            "x": x,
            "y": y,
            "color": {
                "field": "run",
                "type": "nominal",
                "scale": _categorical(names),
                "legend": {"title": None, "columns": 3},
            },
            "tooltip": [
                {"field": "run"},
                {"field": "iteration"},
                {"field": "fps", "title": "frames/s", "format": ",.0f"},
            ],
        },
    }
    return _spec(170, f"{title}: throughput of each iteration", layer=[*layers, line], title=title)


def reward(rows: Sequence[Row], sizes: Sequence[str]) -> Spec:
    """Return mean episode reward over iterations, one line per world size, the range over repeats as a band."""
    colour = {"field": "size", "type": "nominal", "scale": _categorical(sizes), "legend": {"title": None}}
    x = {
        "field": "iteration",
        "type": "quantitative",
        "axis": {"title": "Iteration", "tickMinStep": 1},
        "scale": {"nice": False},
    }
    axis = {"title": "Mean episode reward", "tickCount": 5}
    band = {
        "mark": {"type": "area", "opacity": 0.16},
        "encoding": {
            "y": {"field": "low", "type": "quantitative", "axis": axis, "scale": {"zero": False}},
            "y2": {"field": "high"},
        },
    }
    tip = [{"field": "size"}, {"field": "iteration"}, {"field": "reward", "format": ".4~f"}]
    line = {
        "mark": {"type": "line", "strokeWidth": 1.8},
        "encoding": {"y": {"field": "reward", "type": "quantitative"}, "tooltip": tip},
    }
    description = "Mean episode reward over iterations, by world size"
    return {
        **_spec(260, description, layer=[band, line], encoding={"x": x, "color": colour}),
        "data": {"values": list(rows)},
    }


def gpu_use(rows: Sequence[Row], title: str) -> Spec:
    """Return GPU utilisation over time of one run: mean over its GPUs, lowest and highest as a band."""
    axis = {"title": "GPU utilisation in %", "values": [0, 25, 50, 75, 100]}
    y: Spec = {"field": "low", "type": "quantitative", "axis": axis, "scale": {"domain": [0, 100]}}
    layers: list[Spec] = [
        {"mark": {"type": "area", "color": "var(--c1)", "opacity": 0.2}, "encoding": {"y": y, "y2": {"field": "high"}}},
        {
            "mark": {"type": "line", "color": "var(--c1)", "strokeWidth": 1.5},
            "encoding": {
                "y": {"field": "util", "type": "quantitative"},
                "tooltip": [{"field": "t_s"}, {"field": "util"}],
            },
        },
    ]
    spec = _spec(150, f"{title}: GPU utilisation over time", layer=layers, encoding={"x": _time_axis()}, title=title)
    return {**spec, "data": {"values": list(rows)}}


def cpu_use(rows: Sequence[Row], title: str) -> Spec:
    """Return busy CPU cores over time of one run: those of the job, and those of the whole node."""
    names = ["this job", "whole node"]
    encoding = {
        "x": _time_axis(),
        "y": {
            "field": "cores",
            "type": "quantitative",
            "axis": {"title": "CPU cores busy", "tickCount": 4},
            "scale": {"zero": True},
        },
        "color": {"field": "who", "type": "nominal", "scale": _categorical(names), "legend": {"title": None}},
        "strokeDash": {
            "field": "who",
            "type": "nominal",
            "scale": {"domain": names, "range": [[1, 0], [4, 3]]},
            "legend": None,
        },
        "tooltip": [{"field": "who"}, {"field": "t_s", "title": "s"}, {"field": "cores"}],
    }
    spec = _spec(150, f"{title}: CPU cores busy over time", encoding=encoding, title=title)
    return {**spec, "mark": {"type": "line", "strokeWidth": 1.5}, "data": {"values": list(rows)}}


def _time_axis() -> Spec:
    return {
        "field": "t_s",
        "type": "quantitative",
        "axis": {"title": "Seconds since start", "tickCount": 6},
        "scale": {"nice": False},
    }


def _categorical(names: Sequence[str]) -> Spec:
    return {"domain": list(names), "range": [f"var(--c{1 + i % 8})" for i in range(len(names))]}
