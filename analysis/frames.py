"""Frames per iteration along a curve, from every column that implies them: what says whether scaling is strong or weak.

F = N E H A frames per iteration: N ranks, E environments per rank, H steps per environment, A actors per environment.
Strong scaling keeps F, weak scaling keeps F/N, anything else is neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from paceline.analysis.curves import Curve
from paceline.analysis.table import Floats


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One reading of the problem size along a curve. ``values`` has shape (world sizes,)."""

    name: str
    values: Floats
    mode: Literal["strong", "weak", "mixed"]
    timed: bool = False
    """Comes from rate x time, not from a stated size."""


def classify(world_sizes: Floats, values: Floats, tolerance: float) -> Literal["strong", "weak", "mixed"]:
    """Return strong if the values stay within the relative tolerance, weak if values / N do, else mixed."""
    if values.max() / values.min() <= 1 + tolerance:
        return "strong"
    per_rank = values / world_sizes
    return "weak" if per_rank.max() / per_rank.min() <= 1 + tolerance else "mixed"


def evidence(curve: Curve) -> list[Evidence]:
    """Return every reading of the problem size that the curve's columns allow; stated sizes before rate x time."""
    sizes = curve.world_sizes
    if len(sizes) < 2:
        return []
    n = curve.table.world_sizes()[list(curve.positions)]
    horizon = curve.numbers("horizon")
    envs, per_rank, batch = curve.numbers("num_envs"), curve.numbers("num_envs_per_rank"), curve.numbers("global_batch")
    found = []

    def add(name: str, values: Floats, tolerance: float, timed: bool = False) -> None:
        medians = curve.by_world_size(values)
        if np.isfinite(medians).all():
            mode = classify(sizes, medians, tolerance)
            found.append(Evidence(name=name, values=medians, mode=mode, timed=timed))

    add("frames per iteration", batch, 1e-6)
    if np.isfinite(horizon).all() and len(set(horizon.tolist())) > 1:
        add(
            "frames per iteration (environments x horizon)",
            np.where(np.isfinite(envs), envs, per_rank * n) * horizon,
            1e-6,
        )
    else:
        add("environments of all ranks", envs, 1e-6)
        add("environments per rank x N", per_rank * n, 1e-6)
    # A time is written with three digits or so, hence the wide tolerance.
    add(
        "frames per iteration by rate x time",
        curve.numbers("total_fps") * curve.numbers("iteration_time_s"),
        0.05,
        timed=True,
    )
    return found


def mode_of(curve: Curve) -> Literal["strong", "weak"] | None:
    """Return the mode on which all readings agree, None if there are none or they differ."""
    told = {item.mode for item in evidence(curve)}
    if told == {"strong"}:
        return "strong"
    return "weak" if told == {"weak"} else None
