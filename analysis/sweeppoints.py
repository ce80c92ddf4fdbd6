"""The runs of an environment sweep as rows, from a study folder. One row per run, units in the names of the columns."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from paceline.analysis.load import Loaded
from paceline.analysis.summary import RunArrays, run_arrays, summarise, window_unix_s
from paceline.analysis.units import known
from paceline.bench.errors import RecordError
from paceline.bench.record import require_schema
from paceline.bench.rundir import RunDir, StudyDir, read_json

SWEEP_SCHEMA = "paceline.sweep/1"

# Reasons for a lower clock that come from heat or a fault. A power limit belongs to the GPU and comes with its load.
THERMAL = frozenset({"hw_slowdown", "hw_thermal_slowdown", "sw_thermal_slowdown", "hw_power_brake_slowdown"})
THERMAL_SHARE = 0.05  # of the samples of the measured window

POINT_COLUMNS = (
    *("num_envs_per_rank", "num_envs", "world_size", "repeat", "verdict", "excluded", "total_fps", "collection_fps"),
    *("step_fps", "step_inference_fps", "iteration_time_s", "physics_s", "inference_s", "update_s", "communication_s"),
    *("imbalance_s", "other_s", "gpu_memory_used_bytes", "gpu_memory_allocated_bytes", "gpu_memory_total_bytes"),
    *("host_memory_used_bytes", "rank_memory_bytes", "gpu_util_pct", "rank_cpu_pct", "node_cpu_pct"),
    *("gpu_temperature_start_c", "gpu_temperature_max_c", "gpu_power_w", "energy_j", "frames_per_j", "sm_clock_mhz"),
    *("memory_clock_mhz", "thermal_throttled_pct", "power_limited_pct", "throttle_reasons", "foreign_pct"),
    "other_cpu_pct",
    *("overflow_buffers", "overflow_needed", "overflow_messages", "buffer_sizes", "cool_down_s", "wall_s"),
    *("horizon", "num_minibatches", "gpu_model", "cpu_model", "node", "message", "case_id", "attempt"),
)
"""Columns of combined_results.csv. ``verdict``: valid, memory, overflow, physics, time, failed or unfinished;
``excluded``: why a row is not in the curve. Rates are frames/s of all ranks, the parts of an iteration seconds of a
device-complete one, memory is the most that any GPU (rank) had in use, power and energy are of all GPUs over the
measured window; ``other_cpu_pct`` is the use of the job's cores by other programs.
"""


def folder_rows(loaded: Loaded) -> list[dict[str, Any]]:
    """Return the rows of a sweep's folder, by environments and repeat; RecordError if sweep.json is damaged."""
    arrays = run_arrays(loaded)
    summaries = summarise(loaded, arrays)
    ledger = _ledger(loaded)
    rows = []
    for run, values in loaded.runs.to_dict("index").items():
        number = int(str(run))
        asked = {str(key): value for key, value in values.items()}
        if asked.get("kind") != "sweep" or asked.get("left_out") in ("foreign", "older"):
            continue
        row: dict[str, Any] = dict.fromkeys(POINT_COLUMNS)
        row |= {key: asked[key] for key in POINT_COLUMNS if known(asked.get(key))}
        if number in summaries.index:
            found = summaries.loc[number]
            row |= {key: _plain(found[key]) for key in POINT_COLUMNS if key in found.index and known(found[key])}
            row |= _devices(loaded, number, arrays[number])
            row |= _memory(arrays[number])
        row |= _hardware(loaded, number)
        key = (str(asked.get("case_id")), int(asked.get("attempt") or 0))
        row |= _judged(ledger.get(key), asked, loaded.extras.get(number))
        row["cool_down_s"] = _cool_down_s(RunDir(str(asked["path"])))
        row["excluded"] = excluded(row)
        rows.append(row)
    # What was tried first stands first: an overflow before the run with the larger buffer.
    place = {key: position for position, key in enumerate(ledger)}
    last = len(place)
    return sorted(
        rows,
        key=lambda row: (
            row["num_envs_per_rank"] or 0,
            row["repeat"] or 0,
            place.get((row["case_id"], row["attempt"]), last),
        ),
    )


