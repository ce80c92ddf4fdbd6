"""Time to reward: more frames per second is worth what it brings towards a reward.

    time to reward              TTR = D / X            D: frames until the reward is reached, X: throughput
    speed-up in time to reward  (X_N / X_ref) * (D_ref / D_N)  =  throughput speed-up * statistical efficiency

D comes from the mean episode reward that the trainer reports (mean over ranks, running mean over five iterations),
against the frames of all ranks, warm-up included: learning begins with the first one. Terms after Pollux (Qiao et al.,
OSDI 2021). The area under the curve, as the mean reward over the frames that every run has, needs no threshold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from paceline.analysis.stats import NOT_KNOWN, Estimate, ratio_interval
from paceline.analysis.summary import RunArrays
from paceline.analysis.table import Floats

WINDOW = 5
WAY = 0.8
"""Without a stated reward: this share of the way that the reference runs came."""
_CLEAR = 3.0  # standard deviations of the scatter that a rise must exceed

COLUMNS = (
    *("frames_to_reward", "runs_reaching_reward", "time_to_reward_s"),
    *(f"{name}{end}" for name in ("statistical_efficiency", "time_to_reward_speedup") for end in ("", "_low", "_high")),
    "mean_reward",
)


@dataclass(frozen=True, slots=True)
class Curve:
    """What one run learnt: ``reward`` (smoothed) after ``frames`` of all ranks; both of shape (iterations,)."""

    frames: Floats
    reward: Floats
    scatter: float
    """Standard deviation of the reported reward about the smoothed one."""

    def frames_to(self, threshold: float) -> float:
        """Return the frames after which the reward first reaches the threshold, infinite if it never does."""
        above = np.flatnonzero(self.reward >= threshold)
        if not len(above):
            return math.inf
        i = int(above[0])
        if i == 0:
            return float(self.frames[0])
        part = (threshold - self.reward[i - 1]) / (self.reward[i] - self.reward[i - 1])
        return float(self.frames[i - 1] + part * (self.frames[i] - self.frames[i - 1]))

    def mean_until(self, begin: float, end: float) -> float:
        """Return the mean reward between two numbers of frames (trapezoids)."""
        inner = (self.frames > begin) & (self.frames < end)
        x = np.concatenate([[begin], self.frames[inner], [end]])
        y = np.interp(x, self.frames, self.reward)
        return float(np.sum((y[1:] + y[:-1]) * np.diff(x)) / 2.0 / (end - begin))


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """The reward that counts as reached."""

    threshold: float | None
    how: str
    """Where the threshold comes from, or why there is none; one sentence without a full stop."""
    begin_frames: float | None = None
    end_frames: float | None = None
    """Range of frames that every run has, for the mean reward."""

    def to_json(self) -> dict[str, Any]:
        """Return the target as report.json holds it."""
        return {
            "threshold": self.threshold,
            "how": self.how,
            "begin_frames": self.begin_frames,
            "end_frames": self.end_frames,
        }


def curve_of(block: RunArrays) -> Curve | None:
    """Return what a run learnt, None if it reported fewer than WINDOW rewards."""
    values = block.values["reward"].astype(np.float64)
    known = np.isfinite(values)
    count = known.sum(axis=0)
    kept = count > 0
    if int(kept.sum()) < WINDOW:
        return None
    reward = np.where(known, values, 0.0).sum(axis=0)[kept] / count[kept]
    frames = np.cumsum(block.frames)[kept]
    if not np.isfinite(frames).all() or (np.diff(frames) <= 0).any():
        return None
    half = WINDOW // 2
    sums = np.concatenate([[0.0], np.cumsum(reward)])
    index = np.arange(len(reward))
    reach = np.minimum(np.minimum(index, len(reward) - 1 - index), half)  # symmetric, so that nothing is delayed
    smooth = (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)
    return Curve(frames, smooth, float((reward - smooth).std()))


def target_of(curves: Mapping[int, Sequence[Curve]], stated: float | None = None) -> Target:
    """Return the reward to reach: the stated one, else WAY of the way that runs of the smallest world size came.

    Args:
        curves: World size to what its runs learnt, ascending.
        stated: A threshold that the user names.
    """
    sizes = [size for size, own in curves.items() if own]
    if not sizes:
        return Target(threshold=None, how="no run reported enough rewards")
    every = [curve for own in curves.values() for curve in own]
    begin = max(float(curve.frames[0]) for curve in every)
    end = min(float(curve.frames[-1]) for curve in every)
    common = {"begin_frames": begin, "end_frames": end} if end > begin else {}
    if stated is not None:
        return Target(threshold=stated, how="stated by the user", **common)
    own = curves[sizes[0]]
    starts = [float(curve.reward[: max(len(curve.reward) // 10, 3)].mean()) for curve in own]
    finals = [float(curve.reward[-max(len(curve.reward) // 5, 1) :].mean()) for curve in own]
    start, final = float(np.median(starts)), float(np.median(finals))
    if final - start <= _CLEAR * float(np.median([curve.scatter for curve in own])):
        how = f"in the runs of world size {sizes[0]} the reward did not rise above its scatter"
        return Target(threshold=None, how=how, **common)
    how = f"{WAY:.0%} of the way that the runs of world size {sizes[0]} came"
    return Target(threshold=start + WAY * (final - start), how=how.replace("%", "\u202f%"), **common)


def learning_row(
    own: Sequence[tuple[float, Curve]], reference: Sequence[tuple[float, Curve]], target: Target, speedup: float
) -> dict[str, float | None]:
    """Return COLUMNS of one world size.

    Args:
        own: Throughput (frames/s) and curve of each run of this world size.
        reference: Those of the reference; the same object for the reference itself.
        target: The reward to reach.
        speedup: Throughput speed-up of this world size.
    """
    row: dict[str, float | None] = dict.fromkeys(COLUMNS)
    if own and target.begin_frames is not None and target.end_frames is not None:
        means = [curve.mean_until(target.begin_frames, target.end_frames) for _, curve in own]
        row["mean_reward"] = float(np.median(means))
    if not own or not reference or target.threshold is None:
        return row
    needed = [curve.frames_to(target.threshold) for _, curve in own]
    base = [curve.frames_to(target.threshold) for _, curve in reference]
    row["runs_reaching_reward"] = sum(math.isfinite(frames) for frames in needed)
    middle = float(np.median(needed))
    if not math.isfinite(middle):
        return row
    row["frames_to_reward"] = middle
    row["time_to_reward_s"] = middle / float(np.median([rate for rate, _ in own]))
    if not math.isfinite(float(np.median(base))):
        return row
    if own is reference:
        exact = 1.0 if len(own) > 1 and all(map(math.isfinite, needed)) else None
        statistical = total = Estimate(1.0, exact, exact)
    else:
        statistical = _ratio(base, needed)
        rates = ([rate / d for (rate, _), d in zip(own, needed, strict=True)],
                 [rate / d for (rate, _), d in zip(reference, base, strict=True)])  # fmt: skip
        total = _centred(_ratio(*rates), speedup * (statistical.value or math.nan))
    for name, estimate in (("statistical_efficiency", statistical), ("time_to_reward_speedup", total)):
        row[name], row[f"{name}_low"], row[f"{name}_high"] = estimate
    return row


def _ratio(above: Sequence[float], below: Sequence[float]) -> Estimate:
    """Return a ratio of medians; without an interval where a run never got there."""
    if all(0.0 < value < math.inf for value in (*above, *below)):
        return ratio_interval(above, below)
    top, bottom = float(np.median(above)), float(np.median(below))
    return Estimate(top / bottom, None, None) if 0.0 < bottom < math.inf and math.isfinite(top) else NOT_KNOWN


def _centred(estimate: Estimate, value: float) -> Estimate:
    """Return an estimate moved to another value, its interval with it: the product that is printed is exact."""
    return estimate.scaled(value / estimate.value) if estimate.value else Estimate(value, None, None)
