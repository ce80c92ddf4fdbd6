"""How many environments to use, with reasons: for debugging, for a balance, and for the most throughput.

The curve that decides is smoothed, so that noise of a run does not: by the saturation model where it describes the
points closely, else by the nearest non-decreasing curve (pool adjacent violators). Only measured numbers of
environments are recommended.

    maximum     the fewest environments within 2 % of the best valid throughput
    balanced    the fewest after which doubling gains less than 19 % (the knee: d ln X / d ln n < 0.25)
    debugging   the most whose environment step is at most 25 % longer than that of a single one, which is nearly free
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from paceline.analysis.saturation import Saturation, elasticity
from paceline.analysis.sweepfit import KNEE_ELASTICITY
from paceline.analysis.table import Floats
from paceline.analysis.units import show, significant

NEAR_BEST = 0.98
STEP_SLACK = 1.25
MEMORY_SHARE = 0.95
"""Of the device's memory: a point that takes more may fail in a longer run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A valid number of environments: medians over its runs. None where it was not measured."""

    num_envs: int
    """Of each rank."""
    total_fps: float
    gpu_power_w: float | None = None
    memory_share: float | None = None
    """Of the device's memory, the part in use."""
    iteration_time_s: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Recommendation:
    """One recommended number of environments."""

    purpose: str
    """debugging, balanced or maximum."""
    num_envs: int
    reason: str


def recommend(candidates: Sequence[Candidate], model: Saturation | None = None) -> list[Recommendation]:
    """Return the recommendations, empty without a valid point.

    Args:
        candidates: The valid points, by environments ascending.
        model: The saturation model, if it describes the points closely (`sweepfit.TRUSTED_MISFIT`).
    """
    if not candidates:
        return []
    n = np.array([float(each.num_envs) for each in candidates])
    x = np.array([each.total_fps for each in candidates])
    smooth = np.array([model.rate(value) for value in n]) if model else monotone(x)
    roomy = [i for i, each in enumerate(candidates) if (each.memory_share or 0.0) <= MEMORY_SHARE] or [0]
    best = max(roomy, key=lambda i: smooth[i])
    top = next(i for i in roomy if smooth[i] >= NEAR_BEST * smooth[best])
    middle = min(_knee(n, smooth), top)
    small = min(_nearly_free(n, smooth, model), middle)
    found = [
        Recommendation(purpose="debugging", num_envs=candidates[small].num_envs, reason=_small(candidates, small, top)),
        Recommendation(
            purpose="balanced", num_envs=candidates[middle].num_envs, reason=_middle(candidates, middle, top)
        ),
    ]
    reason = _largest(candidates, top, best, smooth, len(roomy) < len(candidates))
    return [*found, Recommendation(purpose="maximum", num_envs=candidates[top].num_envs, reason=reason)]


def monotone(values: Floats) -> Floats:
    """Return the non-decreasing values nearest to the given ones on a logarithmic scale (pool adjacent violators)."""
    blocks: list[list[float]] = []  # mean of logarithms, count
    for value in np.log(values):
        blocks.append([float(value), 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, count = blocks.pop()
            before, weight = blocks[-1]
            blocks[-1] = [(before * weight + mean * count) / (weight + count), weight + count]
    return np.asarray(np.exp(np.concatenate([np.full(int(count), mean) for mean, count in blocks])))


def _knee(n: Floats, smooth: Floats) -> int:
    if len(n) < 2:
        return 0
    rising = np.flatnonzero(elasticity(n, smooth) >= KNEE_ELASTICITY)
    return int(rising[-1]) + 1 if len(rising) else 0


def _nearly_free(n: Floats, smooth: Floats, model: Saturation | None) -> int:
    """Return the position of the most environments whose step takes little longer than the fixed part of it."""
    step = n / smooth
    fixed = model.fixed_step_time_s if model else float(step.min())
    free = np.flatnonzero(step <= STEP_SLACK * fixed)
    return int(free[-1]) if len(free) else 0


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f}\u202f%"


def _resources(each: Candidate, top: Candidate) -> str:
    """Return `` at 62 % of the power``, as far as it was measured."""
    if each.gpu_power_w and top.gpu_power_w and each is not top:
        return f" at {_share(each.gpu_power_w, top.gpu_power_w)} of the power"
    return ""


def _small(candidates: Sequence[Candidate], place: int, top: int) -> str:
    each, best = candidates[place], candidates[top]
    parts = []
    step, longest = each.num_envs / each.total_fps, best.num_envs / best.total_fps
    if each is best:
        parts.append("more environments gain nothing here")
    elif each.iteration_time_s and best.iteration_time_s:
        short, long = significant(each.iteration_time_s), significant(best.iteration_time_s)
        parts.append(f"an iteration takes {short} s instead of {long} s")
    else:
        parts.append(f"an environment step takes {show(step, 'ms')} ms instead of {show(longest, 'ms')} ms")
    if each.memory_share is not None:
        parts.append(f"{100 * each.memory_share:.0f}\u202f% of the memory")
    parts.append("fewer would hardly be quicker" if place else "the smallest number measured")
    return "; ".join(parts)


def _middle(candidates: Sequence[Candidate], place: int, top: int) -> str:
    each, best = candidates[place], candidates[top]
    if each is best:
        return "as for the maximum: every step up to there still gains much"
    share = _share(each.total_fps, best.total_fps)
    text = f"{share} of the best valid throughput{_resources(each, best)}"
    following = candidates[place + 1] if place + 1 < len(candidates) else None
    if following is not None:
        gain = 100.0 * (following.total_fps / each.total_fps - 1.0)
        text += f"; {following.num_envs:,} would gain {gain:+.0f}\u202f%"
    return text


def _largest(candidates: Sequence[Candidate], top: int, best: int, smooth: Floats, cramped: bool) -> str:
    each = candidates[top]
    text = f"{show(each.total_fps, 'fps')} frames/s"
    if top == best:
        text += ", the best of the valid points"
    else:
        missing = 100.0 * (1.0 - smooth[top] / smooth[best])
        text += (
            f", within {math.ceil(max(missing, 0.5))}\u202f% of the best valid point ({candidates[best].num_envs:,})"
        )
    if each.memory_share is not None:
        text += f"; {100 * each.memory_share:.0f}\u202f% of the memory"
    if cramped:
        text += f"; points that take more than {100 * MEMORY_SHARE:.0f}\u202f% of it were passed over"
    return text
