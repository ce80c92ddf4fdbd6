"""Throughput over the number of environments on one device: where it is bound by launches, and where it saturates.

T = n / X = a + b n      time of one environment step of all n environments: fixed part a, part per environment b
X(n) = X_inf n / (n + n_half),   X_inf = 1/b,   n_half = a/b
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from paceline.analysis.table import Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class Saturation:
    """Ordinary least squares of step time on the number of environments. Scope: one device."""

    fixed_step_time_s: float
    step_time_per_env_s: float
    points: int

    @property
    def max_fps(self) -> float:
        """Throughput that no number of environments exceeds, frames/s."""
        return 1.0 / self.step_time_per_env_s

    @property
    def half_envs(self) -> float:
        """Environments at which half of max_fps is reached."""
        return self.fixed_step_time_s / self.step_time_per_env_s

    @property
    def envs_at_90_pct(self) -> float:
        """Environments at which 90 % of max_fps is reached: 9 half_envs."""
        return 9.0 * self.half_envs

    @property
    def knee_envs(self) -> float:
        """Environments at which the local elasticity d ln X / d ln n falls to 0.25: 3 half_envs."""
        return 3.0 * self.half_envs

    def rate(self, num_envs: float) -> float:
        """Return the fitted throughput, frames/s."""
        return num_envs / (self.fixed_step_time_s + self.step_time_per_env_s * num_envs)

    def launch_bound_fraction(self, num_envs: float) -> float:
        """Return the share of the step time that does not depend on the number of environments."""
        return self.fixed_step_time_s / (self.fixed_step_time_s + self.step_time_per_env_s * num_envs)


def fit_saturation(num_envs: Floats | Sequence[float], fps: Floats | Sequence[float]) -> Saturation:
    """Fit X(n) to throughput by environments; points with invalid physics must be left out by the caller.

    ValueError with fewer than three points, or where throughput does not saturate at all (b not positive).
    """
    n, x = np.asarray(num_envs, dtype=np.float64), np.asarray(fps, dtype=np.float64)
    if len(n) < 3:
        raise ValueError(f"{len(n)} points: a saturation curve needs at least 3")
    design = np.stack([np.ones(len(n)), n], axis=1)
    (a, b), *_ = np.linalg.lstsq(design, n / x, rcond=None)
    if b <= 0:
        raise ValueError("throughput grows faster than the number of environments: no saturation in these points")
    return Saturation(fixed_step_time_s=float(a), step_time_per_env_s=float(b), points=len(n))


def elasticity(num_envs: Floats | Sequence[float], fps: Floats | Sequence[float]) -> Floats:
    """Return d ln X / d ln n between neighbouring points: 1 is proportional, 0 saturated."""
    n, x = np.asarray(num_envs, dtype=np.float64), np.asarray(fps, dtype=np.float64)
    return np.asarray(np.diff(np.log(x)) / np.diff(np.log(n)))
