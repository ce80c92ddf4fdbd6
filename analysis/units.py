"""How numbers and nouns are printed: the one table of formats for HTML, Markdown and the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

DASH = "\u2013"  # between the bounds of an interval
NONE = "\u2014"  # what is not known


def known(value: Any) -> bool:
    """Return whether a value is there: not None, not NaN."""
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


def significant(value: float, digits: int = 3) -> str:
    """Return a number with so many significant digits, never in scientific notation, with thousands separators."""
    if value == 0:
        return "0"
    decimals = min(max(digits - 1 - math.floor(math.log10(abs(value))), 0), 9)
    return f"{value:,.{decimals}f}"


def _signed(value: float) -> str:
    text = f"{abs(value):.1f}"
    return text if float(text) == 0 else ("+" if value > 0 else "\u2212") + text


def _large(value: float) -> str:
    for limit, scale, letter in ((1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= limit:
            return f"{significant(value / scale)}\u202f{letter}"
    return significant(value)


FORMATS: dict[str, Callable[[float], str]] = {
    "count": lambda v: f"{v:,.0f}",
    "plain": lambda v: f"{v:.0f}",
    "fps": lambda v: significant(v, 3) if abs(v) < 1000 else f"{v:,.0f}",
    "ratio": lambda v: f"{v:.2f}",
    "precise": lambda v: f"{v:.3f}",  # a ratio near 1
    "signed": lambda v: ("+" if v > 0 else "\u2212" if v < 0 else "") + significant(abs(v)),
    "percent": lambda v: f"{v * 100:.1f}",  # from a fraction
    "pct": lambda v: f"{v:.1f}",  # from a percentage
    "fraction": lambda v: f"{v:.3f}",
    "points": lambda v: _signed(v * 100),  # of efficiency, from a fraction
    "large": _large,  # 3.67 M
    "ms": lambda v: significant(v * 1e3),  # from seconds
    "s": lambda v: significant(v),
    "number": lambda v: significant(v),
    "hours": lambda v: f"{v:.2f}" if v >= 0.1 else significant(v, 2),
}


def show(value: Any, form: str) -> str:
    """Return a value as text, a dash if it is not known."""
    return FORMATS[form](float(value)) if known(value) else NONE


def interval(low: Any, high: Any, form: str) -> str:
    """Return the bounds of an interval as text, empty if there is none."""
    dash = " to " if form in ("signed", "points") else DASH  # beside a sign it would look like one
    return f"{show(low, form)}{dash}{show(high, form)}" if known(low) and known(high) else ""


def ranks(count: int, device: str) -> str:
    """Return for example ``1 GPU``, ``8 GPUs``, ``2 CPU ranks``."""
    noun = "GPU" if device == "cuda" else "CPU rank"
    return f"{count} {noun}" + ("" if count == 1 else "s")
