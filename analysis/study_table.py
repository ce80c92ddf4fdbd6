"""A study folder -> Table: one row per run, from the records of all its ranks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from paceline.analysis.check_rules_conditions import matters
from paceline.analysis.load import Loaded, load_study
from paceline.analysis.stats import mser5
from paceline.analysis.summary import RunArrays, run_arrays, summarise
from paceline.analysis.table import Floats, Mode, Table

if TYPE_CHECKING:
    import pandas as pd

_FROM_CASE = (
    "world_size",
    "num_nodes",
    "num_envs",
    "num_envs_per_rank",
    "repeat",
    "seed",
    "iterations",
    "warmup_iterations",
)
# What the trainer said it ran with, which is what a check must believe.
_FROM_PROBLEM = (
    *("horizon", "num_minibatches", "minibatch_size_per_rank", "num_epochs", "optimizer_steps_per_iteration"),
    "global_batch",
)
_VERSIONS = {
    "isaaclab_version": ("isaaclab",),
    "isaacsim_version": ("isaacsim",),
    "torch_version": ("torch",),
    "cuda_version": ("cuda",),
    "nccl_version": ("nccl",),
    "python_version": ("python",),
    "library_version": ("rsl_rl", "rl_games"),
    "physics_version": ("newton", "warp", "mujoco_warp", "physx"),
    "paceline_version": ("paceline",),
}


def read_study(path: Path) -> Table:
    """Return the runs of a study folder as a table; RecordError if it is not one."""
    return study_table(load_study(path))


def study_table(
    loaded: Loaded, arrays: Mapping[int, RunArrays] | None = None, summaries: pd.DataFrame | None = None
) -> Table:
    """Return the runs of a loaded study: those that count, and those that were tried and have no number.

    Row labels are ``<case_id>/attempt-<n>``. Scope: job. ``arrays`` and ``summaries`` are what ``run_arrays`` and
    ``summarise`` return for the study, computed if not given.
    """
    if arrays is None:
        arrays = run_arrays(loaded)
    if summaries is None:
        summaries = summarise(loaded, arrays)
    kept = [
        number
        for number, row in enumerate(loaded.runs.to_dict("records"))
        if row["counts"] or (str(row["why_not"] or "").startswith("status") and row["status"] != "unfinished")
    ]
    found = {int(str(n)): {str(k): v for k, v in row.items()} for n, row in summaries.to_dict("index").items()}
    rows = [_row(loaded, number, found.get(number, {})) for number in kept]
    for row, number in zip(rows, kept, strict=True):
        row["steady_cut"] = _steady_from(row, arrays.get(number))
    numbers, texts = {}, {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        if any(isinstance(value, str) for value in values):
            texts[name] = tuple("" if value is None else str(value) for value in values)
        else:
            numbers[name] = _floats(values)
    case_ids, attempts = loaded.runs["case_id"].tolist(), loaded.runs["attempt"].tolist()
    mode: Mode = "weak" if loaded.kind == "weak" else "strong"
    return Table(
        source=str(loaded.path),
        rows=tuple(f"{case_ids[n]}/attempt-{attempts[n]}" for n in kept),
        numbers=numbers,
        texts=texts,
        declared_mode=mode,
        declared_by="the study",
        scope="all",
        kind="study",
    )


def _floats(values: Iterable[Any]) -> Floats:
    return np.array([_number(value) for value in values], dtype=np.float64)


def _number(value: Any) -> float:
    """Return a value of a record as a number, NaN if it is none."""
    return float(value) if isinstance(value, int | float) else np.nan


def _row(loaded: Loaded, number: int, summary: dict[str, Any]) -> dict[str, Any]:
    """Return what is known about one run, under the table's column names."""
    run = loaded.runs.loc[number]
    headers = loaded.headers.get(number) or []
    row: dict[str, Any] = {name: run[name] for name in _FROM_CASE}
    problem = headers[0].get("problem") if headers else None
    if isinstance(problem, dict):
        row |= {name: _number(problem.get(name)) for name in _FROM_PROBLEM}
    row |= {
        "task": run["task"] or "",
        "library": run["trainer"] or "",
        "physics": run["physics"] or "",
        "mode": run["kind"],
    }
    row |= {"status": run["status"] or "", "cause": run["cause"] or "", "image": run["image"] or ""}
    row |= {"gpu": _all_ranks(headers, "device", "name"), "driver": _all_ranks(headers, "device", "driver_version")}
    row |= {"cpu": _all_ranks(headers, "cpu", "model"), "cpu_cores": _all_ranks(headers, "cpu", "logical_cores")}
    row["node"] = _all_ranks(headers, "node")
    row["profiled"] = _all_ranks(headers, "profiler")
    for name, keys in _VERSIONS.items():
        row[name] = " ".join(text for key in keys if (text := _all_ranks(headers, "versions", key)))
    invalid = loaded.extras.get(number, {}).get("invalid_physics")
    row["physics_valid"] = "no" if invalid else ""
    row["remark"] = invalid if isinstance(invalid, str) else ""
    for name in ("total_fps", "collection_fps", "iteration_time_s"):
        row[name] = summary.get(name)
    for name, source in (("sm_clock_mhz", "sm_clock_mhz"), ("gpu_power_w", "power_w")):
        row[name] = summary.get(source)
    share = summary.get("throttled_share")
    row["throttled_pct"] = None if share is None else 100.0 * share
    row["throttle"] = str(summary.get("throttle_reasons") or "")
    if summary.get("foreign_share") is not None:
        row["foreign_processes"] = _foreign_processes(loaded, number) if summary["foreign_share"] > 0 else 0.0
    row["other_cpu_pct"] = summary.get("other_cpu_pct")
    return row


def _all_ranks(headers: list[dict[str, Any]], *keys: str) -> str:
    """Return what the headers of all ranks say under nested keys; several different answers are joined by ' + '."""
    found = []
    for header in headers:
        value: Any = header
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None and str(value) not in found:
            found.append(str(value))
    return " + ".join(sorted(found))


def _foreign_processes(loaded: Loaded, number: int) -> float:
    samples = loaded.samples
    return float(samples.loc[samples["run"] == number, "foreign_processes"].max())


def _steady_from(row: dict[str, Any], block: RunArrays | None) -> float | None:
    """Return the iteration from which MSER-5 sees a steady state, counted from the run's first; None if too short."""
    if block is None:
        return None
    kept = ~block.warmup & ~block.sync
    state = mser5(block.time_s[kept])
    if state is None:
        return None
    if not matters(block.time_s[kept], state.cut):
        return float(row["warmup_iterations"])
    return float(block.iteration[kept][state.cut])
