"""Phase times of every rank, from device-complete iterations of unprofiled runs: they sum to the rank's iteration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from paceline.analysis.summary import RunArrays
from paceline.analysis.tables import Column, Table
from paceline.profiling.phases import PHASES, split_iteration

if TYPE_CHECKING:
    import pandas as pd
    from paceline.analysis.load import Loaded

COLUMNS = ("world_size", "rank", "runs", "iteration_s", *(f"{phase}_s" for phase in PHASES))
_TIMES = ("iteration_time_s", "physics_time_s", "inference_time_s", "update_time_s", "communication_time_s")


def rank_phases(
    loaded: Loaded, summaries: pd.DataFrame, arrays: Mapping[int, RunArrays]
) -> list[dict[str, int | float]]:
    """Return one row per world size and rank, in that order.

    Keys: ``COLUMNS``; seconds are means over the device-complete iterations after warm-up of each run, then over
    ``runs``: the runs on the curve (counted and not flagged) that have such iterations.
    """
    found: dict[tuple[int, int], list[np.ndarray[Any, Any]]] = {}
    for run in map(int, summaries.index):
        if summaries.at[run, "flags"]:
            continue
        block = arrays[run]
        kept = ~block.warmup & block.sync
        times = np.stack([block.values[name][:, kept] for name in _TIMES])
        if times.shape[1] == 1:
            times[4] = np.nan_to_num(times[4])  # one rank: no collectives, whether recorded as 0 or null
        if not kept.any() or not np.isfinite(times).all():
            continue
        size = int(str(loaded.runs.at[run, "world_size"]))
        for rank, means in enumerate(times.mean(axis=2).T):
            found.setdefault((size, rank), []).append(means)
    rows: list[dict[str, int | float]] = []
    for (size, rank), each in sorted(found.items()):
        means = np.mean(each, axis=0).tolist()
        split = split_iteration(*means)._asdict()
        row: dict[str, int | float] = {"world_size": size, "rank": rank, "runs": len(each), "iteration_s": means[0]}
        rows.append(row | {f"{phase}_s": split[phase] for phase in PHASES})
    return rows


def table(rows: list[dict[str, int | float]], device: str) -> Table:
    """Return the rows as the report shows them."""
    columns = [
        Column("world_size", "GPUs" if device == "cuda" else "Ranks", "plain"),
        Column("rank", "Rank", "plain"),
        Column("iteration_s", "Iteration ms", "ms"),
        *(Column(f"{phase}_s", f"{phase.capitalize()} ms", "ms") for phase in PHASES),
    ]
    return Table("rank_phases", "Phases of every rank", tuple(columns), tuple(rows))
