"""Charts over iterations and over time, as Vega-Lite specifications in plain dicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paceline.analysis.chartstyle import SI, Spec, categorical, heading, spec

Row = Mapping[str, Any]


def throughput(rows: Sequence[Row], warmup: int, title: str) -> Spec:
    """Return throughput per iteration of the runs of one world size, warm-up shaded.

    Args:
        rows: ``iteration``, ``fps``, ``run`` (its name in the legend) and ``hollow`` (left out of the curves: dashed).
        warmup: Iterations of warm-up.
        title: What runs these are.
    """
    top = max(row["fps"] for row in rows)
    shade: list[Spec] = [
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
    line = {
        "data": {"values": list(rows)},
        "mark": {"type": "line", "strokeWidth": 1.4},
        "encoding": {
            "x": _iterations(),
            "y": {
                "field": "fps",
                "type": "quantitative",
                "axis": {"title": None, "labelExpr": SI, "tickCount": 4},
                "scale": {"domain": [0, top * 1.06], "nice": False},
            },
            "color": {
                "field": "run",
                "type": "nominal",
                "scale": categorical(names),
                "legend": {"title": None, "columns": 2, "symbolType": "stroke"},
            },
            "strokeDash": {"condition": {"test": "datum.hollow", "value": [4, 3]}, "value": [1, 0]},
            "tooltip": [
                {"field": "run"},
                {"field": "iteration"},
                {"field": "fps", "title": "frames/s", "format": ",.0f"},
            ],
        },
    }
    description = f"{title}: throughput of each iteration"
    return spec(150, description, layer=[*(shade if warmup else ()), line], title=heading(title, "frames/s"))


def reward(rows: Sequence[Row], sizes: Sequence[str]) -> Spec:
    """Return mean episode reward over iterations, a line per world size, the range over repeats as a band.

    Args:
        rows: ``iteration``, ``size`` (one of ``sizes``), ``reward``, ``low``, ``high``.
        sizes: Names of the lines, in the order of the legend.
    """
    legend = {"title": None, "symbolType": "stroke", "columns": 3}
    colour = {"field": "size", "type": "nominal", "scale": categorical(sizes), "legend": legend}
    low = {"field": "low", "type": "quantitative", "axis": {"title": None, "tickCount": 5}, "scale": {"zero": False}}
    band = {"mark": {"type": "area", "opacity": 0.16}, "encoding": {"y": low, "y2": {"field": "high"}}}
    tip = [{"field": "size"}, {"field": "iteration"}, {"field": "reward", "format": ".4~f"}]
    line = {
        "mark": {"type": "line", "strokeWidth": 1.8},
        "encoding": {"y": {"field": "reward", "type": "quantitative"}, "tooltip": tip},
    }
    chart = spec(
        240,
        "Mean episode reward over iterations, by world size",
        layer=[band, line],
        encoding={"x": _iterations(), "color": colour},
        title=heading("Reward", "mean episode reward"),
    )
    return {**chart, "data": {"values": list(rows)}}


def gpu_use(rows: Sequence[Row], title: str) -> Spec:
    """Return GPU utilisation over time of one run: mean over its GPUs, lowest and highest as a band."""
    axis = {"title": None, "values": [0, 25, 50, 75, 100]}
    low: Spec = {"field": "low", "type": "quantitative", "axis": axis, "scale": {"domain": [0, 100]}}
    tip = [{"field": "t_s", "title": "s"}, {"field": "util", "title": "%"}, {"field": "low"}, {"field": "high"}]
    layers: list[Spec] = [
        {
            "mark": {"type": "area", "color": "var(--c1)", "opacity": 0.2},
            "encoding": {"y": low, "y2": {"field": "high"}},
        },
        {
            "mark": {"type": "line", "color": "var(--c1)", "strokeWidth": 1.5},
            "encoding": {"y": {"field": "util", "type": "quantitative"}, "tooltip": tip},
        },
    ]
    description = f"{title}: GPU utilisation over time"
    chart = spec(130, description, layer=layers, encoding={"x": _seconds()}, title=heading(title, "GPU utilisation, %"))
    return {**chart, "data": {"values": list(rows)}}


def cpu_use(rows: Sequence[Row], title: str) -> Spec:
    """Return busy CPU cores over time of one run: those of the job, and those of the whole node."""
    names = ["this job", "whole node"]
    legend = {"title": None, "symbolType": "stroke"}
    encoding = {
        "x": _seconds(),
        "y": {
            "field": "cores",
            "type": "quantitative",
            "axis": {"title": None, "tickCount": 4},
            "scale": {"zero": True},
        },
        "color": {"field": "who", "type": "nominal", "scale": categorical(names), "legend": legend},
        "strokeDash": {"field": "who", "type": "nominal", "scale": {"domain": names, "range": [[1, 0], [4, 3]]}},
        "tooltip": [{"field": "who"}, {"field": "t_s", "title": "s"}, {"field": "cores"}],
    }
    description = f"{title}: CPU cores busy over time"
    chart = spec(130, description, encoding=encoding, title=heading(title, "CPU cores busy"))
    return {**chart, "mark": {"type": "line", "strokeWidth": 1.5}, "data": {"values": list(rows)}}


def _iterations() -> Spec:
    axis = {"title": "Iteration", "tickMinStep": 1, "tickCount": 8}
    return {"field": "iteration", "type": "quantitative", "axis": axis, "scale": {"nice": False, "zero": True}}


def _seconds() -> Spec:
    axis = {"title": "Seconds since the first sample", "tickCount": 6}
    return {"field": "t_s", "type": "quantitative", "axis": axis, "scale": {"nice": False}}
