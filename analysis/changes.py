"""What changed between two sets of runs at one world size, and over several: paired where the repeats pair.

    change    exp(mean of log X_B - log X_A over pairs) - 1                          X: total_fps
    interval  Student's t over the pairs, 95 %; where repeats do not pair, Welch's over both sets (medians, stats.py)
    overall   mean of the log changes of all world sizes, each counting once; their variances add

Verdicts: better or worse if the interval excludes no change, else inconclusive. One run gives no interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from paceline.analysis.stats import ratio_interval, t_quantile, two_sided

Verdict = Literal["better", "worse", "inconclusive"]
Runs = Mapping[float, float]
"""total_fps by repeat; negative keys are runs whose repeat is not known, which never pair."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What changed from A to B at one world size, or over all of them (``world_size`` None)."""

    world_size: int | None
    a_fps: float | None
    """Median total_fps over A's repeats, frames/s of all ranks; None for the line over all world sizes."""
    b_fps: float | None
    change: float
    """X_B / X_A - 1."""
    low: float | None
    high: float | None
    """95 % interval; None with one run each."""
    pairs: int
    """Pairs that the interval comes from; 0 if the repeats could not be paired."""
    runs: tuple[int, int]
    verdict: Verdict
    p_value: float | None = None
    """Chance of a change this clear if nothing changed, two-sided; None with one run each. Below 5 % exactly where the
    interval excludes no change."""

    def to_json(self) -> dict[str, Any]:
        """Return the change as ``paceline compare --format json`` prints it."""
        return {
            "world_size": self.world_size,
            "a_total_fps": self.a_fps,
            "b_total_fps": self.b_fps,
            "change": self.change,
            "change_low": self.low,
            "change_high": self.high,
            "pairs": self.pairs,
            "runs_a": self.runs[0],
            "runs_b": self.runs[1],
            "verdict": self.verdict,
            "p_value": self.p_value,
        }


def _pairs(a: Runs, b: Runs) -> list[float]:
    """Return log ratios of the runs that both have, if that is all of them."""
    if any(key < 0 for key in (*a, *b)) or a.keys() != b.keys():
        return []
    return [math.log(b[key] / a[key]) for key in sorted(a)]


def change_at(size: float, a: Runs, b: Runs) -> Change:
    """Return the change at one world size from the runs of both sides."""
    ratios = _pairs(a, b)
    low = high = None
    if len(ratios) >= 2:
        centre, low, high = _t_interval(ratios)
    else:
        estimate = ratio_interval(list(b.values()), list(a.values()))
        assert estimate.value is not None
        centre, low, high = estimate.value - 1.0, _less_one(estimate.low), _less_one(estimate.high)
    return Change(
        world_size=round(size),
        a_fps=float(np.median(list(a.values()))),
        b_fps=float(np.median(list(b.values()))),
        change=centre,
        low=low,
        high=high,
        pairs=len(ratios) if len(ratios) >= 2 else 0,
        runs=(len(a), len(b)),
        verdict=_verdict(low, high),
        p_value=_p_value(centre, low, high, _variance_of_mean(a, b)[1]),
    )


def change_over_all(
    points: Sequence[Change],
    left: Mapping[float, Runs],
    right: Mapping[float, Runs],
    shared: Sequence[float],
) -> Change:
    """Return the change over all world sizes: the mean of their changes (each counts once), with pooled scatter."""
    centres = np.array([math.log1p(point.change) for point in points])
    runs = (sum(point.runs[0] for point in points), sum(point.runs[1] for point in points))
    if len(points) == 1:
        return replace(points[0], world_size=None, a_fps=None, b_fps=None)
    none = Change(
        world_size=None,
        a_fps=None,
        b_fps=None,
        change=0.0,
        low=None,
        high=None,
        pairs=0,
        runs=runs,
        verdict="inconclusive",
    )
    variance, freedom_terms = 0.0, 0.0
    for size in shared:
        term, freedom = _variance_of_mean(left[size], right[size])
        if term is None:
            return replace(none, change=math.expm1(float(centres.mean())))
        variance += term / len(points) ** 2
        freedom_terms += (term / len(points) ** 2) ** 2 / freedom
    middle = float(centres.mean())
    half, freedom = 0.0, 1.0
    if variance > 0:
        freedom = max(variance**2 / freedom_terms, 1.0)
        half = t_quantile(freedom) * math.sqrt(variance)
    low, high = math.expm1(middle - half), math.expm1(middle + half)
    return replace(
        none,
        change=math.expm1(middle),
        low=low,
        high=high,
        pairs=sum(point.pairs for point in points),
        verdict=_verdict(low, high),
        p_value=_p_value(math.expm1(middle), low, high, freedom),
    )


def _variance_of_mean(a: Runs, b: Runs) -> tuple[float | None, float]:
    """Return the variance of the mean log ratio and its degrees of freedom; None with too few runs."""
    ratios = _pairs(a, b)
    if len(ratios) >= 2:
        return float(np.var(ratios, ddof=1)) / len(ratios), len(ratios) - 1.0
    if len(a) < 2 or len(b) < 2:
        return None, 0.0
    va, vb = (float(np.var(np.log(list(x.values())), ddof=1)) / len(x) for x in (a, b))
    if va + vb == 0:
        return 0.0, 1.0
    return va + vb, (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))


def _t_interval(logs: Sequence[float]) -> tuple[float, float, float]:
    values = np.asarray(logs)
    middle = float(values.mean())
    half = t_quantile(len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return math.expm1(middle), math.expm1(middle - half), math.expm1(middle + half)


def _p_value(change: float, low: float | None, high: float | None, freedom: float) -> float | None:
    """Return the two-sided p value that belongs to a 95 % interval of Student's t, symmetric on logarithms."""
    if low is None or high is None:
        return None
    half = 0.5 * (math.log1p(high) - math.log1p(low))
    if half <= 0.0:
        return 0.0 if change else 1.0
    return two_sided(t_quantile(freedom) * abs(math.log1p(change)) / half, freedom)


def _less_one(value: float | None) -> float | None:
    return None if value is None else value - 1.0


def _verdict(low: float | None, high: float | None) -> Verdict:
    if low is not None and low > 0:
        return "better"
    return "worse" if high is not None and high < 0 else "inconclusive"
