"""How long a campaign will still take, with an interval, from the pace of what is recorded."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from paceline.analysis.campaign import Floats, Joined
from paceline.analysis.stats import t_quantile

_RECENT = 500
_BLOCKS = 10
_FEWEST = 20
_SHOWN = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlook:
    """What is left of a campaign. Times are seconds of training; waiting in the queue is not among them."""

    iterations_left: int
    left_s: float
    left_low_s: float
    left_high_s: float
    """95 % interval of the mean pace: a pace that changes later is not covered."""
    limited_by: str
    """The goal that ends it by this pace: ``iterations`` (or frames) or ``hours``."""


def outlook(joined: Joined) -> Outlook | None:
    """Return what is left of a campaign; None before 20 iterations of one start, and when it is done.

    The pace is the mean time from the beginning of an iteration to that of the next (saving and logging included) over
    the last 500 iterations. Its interval comes from the means of ten consecutive blocks, since neighbouring iterations
    resemble each other. Each further start costs what the median start has cost before its first iteration.
    """
    if joined.goal is not None or len(joined.iteration) < 2:
        return None
    same = joined.start[1:] == joined.start[:-1]
    steps = np.diff(joined.start_s)[same][-_RECENT:]
    if len(steps) < _FEWEST:
        return None
    blocks = np.array([block.mean() for block in np.array_split(steps, _BLOCKS)])
    mean = float(steps.mean())
    half = t_quantile(_BLOCKS - 1) * float(blocks.std(ddof=1)) / math.sqrt(_BLOCKS)
    left = _goal_iterations(joined) - joined.done
    further = _further_starts_s(joined, left * mean)
    times = [max(0.0, left * (mean + sign * half)) + further for sign in (0.0, -1.0, 1.0)]
    limited_by = "iterations"
    hours = joined.campaign.hours
    if hours is not None:
        rest = max(0.0, hours * 3600.0 - joined.trained_s)
        limited_by = "hours" if rest < times[0] else "iterations"
        times = [min(rest, value) for value in times]
    return Outlook(
        iterations_left=left, left_s=times[0], left_low_s=times[1], left_high_s=times[2], limited_by=limited_by
    )


def _goal_iterations(joined: Joined) -> int:
    frames = joined.campaign.frames
    by_frames = math.ceil(frames / joined.case.global_batch) if frames is not None else joined.case.iterations
    return min(joined.case.iterations, by_frames)


def _further_starts_s(joined: Joined, left_s: float) -> float:
    """Return what further starts will cost, by how often and how dearly the campaign was started so far."""
    began = [start for start in joined.starts if start.rows]
    if len(began) < 2:
        return 0.0
    cost = float(np.median([start.rows[0][3] for start in began]))
    mean_length = float(np.mean([start.trained_s for start in began[:-1]]))
    return cost * (left_s / mean_length) if mean_length > 0 else 0.0


def newest(values: Floats) -> float | None:
    """Return the newest known value among the last 20, None if there is none."""
    known = values[-_SHOWN:]
    known = known[np.isfinite(known)]
    return float(known[-1]) if len(known) else None


def median_of_newest(values: Floats) -> float | None:
    """Return the median of the last 20 known values, None if there is none."""
    known = values[np.isfinite(values)][-_SHOWN:]
    return float(np.median(known)) if len(known) else None


def sparkline(values: Floats, width: int = 40) -> str:
    """Return a curve of a line's height, from the first value to the last; empty with fewer than two."""
    known = values[np.isfinite(values)]
    if len(known) < 2:
        return ""
    means = [float(block.mean()) for block in np.array_split(known, min(width, len(known)))]
    low, high = min(means), max(means)
    if high <= low:
        return "▁" * len(means)
    return "".join("▁▂▃▄▅▆▇█"[min(7, int(8 * (value - low) / (high - low)))] for value in means)
