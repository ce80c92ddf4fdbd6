"""Isaac Lab's own benchmark bundles (schema 1.2 to 1.4, training, runtime and play) -> Table, one row per bundle.

The bundle's ``total_fps`` of a training run is the mean of per-iteration rates; here the rate is work over time,
steps_per_iteration times iterations over total_wall_time_s, without the first iteration where the bundle gives its
time. What the bundle stated is kept as ``stated_fps``, and F-MEAN compares the two. Only rank 0 is timed.

Schema 1.4 added per-device resources, the success curve and warmup_steps to 1.2; nothing that is read here was renamed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from paceline.analysis.plain_csv import declared_mode, read_text
from paceline.analysis.table import Mode, Table
from paceline.bench import jsontext
from paceline.bench.errors import RecordError

SCHEMAS = ("1.2", "1.3", "1.4")
_PARTS = ("run", "versions", "hardware", "runtime")
_VERSIONS = {
    "isaaclab_version": ("isaaclab",),
    "isaacsim_version": ("isaacsim",),
    "torch_version": ("torch",),
    "physics_version": ("newton", "warp", "mjwarp", "ovphysx"),
}


def read_bundles(paths: list[Path], mode: Mode | None = None) -> Table:
    """Return a table with one row per bundle file, by world size; RecordError if one is no bundle of a known schema."""
    rows = sorted((_row(path) for path in paths), key=lambda row: (row["world_size"], row["num_envs"] or 0))
    names = dict.fromkeys(name for row in rows for name in row)
    texts = {name: tuple(str(row[name]) for row in rows) for name in names if isinstance(rows[0][name], str)}
    numbers = {
        name: np.array([np.nan if row[name] is None else float(row[name]) for row in rows])
        for name in names
        if name not in texts
    }
    source = str(paths[0]) if len(paths) == 1 else str(paths[0].parent)
    declared, by = declared_mode((), source, mode)
    return Table(
        source=source,
        rows=tuple(range(1, len(rows) + 1)),
        numbers=numbers,
        texts=texts,
        declared_mode=declared,
        declared_by=by,
        scope="rank0",
        kind="log",
    )


def is_bundle(data: Any) -> bool:
    """Return whether a JSON value looks like a bundle, whatever its schema version."""
    return isinstance(data, dict) and "schema_version" in data and "run" in data


def _row(path: Path) -> dict[str, Any]:
    try:
        data = jsontext.loads(read_text(path))
    except ValueError as error:
        raise RecordError(f"{path}: not valid JSON ({error})") from error
    if not is_bundle(data):
        raise RecordError(f"{path}: not a benchmark bundle of Isaac Lab; write one with --benchmark_formatter schema")
    version = str(data["schema_version"])
    if version not in SCHEMAS:
        raise RecordError(f"{path}: bundle schema {version!r}; {', '.join(SCHEMAS)} can be read")
    missing = [part for part in _PARTS if not isinstance(data.get(part), dict)]
    if missing:
        raise RecordError(f"{path}: {missing[0]} is missing; bundles of training and runtime benchmarks can be read")
    try:
        return _values(data)
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{path}: not a valid bundle of schema {version}: {type(error).__name__} {error}") from error


def _values(data: dict[str, Any]) -> dict[str, Any]:
    run, runtime, hardware, versions = data["run"], data["runtime"], data["hardware"], data["versions"]
    extra = data.get("extra") or {}
    iterations, steps = int(runtime["iterations_completed"]), float(runtime["steps_per_iteration"])
    wall_s, first_s = float(runtime["total_wall_time_s"]), float(runtime["startup_time_s"]["first_step"])
    peak_s = runtime["iteration_time_s"].get("peak")
    if iterations < 1 or wall_s <= 0 or steps <= 0:
        raise ValueError("iterations_completed, steps_per_iteration and total_wall_time_s must be positive")
    # The first iteration counts in total_wall_time_s only if it is the longest of those that do.
    first_counts = (
        peak_s is not None and iterations > 1 and abs(first_s - float(peak_s)) <= 0.01 * first_s and first_s < wall_s
    )
    rate = (iterations - 1) * steps / (wall_s - first_s) if first_counts else iterations * steps / wall_s
    framework = run.get("framework")
    timing = runtime.get("environment_step_timing") or {}
    learns = framework is not None
    world_size = int(extra.get("world_size", 1))
    envs = run.get("num_envs")
    gpus = [device["name"] for device in hardware.get("gpu_devices") or []]
    row: dict[str, Any] = {
        "world_size": world_size,
        "num_nodes": int(extra.get("num_nodes", 1)),
        "num_envs": envs,
        "num_envs_per_rank": extra.get("num_envs_per_rank"),
        "global_batch": steps,
        "seed": run.get("seed"),
        "iterations": iterations,
        "warmup_iterations": (1 if first_counts else 0) if learns else None,  # runtime leaves its warm-up steps out
        "total_fps": rate if learns else None,
        "collection_fps": None if learns else rate,
        "iteration_time_s": steps / rate,
        "stated_fps": float(runtime["total_fps"]["mean"]),
        "aggregate_fps": iterations * steps / wall_s,
        "task": str(run["task"]),
        "library": str(framework or ""),
        "physics": str((run.get("config") or {}).get("physics_backend") or ""),
        "status": str(run.get("status") or ""),
        "gpu": gpus[0] if len(set(gpus)) == 1 else " + ".join(sorted(set(gpus))),
        "cpu": str(hardware.get("cpu_name") or ""),
        "cpu_cores": str(hardware.get("cpu_count") or ""),
        "sync": str(timing.get("measurement_mode") or ""),
        "library_version": str(versions.get(str(framework)) or ""),
    }
    for name, keys in _VERSIONS.items():
        row[name] = " ".join(str(versions[key]) for key in keys if versions.get(key))
    return row
