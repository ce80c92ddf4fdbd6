"""How the charts look: palette, fonts, axes.

Colours are CSS variables (``var(--c1)``), so that a page follows the reader's light or dark scheme, and paper, without
drawing anew; ``figures.py`` puts the light values in for files. The palette is Okabe and Ito's, made for colour-blind
readers; https://jfly.uni-koeln.de/color/.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Spec = dict[str, Any]

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
    "axisX": {"grid": False, "labelFlush": False},
    "axisY": {"domain": False, "ticks": False},
    "legend": {
        "labelColor": "var(--ink)",
        "titleColor": "var(--muted)",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": 500,
        "orient": "top",
        "direction": "horizontal",
        "symbolStrokeWidth": 2.5,
        "symbolOpacity": 1,
        "offset": 8,
    },
    "text": {"color": "var(--ink)", "fontSize": 12},
    "title": {
        "color": "var(--ink)",
        "fontSize": 13,
        "fontWeight": 600,
        "anchor": "start",
        "frame": "bounds",
        "offset": 14,
        "subtitleColor": "var(--muted)",
        "subtitleFontSize": 12,
        "subtitlePadding": 5,
    },
}
SI = "format(datum.value, '~s')"  # 0, 500k, 1.5M


def spec(height: int, description: str, **rest: Any) -> Spec:
    """Return a chart that is as wide as its container, with the common style.

    Args:
        height: Pixels, without axis and title.
        description: For readers who cannot see the chart.
        rest: The chart itself.
    """
    base = {"$schema": SCHEMA, "width": "container", "height": height, "description": description, "padding": 4}
    return {**base, "autosize": {"type": "fit-x", "contains": "padding"}, "config": CONFIG, **rest}


def heading(title: str, axis: str) -> Spec:
    """Return a title with the name and unit of the y axis under it, where it is read level and crowds nothing."""
    return {"text": title, "subtitle": axis}


def categorical(names: Sequence[str]) -> Spec:
    """Return a colour scale that gives each name a colour of the palette, in order."""
    return {"domain": list(names), "range": [f"var(--c{1 + i % 8})" for i in range(len(names))]}
