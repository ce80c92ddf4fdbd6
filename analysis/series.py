"""Time series for the charts, thinned so that a report stays small however large the study is."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from paceline.analysis.load import Loaded
from paceline.analysis.summary import RunArrays

if TYPE_CHECKING:
    import pandas as pd

Rows = list[dict[str, Any]]
Floats = npt.NDArray[np.float64]

MAX_POINTS = 240
MAX_RUNS = 6  # lines of one small multiple
MAX_SIZES = 8  # small multiples


def chosen_runs(runs: pd.DataFrame, summaries: pd.DataFrame, limit: int = MAX_RUNS) -> dict[int, list[int]]:
    """Return per world size the runs that are drawn: those that count, in the order of repeats, at most ``limit``."""
    picked: dict[int, list[int]] = {}
    counted = runs.loc[runs.index.intersection(summaries.index)].sort_values(["world_size", "repeat"])
    for run, size in counted["world_size"].items():
        own = picked.setdefault(int(size), [])
        if len(own) < limit:
            own.append(int(str(run)))
    if len(picked) > MAX_SIZES:  # evenly spread, first and last included
        sizes = sorted(picked)
        kept = {sizes[round(i * (len(sizes) - 1) / (MAX_SIZES - 1))] for i in range(MAX_SIZES)}
        picked = {size: own for size, own in picked.items() if size in kept}
    return picked


def typical_run(own: Iterable[int], summaries: pd.DataFrame) -> int:
    """Return the run whose throughput is nearest to the median of its group."""
    runs = list(own)
    values = dict(zip(runs, summaries.loc[runs, "total_fps"].astype(float).tolist(), strict=True))
    middle = float(np.median(list(values.values())))
    return min(values, key=lambda run: abs(values[run] - middle))


def throughput_rows(block: RunArrays, label: str, hollow: bool) -> Rows:
    """Return one row per undisturbed iteration (warm-up included), or per bucket of them: frames over time."""
    shown = ~block.sync
    time_s, frames, index = block.time_s[shown], block.frames[shown], block.iteration[shown]
    rows = []
    for part in _buckets(len(index)):
        seconds = float(time_s[part].sum())
        if seconds > 0 and np.isfinite(seconds):
            row = {"iteration": int(index[part][0]), "fps": _short(float(frames[part].sum()) / seconds), "run": label}
            rows.append({**row, "hollow": True} if hollow else row)
    return rows


def reward_rows(blocks: list[RunArrays], label: str) -> Rows:
    """Return mean, lowest and highest reward over the jobs of one world size, per iteration (rank mean in each job)."""
    length = min(len(block.iteration) for block in blocks)
    with np.errstate(all="ignore"):
        jobs = [_nanmean(block.values["reward"][:, :length]) for block in blocks]
    stacked = np.stack(jobs)
    rows = []
    for part in _buckets(length):
        values = [float(np.mean(job[part][np.isfinite(job[part])])) for job in stacked if np.isfinite(job[part]).any()]
        if values:
            row = {
                "iteration": int(blocks[0].iteration[part][0]),
                "size": label,
                "reward": _short(float(np.mean(values))),
            }
            rows.append(row | {"low": _short(min(values)), "high": _short(max(values))})
    return rows


def _nanmean(values: npt.NDArray[Any]) -> Floats:
    known = np.isfinite(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def device_rows(loaded: Loaded, run: int) -> tuple[Rows, Rows]:
    """Return GPU and CPU use of one run over time since its first sample, thinned.

    GPU rows: ``t_s``, ``util`` (mean over the job's GPUs, percent), ``low``, ``high``. CPU rows: ``t_s``, ``who``
    (``node`` or ``job``), ``cores`` busy.
    """
    table = loaded.samples[loaded.samples["run"] == run]
    if not len(table):
        return [], []
    origin = float(table["unix_s"].min())
    second = (table["unix_s"] - origin).round().astype(int)
    gpu_rows: Rows = []
    devices = [header.get("device") for header in loaded.headers.get(run, [])]
    used = {str(device["uuid"]) for device in devices if isinstance(device, dict) and device.get("uuid")}
    gpus = table[(table["source"] == "gpu") & (table["name"].isin(used) if used else True)]
    if len(gpus):
        util = gpus["util_pct"].groupby(second[gpus.index]).agg(["mean", "min", "max"]).dropna()
        for part in _buckets(len(util)):
            cut = util.iloc[part]
            row = {"t_s": int(cut.index[0]), "util": _short(float(cut["mean"].mean()))}
            gpu_rows.append(row | {"low": _short(float(cut["min"].min())), "high": _short(float(cut["max"].max()))})
    cpu_rows: Rows = []
    found = [header.get("logical_cores") for header in loaded.sample_headers.get(run, [])]
    cores = sum(count for count in found if isinstance(count, int))
    for source, who, scale in (("node", "whole node", cores / 100.0), ("rank", "this job", 0.01)):
        own = table[table["source"] == source]
        if not len(own) or not scale:
            continue
        busy = own["cpu_pct"].groupby(second[own.index]).agg("sum" if source == "rank" else "mean").dropna() * scale
        for part in _buckets(len(busy)):
            cut_cores = busy.iloc[part]
            cpu_rows.append({"t_s": int(cut_cores.index[0]), "who": who, "cores": _short(float(cut_cores.mean()))})
    return gpu_rows, cpu_rows


def _buckets(count: int) -> list[slice]:
    edges = np.linspace(0, count, min(count, MAX_POINTS) + 1).astype(int)
    return [slice(int(a), int(b)) for a, b in pairwise(edges)]


def _short(value: float) -> float:
    """Return a number with five significant digits: enough for a pixel, and half the size in the file."""
    return float(f"{value:.5g}")
