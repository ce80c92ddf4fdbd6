"""How long a training takes, and what fits into a time, from measured throughput.

    frames per iteration  F = environments of all ranks * horizon
    iterations per hour   3600 X / F
    hours                 start-up of each job + frames / X
    GPU-hours             hours * GPUs

The interval of the throughput X over repeats goes through to everything that follows from it. With one run there is no
such interval; then the scatter between blocks of its iterations stands in, and is called that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from paceline.analysis.load import Loaded, load_study
from paceline.analysis.stats import Estimate, median_interval, t_quantile
from paceline.analysis.summary import RunArrays, run_arrays, summarise
from paceline.analysis.units import known
from paceline.bench.errors import RecordError
from paceline.bench.rundir import RunDir

BUDGET_SCHEMA = "paceline.budget/1"
SAVE_INTERVAL = 50
"""Iterations between checkpoints in most of Isaac Lab's configurations."""
_BLOCKS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Throughput of one way to train: a number of GPUs and of environments. Scope: job."""

    label: str
    world_size: int
    num_envs: int | None
    """Of all ranks."""
    horizon: int | None
    fps: Estimate
    repeats: int | None
    interval_from: str
    """repeats, blocks of one run, stated, or none."""
    startup_s: float = 0.0
    """From the start of the process to the first iteration."""
    checkpoint_bytes: float | None = None
    gpu_hour_price: float | None = None

    @property
    def frames_per_iteration(self) -> int | None:
        """Environment steps of all ranks in one iteration."""
        return self.num_envs * self.horizon if self.num_envs and self.horizon else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What is asked: how much training, or how much time. One of the first three."""

    frames: float | None = None
    iterations: int | None = None
    hours: float | None = None
    """Wall time; with ``gpu_hours`` the same for all ways to train together."""
    gpu_hours: float | None = None
    time_limit_h: float | None = None
    """Of one job; a training that takes longer is several jobs, each with its start-up."""
    save_interval: int = SAVE_INTERVAL


def plan(measured: Measured, wish: Wish) -> dict[str, Any]:
    """Return what a way to train needs, or reaches, under a wish, with ``_low`` and ``_high``; None if unknown."""
    low, value, high = measured.fps.low, measured.fps.value, measured.fps.high
    rates = {"": value, "_low": low, "_high": high}
    frames_each = measured.frames_per_iteration
    row: dict[str, Any] = {
        "label": measured.label,
        "world_size": measured.world_size,
        "num_envs": measured.num_envs,
        "horizon": measured.horizon,
        "repeats": measured.repeats,
        "interval_from": measured.interval_from,
        "startup_s": measured.startup_s,
    }
    for suffix, fps in rates.items():
        row |= {f"{key}{suffix}": number for key, number in _reach(measured, wish, fps, frames_each).items()}
    # More throughput is less time: the bounds of a time change places.
    for name in ("hours", "gpu_hours", "jobs", "price"):
        if wish.hours is None and wish.gpu_hours is None:
            row[f"{name}_low"], row[f"{name}_high"] = row[f"{name}_high"], row[f"{name}_low"]
    for name in (
        ("frames", "iterations") if wish.hours is None and wish.gpu_hours is None else ("hours", "gpu_hours", "price")
    ):
        row[f"{name}_low"] = row[f"{name}_high"] = None  # that was asked for: it is exact
    iterations = row["iterations"]
    row["checkpoints"] = None if iterations is None else math.ceil(iterations / wish.save_interval)
    known_size = row["checkpoints"] is not None and measured.checkpoint_bytes is not None
    row["disk_bytes"] = row["checkpoints"] * measured.checkpoint_bytes if known_size else None
    return row


def _reach(measured: Measured, wish: Wish, fps: float | None, frames_each: int | None) -> dict[str, Any]:
    names = ("fps", "iterations_per_hour", "frames", "iterations", "hours", "gpu_hours", "jobs", "price")
    found: dict[str, Any] = dict.fromkeys(names)
    if fps is None or not fps > 0:
        return found
    found["fps"] = fps
    found["iterations_per_hour"] = 3600.0 * fps / frames_each if frames_each else None
    startup_h = measured.startup_s / 3600.0
    if wish.hours is not None or wish.gpu_hours is not None:
        hours = wish.hours if wish.hours is not None else (wish.gpu_hours or 0.0) / measured.world_size
        jobs = max(math.ceil(hours / wish.time_limit_h - 1e-9), 1) if wish.time_limit_h else 1
        training_h = max(hours - jobs * startup_h, 0.0)
        frames: float | None = training_h * 3600.0 * fps
    else:
        frames = wish.frames
        if wish.iterations is not None:
            frames = float(wish.iterations * frames_each) if frames_each else None
        if frames is None:
            return found
        training_h = frames / fps / 3600.0
        own = (wish.time_limit_h or math.inf) - startup_h
        jobs = max(math.ceil(training_h / own - 1e-9), 1) if own > 0 else 0
        hours = training_h + jobs * startup_h
        if not jobs:
            return found | {"jobs": None}
    found |= {"frames": frames, "hours": hours, "gpu_hours": hours * measured.world_size, "jobs": jobs}
    # Whole iterations only: the last one, cut short, saves nothing.
    found["iterations"] = math.floor(frames / frames_each + 1e-9) if frames_each and frames is not None else None
    price = measured.gpu_hour_price
    found["price"] = found["gpu_hours"] * price if price is not None else None
    return found


def from_folder(folder: Path) -> list[Measured]:
    """Return the ways to train that a study folder measured, by GPUs and environments; RecordError if none counts."""
    loaded = load_study(folder)
    arrays = run_arrays(loaded)
    summaries = summarise(loaded, arrays)
    excluded = _excluded(loaded)
    groups: dict[tuple[Any, ...], list[int]] = {}
    for run in summaries.index:
        asked = loaded.runs.loc[run]
        if summaries.at[run, "flags"] or not known(_plain(summaries.at[run, "total_fps"])):
            continue
        if (str(asked["case_id"]), int(asked["attempt"])) in excluded:
            continue
        key = (int(asked["world_size"]), int(asked["num_envs"]), int(asked["horizon"]), _model(loaded, int(run)))
        groups.setdefault(key, []).append(int(run))
    if not groups:
        raise RecordError(f"{folder}: no run that counts, so there is no throughput to plan with")
    models = {key[3] for key in groups}
    checkpoint = _checkpoint_bytes(loaded)
    found = []
    for key in sorted(groups, key=lambda each: (str(each[3]), *each[:3])):
        world_size, num_envs, horizon, model = key
        runs = groups[key]
        values = [float(_plain(summaries.at[run, "total_fps"])) for run in runs]
        fps, origin = median_interval(values), "repeats"
        if len(values) == 1:
            fps, origin = _blocks(arrays[runs[0]], values[0])
        found.append(
            Measured(
                label=f"{model}, " * (len(models) > 1) + _size(world_size, num_envs, str(loaded.study.get("device"))),
                world_size=world_size,
                num_envs=num_envs,
                horizon=horizon,
                fps=fps,
                repeats=len(values),
                interval_from=origin,
                startup_s=_startup_s(arrays, runs),
                checkpoint_bytes=checkpoint,
                gpu_hour_price=_price(loaded, str(model)),
            )
        )
    return found


