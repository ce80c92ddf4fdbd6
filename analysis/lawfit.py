"""Least squares of scaling laws, many at a time: the fit itself, and its repetition over what repeats allow.

All arrays carry the draws first: parameters (draws, parameters), log speed-ups (draws, world sizes).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from paceline.analysis.stats import widening
from paceline.analysis.table import Floats

DRAWS = 2000
_SEED = 20240607


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A law: its parameters with starts and bounds, S(N), and the derivative of log S by each parameter."""

    parameters: tuple[str, ...]
    starts: tuple[tuple[float, ...], ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    value: Callable[[Floats, Floats], Floats]
    """(world sizes,), (draws, parameters) -> S, shape (draws, world sizes)."""
    slope: Callable[[Floats, Floats], Floats]
    """The same arguments -> d log S / d parameter, shape (draws, world sizes, parameters)."""


def _amdahl(n: Floats, q: Floats) -> Floats:
    return 1.0 / (q[:, :1] + (1.0 - q[:, :1]) / n)


def _amdahl_slope(n: Floats, q: Floats) -> Floats:
    return (-(1.0 - 1.0 / n) * _amdahl(n, q))[..., None]


def _gustafson(n: Floats, q: Floats) -> Floats:
    return q[:, :1] + (1.0 - q[:, :1]) * n


def _gustafson_slope(n: Floats, q: Floats) -> Floats:
    return ((1.0 - n) / _gustafson(n, q))[..., None]


def _usl(n: Floats, q: Floats) -> Floats:
    return n / (1.0 + q[:, :1] * (n - 1.0) + q[:, 1:2] * n * (n - 1.0))


def _usl_slope(n: Floats, q: Floats) -> Floats:
    bottom = n / _usl(n, q)
    return np.stack([-(n - 1.0) / bottom, -n * (n - 1.0) / bottom], axis=-1)


def _usl_free(n: Floats, q: Floats) -> Floats:
    return q[:, :1] * _usl(n, q[:, 1:])


def _usl_free_slope(n: Floats, q: Floats) -> Floats:
    scale = np.broadcast_to(1.0 / q[:, :1, None], (len(q), len(n), 1))
    return np.concatenate([scale, _usl_slope(n, q[:, 1:])], axis=-1)


def _power(n: Floats, q: Floats) -> Floats:
    return np.asarray(n ** q[:, :1])


def _power_slope(n: Floats, q: Floats) -> Floats:
    return np.broadcast_to(np.log(n)[None, :, None], (len(q), len(n), 1)).copy()


MODELS = {
    "amdahl": Model(
        parameters=("s",), starts=((0.05,), (0.5,)), lower=(0.0,), upper=(1.0,), value=_amdahl, slope=_amdahl_slope
    ),
    "gustafson": Model(
        parameters=("s",),
        starts=((0.05,), (0.5,)),
        lower=(0.0,),
        upper=(1.0,),
        value=_gustafson,
        slope=_gustafson_slope,
    ),
    "usl_fixed_lambda": Model(
        parameters=("sigma", "kappa"),
        starts=((0.05, 0.001), (0.2, 0.01), (0.001, 0.02)),
        lower=(0.0, 0.0),
        upper=(1.0, 1.0),
        value=_usl,
        slope=_usl_slope,
    ),
    "usl_free_lambda": Model(
        parameters=("lambda", "sigma", "kappa"),
        starts=((1.0, 0.05, 0.001), (1.0, 0.2, 0.01), (1.05, 0.001, 0.02)),
        lower=(0.5, 0.0, 0.0),
        upper=(2.0, 1.0, 1.0),
        value=_usl_free,
        slope=_usl_free_slope,
    ),
    "power_law": Model(
        parameters=("alpha",), starts=((0.9,), (1.0,)), lower=(0.0,), upper=(2.0,), value=_power, slope=_power_slope
    ),
}


def evaluate(model: str, n: Floats, q: Floats) -> Floats:
    """Return S at ``n`` (relative to the reference) for each row of parameters, shape (draws, world sizes)."""
    return MODELS[model].value(np.asarray(n, dtype=np.float64), q)


def solve(model: str, n: Floats, log_s: Floats, iterations: int = 80, tolerance: float = 1e-12) -> Floats:
    """Return the bounded least-squares parameters of log S for each row of ``log_s``, shape (draws, parameters).

    Levenberg-Marquardt with parameters held where they sit at a bound and the gradient points outside, from several
    starts.
    """
    law = MODELS[model]
    best_q: Floats | None = None
    best_cost: Floats | None = None
    for start in law.starts:
        q, cost = _descend(law, n, log_s, np.tile(np.array(start), (len(log_s), 1)), iterations, tolerance)
        if best_q is None or best_cost is None:
            best_q, best_cost = q, cost
        else:
            better = cost < best_cost
            best_q, best_cost = np.where(better[:, None], q, best_q), np.where(better, cost, best_cost)
    assert best_q is not None
    return np.where(best_q < 1e-9, 0.0, best_q)


def _descend(
    law: Model, n: Floats, log_s: Floats, q: Floats, iterations: int, tolerance: float
) -> tuple[Floats, Floats]:
    lower, upper = np.array(law.lower), np.array(law.upper)
    residual = np.log(law.value(n, q)) - log_s
    cost = np.einsum("bp,bp->b", residual, residual)
    damping = np.full(len(q), 1e-3)
    for _ in range(iterations):
        slope = law.slope(n, q)
        gradient = np.einsum("bpk,bp->bk", slope, residual)
        held = ((q <= lower) & (gradient > 0)) | ((q >= upper) & (gradient < 0))
        trial = np.minimum(np.maximum(q + _step(slope, np.where(held, 0.0, gradient), held, damping), lower), upper)
        trial_residual = np.log(law.value(n, trial)) - log_s
        trial_cost = np.einsum("bp,bp->b", trial_residual, trial_residual)
        good = trial_cost <= cost
        proposed = float(np.abs(trial - q).max())
        q = np.where(good[:, None], trial, q)
        residual = np.where(good[:, None], trial_residual, residual)
        cost = np.where(good, trial_cost, cost)
        damping = np.minimum(np.maximum(damping * np.where(good, 0.2, 8.0), 1e-12), 1e8)
        if proposed < tolerance:
            break
    return q, cost


def _step(slope: Floats, gradient: Floats, held: npt.NDArray[np.bool_], damping: Floats) -> Floats:
    """Return the damped Gauss-Newton step of each draw; a parameter that is held stays where it is."""
    k = slope.shape[2]
    if k == 1:  # a division, not a system of equations: several times as fast, and most laws have one parameter
        return np.asarray(-gradient / (np.einsum("bpk,bpk->bk", slope, slope) * (1.0 + damping[:, None]) + 1e-15))
    hessian = np.einsum("bpk,bpl->bkl", slope, slope)
    hessian = np.where(held[:, :, None] | held[:, None, :], 0.0, hessian)
    diagonal = np.einsum("bkk->bk", hessian)
    extra = np.where(held, 1.0, damping[:, None] * diagonal + 1e-15)
    return np.asarray(-np.linalg.solve(hessian + np.eye(k) * extra[:, None, :], gradient[..., None])[..., 0])


def draw_parameters(model: str, n: Floats, repeats: Sequence[Floats], draws: int = DRAWS, seed: int = _SEED) -> Floats:
    """Return parameters refitted to what the repeats allow, shape (draws, parameters); their percentiles are intervals.

    Each world size, the reference too, is drawn as log median - h t s / sqrt(r): r repeats, s the standard deviation
    of their logs, t Student's with r - 1 degrees of freedom, h the widening for a median (stats.py). Drawing the
    repeats themselves with replacement covers far too little with three to five of them; this keeps 95 %
    (tests/unit/checks/test_laws.py).
    """
    generator = np.random.default_rng(seed)
    logs = [np.log(np.asarray(r, dtype=np.float64)) for r in repeats]
    columns = []
    for values in logs:
        count = len(values)
        scale = widening(count) * float(values.std(ddof=1)) / math.sqrt(count)
        columns.append(float(np.median(values)) - scale * generator.standard_t(count - 1, size=draws))
    drawn = np.stack(columns, axis=1)
    return solve(model, np.asarray(n, dtype=np.float64), drawn - drawn[:, :1], iterations=40, tolerance=1e-7)
