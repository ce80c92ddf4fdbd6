"""Charts of a sweep, as Vega-Lite specifications in plain dicts: throughput, memory, power."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from paceline.analysis.charts import PART_COLOURS
from paceline.analysis.chartstyle import SI, Spec, heading, spec
from paceline.analysis.sweep import SweepAnalysis
from paceline.analysis.units import known


def charts(analysis: SweepAnalysis) -> dict[str, list[Spec]]:
    """Return the charts by section, empty where there is nothing to draw."""
    return {
        "throughput": [throughput(analysis)] if analysis.points else [],
        "resources": [
            chart for chart in (memory(analysis), power(analysis), efficiency(analysis), parts(analysis)) if chart
        ],
    }


def throughput(analysis: SweepAnalysis) -> Spec:
    """Return throughput over environments: runs, medians, the model with its knee, points left out hollow."""
    runs = [
        {
            "n": row["num_envs_per_rank"],
            "fps": row["total_fps"],
            "hollow": bool(row["excluded"]),
            "label": row["excluded"] or "valid",
        }
        for row in analysis.rows
        if known(row["total_fps"])
    ]
    points = [
        {
            "n": point["num_envs_per_rank"],
            "fps": point["total_fps"],
            "low": point["total_fps_low"],
            "high": point["total_fps_high"],
        }
        for point in analysis.points
    ]
    y = _axis("fps", "quantitative", {"labelExpr": SI, "tickCount": 5}, {"zero": True})
    layers: list[Spec] = []
    knee = analysis.fit.knee_envs if analysis.fit else None
    if knee is not None:
        layers.append(
            {
                "data": {"values": [{"from": knee.low, "to": knee.high}]},
                "mark": {"type": "rect", "color": "var(--shade)"},
                "encoding": {"x": _envs_axis(analysis, "from"), "x2": {"field": "to"}},
            }
        )
    if analysis.fit:
        layers.append(
            {
                "data": {"values": _model_line(analysis)},
                "mark": {"type": "line", "color": "var(--axis)", "strokeDash": [5, 4], "strokeWidth": 1.5},
                "encoding": {"x": _envs_axis(analysis), "y": y},
            }
        )
    hollow = {"test": "datum.hollow", "value": "transparent"}
    layers += [
        {
            "data": {"values": points},
            "mark": {"type": "line", "color": "var(--c1)", "strokeWidth": 2},
            "encoding": {"x": _envs_axis(analysis), "y": y},
        },
        {
            "data": {"values": runs},
            "mark": {"type": "point", "size": 70, "filled": True, "opacity": 1},
            "encoding": {
                "x": _envs_axis(analysis),
                "y": y,
                "fill": {"condition": hollow, "value": "var(--c1)"},
                "stroke": {"condition": {"test": "datum.hollow", "value": "var(--c2)"}, "value": "var(--c1)"},
                "tooltip": [
                    {"field": "n", "title": "environments", "format": ","},
                    {"field": "fps", "title": "frames/s", "format": ",.0f"},
                    {"field": "label", "title": "counts"},
                ],
            },
        },
        {
            "data": {"values": [point for point in points if point["low"] is not None]},
            "mark": {"type": "rule", "color": "var(--c1)", "strokeWidth": 1.8},
            "encoding": {
                "x": _envs_axis(analysis),
                "y": {"field": "low", "type": "quantitative"},
                "y2": {"field": "high"},
            },
        },
        *_marks(analysis, y),
    ]
    return spec(
        320,
        "Throughput over the number of environments",
        layer=layers,
        title=heading("Throughput over environments", "frames/s"),
    )


def _marks(analysis: SweepAnalysis, y: Spec) -> list[Spec]:
    """Return the recommended points, named."""
    at = {point["num_envs_per_rank"]: point["total_fps"] for point in analysis.points}
    names: dict[int, list[str]] = {}
    for each in analysis.recommendations:
        names.setdefault(each.num_envs, []).append(each.purpose)
    data = [{"n": n, "fps": at[n], "text": ", ".join(texts)} for n, texts in names.items()]
    right = [row for row in data if row["n"] <= min(at) * 2]
    left = [row for row in data if row not in right]
    return [
        {
            "data": {"values": rows},
            "mark": {"type": "text", "align": align, "fontWeight": 600, **place},
            "encoding": {"x": _envs_axis(analysis), "y": y, "text": {"field": "text"}},
        }
        for rows, align, place in (
            (left, "right", {"baseline": "bottom", "dy": -9}),
            (right, "left", {"baseline": "top", "dx": 4, "dy": 8}),  # beside a curve that rises from here
        )
        if rows
    ]


def memory(analysis: SweepAnalysis) -> Spec | None:
    """Return memory in use over environments, the line through it, and where the device's memory ends."""
    key = (
        "gpu_memory_used_bytes"
        if any(known(row["gpu_memory_used_bytes"]) for row in analysis.rows)
        else "rank_memory_bytes"
    )
    data = [{"n": row["num_envs_per_rank"], "gb": row[key] / 1e9} for row in analysis.rows if known(row[key])]
    if not data:
        return None
    y = _axis("gb", "quantitative", {"tickCount": 4}, {"zero": True})
    layers: list[Spec] = []
    if analysis.memory is not None:
        counts = sorted({row["n"] for row in data})
        slope = analysis.memory.bytes_per_env.value or 0.0
        line = [{"n": n, "gb": (analysis.memory.fixed_bytes + slope * n) / 1e9} for n in counts]
        layers.append(
            {
                "data": {"values": line},
                "mark": {"type": "line", "color": "var(--axis)", "strokeDash": [5, 4]},
                "encoding": {"x": _envs_axis(analysis), "y": y},
            }
        )
        if analysis.memory.total_bytes:
            layers.append(
                {
                    "data": {"values": [{"gb": analysis.memory.total_bytes / 1e9}]},
                    "mark": {"type": "rule", "color": "var(--c2)", "strokeWidth": 1.5},
                    "encoding": {"y": {"field": "gb", "type": "quantitative"}},
                }
            )
    layers.append(_dots(analysis, data, "gb", "GB", y))
    name = "Device memory in use" if key == "gpu_memory_used_bytes" else "Memory of a rank"
    return spec(
        170, f"{name} over environments", layer=layers, title=heading(name, "GB; the line across is all there is")
    )


