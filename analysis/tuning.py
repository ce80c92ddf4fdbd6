"""What each variant of a tuning study gained: throughput against the baseline, and whether learning stayed the same.

    change    X_variant / X_baseline - 1 over pairs of the same world size and repeat (analysis/changes.py)
    learning  A_variant - A_baseline over the same pairs, which share their seeds. A: area under the reward curve, per
              iteration. In parentheses the noise between seeds: the standard deviation of A over the baseline's repeats

Learning is the same if the 95 % interval of the difference (Student's t over the pairs) includes none, or lies within
the noise between seeds altogether: what another seed does as well is no change of the learning problem. Even with one
seed two runs on a GPU drift apart: sums are not taken in the same order twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from paceline.analysis.changes import Change, Runs, change_at, change_over_all
from paceline.analysis.load import Loaded
from paceline.analysis.stats import t_quantile
from paceline.analysis.summary import RunArrays, summarise
from paceline.analysis.units import show
from paceline.analysis.verdict import Verdict
from paceline.bench.record import lever_pairs

if TYPE_CHECKING:
    import pandas as pd

BASELINE = "baseline"
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Learning:
    """The reward of a variant against that of the baseline, over pairs of runs with the same seeds."""

    difference: float
    """Mean difference of the areas under the reward curve, in reward."""
    low: float | None
    high: float | None
    """95 % interval; None with one pair."""
    seed_noise: float | None
    """Standard deviation of the baseline's areas over its repeats, None with one."""
    verdict: Literal["same", "differs", "not judged"]


@dataclass(frozen=True, kw_only=True, slots=True)
class VariantResult:
    """One variant at one world size, or over all of them (``change.world_size`` None)."""

    variant: str
    levers: Pairs
    change: Change
    learning: Learning | None
    """None where no run reported a reward, and over all world sizes."""

    def row(self) -> dict[str, Any]:
        """Return the result as a row of tuning.csv and of ``tuning`` in report.json."""
        learning = self.learning
        return {
            "variant": self.variant,
            "levers": ", ".join(f"{name}={value}" for name, value in self.levers),
            "world_size": self.change.world_size,
            "baseline_total_fps": self.change.a_fps,
            "total_fps": self.change.b_fps,
            "ratio": 1.0 + self.change.change,
            "ratio_low": None if self.change.low is None else 1.0 + self.change.low,
            "ratio_high": None if self.change.high is None else 1.0 + self.change.high,
            "pairs": self.change.pairs,
            "runs_baseline": self.change.runs[0],
            "runs": self.change.runs[1],
            "verdict": self.change.verdict,
            "reward_difference": learning.difference if learning else None,
            "reward_difference_low": learning.low if learning else None,
            "reward_difference_high": learning.high if learning else None,
            "reward_seed_noise": learning.seed_noise if learning else None,
            "learning": learning.verdict if learning else None,
        }


def variants(study: Mapping[str, Any]) -> dict[str, Pairs]:
    """Return the levers of each variant that a resolved study states, the baseline first; empty without any."""
    stated = study.get("tuning")
    if not isinstance(stated, Mapping) or not stated:
        return {}
    own = study.get("levers")
    found = {BASELINE: lever_pairs(own) if isinstance(own, Mapping) else ()}
    return found | {str(name): lever_pairs(levers) for name, levers in stated.items() if isinstance(levers, Mapping)}


def tuning_results(loaded: Loaded, arrays: Mapping[int, RunArrays]) -> list[VariantResult]:
    """Return what each variant gained, in the order of the study: at every world size, then over all of them.

    A variant without a run that counts is left out; so are flagged runs. Empty for a study without variants.
    """
    named = variants(loaded.study)
    if not named:
        return []
    runs = {name: _runs_of(loaded, arrays, levers) for name, levers in named.items()}
    base = runs[BASELINE]
    results = []
    for name, own in runs.items():
        shared = sorted(base.keys() & own.keys())
        if name == BASELINE or not shared:
            continue
        left = {float(size): _rates(base[size]) for size in shared}
        right = {float(size): _rates(own[size]) for size in shared}
        points = [change_at(size, left[size], right[size]) for size in left]
        for size, point in zip(shared, points, strict=True):
            learning = compare_learning(_areas(base[size], arrays), _areas(own[size], arrays))
            results.append(VariantResult(variant=name, levers=named[name], change=point, learning=learning))
        if len(points) > 1:
            overall = change_over_all(points, left, right, list(left))
            results.append(VariantResult(variant=name, levers=named[name], change=overall, learning=None))
    return results


def _runs_of(loaded: Loaded, arrays: Mapping[int, RunArrays], levers: Pairs) -> dict[int, pd.DataFrame]:
    """Return the summaries of the clean runs that have these levers, by world size; column ``repeat`` added."""
    table = loaded.runs.copy()
    newest: dict[Any, int] = {}
    for run, row in table.iterrows():
        wanted = row["kind"] in ("strong", "weak") and tuple(row["levers"] or ()) == levers
        if wanted and row["status"] == "completed":
            newest[row["case_id"]] = int(str(run))
    table["counts"] = table.index.isin(list(newest.values()))
    summaries = summarise(replace(loaded, runs=table), arrays)
    if not len(summaries):
        return {}
    clean = summaries[(summaries["flags"].map(len) == 0) & np.isfinite(summaries["total_fps"].astype(float))].copy()
    clean["repeat"] = table["repeat"].reindex(clean.index)
    sizes = table["world_size"].reindex(clean.index).astype(int)
    return {int(size): clean[sizes == size] for size in sorted(set(sizes))}


