"""The runs of a GPU comparison as rows: from study folders of any kind, or from a table of GPU models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paceline.analysis.load import Loaded, load_study
from paceline.analysis.stats import Estimate
from paceline.analysis.summary import run_arrays, summarise
from paceline.analysis.units import known
from paceline.bench.errors import RecordError
from paceline.bench.record import Case
from paceline.bench.rundir import RunDir, read_json

PHASES = ("physics", "inference", "update", "communication", "other")
KEY = ("task", "trainer", "physics", "world_size", "num_envs_per_rank", "horizon", "num_minibatches", "num_epochs")
"""What must be equal for two runs to be the same case."""

# Versions that decide how fast a run is: with another one of these, a difference is not the GPU's.
VERSIONS = (
    *("isaaclab", "isaacsim", "newton", "warp", "mujoco", "mujoco_warp", "ovphysx", "torch", "cuda", "rsl_rl"),
    *("rl_games", "python"),
)
RUN_COLUMNS = (
    *("gpu_model", "cpu_model", "group", "node", "source", *KEY, "repeat", "total_fps", "collection_fps", "step_fps"),
    *(f"{phase}_us_per_frame" for phase in PHASES),
    *("cost_us_per_frame", "power_w", "frames_per_j", "gpu_util_pct", "sm_clock_mhz", "driver_version", "excluded"),
    *("case_id", "attempt"),
)
"""Columns of combined_results.csv. Costs are microseconds of one GPU per frame; power is of all GPUs."""


def case_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what says which case a row is of."""
    return tuple(row.get(name) for name in KEY)


def bounds(name: str, estimate: Estimate) -> dict[str, Any]:
    """Return an estimate as three entries of a row."""
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def folder_rows(folder: Path) -> tuple[list[dict[str, Any]], Loaded]:
    """Return one row per run that counts in a study folder, and the folder as loaded; RecordError if it is none."""
    loaded = load_study(folder)
    arrays = run_arrays(loaded)
    summaries = summarise(loaded, arrays)
    invalid = _invalid(loaded)
    rows = []
    for run, values in loaded.runs.to_dict("index").items():
        number = int(str(run))
        asked = {str(key): value for key, value in values.items()}
        if not asked["counts"] or number not in summaries.index:
            continue
        summary = {str(key): _plain(value) for key, value in summaries.loc[number].items()}
        row: dict[str, Any] = {key: asked.get(key) for key in (*KEY, "repeat", "case_id", "attempt", "device")}
        row |= {key: summary.get(key) for key in ("total_fps", "collection_fps", "step_fps", "power_w", "gpu_util_pct")}
        row |= {"sm_clock_mhz": summary.get("sm_clock_mhz"), "source": loaded.path.name}
        row |= _costs(row, summary) | _hardware(loaded, number)
        row["group"] = _group(loaded, asked)
        flags = list(summary.get("flags") or [])
        flags += [invalid[key] for key in [(str(asked["case_id"]), asked["attempt"])] if key in invalid]
        row["excluded"] = "; ".join(flags) or (
            None if known(row["total_fps"]) else "no undisturbed iteration has a time"
        )
        rows.append(row)
    # Sides come in the order in which the study names them, not in that of the cases' hashes.
    order = [str(group.get("name")) for group in loaded.study.get("groups") or ()]
    rows.sort(key=lambda row: order.index(row["group"]) if row["group"] in order else len(order))
    return rows, loaded


def _invalid(loaded: Loaded) -> dict[tuple[str, Any], str]:
    """Return the runs of a sweep that are not in its curve, with the reason."""
    if loaded.kind != "sweep":
        return {}
    from paceline.analysis import sweeppoints

    rows = sweeppoints.folder_rows(loaded)
    return {(str(row["case_id"]), row["attempt"]): row["excluded"] for row in rows if row["excluded"]}


def _costs(row: dict[str, Any], summary: dict[str, Any]) -> dict[str, Any]:
    """Return GPU-microseconds per frame, whole and by phase: the split comes from device-complete iterations."""
    if not known(row["total_fps"]):
        return {}
    cost = row["world_size"] * 1e6 / row["total_fps"]
    found: dict[str, Any] = {"cost_us_per_frame": cost}
    # Waiting for the slowest rank is communication here: between GPU types only what a phase costs matters.
    seconds: dict[str, Any] = {phase: summary.get(f"{phase}_s") for phase in PHASES}
    if known(seconds["communication"]) and known(summary.get("imbalance_s")):
        seconds["communication"] += summary["imbalance_s"]
    if all(known(value) for value in seconds.values()):
        total = math.fsum(float(value) for value in seconds.values())
        found |= {f"{phase}_us_per_frame": cost * value / total for phase, value in seconds.items()}
    if known(row["power_w"]) and row["power_w"] > 0:
        found["frames_per_j"] = row["total_fps"] / row["power_w"]
    return found