def ended(loaded: Loaded) -> tuple[str | None, str | None]:
    """Return what ended a sweep (limit, memory, physics, time, failed) and in which words; None while it has not."""
    data = _read(loaded)
    return data.get("ended_by"), data.get("ended_why")


def excluded(row: dict[str, Any]) -> str | None:
    """Return why a row is not in the curve, None if it is."""
    verdict = row.get("verdict")
    if verdict == "memory":
        return f"out of memory: {row.get('message') or 'no message'}"
    if verdict in ("overflow", "physics"):
        return f"invalid physics: {row.get('message') or 'a buffer overflowed'}"
    if verdict != "valid":
        return f"{verdict}: {row.get('message') or 'no message'}"
    share = row.get("thermal_throttled_pct")
    if share is not None and share > 100 * THERMAL_SHARE:
        return f"the GPU was too hot: clocks limited in {share:.0f} % of the samples ({row.get('throttle_reasons')})"
    if (row.get("foreign_pct") or 0.0) > 0.0:
        return f"another process used the GPU in {row['foreign_pct']:.0f} % of the samples"
    if row.get("total_fps") is None:
        return "no undisturbed iteration after warm-up has a time"
    return None


def _read(loaded: Loaded) -> dict[str, Any]:
    path = StudyDir(loaded.path).sweep_json
    if not path.exists():
        return {}
    data = read_json(path)
    require_schema(data, SWEEP_SCHEMA, str(path))
    return data


def _ledger(loaded: Loaded) -> dict[tuple[str, int], dict[str, Any]]:
    data = _read(loaded)
    try:
        return {(str(entry["case_id"]), int(entry["attempt"])): entry for entry in data.get("runs", [])}
    except (TypeError, KeyError, ValueError) as error:
        raise RecordError(f"{StudyDir(loaded.path).sweep_json}: not as Paceline wrote it ({error!r})") from error


def _judged(entry: dict[str, Any] | None, asked: dict[str, Any], extra: dict[str, Any] | None) -> dict[str, Any]:
    """Return verdict, message and overflows of a run: from sweep.json, else from its sentinel."""
    if entry is None:
        invalid = (extra or {}).get("invalid_physics")
        cause = str(asked.get("cause") or "")
        if cause.startswith("oom"):
            verdict = "memory"
        elif asked.get("status") == "completed":
            verdict = "overflow" if invalid else "valid"
        elif asked.get("status") == "unfinished":
            verdict = "unfinished"
        else:
            verdict = "time" if cause == "time_limit" else "failed"
        message = invalid if isinstance(invalid, str) else asked.get("message")
        return {"verdict": verdict, "message": message}
    overflows = [overflow for overflow in entry.get("overflows") or () if isinstance(overflow, dict)]
    sizes = entry.get("buffer_sizes") or {}
    return {
        "verdict": entry.get("verdict"),
        "message": entry.get("why"),
        "overflow_buffers": " ".join(str(overflow.get("buffer")) for overflow in overflows) or None,
        "overflow_needed": " ".join(str(overflow.get("needed")) for overflow in overflows) or None,
        "overflow_messages": sum(int(overflow.get("count") or 0) for overflow in overflows),
        "buffer_sizes": " ".join(f"{name}={size}" for name, size in sizes.items()) or None,
        "wall_s": entry.get("wall_s"),
    }


def _hardware(loaded: Loaded, run: int) -> dict[str, Any]:
    header = next(iter(loaded.headers.get(run, ())), {})
    device, cpu = header.get("device") or {}, header.get("cpu") or {}
    cuda = device.get("kind") == "cuda"
    return {
        "gpu_model": device.get("name") if cuda else None,
        "gpu_memory_total_bytes": device.get("memory_total_bytes") if cuda else None,
        "cpu_model": cpu.get("model"),
        "node": header.get("node"),
    }


def _memory(block: RunArrays) -> dict[str, Any]:
    """Return the most memory that a rank's allocator had, and that was in use on its GPU (on CPU: resident)."""
    allocated = _most(block.values.get("memory_allocated_bytes"))
    used = _most(block.values.get("memory_used_bytes"))
    return (
        {"gpu_memory_allocated_bytes": allocated, "gpu_memory_used_bytes": used}
        if allocated is not None
        else {"rank_memory_bytes": used}
    )


def _devices(loaded: Loaded, run: int, block: RunArrays) -> dict[str, Any]:
    """Return what the samplers saw: over the measured window, memory and the first temperature over the whole run."""
    table = loaded.samples[loaded.samples["run"] == run]
    if not len(table):
        return {}
    begin, end = window_unix_s(loaded, block)
    inside = table[(table["unix_s"] >= begin) & (table["unix_s"] <= end)]
    uuids = {str((header.get("device") or {}).get("uuid")) for header in loaded.headers.get(run, ())}
    row: dict[str, Any] = {}
    gpus = table[(table["source"] == "gpu") & table["name"].isin(uuids)]
    if len(gpus):
        row |= _gpus(gpus, inside[(inside["source"] == "gpu") & inside["name"].isin(uuids)], block)
    ranks, nodes = inside[inside["source"] == "rank"], inside[inside["source"] == "node"]
    row["rank_cpu_pct"] = _mean(ranks["cpu_pct"].to_numpy())
    row["node_cpu_pct"] = _mean(nodes["cpu_pct"].to_numpy())
    row["host_memory_used_bytes"] = _most(table.loc[table["source"] == "node", "ram_used_bytes"].to_numpy())
    if "rank_memory_bytes" not in row:
        row["rank_memory_bytes"] = _most(table.loc[table["source"] == "rank", "rss_bytes"].to_numpy())
    return {key: value for key, value in row.items() if value is not None}


def _gpus(whole: Any, inside: Any, block: RunArrays) -> dict[str, Any]:
    reasons = [
        frozenset(text.split()) if isinstance(text, str) else frozenset() for text in inside["throttle"].tolist()
    ]
    count = max(len(reasons), 1)
    power_w = math.fsum(
        filter(None, (_mean(inside.loc[inside["name"] == name, "power_w"].to_numpy()) for name in set(whole["name"])))
    )
    kept = ~block.warmup
    frames, seconds = float(block.frames[kept].sum()), float(block.time_s[kept].sum())
    energy_j = power_w * seconds if power_w and math.isfinite(seconds) else None
    return {
        "gpu_util_pct": _mean(inside["util_pct"].to_numpy()),
        "gpu_temperature_start_c": _first(whole["temperature_c"].to_numpy()),
        "gpu_temperature_max_c": _most(inside["temperature_c"].to_numpy()),
        "gpu_power_w": power_w or None,
        "energy_j": energy_j,
        "frames_per_j": frames / energy_j if energy_j else None,
        "sm_clock_mhz": _mean(inside["sm_clock_mhz"].to_numpy()),
        "memory_clock_mhz": _mean(inside["memory_clock_mhz"].to_numpy()),
        "thermal_throttled_pct": 100.0 * sum(bool(each & THERMAL) for each in reasons) / count,
        "power_limited_pct": 100.0 * sum("sw_power_cap" in each for each in reasons) / count,
        "throttle_reasons": " ".join(sorted(frozenset().union(*reasons))) or None,
        "foreign_pct": 100.0 * float(np.count_nonzero(inside["foreign_processes"].to_numpy() > 0)) / count,
    }


def _cool_down_s(run: RunDir) -> float | None:
    try:
        value = read_json(run.cooldown_json).get("waited_s")
    except (OSError, RecordError):
        return None
    return float(value) if isinstance(value, int | float) else None


def _mean(values: Any) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None


def _most(values: Any) -> float | None:
    if values is None:
        return None
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    return float(finite.max()) if len(finite) else None


def _first(values: Any) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite[0]) if len(finite) else None


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
