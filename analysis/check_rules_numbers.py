"""Checks of the figures against one another: derived columns, means of rates, wrong ratios, impossible order.

F-DERIVED, F-MEAN, F-RATIO, F-ORDER.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from paceline.analysis.curves import Series, curves
from paceline.analysis.finding import Finding
from paceline.analysis.table import RATE_WORDS, RATES, Table, count, trailing_zeros

MEAN_LIMIT = 0.05
"""Relative difference between a stated rate and work over time that is remarked on."""
_STEPPING = ("fps_step", "fps_step_inference")
RATIO_LIMIT = 0.02
"""Relative difference between a stated speed-up or efficiency and the rates that is an error."""
_TIMES = ("iteration_time_s", "collection_time_s", "update_time_s")


def derived(table: Table) -> Iterator[Finding]:
    """F-DERIVED: a time column is one constant over a rate column, in every row, to the last digit."""
    for time in _TIMES:
        for rate in RATES:
            for curve in curves(table):
                rows = [
                    i
                    for i in curve.positions
                    if np.isfinite(table.number(time)[i]) and np.isfinite(table.number(rate)[i])
                ]
                constant = _constant(table, time, rate, rows)
                if constant is None:
                    continue
                yield Finding(
                    id="F-DERIVED",
                    severity="warn",
                    rows=table.labels(rows),
                    message=(
                        f"{curve.prefix()}{table.header(time)} = {count(constant)} / {table.header(rate)} in every "
                        "row: derived, not measured"
                    ),
                    advice="Treat the two columns as one measurement; ask for the times that were clocked.",
                )


def _constant(table: Table, time: str, rate: str, rows: list[int]) -> float | None:
    """Return the constant c with time = c / rate in all rows within their rounding, None if there is none to remark on.

    A written number stands for anything that rounds or is cut to it: 2.14 for 2.135 up to 2.15.
    """
    x, t = table.number(rate)[rows], table.number(time)[rows]
    if len(rows) < 3 or len(set(x.tolist())) < 3 or len(set(t.tolist())) < 3:
        return None
    batch = table.number("global_batch")[rows]
    batch = np.where(
        np.isfinite(batch), batch, (table.envs_per_rank() * table.world_sizes() * table.number("horizon"))[rows]
    )
    if np.isfinite(batch).all() and np.all(np.abs(x * t / batch - 1) < 0.01):
        return None  # frames per iteration are stated, rate and time are two views of one clock, and nothing is hidden
    low, high = np.array([_span(table, time, i) for i in rows]).T
    rate_low, rate_high = np.array([_span(table, rate, i, cut=False) for i in rows]).T
    bottom, top = float(np.max(low * rate_low)), float(np.min(high * rate_high))
    if bottom > top or np.max(high / low) > 1.05:
        return None
    return _roundest(bottom, top)


def _span(table: Table, name: str, position: int, cut: bool = True) -> tuple[float, float]:
    """Return the values that the written number may stand for; ``cut`` allows digits that were cut off."""
    written = table.written.get(name, ("",) * len(table))[position].strip().lower().rstrip("s% ")
    value = float(table.number(name)[position])
    digits = written.partition("e")[0]
    fraction = digits.partition(".")[2]
    if fraction:
        unit = 10.0 ** -len(fraction)
        shown = float(digits.replace(",", "")) if digits.replace(",", "").replace(".", "").isdigit() else value
        unit *= value / shown if shown else 1.0  # a column in milliseconds has its unit in milliseconds
    else:
        unit = 10.0 ** trailing_zeros(value) if value == round(value) else abs(value) * 1e-9
    return value - unit / 2, value + (unit if cut else unit / 2)


def _roundest(low: float, high: float) -> float:
    """Return the whole number in [low, high] with the most factors of two, the likeliest number of frames."""
    step = 2.0 ** np.floor(np.log2(max(high, 1.0)))
    while step >= 1:
        candidate = np.ceil(low / step) * step
        if candidate <= high:
            return float(candidate)
        step /= 2
    return (low + high) / 2


def mean_of_rates(table: Table) -> Iterator[Finding]:
    """F-MEAN: a stated rate is the mean of rates, not work over time; one slow iteration hardly counts in it."""
    stated, work = table.number("stated_fps"), table.number("aggregate_fps")
    with np.errstate(invalid="ignore"):
        wrong = np.flatnonzero(np.abs(stated / work - 1.0) > MEAN_LIMIT)
    for i in wrong:
        yield Finding(
            id="F-MEAN",
            severity="warn",
            rows=(table.rows[int(i)],),
            message=(
                f"total_fps {count(stated[i])} is a mean of per-iteration rates; all frames over all time give "
                f"{count(work[i])}, the first iteration included"
            ),
            advice="Take frames over time, after the warm-up; never average rates.",
        )


def stated_ratios(table: Table) -> Iterator[Finding]:
    """F-RATIO: a stated speed-up or efficiency is not what any rate of the same table gives."""
    for name in ("speedup", "efficiency"):
        if not table.has(name):
            continue
        # Percentages are told from fractions by their size; N=1 of either is 1 or 100.
        scale = 100.0 if name == "efficiency" and np.nanmax(table.number(name)) > 3.0 else 1.0
        for curve in curves(table):
            # The ratios may be those of any of the rates: the one that fits best is meant.
            found = [_off(table, name, scale, series) for series in curve.all_series()]
            wrong = min(found, key=len, default=[])
            if wrong:
                i, given = wrong[0]
                stated, size = table.number(name)[i], table.world_sizes()[i]
                yield Finding(
                    id="F-RATIO",
                    severity="error",
                    rows=table.labels([i for i, _ in wrong]),
                    message=f"{curve.prefix()}{name} {stated:g} stated at N={count(size)}, the rates give {given:.3g}",
                    advice="Compute speed-up and efficiency from the rates, against the smallest world size.",
                )


def _off(table: Table, name: str, scale: float, series: Series) -> list[tuple[int, float]]:
    """Return (position, what the rates give) of the rows whose stated ratio a series contradicts."""
    ratios = series.efficiency * (series.world_sizes / series.world_sizes[0] if name == "speedup" else 1.0)
    stated = table.number(name)
    return [
        (i, float(scale * ratio))
        for places, ratio in zip(series.positions, ratios, strict=True)
        for i in places
        if abs(stated[i] / scale / ratio - 1.0) > RATIO_LIMIT
    ]


def order(table: Table) -> Iterator[Finding]:
    """F-ORDER: stepping alone cannot be slower than stepping and inference, nor that than the whole iteration."""
    bad: list[int] = []
    shown = ""
    for i in range(len(table)):
        present = [(name, float(table.number(name)[i])) for name in RATES if np.isfinite(table.number(name)[i])]
        for (first, a), (second, b) in pairwise(present):
            # A study's step rates come from device-complete iterations, which are slower: not set against the others.
            if a < b and not (table.kind == "study" and first in _STEPPING and second not in _STEPPING):
                bad.append(i)
                shown = shown or (
                    f"rates out of order in row {table.rows[i]}: {RATE_WORDS[first]} {count(a)} is below "
                    f"{RATE_WORDS[second]} {count(b)}"
                )
    if bad:
        yield Finding(
            id="F-ORDER",
            severity="error",
            rows=table.labels(bad),
            message=f"{shown}: columns swapped or runs mixed",
            advice="Check which column is which; take all rates of a row from one run.",
        )