def power(analysis: SweepAnalysis) -> Spec | None:
    """Return power over environments."""
    data = [{"n": p["num_envs_per_rank"], "w": p["gpu_power_w"]} for p in analysis.points if known(p["gpu_power_w"])]
    if not data:
        return None
    y = _axis("w", "quantitative", {"tickCount": 4}, {"zero": True})
    layers = [_dots(analysis, data, "w", "W", y)]
    return spec(170, "Power over environments", layer=layers, title=heading("Power, all GPUs", "W"))


def efficiency(analysis: SweepAnalysis) -> Spec | None:
    """Return frames per joule over environments."""
    data = [{"n": p["num_envs_per_rank"], "f": p["frames_per_j"]} for p in analysis.points if known(p["frames_per_j"])]
    if not data:
        return None
    y = _axis("f", "quantitative", {"tickCount": 4}, {"zero": True})
    layers = [_dots(analysis, data, "f", "frames/J", y)]
    return spec(170, "Frames per joule over environments", layer=layers, title=heading("Energy", "frames per joule"))


def parts(analysis: SweepAnalysis) -> Spec | None:
    """Return milliseconds of an iteration by part, over environments."""
    names = ("physics", "inference", "update", "communication", "other")
    points = [point for point in analysis.points if known(point["physics_s"])]
    data = [
        {"n": f"{point['num_envs_per_rank']:,}", "part": name, "ms": point[f"{name}_s"] * 1e3, "order": order}
        for point in points
        for order, name in enumerate(names)
        if known(point[f"{name}_s"])
    ]
    if not data:
        return None
    used = [name for name in names if any(row["part"] == name and row["ms"] > 0 for row in data)]
    encoding = {
        "x": {
            "field": "n",
            "type": "nominal",
            "sort": None,
            "axis": {"title": "Environments per GPU", "labelAngle": 0},
        },
        "y": _axis("ms", "quantitative", {"tickCount": 4}, {"zero": True}),
        "color": {
            "field": "part",
            "type": "nominal",
            "scale": {"domain": used, "range": [PART_COLOURS[name] for name in used]},
            "legend": {"title": None, "symbolType": "square"},
        },
        "order": {"field": "order", "type": "quantitative"},
        "tooltip": [{"field": "n"}, {"field": "part"}, {"field": "ms", "format": ".1f"}],
    }
    chart = spec(
        170,
        "Parts of an iteration over environments",
        mark={"type": "bar", "stroke": "var(--paper)", "strokeWidth": 1},
        encoding=encoding,
        title=heading("One iteration, by part", "ms, device-complete"),
    )
    return {**chart, "data": {"values": [row for row in data if row["part"] in used]}}


def _dots(analysis: SweepAnalysis, data: Sequence[dict[str, Any]], field: str, unit: str, y: Spec) -> Spec:
    return {
        "data": {"values": list(data)},
        "mark": {"type": "point", "filled": True, "size": 55, "color": "var(--c1)", "opacity": 1},
        "encoding": {
            "x": _envs_axis(analysis),
            "y": y,
            "tooltip": [
                {"field": "n", "title": "environments", "format": ","},
                {"field": field, "title": unit, "format": ",.3~f"},
            ],
        },
    }


def _axis(field: str, kind: str, axis: Spec, scale: Spec) -> Spec:
    return {"field": field, "type": kind, "axis": {"title": None, **axis}, "scale": scale}


def _envs_axis(analysis: SweepAnalysis, field: str = "n") -> Spec:
    counts = sorted({row["num_envs_per_rank"] for row in analysis.rows})
    low, high = min(counts), max(counts)
    powers = [2**k for k in range(int(low).bit_length() - 1, int(high).bit_length() + 1) if low <= 2**k <= high]
    names = "datum.value >= 1024 && datum.value % 1024 == 0 ? datum.value / 1024 + 'k' : datum.value"
    return {
        "field": field,
        "type": "quantitative",
        "scale": {"type": "log", "base": 2, "domain": [low / 1.3, high * 1.3], "nice": False, "clamp": True},
        "axis": {
            "values": powers or counts,
            "labelExpr": names,
            "title": "Environments per GPU (k = 1,024)"
            if analysis.facts.get("device") != "cpu"
            else "Environments per rank",
        },
    }


def _model_line(analysis: SweepAnalysis) -> list[dict[str, float]]:
    assert analysis.fit is not None
    counts = [point["num_envs_per_rank"] for point in analysis.points]
    grid = np.geomspace(min(counts), max(counts), 60)
    return [{"n": float(n), "fps": analysis.fit.model.rate(float(n))} for n in grid]