def _rates(group: pd.DataFrame) -> Runs:
    return {float(repeat): float(rate) for repeat, rate in zip(group["repeat"], group["total_fps"], strict=True)}


def _areas(group: pd.DataFrame, arrays: Mapping[int, RunArrays]) -> dict[int, np.ndarray[Any, Any]]:
    """Return the reward of each iteration (mean over the ranks that report one) by repeat; shape (iterations,)."""
    found = {}
    for run, repeat in zip(group.index, group["repeat"], strict=True):
        reward = arrays[int(run)].values["reward"]
        known = np.isfinite(reward)
        count = known.sum(axis=0)
        total = np.where(known, reward, 0.0).sum(axis=0)
        found[int(repeat)] = np.where(count > 0, total / np.maximum(count, 1), math.nan)
    return found


def compare_learning(
    baseline: Mapping[int, np.ndarray[Any, Any]], variant: Mapping[int, np.ndarray[Any, Any]]
) -> Learning | None:
    """Return the comparison of reward curves (by repeat; shape (iterations,)), None if no pair has a reward.

    Areas are taken over the iterations in which every run has a reward: the first have none, until an episode ends.
    """
    shared = sorted(baseline.keys() & variant.keys())
    if not shared:
        return None
    length = min(len(curve[k]) for curve in (baseline, variant) for k in shared)
    every = np.stack([curve[k][:length] for curve in (baseline, variant) for k in shared])
    known = np.isfinite(every).all(axis=0)
    if not known.any():
        return None
    areas = every[:, known].mean(axis=1)
    first, second = areas[: len(shared)], areas[len(shared) :]
    differences = second - first
    middle = float(differences.mean())
    if len(shared) < 2:
        return Learning(difference=middle, low=None, high=None, seed_noise=None, verdict="not judged")
    half = t_quantile(len(shared) - 1) * float(differences.std(ddof=1)) / math.sqrt(len(shared))
    low, high = middle - half, middle + half
    seed_noise = float(first.std(ddof=1))
    same = low <= 0 <= high or max(-low, high) <= seed_noise
    return Learning(difference=middle, low=low, high=high, seed_noise=seed_noise, verdict="same" if same else "differs")


def sentences(results: Sequence[VariantResult]) -> list[str]:
    """Return what a reader takes away, none of which says more than its interval allows."""
    judged = [result for result in results if result.change.low is not None]
    out = []
    for verdict in ("better", "worse"):
        named = [f"{_where(r)} ({_percent(r.change)})" for r in judged if r.change.verdict == verdict]
        if named:
            out.append(f"{verdict.capitalize()} than the baseline: {'; '.join(named)}.")
    unclear = sorted({r.variant for r in judged} - {r.variant for r in judged if r.change.verdict != "inconclusive"})
    if unclear:
        out.append(f"Inconclusive at every size, the intervals include no change: {', '.join(unclear)}.")
    points = sum(result.change.world_size is not None for result in judged)
    if points >= 5:
        out.append(
            f"{points} comparisons at 95\u202f%: about {points * 0.05:.1f} of them look like a change by chance alone. "
            "What is to be kept deserves more repeats."
        )
    changed = [_where(r) for r in results if r.learning is not None and r.learning.verdict == "differs"]
    if changed:
        out.append(f"The reward differs, by more than seeds make it differ: {', '.join(changed)}.")
    elif any(r.learning is not None and r.learning.verdict == "same" for r in results):
        out.append(
            "The reward is the same, within its interval or the noise between seeds, in every variant that was judged."
        )
    if results and not judged:
        out.append("One run per point gives no interval: nothing is judged.")
    return out


def tuning_verdict(results: Sequence[VariantResult], world_size: int | None) -> Verdict:
    """Return the verdict on a tuning study: its best variant, judged at the largest size that it was measured at.

    Args:
        results: What ``tuning_results`` returned.
        world_size: The size that the study's own verdict is about.
    """
    details = tuple(sentences(results))
    points = [result for result in results if result.change.world_size is not None]
    if not points:
        return Verdict("none", "No variant has a run to compare with the baseline.", details, world_size)
    largest = max(result.change.world_size or 0 for result in points)
    here = [result for result in points if result.change.world_size == largest]
    better = [result for result in here if result.change.verdict == "better"]
    where = f"world size {largest}"
    if better:
        best = max(better, key=lambda result: result.change.change)
        headline = f"Variant {best.variant} is better at {where}: {_percent(best.change)}."
        return Verdict("better", headline, details, world_size)
    if all(result.change.verdict == "worse" for result in here):
        return Verdict("worse", f"Every variant is worse than the baseline at {where}.", details, world_size)
    headline = f"Inconclusive: no variant is better than the baseline for certain at {where}."
    return Verdict("inconclusive", headline, details, world_size)


def _where(result: VariantResult) -> str:
    size = result.change.world_size
    return f"{result.variant}, {'all sizes' if size is None else f'world size {size}'}"


def _percent(change: Change) -> str:
    return f"{_signed(change.change)}, 95\u202f% interval {_signed(change.low)} to {_signed(change.high)}"


def _signed(value: float | None) -> str:
    return f"{show(value, 'points')}\u202f%"
