"""Compares two studies point by point: before and after, stock and tuned, one driver and another.

The unit is the pair: the same world size and the same repeat in A and B. Repeats run interleaved, so a pair shares the
hour and often the node, and what the two have in common cancels.

Two studies that do not ask the same question are refused, with everything in which they differ. The statistics are in
changes.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from paceline.analysis.changes import Change, Runs, change_at, change_over_all
from paceline.analysis.curves import Curve, curves
from paceline.analysis.ingest import read_any
from paceline.analysis.stats import holm
from paceline.analysis.table import Mode, Table, count
from paceline.bench.errors import RecordError

# A difference in any of these makes it another question; `allow` names those that are the question.
MUST_AGREE = {
    "mode": "scaling mode",
    "task": "task",
    "library": "library",
    "physics": "physics",
    "gpu": "GPU model",
    "num_envs": "num_envs",
    "horizon": "horizon",
    "num_minibatches": "mini-batches",
    "minibatch_size_per_rank": "mini-batch per rank",
    "num_epochs": "epochs",
    "global_batch": "frames per iteration",
    "sync": "measurement mode",
}
# What is usually under test: reported, never refused.
MAY_DIFFER = {
    "driver": "driver",
    "cpu": "CPU",
    "image": "image",
    "isaaclab_version": "Isaac Lab",
    "isaacsim_version": "Isaac Sim",
    "torch_version": "torch",
    "cuda_version": "CUDA",
    "nccl_version": "NCCL",
    "library_version": "RL library",
    "physics_version": "physics engine",
    "paceline_version": "Paceline",
    "num_nodes": "nodes",
    "iterations": "iterations",
    "warmup_iterations": "warm-up iterations",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The changes at every world size that both have, then over all of them."""

    a: str
    b: str
    differs: tuple[str, ...]
    """What else differs between the two, one phrase each."""
    points: tuple[Change, ...]
    overall: Change

    def chance(self) -> tuple[bool, ...]:
        """Return for each point whether its verdict may be chance, as one of several.

        Where nothing changed, one comparison in ten of four world sizes calls one of them worse, and one in ten better.
        Corrected for their number (Holm), one in twenty calls any of them either.
        """
        known = [point.p_value for point in self.points if point.p_value is not None]
        corrected = iter(holm(known))
        return tuple(point.p_value is None or next(corrected) > 0.05 for point in self.points)

    def fails(self, limit: float) -> bool:
        """Return whether B is worse by more than ``limit`` (0.02: 2 %): over all, or at a point and not by chance."""
        judged = zip((*self.points, self.overall), (*self.chance(), False), strict=True)
        return any(change.verdict == "worse" and change.change < -limit and not chance for change, chance in judged)

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as ``paceline compare --format json`` prints it."""
        return {
            "a": self.a,
            "b": self.b,
            "verdict": self.overall.verdict,
            "overall": self.overall.to_json(),
            "points": [
                point.to_json() | {"may_be_chance": chance}
                for point, chance in zip(self.points, self.chance(), strict=True)
            ],
            "differs": list(self.differs),
        }


def compare_paths(a: Path, b: Path, mode: Mode | None = None, allow: Sequence[str] = ()) -> Comparison:
    """Return the comparison of two study folders (or tables); RecordError if they cannot be read or compared."""
    return compare(read_any(a, mode), read_any(b, mode), allow)


def compare(a: Table, b: Table, allow: Sequence[str] = ()) -> Comparison:
    """Return what changed from A to B.

    Args:
        a: Before.
        b: After.
        allow: Names in MUST_AGREE that may differ because they are what is compared.

    RecordError names everything in which two studies that are not comparable differ.
    """
    unknown = [name for name in allow if name not in MUST_AGREE]
    if unknown:
        raise RecordError(f"--allow {unknown[0]}: not one of {', '.join(MUST_AGREE)}")
    first, second = _usable(a), _usable(b)
    refused = [text for name, text in _differences(first, second, MUST_AGREE).items() if name not in allow]
    if refused:
        raise RecordError(f"{a.source} and {b.source} cannot be compared: {'; '.join(refused)}")
    differs = [
        *(text for name, text in _differences(first, second, MUST_AGREE).items() if name in allow),
        *_differences(first, second, MAY_DIFFER).values(),
    ]
    left, right = _runs(first), _runs(second)
    shared = sorted(left.keys() & right.keys())
    if not shared:
        raise RecordError(
            f"{a.source} and {b.source} cannot be compared: no world size in common "
            f"({', '.join(map(count, sorted(left)))} and {', '.join(map(count, sorted(right)))})"
        )
    points = tuple(change_at(size, left[size], right[size]) for size in shared)
    return Comparison(
        a=a.source,
        b=b.source,
        differs=tuple(differs),
        points=points,
        overall=change_over_all(points, left, right, shared),
    )


def _usable(table: Table) -> Curve:
    """Return the one curve of a table, without runs that must not count."""
    bad = {
        i
        for i in range(len(table))
        if table.text("status")[i] not in ("", "completed")
        or table.text("physics_valid")[i].lower() == "no"
        or np.nan_to_num(table.number("foreign_processes")[i]) > 0
        or not np.isfinite(table.number("total_fps")[i])
    }
    found = curves(table)
    if not found:
        raise RecordError(f"{table.source}: holds no run with a total rate: nothing to compare")
    if len(found) != 1:
        raise RecordError(
            f"{table.source}: holds {len(found)} curves ({found[0].label}; {found[1].label} ...); compare one"
        )
    kept = tuple(i for i in found[0].positions if i not in bad)
    if not kept:
        raise RecordError(f"{table.source}: no run with a total rate that counts")
    return Curve(table=table, label=found[0].label, positions=kept)


def _differences(a: Curve, b: Curve, names: dict[str, str]) -> dict[str, str]:
    """Return what differs at world sizes that both have, by column: ``num_envs 4096 and 8192 at N=2``."""
    out = {}
    for name, word in names.items():
        for size in sorted(set(a.world_sizes.tolist()) & set(b.world_sizes.tolist())):
            mine, other = _stated(a, name, size), _stated(b, name, size)
            if mine and other and mine != other:
                out[name] = f"{word} {' or '.join(sorted(mine))} and {' or '.join(sorted(other))} at N={count(size)}"
                break
    return out


def _stated(curve: Curve, name: str, size: float) -> set[str]:
    table = curve.table
    here = [i for i in curve.positions if table.world_sizes()[i] == size]
    if name == "mode":
        return {table.declared_mode} if table.declared_mode else set()
    if name in table.numbers:
        return {count(v) for v in table.numbers[name][here] if np.isfinite(v)}
    return {table.text(name)[i] for i in here if table.text(name)[i]}


def _runs(curve: Curve) -> Mapping[float, Runs]:
    """Return total_fps by world size and repeat; runs without a repeat number are numbered in order."""
    table = curve.table
    out: dict[float, dict[float, float]] = {}
    if "iteration" in table.numbers or "rank" in table.numbers:
        series = curve.series("total_fps")
        assert series is not None
        for size, rates in zip(series.world_sizes, series.repeats, strict=True):
            out[float(size)] = {-1.0 - k: float(rate) for k, rate in enumerate(rates)}
        return out
    for i in curve.positions:
        runs = out.setdefault(float(table.world_sizes()[i]), {})
        repeat = float(table.number("repeat")[i])
        # Negative keys never pair: without a repeat number nobody knows which runs belong together.
        runs[repeat if math.isfinite(repeat) and repeat not in runs else -1.0 - len(runs)] = float(
            table.number("total_fps")[i]
        )
    return out


def as_text(found: Comparison) -> str:
    """Return the comparison for a terminal."""
    lines = [f"A: {found.a}", f"B: {found.b}"]
    lines += [f"also differs: {text}" for text in found.differs]
    lines.append(
        f"{'N':>5} {'A frames/s':>12} {'B frames/s':>12} {'change':>8}  {'95 % interval':18} {'pairs':>5}  verdict"
    )
    for change in (*found.points, found.overall):
        size = "all" if change.world_size is None else str(change.world_size)
        rates = [f"{rate:,.0f}" if rate is not None else "" for rate in (change.a_fps, change.b_fps)]
        known = change.low is not None and change.high is not None
        interval = f"{change.low:+.1%} to {change.high:+.1%}" if known else "n=1, no interval"
        row = f"{size:>5} {rates[0]:>12} {rates[1]:>12} {change.change:>+8.1%}  {interval:18} {change.pairs:>5}"
        lines.append(f"{row}  {change.verdict}")
    doubtful = [
        f"N={point.world_size}"
        for point, chance in zip(found.points, found.chance(), strict=True)
        if chance and point.verdict not in ("inconclusive", found.overall.verdict)
    ]
    if doubtful:
        lines.append(f"{', '.join(doubtful)}: may be chance, as one of {len(found.points)} world sizes judged (Holm)")
    if found.overall.verdict != "inconclusive":
        lines.append(f"B is {found.overall.verdict}")
    elif found.overall.low is None:
        lines.append("inconclusive: one run per point gives no interval")
    else:
        lines.append("inconclusive: the interval includes no change")
    return "\n".join(lines)
