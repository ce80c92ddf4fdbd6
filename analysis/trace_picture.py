"""Draws one iteration as SVG: ranges and CUDA calls of the host above the streams of the GPU, on one time axis.

Colours are CSS variables of report.css, so that the picture follows the reader's light or dark scheme.
"""

from __future__ import annotations

import math
from html import escape
from typing import Any

from paceline.analysis.units import significant

_WIDTH, _LEFT, _RIGHT = 1120, 96, 8
_LANE, _GAP, _TOP = 20, 5, 6
_CHARACTER = 6.4
_COLORS = {
    "kernel": "--c3",
    "graph": "--c1",
    "copy": "--c5",
    "nccl": "--c2",
    "launch": "--c6",
    "wait": "--c4",
    "call": "--c8",
}
_RANGE_COLORS = {
    "iteration": "--c8",
    "rollout": "--c3",
    "env_step": "--c6",
    "physics": "--c1",
    "inference": "--c4",
    "update": "--c5",
    "minibatch": "--c7",
    "communication": "--c2",
}
LEGEND = {
    "kernel": "kernels",
    "graph": "CUDA graph, recorded whole",
    "copy": "copies and memory sets",
    "nccl": "NCCL",
    "launch": "launch calls",
    "wait": "waiting calls",
    "call": "other CUDA calls",
}


def svg(picture: dict[str, Any]) -> str:
    """Return the picture as an SVG element; every text in it is escaped."""
    duration = picture["duration_s"]
    scale = (_WIDTH - _LEFT - _RIGHT) / duration
    parts: list[str] = []
    y = _TOP
    kind = ""
    for lane in picture["lanes"]:
        if kind and lane["kind"] != kind:
            y += 2 * _GAP
        kind = lane["kind"]
        if lane["name"]:
            parts.append(
                f'<text class="lane" x="{_LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(lane["name"])}</text>'
            )
        parts += [_block(item, lane["kind"], y, scale) for item in lane["items"]]
        y += _LANE + _GAP
    parts += _axis(duration, scale, y)
    label = f"Timeline of one {picture['range']}: host ranges, CUDA calls and GPU work over {_time(duration)}"
    return (
        f'<svg class="timeline" viewBox="0 0 {_WIDTH} {y + 26}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def legend(picture: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (CSS variable, text) for what the picture's lanes of calls and GPU work show."""
    present = {item[3] for lane in picture["lanes"] if lane["kind"] != "range" for item in lane["items"]}
    return [(_COLORS[name], text) for name, text in LEGEND.items() if name in present]


def _block(item: list[Any], kind: str, y: int, scale: float) -> str:
    start, duration, label, category, count, filled = item
    x, width = _LEFT + start * scale, max(duration * scale, 0.6)
    name = label or category
    many = f"{count:,} \u00d7 " if count > 1 else ""
    title = f"<title>{escape(f'{many}{name}, {_time(duration)} at {_time(start)}')}</title>"
    if kind != "range":
        opacity = 0.35 + 0.65 * min(filled, 1.0)
        color = _COLORS.get(category, "--c8")
        return (
            f'<rect x="{x:.2f}" y="{y}" width="{width:.2f}" height="{_LANE}" fill="var({color})" '
            f'fill-opacity="{opacity:.2f}">{title}</rect>'
        )
    color = _RANGE_COLORS.get(category) or f"--c{1 + sum(category.encode()) % 8}"
    rect = (
        f'<rect x="{x:.2f}" y="{y}" width="{width:.2f}" height="{_LANE}" rx="2" fill="var({color})" '
        f'fill-opacity=".3" stroke="var({color})" stroke-width=".8"/>'
    )
    room = int((width - 8) / _CHARACTER)
    text = ""
    if room >= 3 and name:
        shown = name if len(name) <= room else name[: room - 1] + "\u2026"
        text = f'<text x="{x + 5:.2f}" y="{y + 14}">{escape(shown)}</text>'
    return f"<g>{rect}{text}{title}</g>"


def _axis(duration: float, scale: float, y: int) -> list[str]:
    """Return about eight ticks at round times."""
    step = 10 ** math.floor(math.log10(duration / 8))
    step *= next(factor for factor in (1, 2, 5, 10) if duration / (step * factor) <= 9)
    parts = [f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y + 2}" y2="{y + 2}"/>']
    for index in range(int(duration / step) + 1):
        x = _LEFT + index * step * scale
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{y + 2}" y2="{y + 6}"/>')
        text = _time(index * step) if index else "0"
        parts.append(f'<text class="tick" x="{x:.1f}" y="{y + 19}" text-anchor="middle">{text}</text>')
    return parts


def _time(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    unit, factor = next(
        ((unit, factor) for limit, unit, factor in ((1.0, "s", 1.0), (1e-3, "ms", 1e3)) if seconds >= limit),
        ("\u00b5s", 1e6),
    )
    text = significant(seconds * factor)
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text}\u202f{unit}"
