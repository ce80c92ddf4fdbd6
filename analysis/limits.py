"""What limits strong scaling: which parts of an iteration do not shrink when GPUs are added, and what they cost.

With T_p(N) the seconds of part p on N ranks (mean over ranks and device-complete iterations of a job, then over jobs):

    excess_p = T_p(N) - T_p(ref) * ref / N      what the part takes beyond its share of ideal scaling
    share_p  = excess_p / sum of all excesses   the parts sum to the iteration, so the shares sum to 1
    fixed_p  = a of  T_p(N) = a + b / N         least squares over the world sizes, for each repeat; 95 % interval over
                                                the repeats (Student's t); needs three world sizes. Not for what
                                                grows with N: communication, rest

The parts, in the order of an iteration: physics (SimulationContext.step), environment (the rest of the environment's
step: actions, observations, rewards, resets), inference, roll-out rest (what the trainer does between steps), update
(computing returns, minibatches, without collectives), communication (collectives, waiting included), rest.

The bookkeeping of rank 0 is what it does more than the other ranks: in the roll-out (undisturbed iterations), and
between two iterations (logging, checkpoints), where every other rank then waits in its first collective.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from paceline.analysis.stats import Estimate, t_quantile
from paceline.analysis.summary import Floats, RunArrays

PARTS = ("physics", "environment", "inference", "rollout_rest", "update", "communication", "rest")


@dataclass(frozen=True, slots=True)
class Limits:
    """Parts of an iteration by world size, and what is known of each size besides."""

    parts: tuple[dict[str, Any], ...]
    """One row per part and a last one for the iteration: ``part``, ``s_<N>`` for each world size, then at the largest
    ``ideal_s``, ``excess_s``, ``share``, and ``fixed_s`` with ``_low`` and ``_high`` (where it has a meaning)."""
    sizes: tuple[dict[str, Any], ...]
    """One row per world size: collectives, bookkeeping of rank 0, threads."""


def parts_of_run(block: RunArrays) -> dict[str, float] | None:
    """Return seconds per device-complete iteration of each part (means over ranks), None if they were not measured."""
    synced = ~block.warmup & block.sync
    if not synced.any():
        return None
    values = {name: column[:, synced] for name, column in block.values.items()}
    communication = np.nan_to_num(values["communication_time_s"])
    collection = values["iteration_time_s"] - values["update_time_s"]  # up to the first method of the update
    found = {
        "physics": values["physics_time_s"],
        "environment": values["env_step_time_s"] - values["physics_time_s"],
        "inference": values["inference_time_s"],
        "rollout_rest": collection - values["env_step_time_s"] - values["inference_time_s"],
        "update": values["update_time_s"] - communication,
        "communication": communication,
    }
    parts = {name: float(seconds.mean()) for name, seconds in found.items()}
    rest = float(values["iteration_time_s"].max(axis=0).mean()) - math.fsum(parts.values())  # the slowest rank
    parts["rest"] = rest if abs(rest) > 1e-9 else 0.0  # rounding
    return parts if all(math.isfinite(seconds) for seconds in parts.values()) else None


def ranks_of_run(block: RunArrays) -> dict[str, float]:
    """Return what undisturbed iterations say about collectives and about rank 0; NaN for what one rank cannot tell."""
    kept = ~block.warmup & ~block.sync
    values = block.values
    ended = values["start_s"] + values["iteration_time_s"]
    between = (values["start_s"][:, 1:] - ended[:, :-1])[:, kept[:-1]]
    collection = values["collection_time_s"][:, kept]
    several = len(collection) > 1
    return {
        "collectives": float(np.nan_to_num(values["collectives"][:, kept]).mean()),
        "collectives_per_step": float((values["collectives"][:, kept] / values["optimizer_steps"][:, kept]).mean()),
        "communication_s": float(np.nan_to_num(values["communication_time_s"][:, kept]).mean()),
        "rank0_rollout_s": float(collection[0].mean() - collection[1:].mean()) if several else math.nan,
        "between_rank0_s": float(between[0].mean()) if between.size else math.nan,
        "between_others_s": float(between[1:].mean()) if several and between.size else math.nan,
    }


def limits(blocks: Mapping[int, Sequence[RunArrays]], headers: Mapping[int, Mapping[str, Any]]) -> Limits | None:
    """Return what limits a strong-scaling study, None where phases of fewer than two world sizes were measured.

    Args:
        blocks: The runs that count, by world size, in the order of their repeats.
        headers: The header of one rank of each world size (threads, cores).
    """
    measured = {size: [p for block in own if (p := parts_of_run(block))] for size, own in sorted(blocks.items())}
    measured = {size: own for size, own in measured.items() if own}
    if len(measured) < 2:
        return None
    sizes = list(measured)
    means = {size: {part: _mean([run[part] for run in own]) for part in PARTS} for size, own in measured.items()}
    rows = [_row(part, {size: means[size][part] for size in sizes}) for part in PARTS]
    whole = {size: math.fsum(means[size].values()) for size in sizes}
    total = _row("iteration", whole)
    for row in (*rows, total):
        row["share"] = row["excess_s"] / total["excess_s"] if total["excess_s"] > 0 else None
    for row in rows:
        grows = row["part"] in ("communication", "rest")  # nothing on one rank: a + b / N does not describe them
        row |= {} if grows else _fixed([[run[row["part"]] for run in own] for own in measured.values()], sizes)
    total |= _fixed([[math.fsum(run.values()) for run in own] for own in measured.values()], sizes)
    return Limits((*rows, total), tuple(_size_row(size, blocks[size], headers.get(size, {})) for size in sizes))


def _row(part: str, seconds: Mapping[int, float]) -> dict[str, Any]:
    reference, largest = min(seconds), max(seconds)
    ideal = seconds[reference] * reference / largest
    row: dict[str, Any] = {"part": part, **{f"s_{size}": value for size, value in seconds.items()}}
    return row | {"ideal_s": ideal, "excess_s": seconds[largest] - ideal}


def _fixed(runs: Sequence[Sequence[float]], sizes: Sequence[int]) -> dict[str, float | None]:
    """Return the part that stays however many ranks there are: a of a + b / N, fitted for each repeat."""
    count = min(map(len, runs))
    if len(sizes) < 3:
        return dict(zip(("fixed_s", "fixed_s_low", "fixed_s_high"), Estimate(None, None, None), strict=True))
    design = np.column_stack([np.ones(len(sizes)), 1.0 / np.asarray(sizes, dtype=np.float64)])
    table: Floats = np.array([list(own[:count]) for own in runs])
    constants = np.linalg.lstsq(design, table, rcond=None)[0][0]
    middle = float(constants.mean())
    if count < 2:
        return {"fixed_s": middle, "fixed_s_low": None, "fixed_s_high": None}
    half = t_quantile(count - 1) * float(constants.std(ddof=1)) / math.sqrt(count)
    return {"fixed_s": middle, "fixed_s_low": middle - half, "fixed_s_high": middle + half}


def _size_row(size: int, own: Sequence[RunArrays], header: Mapping[str, Any]) -> dict[str, Any]:
    runs = [ranks_of_run(block) for block in own]
    row: dict[str, Any] = {"world_size": size}
    for name in runs[0]:
        value = _mean([run[name] for run in runs])
        row[name] = value if math.isfinite(value) else None
    threads, cpu = header.get("threads"), header.get("cpu")
    row["threads"] = threads.get("torch") if isinstance(threads, Mapping) else None
    row["cores"] = cpu.get("affinity_cores") if isinstance(cpu, Mapping) else None
    return row


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
