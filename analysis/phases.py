"""Where the time goes and where the lost efficiency went, per world size, in parts that add up exactly.

Phase times come from device-complete iterations, throughput from undisturbed ones; the two are not mixed. The *shares*
of the former divide the cost that the latter gives, so the parts sum to the undisturbed cost (attribution.py has the
formulas). ``sync_overhead_pct`` says how much slower device-complete iterations are: shares deserve as much trust as
that number is small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from paceline.analysis.attribution import loss_attribution, pop_of_run
from paceline.analysis.summary import SPLIT, RunArrays

if TYPE_CHECKING:
    import pandas as pd

# The POP tree's column for each field of attribution.PopTree.
POP = {
    "pop_parallel_efficiency": "parallel_efficiency",
    "pop_load_balance": "load_balance",
    "pop_serialisation": "serialisation_efficiency",
    "pop_transfer": "transfer_efficiency",
}
_POOLED = (*(f"{part}_s" for part in SPLIT), "sync_iteration_s", "useful_s_per_frame")


def phase_row(summaries: pd.DataFrame) -> dict[str, float]:
    """Return the split of an iteration at one world size: means over the jobs that have one, NaN where none has.

    Args:
        summaries: The rows of ``summarise`` that belong to one world size.
    """
    none = dict.fromkeys((*_POOLED, "sync_overhead_pct"), math.nan)
    if any(name not in summaries for name in _POOLED):
        return none
    known = summaries[np.isfinite(summaries[list(_POOLED)].astype(float)).all(axis=1)]
    if not len(known):
        return none
    row = {name: float(known[name].mean()) for name in _POOLED}
    row["sync_overhead_pct"] = (row["sync_iteration_s"] / float(known["iteration_time_s"].mean()) - 1.0) * 100.0
    return row


def attribution(point: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, float]:
    """Return ``cost_us`` and ``loss_<part>`` for each part in SPLIT: points of efficiency lost, summing to 1 - E.

    Args:
        point: ``world_size``, ``total_fps`` and what phase_row gave for this world size.
        reference: The same of the reference.
    """
    own, base = _costs(point), _costs(reference)
    out = dict.fromkeys(("cost_us", *(f"loss_{part}" for part in SPLIT)), math.nan)
    if point["total_fps"] is not None:
        out["cost_us"] = point["world_size"] / point["total_fps"] * 1e6
    if own is not None and base is not None:
        out |= {f"loss_{part}": loss for part, loss in loss_attribution(base, own).loss.items()}
    return out


def pop_row(blocks: Sequence[RunArrays], point: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, float]:
    """Return the POP efficiencies of one world size, means over its jobs, NaN where they are not known.

    Args:
        blocks: The jobs of this world size.
        point: What phase_row gave for it.
        reference: What phase_row gave for the smallest world size.
    """
    trees = [tree for block in blocks if (tree := pop_of_run(block)) is not None]
    row = dict.fromkeys((*POP, "pop_computation_scaling"), math.nan)
    if trees:
        row |= {column: math.fsum(getattr(tree, name) for tree in trees) / len(trees) for column, name in POP.items()}
        row["pop_computation_scaling"] = reference["useful_s_per_frame"] / point["useful_s_per_frame"]
    return row


def _costs(point: Mapping[str, Any]) -> dict[str, float] | None:
    """Return rank-seconds per frame by part: the undisturbed cost, divided as device-complete iterations divide."""
    parts = {part: float(point[f"{part}_s"]) for part in SPLIT}
    total = math.fsum(parts.values())
    if point["total_fps"] is None or not math.isfinite(total) or total <= 0:
        return None
    cost = point["world_size"] / point["total_fps"]
    if not 0.0 < cost < math.inf:
        return None
    return {part: seconds / total * cost for part, seconds in parts.items()}
