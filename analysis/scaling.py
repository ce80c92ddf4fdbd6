"""The scaling table: one row per world size, with intervals over repeats.

    speed-up     S = X_N / X_ref      X: median total_fps over repeats, ref: the smallest world size that has a number
    efficiency   E = S * N_ref / N

For strong scaling (fixed problem) that is the classic T(ref) N(ref) / (T(N) N); for weak scaling (fixed environments
per rank) S is the scaled speed-up. It is not POP's parallel efficiency.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from paceline.analysis.counting import CURVE_KINDS
from paceline.analysis.lawtable import LAWS, serial_fractions
from paceline.analysis.learning import COLUMNS as LEARNING
from paceline.analysis.learning import Curve, Target, curve_of, learning_row, target_of
from paceline.analysis.load import Loaded
from paceline.analysis.phases import POP, attribution, phase_row, pop_row
from paceline.analysis.stats import NOT_KNOWN, Estimate, median_interval, ratio_interval
from paceline.analysis.summary import RATES, SPLIT, RunArrays, run_arrays, summarise
from paceline.analysis.table import Mode
from paceline.analysis.usage import price, rank_hours

if TYPE_CHECKING:
    import pandas as pd

# The file contract (docs/formats.md): these first, in this order.
CONTRACT_COLUMNS = (
    *("world_size", "num_nodes", "num_envs", "num_envs_per_rank", "repeats"),
    *("total_fps", "total_fps_low", "total_fps_high", "speedup", "speedup_low", "speedup_high"),
    *("efficiency", "efficiency_low", "efficiency_high", "status"),
)
FURTHER_COLUMNS = (
    *("repeats_planned", "runs_failed", "runs_flagged", "global_batch", "minibatch_size_per_rank"),
    "optimizer_steps_per_iteration",
    *(f"{name}{end}" for name in RATES[1:] for end in ("", "_low", "_high")),
    *(f"{part}_s" for part in SPLIT),
    *("sync_iteration_s", "sync_overhead_pct", "cost_us"),
    *(f"loss_{part}" for part in SPLIT),
    *POP,
    *(
        "pop_computation_scaling",
        "rank_spread_pct",
        "gpu_util_pct",
        "power_w",
        "energy_j_per_million_frames",
        "final_reward",
        "gpu_hours",
        "serial_fraction",
        "incremental_efficiency",
    ),
    *("power_limited_pct", "frames_per_joule", "cost_per_million_frames", "cost"),
    *LEARNING,
)
_PROBLEM = (
    *("num_nodes", "num_envs", "num_envs_per_rank", "global_batch", "minibatch_size_per_rank"),
    "optimizer_steps_per_iteration",
)


def scaling_table(
    loaded: Loaded,
    summaries: pd.DataFrame | None = None,
    arrays: Mapping[int, RunArrays] | None = None,
    reward: float | None = None,
) -> pd.DataFrame:
    """Return one row per world size: CONTRACT_COLUMNS, then FURTHER_COLUMNS (docs/report.md explains each).

    Args:
        loaded: The study.
        summaries: What ``summarise`` returned for it; computed if not given.
        arrays: What ``run_arrays`` returned for it, likewise.
        reward: Reward that counts as reached; chosen if not given (learning.py).

    A world size without any number is a row too; its numbers are missing (None) and ``status`` says why.
    """
    import pandas as pd

    if arrays is None:
        arrays = run_arrays(loaded)
    if summaries is None:
        summaries = summarise(loaded, arrays)
    groups = _groups(loaded, summaries)
    learnt = learning_curves(groups, arrays)
    target = reward_target(learnt, reward)
    cost, _ = price(loaded)
    reference: dict[str, Any] | None = None
    rows: list[dict[str, Any]] = []
    for size, group in groups.items():
        row = _describe(loaded, size, len(group))
        blocks = [arrays[int(run)] for run in group.index]
        if len(group):
            own: dict[str, Any] = {"world_size": size, "values": group["total_fps"].tolist()}
            own |= {"total_fps": median_interval(own["values"]).value, **phase_row(group)}
            reference = reference or own  # sizes ascend: the first with a number
            row |= _measure(group, own, reference)
            row |= pop_row(blocks, own, reference)
            row |= learning_row(learnt[size], learnt[reference["world_size"]], target, row["speedup"])
        if cost is not None:
            row["cost"] = cost.gpu_hour * row["gpu_hours"]
            if row.get("total_fps"):
                row["cost_per_million_frames"] = cost.gpu_hour * size / 3600.0 / row["total_fps"] * 1e6
        rows.append(row)
    _add_serial_fractions(loaded.kind, [row for row in rows if row.get("total_fps")])
    frame = pd.DataFrame(rows, columns=[*CONTRACT_COLUMNS, *FURTHER_COLUMNS], dtype=object)
    # object, so that whole numbers stay whole and None is neither NaN nor 0
    return frame.where(frame.notna(), None)


def _groups(loaded: Loaded, summaries: pd.DataFrame) -> dict[int, pd.DataFrame]:
    """Return the summaries of the runs on the curve by world size: those that count and are not flagged."""
    clean = summaries[summaries["flags"].map(len) == 0]
    sizes = loaded.runs["world_size"].reindex(clean.index)
    return {size: clean[sizes == size] for size in _sizes(loaded)}


Learnt = Mapping[int, Sequence[tuple[float, Curve]]]


def learning_curves(groups: Mapping[int, pd.DataFrame], arrays: Mapping[int, RunArrays]) -> Learnt:
    """Return by world size the throughput of each run that reported rewards, and what it learnt."""
    return {
        size: [
            (float(rate), curve)
            for run, rate in group["total_fps"].items()
            if (curve := curve_of(arrays[int(str(run))])) is not None
        ]
        for size, group in groups.items()
    }


def reward_target(learnt: Learnt, stated: float | None = None) -> Target:
    """Return the reward that counts as reached."""
    return target_of({size: [curve for _, curve in own] for size, own in learnt.items()}, stated)


def study_target(
    loaded: Loaded, summaries: pd.DataFrame, arrays: Mapping[int, RunArrays], stated: float | None = None
) -> Target:
    """Return the reward that the scaling table of a study counts as reached."""
    return reward_target(learning_curves(_groups(loaded, summaries), arrays), stated)


def _add_serial_fractions(kind: str, measured: Sequence[dict[str, Any]]) -> None:
    if kind not in LAWS or not measured:
        return
    mode: Mode = "strong" if kind == "strong" else "weak"
    fractions = serial_fractions(mode, [row["world_size"] for row in measured], [row["total_fps"] for row in measured])
    for row, found in zip(measured, fractions, strict=True):
        row |= found


def planned_sizes(study: Mapping[str, Any]) -> list[int]:
    """Return the world sizes that the study asks for, empty if study.yaml does not list them."""
    sizes = study.get("world_sizes")
    return sorted({size for size in sizes if isinstance(size, int)}) if isinstance(sizes, list) else []


def _sizes(loaded: Loaded) -> list[int]:
    kept = loaded.runs[loaded.runs["counts"].astype(bool)]
    return sorted({*planned_sizes(loaded.study), *(int(size) for size in kept["world_size"])})


def own_runs(loaded: Loaded) -> pd.DataFrame:
    """Return the attempts at cases of this study, whatever became of them: no warm-up runs, no other study's cases."""
    runs = loaded.runs
    return runs[runs["kind"].isin(CURVE_KINDS) & (runs["left_out"] != "foreign")]


