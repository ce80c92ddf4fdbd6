"""What a sweep's points say about its curve: the saturation model with intervals, or why there is none.

Throughput scatters by a share of itself, so the step time T = n / X = a + b n is fitted with weights 1 / T^2: relative
errors. The intervals are 95 %, by the delta method on log(a / b), with Student's t of (points - 2) degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from paceline.analysis.saturation import Saturation, elasticity
from paceline.analysis.stats import Estimate, t_quantile
from paceline.analysis.table import Floats

KNEE_ELASTICITY = 0.25
JUMP_ELASTICITY = 0.5
"""After the knee, a local elasticity above this is no simulator that gets faster: something else has changed."""
MISFIT = 0.15
"""Largest deviation of a point from the model, as a share, with which the model still describes the curve."""
TRUSTED_MISFIT = 0.05
"""Root mean square deviation up to which the model replaces the points in a recommendation."""
WIDEST = 4.0
"""Ratio of the bounds of the knee's interval above which the knee counts as not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SaturationFit:
    """The saturation model of a sweep, fitted to relative errors. Scope: one device type."""

    model: Saturation
    max_fps: Estimate
    half_envs: Estimate
    knee_envs: Estimate
    rms_residual: float
    """Root mean square of log(measured / model)."""
    worst_residual: float
    """The largest of them, by magnitude."""


def fit(num_envs: Sequence[float] | Floats, fps: Sequence[float] | Floats) -> tuple[SaturationFit | None, str | None]:
    """Return the saturation model and None, or None and why the points do not support one.

    Args:
        num_envs: Environments of the valid points, distinct.
        fps: Their throughput, frames/s (medians over repeats).
    """
    n, x = np.asarray(num_envs, dtype=np.float64), np.asarray(fps, dtype=np.float64)
    if len(n) < 4:
        return None, f"{len(n)} valid points: a saturation model with an interval needs at least 4"
    weights = x / n
    design = np.stack([np.ones(len(n)), n], axis=1) * weights[:, None]
    (a, b), *_ = np.linalg.lstsq(design, n / x * weights, rcond=None)
    if b <= 0:
        return None, "throughput grows with the number of environments throughout: no saturation in these points"
    if a <= 0:
        return None, "throughput does not grow with the number of environments: saturated at the first point already"
    model = Saturation(fixed_step_time_s=float(a), step_time_per_env_s=float(b), points=len(n))
    residuals = np.log(x) - np.log(n / (a + b * n))
    worst = float(residuals[np.argmax(np.abs(residuals))])
    if abs(worst) > MISFIT:
        at = int(n[np.argmax(np.abs(residuals))])
        return (
            None,
            f"the point of {at:,} environments lies {100 * (math.exp(worst) - 1):+.0f} % off the saturation model",
        )
    freedom = len(n) - 2
    covariance = (
        np.linalg.inv(design.T @ design)
        * float(((n / x - (a + b * n)) * weights) @ ((n / x - (a + b * n)) * weights))
        / freedom
    )
    t = t_quantile(float(freedom))
    log_ratio = math.sqrt(max(covariance[0, 0] / a**2 + covariance[1, 1] / b**2 - 2 * covariance[0, 1] / (a * b), 0.0))
    log_b = math.sqrt(max(covariance[1, 1], 0.0)) / b
    knee = _around(model.knee_envs, t * log_ratio)
    assert knee.low is not None and knee.high is not None
    if knee.high / knee.low > WIDEST:
        return None, f"the points leave the knee between {knee.low:,.0f} and {knee.high:,.0f} environments: too wide"
    if n.max() < model.half_envs:
        return None, (
            f"the largest valid point ({n.max():,.0f}) has not reached half of the extrapolated maximum: "
            "no saturation in these points"
        )
    found = SaturationFit(
        model=model,
        max_fps=_around(model.max_fps, t * log_b),
        half_envs=_around(model.half_envs, t * log_ratio),
        knee_envs=knee,
        rms_residual=float(np.sqrt((residuals**2).mean())),
        worst_residual=worst,
    )
    return found, None


def _around(value: float, half: float) -> Estimate:
    return Estimate(value, value * math.exp(-half), value * math.exp(half))


def measured_knee(num_envs: Sequence[float] | Floats, fps: Sequence[float] | Floats) -> float | None:
    """Return the smallest measured number of environments after which more gain little, None if all gain much.

    Little: d ln X / d ln n stays below 0.25: doubling gains less than 19 %. The last point alone shows nothing.
    """
    n = np.asarray(num_envs, dtype=np.float64)
    if len(n) < 2:
        return None
    little = elasticity(n, fps) < KNEE_ELASTICITY
    rising = np.flatnonzero(~little)
    first = int(rising[-1]) + 1 if len(rising) else 0
    return float(n[first]) if first < len(n) - 1 else None


def jumps(num_envs: Sequence[float] | Floats, fps: Sequence[float] | Floats) -> dict[int, str]:
    """Return the positions of points that gain much again after the curve had saturated, with the reason in words."""
    n, x = np.asarray(num_envs, dtype=np.float64), np.asarray(fps, dtype=np.float64)
    found: dict[int, str] = {}
    last, before = 0, math.nan
    for k in range(1, len(n)):
        here = math.log(x[k] / x[last]) / math.log(n[k] / n[last])
        if before < KNEE_ELASTICITY and here > JUMP_ELASTICITY:
            found[k] = (
                f"elasticity {here:.3f} after {before:.3f}: a saturated simulator cannot speed up "
                f"(look for dropped contacts)"
            )
            continue  # the next point is held against the last one that counts
        last, before = k, here
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryFit:
    """Device memory in use as a line over the number of environments. Scope: one device."""

    bytes_per_env: Estimate
    fixed_bytes: float
    points: int
    total_bytes: float | None
    """Memory of the device."""

    @property
    def wall_envs(self) -> float | None:
        """Environments at which the line meets the device's memory, None if that is not known."""
        slope = self.bytes_per_env.value
        if self.total_bytes is None or not slope or slope <= 0:
            return None
        return max((self.total_bytes - self.fixed_bytes) / slope, 0.0)


def fit_memory(
    num_envs: Sequence[float] | Floats, used_bytes: Sequence[float] | Floats, total_bytes: float | None
) -> tuple[MemoryFit | None, str | None]:
    """Return the line of memory over environments and None, or None and why there is none. Ordinary least squares."""
    n, used = np.asarray(num_envs, dtype=np.float64), np.asarray(used_bytes, dtype=np.float64)
    if len(np.unique(n)) < 2:
        return None, f"memory is known for {len(np.unique(n))} number(s) of environments: a slope needs 2"
    centre = n - n.mean()
    spread = float(centre @ centre)
    slope = float(centre @ used) / spread
    fixed = float(used.mean() - slope * n.mean())
    if slope <= 0:
        return None, "memory in use does not grow with the number of environments"
    low = high = None
    if len(n) > 2:
        residuals = used - (fixed + slope * n)
        half = t_quantile(float(len(n) - 2)) * math.sqrt(float(residuals @ residuals) / (len(n) - 2) / spread)
        low, high = slope - half, slope + half
    per_env = Estimate(slope, low, high)
    return MemoryFit(bytes_per_env=per_env, fixed_bytes=fixed, points=len(n), total_bytes=total_bytes), None