def _hardware(loaded: Loaded, run: int) -> dict[str, Any]:
    header = next(iter(loaded.headers.get(run, ())), {})
    device, cpu = header.get("device") or {}, header.get("cpu") or {}
    nvml = [
        gpu for each in loaded.sample_headers.get(run, ()) for gpu in each.get("gpus") or () if isinstance(gpu, dict)
    ]
    cuda = device.get("kind") == "cuda"
    return {
        "gpu_model": device.get("name") if cuda else None,
        "gpu_memory_total_bytes": device.get("memory_total_bytes") if cuda else None,
        "nvml_memory_total_bytes": nvml[0].get("memory_total_bytes") if nvml else None,
        "nvml_power_limit_w": nvml[0].get("power_limit_w") if nvml else None,
        "cpu_model": cpu.get("model"),
        "cpu_cores": cpu.get("logical_cores"),
        "driver_version": device.get("driver_version"),
        "node": header.get("node"),
        "versions": header.get("versions") or {},
    }


def _group(loaded: Loaded, asked: dict[str, Any]) -> str | None:
    """Return which side of its own comparison a run belongs to, None in a study that compares nothing."""
    if not loaded.study.get("groups"):
        return None
    path = RunDir(str(asked["path"])).case_json
    try:
        placement = dict(Case.from_json(read_json(path), str(path)).placement)
    except (OSError, RecordError):
        return None
    for group in loaded.study.get("groups") or ():
        stated = {key: group.get(key) for key in ("constraint", "nodelist", "partition") if group.get(key)}
        same_type = group.get("gpu_type") in (None, asked.get("gpu_type")) or asked.get("device") != "cuda"
        if stated == placement and same_type:
            return str(group.get("name"))
    return None


def table_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of somebody's CSV table with one GPU model a row; RecordError if it is none."""
    from paceline.analysis.plain_csv import read_csv

    table = read_csv(path)
    models, cpus, tasks, libraries = (table.text(name) for name in ("gpu", "cpu", "task", "library"))
    cores = table.text("cpu_cores")
    if not any(models):
        raise RecordError(f"{path}: no column with the GPU model (expected one such as gpu_model)")
    step, acting, total = (table.number(name).tolist() for name in ("fps_step", "fps_step_inference", "total_fps"))
    sizes, envs = table.world_sizes().tolist(), table.number("num_envs_per_rank").tolist()
    rows = []
    for i, model in enumerate(models):
        if not model or not math.isfinite(total[i]):
            continue
        row: dict[str, Any] = dict.fromkeys((*RUN_COLUMNS, "versions", "nvml_memory_total_bytes", "nvml_power_limit_w"))
        row |= {
            "gpu_model": model,
            "cpu_model": ", ".join(part for part in (cpus[i], f"{cores[i]} cores" if cores[i] else "") if part) or None,
            "task": tasks[i] or None,
            "trainer": libraries[i] or None,
        }
        row |= {
            "world_size": int(sizes[i]) if math.isfinite(sizes[i]) else 1,
            "total_fps": total[i],
            "source": path.name,
        }
        row |= {"num_envs_per_rank": int(envs[i]) if math.isfinite(envs[i]) else None, "versions": {}, "device": "cuda"}
        scale = row["world_size"] * 1e6
        row["cost_us_per_frame"] = scale / total[i]
        if math.isfinite(step[i]) and math.isfinite(acting[i]):
            # Rates nest: stepping, stepping and inference, everything.
            row["physics_us_per_frame"] = scale / step[i]
            row["inference_us_per_frame"] = scale / acting[i] - scale / step[i]
            row["update_us_per_frame"] = scale / total[i] - scale / acting[i]
        rows.append(row)
    if len({row["gpu_model"] for row in rows}) < 2:
        raise RecordError(f"{path}: fewer than two GPU models with a throughput: nothing to compare")
    return rows


def read(sources: Sequence[Path]) -> tuple[list[dict[str, Any]], list[Loaded]]:
    """Return the rows of all sources, and the folders among them as loaded."""
    rows: list[dict[str, Any]] = []
    folders: list[Loaded] = []
    for source in sources:
        if source.is_file():
            rows += table_rows(source)
            continue
        found, loaded = folder_rows(source)
        rows += found
        folders.append(loaded)
    if not rows:
        raise RecordError(f"{', '.join(map(str, sources))}: no completed run that could be compared")
    return rows, folders


def _plain(value: Any) -> Any:
    """Return a value of a table as Python has it, None for not a number: JSON has none."""
    plain = value.item() if hasattr(value, "item") else value
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain
