"""Alert rules: what is wrong with a campaign, each with its reason.

Every rule reads the joined record (and what a watcher adds: the time, temperatures, disk) and answers with a sentence,
or None. A rule whose limit is null in the preset is off; one whose data are missing is silent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from paceline.analysis.campaign import Floats, Joined

_RECENT = 20
_NOT_ERRORS = ("entropy", "bounds")  # bounds (rl_games): nothing until actions leave their limits, then a penalty
_BLOCKS = 10
_EPISODES_TO_SETTLE = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Alert:
    """One rule that has fired."""

    rule: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Now:
    """What a watcher knows beside the records."""

    unix_s: float | None = None
    """The time; None when a finished campaign is judged."""
    running: bool = False
    """Whether a start is under way."""
    gpu_temperatures_c: tuple[float, ...] = ()
    """Of the job's GPUs, newest samples."""
    disk_free_bytes: float | None = None
    """Room on the campaign's file system, as the watcher sees it."""


Limits = Mapping[str, Any]
Rule = Callable[[Joined, Now, Limits], str | None]


def settled(joined: Joined) -> npt.NDArray[np.bool_]:
    """Return, per iteration, whether reward and episode length say something about the policy.

    A start begins new episodes and the trainers report those that have ended: first the short ones only. So both dip
    after every resume, for about as long as two of the longest episodes of the campaign take.
    """
    if not np.isfinite(joined.episode_length).any():
        return np.ones(len(joined.iteration), dtype=bool)
    wait = _EPISODES_TO_SETTLE * math.ceil(float(np.nanmax(joined.episode_length)) / joined.case.horizon)
    resumed = np.array([start.start_iteration for start in joined.starts], dtype=np.int64)[joined.start]
    return np.asarray((resumed == 0) | (joined.iteration >= resumed + wait))