def _describe(loaded: Loaded, size: int, repeats: int) -> dict[str, Any]:
    """Return what was asked for at one world size and what became of it."""
    runs = own_runs(loaded)
    own = runs[runs["world_size"] == size]
    counted = own[own["counts"].astype(bool)]
    planned = loaded.study.get("repeats")
    row: dict[str, Any] = {
        "world_size": size,
        "repeats": repeats,
        "repeats_planned": planned if isinstance(planned, int) else None,
        "runs_failed": int(own["status"].isin(("failed", "interrupted", "unreadable")).sum()),
        "runs_flagged": len(counted) - repeats,
        "gpu_hours": rank_hours(own),
        **{name: _common(counted if len(counted) else own, name) for name in _PROBLEM},
    }
    _planned_envs(row, loaded.study, size)
    row["status"] = _status(row, own)
    return row


def _measure(group: pd.DataFrame, own: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of one world size: rates, speed-up and efficiency with intervals, split, loss, energy."""
    size = own["world_size"]
    estimates = {name: _estimate(group, name) for name in RATES}
    estimates["speedup"] = ratio_interval(own["values"], reference["values"])
    if own["world_size"] == reference["world_size"]:  # the ratio of a point to itself is 1 without doubt
        exact = 1.0 if len(group) > 1 else None
        estimates["speedup"] = Estimate(1.0, exact, exact)
    estimates["efficiency"] = estimates["speedup"].scaled(reference["world_size"] / size)
    row: dict[str, Any] = {}
    for name, estimate in estimates.items():
        row[name], row[f"{name}_low"], row[f"{name}_high"] = estimate
    row |= {name: own[name] for name in (*(f"{part}_s" for part in SPLIT), "sync_iteration_s", "sync_overhead_pct")}
    row |= attribution(own, reference)
    row |= {name: _mean(group, name) for name in ("rank_spread_pct", "gpu_util_pct", "power_w", "final_reward")}
    if row["power_w"] is not None:
        row["energy_j_per_million_frames"] = row["power_w"] / row["total_fps"] * 1e6
        row["frames_per_joule"] = row["total_fps"] / row["power_w"] if row["power_w"] else None
    share = _mean(group, "power_limited_share")
    row["power_limited_pct"] = None if share is None else 100.0 * share
    return row


def _estimate(group: pd.DataFrame, name: str) -> Estimate:
    if name not in group or not len(group):
        return NOT_KNOWN
    values = [float(value) for value in group[name] if math.isfinite(float(value))]
    return median_interval(values)


def _mean(group: pd.DataFrame, name: str) -> float | None:
    if name not in group or not len(group):
        return None
    values = [float(value) for value in group[name] if value is not None and math.isfinite(float(value))]
    return math.fsum(values) / len(values) if values else None


def _common(runs: pd.DataFrame, name: str) -> int | None:
    values = {int(value) for value in runs[name].dropna()}
    return values.pop() if len(values) == 1 else None


def _planned_envs(row: dict[str, Any], study: Mapping[str, Any], size: int) -> None:
    """Fill in the problem size of a point that has no run, as the study plans it."""
    total, per_rank = study.get("num_envs"), study.get("num_envs_per_rank")
    if row["num_envs"] is None and isinstance(total, int) and study.get("kind") == "strong":
        row["num_envs"], row["num_envs_per_rank"] = total, total // size if total % size == 0 else None
    elif row["num_envs"] is None and isinstance(per_rank, int):
        row["num_envs"], row["num_envs_per_rank"] = per_rank * size, per_rank


def _status(row: dict[str, Any], own: pd.DataFrame) -> str:
    """Return ``completed``, ``partial`` (repeats missing), ``flagged``, ``failed``, ``unfinished`` or ``missing``."""
    if row["repeats"]:
        planned = row["repeats_planned"]
        return "partial" if planned is not None and row["repeats"] < planned else "completed"
    if row["runs_flagged"]:
        return "flagged"
    if not len(own):
        return "missing"
    return "unfinished" if (own["status"] == "unfinished").any() else "failed"
