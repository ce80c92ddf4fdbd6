"""Charts of a GPU comparison, as Vega-Lite specifications in plain dicts: throughput, phases, per unit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paceline.analysis.charts import PART_COLOURS
from paceline.analysis.chartstyle import SI, Spec, heading, spec
from paceline.analysis.gpurows import KEY, PHASES
from paceline.analysis.gpus import GpuComparison
from paceline.analysis.units import known

_MOST_CASES = 6


def charts(comparison: GpuComparison) -> dict[str, list[Spec]]:
    """Return the charts by section: a chart for each case that more than one side ran, at most six."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for case in comparison.cases:
        if known(case["total_fps"]):
            groups.setdefault(tuple(case[name] for name in KEY), []).append(case)
    shared = [cases for cases in groups.values() if len(cases) > 1][:_MOST_CASES]
    several = len(shared) > 1
    phases = [chart for cases in shared if (chart := _phases(cases, several)) is not None]
    per = [chart for cases in shared[:2] for chart in _per_unit(cases, comparison.currency, several)]
    return {"throughput": [_throughput(cases, several) for cases in shared], "phases": phases, "per": per}


def _name(case: dict[str, Any], several: bool, title: str) -> str:
    if not several:
        return title
    envs = f", {case['num_envs_per_rank']:,} envs" if case["num_envs_per_rank"] else ""
    return f"{title}: {case['task']}{envs}, {case['world_size']} GPU"


def _throughput(cases: Sequence[dict[str, Any]], several: bool) -> Spec:
    data = [
        {
            "side": case["side"],
            "fps": case["total_fps"],
            "low": case["total_fps_low"],
            "high": case["total_fps_high"],
            "text": f"n\u2009=\u2009{case['repeats']}",
        }
        for case in cases
    ]
    x = {
        "field": "fps",
        "type": "quantitative",
        "axis": {"title": None, "labelExpr": SI, "tickCount": 5, "grid": True, "domain": False},
        "scale": {"zero": True},
    }
    layers: list[Spec] = [
        {
            "mark": {"type": "bar", "color": "var(--c1)", "height": {"band": 0.6}},
            "encoding": {
                "x": x,
                "tooltip": [
                    {"field": "side"},
                    {"field": "fps", "title": "frames/s", "format": ",.0f"},
                    {"field": "text"},
                ],
            },
        },
        {
            "transform": [{"filter": "isValid(datum.low)"}],
            "mark": {"type": "rule", "color": "var(--ink)", "strokeWidth": 1.5},
            "encoding": {"x": {"field": "low", "type": "quantitative"}, "x2": {"field": "high"}},
        },
    ]
    chart = spec(
        34 * len(data),
        "Throughput of each side, with 95 % intervals over repeats",
        layer=layers,
        encoding={"y": _sides()},
        title=heading(_name(cases[0], several, "Throughput"), "frames/s"),
    )
    return {**chart, "data": {"values": data}}


def _phases(cases: Sequence[dict[str, Any]], several: bool) -> Spec | None:
    data = [
        {"side": case["side"], "part": phase, "us": case[f"{phase}_us_per_frame"], "order": order}
        for case in cases
        for order, phase in enumerate(PHASES)
        if known(case[f"{phase}_us_per_frame"])
    ]
    if not data:
        return None
    used = [phase for phase in PHASES if any(row["part"] == phase and row["us"] > 0 for row in data)]
    encoding = {
        "y": _sides(),
        "x": {
            "field": "us",
            "type": "quantitative",
            "stack": "zero",
            "axis": {"title": None, "grid": True, "domain": False, "ticks": False, "tickCount": 5},
        },
        "color": {
            "field": "part",
            "type": "nominal",
            "scale": {"domain": used, "range": [PART_COLOURS[phase] for phase in used]},
            "legend": {"title": None, "symbolType": "square", "columns": 3},
        },
        "order": {"field": "order", "type": "quantitative"},
        "tooltip": [{"field": "side"}, {"field": "part"}, {"field": "us", "title": "\u00b5s", "format": ".3~f"}],
    }
    chart = spec(
        34 * len(cases),
        "GPU time per frame of each side, by phase",
        mark={"type": "bar", "height": {"band": 0.6}, "stroke": "var(--paper)", "strokeWidth": 1},
        encoding=encoding,
        title=heading(_name(cases[0], several, "GPU time per frame"), "microseconds of one GPU"),
    )
    return {**chart, "data": {"values": [row for row in data if row["part"] in used]}}


def _per_unit(cases: Sequence[dict[str, Any]], currency: str, several: bool) -> list[Spec]:
    found = []
    for name, title, unit in (
        ("frames_per_j", "Per watt", "frames/s per W (frames per joule)"),
        ("frames_per_price", "Per price", f"frames per {currency}"),
        ("fps_per_gb_per_s", "Per memory bandwidth", "frames/s per GB/s"),
        ("fps_per_tflop_per_s", "Per arithmetic", "frames/s per TFLOP/s (FP32)"),
    ):
        data = [{"side": case["side"], "value": case[name]} for case in cases if known(case[name])]
        if len(data) < 2:
            continue
        encoding = {
            "y": _sides(),
            "x": {
                "field": "value",
                "type": "quantitative",
                "axis": {"title": None, "labelExpr": SI, "tickCount": 4, "grid": True, "domain": False},
            },
            "tooltip": [{"field": "side"}, {"field": "value", "title": unit, "format": ",.4~g"}],
        }
        chart = spec(
            30 * len(data),
            f"{title}: {unit}",
            mark={"type": "bar", "color": "var(--c3)", "height": {"band": 0.6}},
            encoding=encoding,
            title=heading(_name(cases[0], several, title), unit),
        )
        found.append({**chart, "data": {"values": data}})
    return found


def _sides() -> Spec:
    axis = {"title": None, "labelColor": "var(--ink)", "labelPadding": 8, "labelLimit": 260}
    return {"field": "side", "type": "nominal", "sort": None, "axis": axis}
