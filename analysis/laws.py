"""Scaling laws as descriptions of measured points, fitted only as far as the points can carry them.

    amdahl            S = 1 / (s + (1-s)/N)                            strong scaling (Amdahl 1967)
    gustafson         S = s + (1-s) N                                  weak scaling (Gustafson 1988)
    usl_fixed_lambda  S = N / (1 + sigma (N-1) + kappa N (N-1))        Universal Scalability Law (Gunther 1993, 2007)
    usl_free_lambda   S = lambda N / (1 + sigma (N-1) + kappa N (N-1))
    power_law         S = N^alpha

Fits are least squares on log S, bounded (s, sigma, kappa in [0, 1], lambda in [0.5, 2], alpha in [0, 2]). N counts in
units of the smallest world size measured. A law is identifiable when it has at most points - 2 free parameters, none of
them at a bound that makes the law another one, and none that a single point decides. Intervals come from repeats and
from nothing else (lawfit.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from paceline.analysis.lawfit import MODELS, draw_parameters, evaluate, solve
from paceline.analysis.table import Floats

USL_MIN_POINTS = 6
"""Gunther's practice: fewer points do not separate contention from coherency."""
_ONE_POINT = 0.5
"""A parameter that changes by more than this share when one point is left out is carried by that point."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """One law fitted to one curve."""

    model: str
    parameters: Mapping[str, float]
    points: int
    rms_log_residual: float
    """sqrt(RSS / n) of log S."""
    aicc: float | None
    """n ln(RSS/n) + 2k + 2k(k+1)/(n-k-1); None where n-k-1 <= 0."""
    leave_one_out: Mapping[str, tuple[float, float]]
    """Range of each parameter when one point other than the reference is left out."""
    identifiable: bool
    reason: str
    """Why it is not identifiable, '' if it is."""
    reference_world_size: float
    max_world_size: float
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """95 % interval of each parameter over repeats; empty where there is one run per point."""

    @property
    def peak_world_size(self) -> float | None:
        """World size of the highest throughput, sqrt((1-sigma)/kappa); None where kappa is 0 or the law has none."""
        kappa = self.parameters.get("kappa", 0.0)
        if kappa <= 0:
            return None
        return self.reference_world_size * math.sqrt((1.0 - self.parameters["sigma"]) / kappa)

    @property
    def peak_to_print(self) -> float | None:
        """The peak, if it may be stated: the law is identifiable and the lower end of kappa's interval is above 0."""
        low = self.intervals.get("kappa", (0.0, 0.0))[0]
        return self.peak_world_size if self.identifiable and low > 0 else None

    def speedup(self, world_sizes: Floats | Sequence[float]) -> Floats:
        """Return the fitted speed-up over the reference world size."""
        n = np.asarray(world_sizes, dtype=np.float64) / self.reference_world_size
        return np.asarray(evaluate(self.model, n, np.array([list(self.parameters.values())]))[0])


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What a law says about the next doubling. Always an extrapolation."""

    model: str
    world_size: int
    speedup: float
    efficiency: float
    low: float | None
    """95 % interval of the speed-up over repeats, given the law; None without repeats."""
    high: float | None


def fit(
    model: str,
    world_sizes: Floats | Sequence[float],
    values: Floats | Sequence[float],
    repeats: Sequence[Floats] | None = None,
) -> Fit:
    """Fit one law to throughput by world size.

    Args:
        model: Name of a law (module docstring).
        world_sizes: Ascending, the first is the reference.
        values: Throughput at each (frames/s of all ranks, or any rate), shape (world sizes,).
        repeats: Throughput of every repeat per world size; intervals need at least two each.
    """
    n = np.asarray(world_sizes, dtype=np.float64)
    x = np.asarray(values, dtype=np.float64)
    relative, log_s = n / n[0], np.log(x / x[0])
    names = MODELS[model].parameters
    q = solve(model, relative, log_s[None, :])[0]
    residual = np.log(evaluate(model, relative, q[None, :])[0]) - log_s
    rss, m, k = float(residual @ residual), len(n), len(names)
    aicc = m * math.log(max(rss, 1e-300) / m) + 2 * k + 2 * k * (k + 1) / (m - k - 1) if m - k - 1 > 0 else None
    left_out = {}
    for i in range(1, m):
        keep = np.arange(m) != i
        if keep.sum() >= max(k, 2):
            left_out[float(n[i])] = solve(model, relative[keep], log_s[keep][None, :])[0]
    ranges = {
        name: (float(min(v[j] for v in left_out.values())), float(max(v[j] for v in left_out.values())))
        for j, name in enumerate(names)
        if left_out
    }
    reason = _why_not(model, q, m, left_out)
    return Fit(
        model=model,
        parameters={name: float(v) for name, v in zip(names, q, strict=True)},
        points=m,
        rms_log_residual=math.sqrt(rss / m),
        aicc=aicc,
        leave_one_out=ranges,
        identifiable=not reason,
        reason=reason,
        reference_world_size=float(n[0]),
        max_world_size=float(n[-1]),
        intervals=parameter_intervals(model, n, repeats),
    )


def parameter_intervals(
    model: str, world_sizes: Floats | Sequence[float], repeats: Sequence[Floats] | None
) -> dict[str, tuple[float, float]]:
    """Return the 95 % interval of each parameter of a law over repeats; empty unless every point has two or more.

    Args:
        model: Name of a law (module docstring).
        world_sizes: Ascending, the first is the reference.
        repeats: Throughput of every repeat per world size.
    """
    if repeats is None or any(len(each) < 2 for each in repeats):
        return {}
    n = np.asarray(world_sizes, dtype=np.float64)
    low, high = np.percentile(draw_parameters(model, n / n[0], repeats), (2.5, 97.5), axis=0)
    return {name: (float(low[j]), float(high[j])) for j, name in enumerate(MODELS[model].parameters)}


def _why_not(model: str, q: Floats, points: int, left_out: Mapping[float, Floats]) -> str:
    names = MODELS[model].parameters
    reasons = []
    if len(names) > points - 2:
        plural = "s" if len(names) > 1 else ""
        reasons.append(f"{len(names)} parameter{plural} on {points} points")
    elif "kappa" in names and points < USL_MIN_POINTS:
        reasons.append(f"{points} points, the law needs {USL_MIN_POINTS}")
    if "kappa" in names:
        j = names.index("kappa")
        if q[j] == 0.0:
            reasons.append("kappa is at its bound 0: the law is Amdahl's and has no peak")
        else:
            moved = {size: v[j] for size, v in left_out.items() if abs(v[j] - q[j]) > _ONE_POINT * q[j]}
            if moved:
                size = max(moved, key=lambda s: abs(moved[s] - q[j]))
                reasons.append(f"kappa comes from the point N={size:g} alone ({moved[size]:.4f} without it)")
    return "; ".join(reasons)


def predict_doubling(
    law: Fit, repeats: Sequence[Floats] | None = None, world_sizes: Sequence[float] | None = None
) -> Prediction | None:
    """Return the law's extrapolation to twice the largest world size, or None if the law is not identifiable.

    Args:
        law: A fit.
        repeats: The repeats it was fitted to, for an interval.
        world_sizes: Their world sizes.
    """
    if not law.identifiable:
        return None
    size = 2.0 * law.max_world_size
    speedup = float(law.speedup([size])[0])
    low = high = None
    if repeats is not None and world_sizes is not None and all(len(r) >= 2 for r in repeats):
        n = np.asarray(world_sizes, dtype=np.float64) / law.reference_world_size
        draws = draw_parameters(law.model, n, repeats)
        values = evaluate(law.model, np.array([size / law.reference_world_size]), draws)[:, 0]
        low, high = (float(v) for v in np.percentile(values, (2.5, 97.5)))
    return Prediction(
        model=law.model,
        world_size=round(size),
        speedup=speedup,
        efficiency=speedup / (size / law.reference_world_size),
        low=low,
        high=high,
    )


def speedup(values: Floats | Sequence[float]) -> Floats:
    """Return X_N / X_ref, the first value being the reference."""
    x = np.asarray(values, dtype=np.float64)
    return np.asarray(x / x[0])


def karp_flatt(world_sizes: Floats | Sequence[float], values: Floats | Sequence[float]) -> Floats:
    """Return the serial fraction (1/S - 1/N) / (1 - 1/N) that strong scaling shows; NaN at the reference.

    Rising with N: overhead or communication. Constant: a serial part. Negative: superlinear. Karp and Flatt 1990.
    """
    n = np.asarray(world_sizes, dtype=np.float64)
    n, s = n / n[0], speedup(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(n > 1, (1 / s - 1 / n) / (1 - 1 / n), np.nan)


def gustafson_fraction(world_sizes: Floats | Sequence[float], values: Floats | Sequence[float]) -> Floats:
    """Return the scaled serial fraction (N - S) / (N - 1) of weak scaling; NaN at the reference. Gustafson 1988."""
    n = np.asarray(world_sizes, dtype=np.float64)
    n, s = n / n[0], speedup(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(n > 1, (n - s) / (n - 1), np.nan)


def incremental_efficiency(world_sizes: Floats | Sequence[float], values: Floats | Sequence[float]) -> Floats:
    """Return (X_b/X_a) / (N_b/N_a) between neighbouring world sizes; NaN at the reference."""
    n, x = np.asarray(world_sizes, dtype=np.float64), np.asarray(values, dtype=np.float64)
    out = np.full(len(n), np.nan)
    out[1:] = (x[1:] / x[:-1]) / (n[1:] / n[:-1])
    return out