def flat_reward(joined: Joined, now: Now, limits: Limits) -> str | None:
    """The mean reward has not risen over a window: its second half is not above its first half by twice the noise."""
    window, after = limits["flat_reward_iterations"], limits["after_iterations"]
    if joined.done < after + window:
        return None
    values = joined.reward[-window:]
    values = values[np.isfinite(values) & settled(joined)[-window:]]
    if len(values) < max(window // 2, _BLOCKS):
        return None
    blocks = np.array([block.mean() for block in np.array_split(values, _BLOCKS)])
    first, second = blocks[: _BLOCKS // 2], blocks[_BLOCKS // 2 :]
    noise = math.sqrt(first.var(ddof=1) / len(first) + second.var(ddof=1) / len(second))
    rise = float(second.mean() - first.mean())
    if rise > 2.0 * noise:
        return None
    return (
        f"the mean reward has not risen over {window} iterations: {first.mean():.4g} in the first half of them, "
        f"{second.mean():.4g} in the second"
    )


def short_episodes(joined: Joined, now: Now, limits: Limits) -> str | None:
    """Episodes end early."""
    limit = limits.get("short_episode_steps")
    step_s = limits.get("step_s")
    if limits.get("short_episode_s") is not None and step_s:
        limit = limits["short_episode_s"] / step_s
    mean = _recent(np.where(settled(joined), joined.episode_length, np.nan))
    if limit is None or mean is None or joined.done < limits["after_iterations"] or mean >= limit:
        return None
    seconds = f" ({mean * step_s:.3g} s)" if step_s else ""
    return f"episodes last {mean:.4g} steps{seconds} on average, below {limit:.4g}"


def loss_not_finite(joined: Joined, now: Now, limits: Limits) -> str | None:
    """A number that the trainer reports is NaN or infinite."""
    recent = {n: names for n, names in joined.not_finite.items() if n >= joined.done - _RECENT}
    if not recent:
        return None
    iteration = min(recent)
    return f"{', '.join(recent[iteration])} is NaN or infinite since iteration {iteration}"


def loss_diverging(joined: Joined, now: Now, limits: Limits) -> str | None:
    """A loss is far above its own median, or above what it was before it leapt from one spell to the next."""
    factor = limits["diverging_loss_factor"]
    for name, values in joined.losses.items():
        size = np.abs(values[np.isfinite(values)])
        if name in _NOT_ERRORS or len(size) < 2 * _RECENT:
            continue
        recent = float(np.median(size[-_RECENT:]))
        usual = float(np.median(size[:-_RECENT])) if len(size) >= 5 * _RECENT else math.inf
        usual = min(usual, _before_a_leap(size, factor))
        if 0 < factor * usual < recent:
            return f"the {name} loss is {recent:.3g}, {recent / usual:.0f} times the {usual:.3g} that it was"
    return None


def _before_a_leap(size: Floats, factor: float) -> float:
    """Return the lowest median of a spell whose next spell's is ``factor`` times that; infinite without any.

    A loss that grows with the rewards does so over hundreds of iterations; one that a broken update blew up does not.
    """
    spells = np.median(np.lib.stride_tricks.sliding_window_view(size, _RECENT), axis=1)
    before, after = spells[:-_RECENT], spells[_RECENT:]
    leaps = before[(before > 0) & (after > factor * before)]
    return float(leaps.min()) if len(leaps) else math.inf


def learning_rate_floor(joined: Joined, now: Now, limits: Limits) -> str | None:
    """The learning rate stays at its floor: steps change the policy too much, so the schedule shrinks them."""
    limit = limits["min_learning_rate"]
    values = joined.learning_rate[-_RECENT:]
    if len(values) < _RECENT or not np.isfinite(values).all() or (values > limit * 1.0001).any():
        return None
    return f"the learning rate has been at {values[-1]:.2g} for {_RECENT} iterations, at or below {limit:.2g}"


def stuck_curriculum(joined: Joined, now: Now, limits: Limits) -> str | None:
    """The terrain level does not rise."""
    limit, after = limits["stuck_terrain_level"], limits["stuck_terrain_iterations"]
    levels = joined.terrain_level[-max(1, after // 2) :]
    levels = levels[np.isfinite(levels)]
    if joined.done < after or not len(levels) or levels.max() > limit:
        return None
    return f"the terrain level is {levels[-1]:.2g} after {joined.done} iterations, not above {limit:.2g} since long"


def low_throughput(joined: Joined, now: Now, limits: Limits) -> str | None:
    """Throughput is below a share of what was expected, or of the campaign's own best."""
    share = limits["min_fps_share"]
    fps = joined.fps[np.isfinite(joined.fps)]
    if len(fps) < _RECENT:
        return None
    recent = float(np.median(fps[-_RECENT:]))
    expected, whose = joined.campaign.expected_fps, "expected"
    if expected is None:
        blocks = [np.median(fps[k : k + _RECENT]) for k in range(0, len(fps) - _RECENT + 1, _RECENT)]
        expected, whose = float(max(blocks)), "reached before"
    if recent >= share * expected:
        return None
    part = 100 * recent / expected
    return f"{recent:,.0f} steps/s are {part:.0f} % of the {expected:,.0f} {whose} (limit {100 * share:.0f} %)"


def hot_gpu(joined: Joined, now: Now, limits: Limits) -> str | None:
    """A GPU of the job is too hot."""
    limit = limits["max_gpu_temperature_c"]
    hottest = max(now.gpu_temperatures_c, default=None)
    if hottest is None or hottest <= limit:
        return None
    return f"a GPU is at {hottest:.0f} °C, above {limit:.0f}"


def disk_nearly_full(joined: Joined, now: Now, limits: Limits) -> str | None:
    """The campaign's file system is nearly full, or a checkpoint could not be written."""
    failed = [event for event in joined.events if event.get("event") in ("checkpoint", "checkpoint_failed")]
    if failed and failed[-1]["event"] == "checkpoint_failed":
        return (
            f"the checkpoint of iteration {failed[-1].get('next_iteration')} was not written: {failed[-1].get('error')}"
        )
    free = now.disk_free_bytes
    if free is None:
        known = joined.disk_free_bytes[np.isfinite(joined.disk_free_bytes)]
        free = float(known[-1]) if len(known) else None
    limit = limits["min_disk_free_gb"]
    if free is None or free >= limit * 1e9:
        return None
    return f"{free / 1e9:.2g} GB are free where the campaign lies, less than {limit:.2g}"


def no_checkpoint(joined: Joined, now: Now, limits: Limits) -> str | None:
    """Training goes on, but nothing is saved."""
    if not joined.starts or joined.goal is not None:
        return None
    start = joined.starts[-1]
    saved = [event["t_unix_s"] for event in start.events if event.get("event") == "checkpoint"]
    last = now.unix_s if now.running and now.unix_s is not None else start.origin_unix_s + start.trained_s
    minutes = (last - max(saved, default=start.origin_unix_s)) / 60
    limit = limits["no_checkpoint_min"]
    return f"no checkpoint for {minutes:.0f} minutes of training (limit {limit:.0f})" if minutes > limit else None


def no_progress(joined: Joined, now: Now, limits: Limits) -> str | None:
    """A start is under way and records nothing."""
    if not now.running or now.unix_s is None or not joined.starts:
        return None
    start = joined.starts[-1]
    minutes = (now.unix_s - start.origin_unix_s - start.trained_s) / 60
    limit = limits["no_progress_min"]
    return f"nothing recorded for {minutes:.0f} minutes (limit {limit:.0f})" if minutes > limit else None


RULES: dict[str, tuple[Rule, tuple[str, ...]]] = {
    "flat_reward": (flat_reward, ("flat_reward_iterations",)),
    "short_episodes": (short_episodes, ()),
    "loss_not_finite": (loss_not_finite, ()),
    "loss_diverging": (loss_diverging, ("diverging_loss_factor",)),
    "learning_rate_floor": (learning_rate_floor, ("min_learning_rate",)),
    "stuck_curriculum": (stuck_curriculum, ("stuck_terrain_level",)),
    "low_throughput": (low_throughput, ("min_fps_share",)),
    "hot_gpu": (hot_gpu, ("max_gpu_temperature_c",)),
    "disk_nearly_full": (disk_nearly_full, ("min_disk_free_gb",)),
    "no_checkpoint": (no_checkpoint, ("no_checkpoint_min",)),
    "no_progress": (no_progress, ("no_progress_min",)),
}
"""By name: the rule, and the limits that switch it off when they are null."""

DEFAULTS: dict[str, Any] = {
    "flat_reward_iterations": 1000,
    "after_iterations": 100,
    "diverging_loss_factor": 100.0,
    "min_learning_rate": 1.0e-5,
    "stuck_terrain_level": 1.0,
    "stuck_terrain_iterations": 2000,
    "min_fps_share": 0.5,
    "max_gpu_temperature_c": 85.0,
    "min_disk_free_gb": 5.0,
    "no_checkpoint_min": 60.0,
    "no_progress_min": 30.0,
}
"""Limits of a campaign that states none."""


def alerts(joined: Joined, now: Now) -> list[Alert]:
    """Return the rules that fire, in the order of the table."""
    limits = {**DEFAULTS, **joined.campaign.alerts}
    fired = []
    for name, (rule, needed) in RULES.items():
        if any(limits.get(key) is None for key in needed):
            continue
        reason = rule(joined, now, limits)
        if reason is not None:
            fired.append(Alert(rule=name, reason=reason))
    return fired


def _recent(values: Floats) -> float | None:
    known = values[-_RECENT:]
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else None