def from_table(path: Path, horizon: int | None) -> list[Measured]:
    """Return the ways to train in somebody's CSV table; RecordError if it has no throughput."""
    from paceline.analysis.plain_csv import read_csv

    table = read_csv(path)
    rates, low, high = (table.number(name).tolist() for name in ("total_fps", "total_fps_low", "total_fps_high"))
    sizes, envs, models = table.world_sizes().tolist(), table.number("num_envs").tolist(), table.text("gpu")
    per_rank, steps = table.number("num_envs_per_rank").tolist(), table.number("horizon").tolist()
    valid = table.text("physics_valid")
    found = []
    for i, rate in enumerate(rates):
        if not math.isfinite(rate) or valid[i].strip().lower() in ("no", "false", "0"):
            continue
        size = int(sizes[i]) if math.isfinite(sizes[i]) else 1
        total = envs[i] if math.isfinite(envs[i]) else per_rank[i] * size
        bounds = (low[i], high[i]) if math.isfinite(low[i]) and math.isfinite(high[i]) else (None, None)
        count = int(total) if math.isfinite(total) else None
        found.append(
            Measured(
                label=", ".join(filter(None, (models[i], _size(size, count, "cuda")))),
                world_size=size,
                num_envs=count,
                horizon=int(steps[i]) if math.isfinite(steps[i]) else horizon,
                fps=Estimate(rate, *bounds),
                repeats=None,
                interval_from="stated" if bounds[0] is not None else "none",
            )
        )
    if not found:
        raise RecordError(f"{path}: no row with a throughput")
    return found


def _size(world_size: int, num_envs: int | None, device: str) -> str:
    unit = ("CPU rank" if device == "cpu" else "GPU") + ("s" if world_size > 1 else "")
    return f"{world_size} {unit}" + (f", {num_envs:,} envs" if num_envs else "")


def _excluded(loaded: Loaded) -> set[tuple[str, int]]:
    if loaded.kind != "sweep":
        return set()
    from paceline.analysis import sweeppoints

    return {(str(row["case_id"]), int(row["attempt"])) for row in sweeppoints.folder_rows(loaded) if row["excluded"]}


def _blocks(block: RunArrays, value: float) -> tuple[Estimate, str]:
    """Return the throughput of one run with the 95 % interval of the means of blocks of its iterations."""
    kept = ~block.warmup & ~block.sync
    time_s, frames = block.time_s[kept], block.frames[kept]
    size = len(time_s) // _BLOCKS
    if size < 2:
        return Estimate(value, None, None), "none"
    cut = size * _BLOCKS
    rates = frames[:cut].reshape(_BLOCKS, size).sum(axis=1) / time_s[:cut].reshape(_BLOCKS, size).sum(axis=1)
    logs = np.log(rates)
    half = t_quantile(float(_BLOCKS - 1)) * float(logs.std(ddof=1)) / math.sqrt(_BLOCKS)
    return Estimate(value, value * math.exp(-half), value * math.exp(half)), "blocks of one run"


def _startup_s(arrays: Mapping[int, RunArrays], runs: Sequence[int]) -> float:
    starts = [float(arrays[run].values["start_s"].max(axis=0)[0]) for run in runs]
    finite = [value for value in starts if math.isfinite(value) and value >= 0]
    return float(np.median(finite)) if finite else 0.0


def _checkpoint_bytes(loaded: Loaded) -> float | None:
    """Return the size of the checkpoints that the runs left, None if they left none."""
    sizes = [
        path.stat().st_size
        for run in loaded.runs["path"].tolist()
        for pattern in ("trainer/**/model_*.pt", "trainer/**/nn/*.pth")
        for path in RunDir(run).path.glob(pattern)
        if path.is_file()
    ]
    return float(np.median(sizes)) if sizes else None


def _model(loaded: Loaded, run: int) -> str | None:
    header = next(iter(loaded.headers.get(run, ())), {})
    device = header.get("device") or {}
    return str(device.get("name")) if device.get("kind") == "cuda" else None


def _price(loaded: Loaded, model: str) -> float | None:
    prices = (loaded.cluster.get("prices") or {}).get("gpu_hour") or {}
    words = model.lower().split()
    asked = loaded.cluster.get("gpu_type")
    if asked in prices:
        return float(prices[asked])
    return next((float(price) for name, price in prices.items() if str(name).lower() in words), None)


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
