"""Where the time goes, and where the lost efficiency went: cost per phase, exactly additive.

Cost is what one frame takes of all GPUs together: c = N / X, in GPU-seconds per frame. Efficiency is E = c_ref / c_N, and the loss splits over
phases without a remainder:

    1 - E = sum over phases of (c_phase,N - c_phase,ref) / c_N

Phase times come from device-complete iterations, throughput from undisturbed ones; the two are not mixed. The *shares* of the former divide
the cost that the latter gives, so the phases sum to the undisturbed cost. ``sync_overhead_pct`` says how much slower device-complete
iterations are: shares deserve as much trust as that number is small.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from paceline.analysis.summary import SPLIT

if TYPE_CHECKING:
    import pandas as pd


def phase_row(summaries: pd.DataFrame) -> dict[str, float]:
    """Return the pooled split over the jobs of one world size: seconds per part of an iteration, and shares that sum to 1."""
    import numpy as np

    if "sync_iteration_s" not in summaries or not len(summaries):
        return dict.fromkeys((*(f"{p}_s" for p in SPLIT), "sync_iteration_s", "sync_overhead_pct"), math.nan)
    known = summaries[np.isfinite(summaries[[f"{part}_s" for part in SPLIT]].astype(float)).all(axis=1)]
    if not len(known):
        return dict.fromkeys((*(f"{p}_s" for p in SPLIT), "sync_iteration_s", "sync_overhead_pct"), math.nan)
    row = {f"{part}_s": float(known[f"{part}_s"].mean()) for part in SPLIT}
    row["sync_iteration_s"] = float(known["sync_iteration_s"].mean())
    row["sync_overhead_pct"] = (row["sync_iteration_s"] / float(known["iteration_time_s"].mean()) - 1.0) * 100.0
    return row


def attribution(
    world_size: int, total_fps: float | None, split: dict[str, Any], reference: dict[str, Any]
) -> dict[str, float]:
    """Return ``cost_us`` and ``loss_<part>`` for each part: fractions of the ideal that this part took; they sum to 1 - E.

    Args:
        world_size: N of this point.
        total_fps: Throughput of this point.
        split: What phase_row gave for this point.
        reference: The same for the smallest world size, with its ``world_size`` and ``total_fps``.
    """
    names = [f"loss_{part}" for part in SPLIT]
    if total_fps is None:
        return dict.fromkeys(("cost_us", *names), math.nan)
    cost = world_size / total_fps
    out = {"cost_us": cost * 1e6}
    own, base = _shares(split), _shares(reference)
    if own is None or base is None or reference.get("total_fps") is None:
        return out | dict.fromkeys(names, math.nan)
    base_cost = reference["world_size"] / reference["total_fps"]
    for part in SPLIT:
        out[f"loss_{part}"] = (own[part] * cost - base[part] * base_cost) / cost
    return out


def _shares(split: dict[str, Any]) -> dict[str, float] | None:
    parts = {part: float(split[f"{part}_s"]) for part in SPLIT}
    total = math.fsum(parts.values())
    if not math.isfinite(total) or total <= 0:
        return None
    return {part: seconds / total for part, seconds in parts.items()}
