"""Somebody's sweep as rows: any CSV file with a number of environments and a throughput in each row."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paceline.analysis.gpuspecs import lookup
from paceline.analysis.plain_csv import read_csv, read_text
from paceline.analysis.sweeppoints import POINT_COLUMNS, excluded
from paceline.bench.errors import RecordError

# Column of ours -> headers that others give it, with the factor to our unit.
_FURTHER: Mapping[str, Mapping[str, float]] = {
    "gpu_memory_used_bytes": {
        **dict.fromkeys(("gpu_memory_used_bytes", "gpu_memory_bytes", "memory_used_bytes", "vram_bytes"), 1.0),
        **dict.fromkeys(("gpu_memory_used_mib", "gpu_memory_mib", "memory_used_mib", "vram_mib"), 2.0**20),
        **dict.fromkeys(("gpu_memory_used_mb", "gpu_memory_mb", "memory_used_mb", "vram_mb"), 1e6),
        **dict.fromkeys(("gpu_memory_used_gib", "gpu_memory_gib", "memory_used_gib", "vram_gib"), 2.0**30),
        **dict.fromkeys(("gpu_memory_used_gb", "gpu_memory_gb", "memory_used_gb", "vram_gb"), 1e9),
    },
    "gpu_memory_total_bytes": {
        "gpu_memory_total_bytes": 1.0,
        "gpu_memory_total_mib": 2.0**20,
        "gpu_memory_total_gb": 1e9,
        "gpu_memory_total_gib": 2.0**30,
    },
    "gpu_power_w": dict.fromkeys(("gpu_power_w", "power_w", "power"), 1.0),
    "gpu_temperature_max_c": dict.fromkeys(
        ("gpu_temperature_max_c", "gpu_temperature_c", "temperature_c", "temp_c"), 1.0
    ),
    "gpu_util_pct": dict.fromkeys(("gpu_util_pct", "gpu_utilization_pct", "utilization_pct", "gpu_use_pct"), 1.0),
    "sm_clock_mhz": dict.fromkeys(("sm_clock_mhz", "gpu_clock_mhz"), 1.0),
}
_NO = {"no", "false", "0", "invalid", "overflow"}
_OUT_OF_MEMORY = re.compile(r"out of memory|\boom\b|oom_", re.IGNORECASE)


def csv_rows(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a CSV file by GPU model (an empty name where it states none); RecordError if it is no sweep.

    A row counts unless it says otherwise: a column such as physics_valid with no, a status that is no success, or a
    remark that memory ended.
    """
    if (path.suffix.lower(), path.is_file()) == (".csv", True) and _is_own(path):
        return _own_rows(path)
    table = read_csv(path)
    envs = table.number("num_envs_per_rank")
    world = table.world_sizes()
    if not any(math.isfinite(value) for value in envs):
        envs = table.number("num_envs") / world
    if not any(math.isfinite(value) for value in envs):
        raise RecordError(f"{path}: no column with the number of environments (expected one such as num_envs)")
    rates = table.number("total_fps")
    further = _further_columns(path, len(envs))
    sweeps: dict[str, list[dict[str, Any]]] = {}
    for i, count in enumerate(envs.tolist()):
        if not math.isfinite(count):
            continue
        row: dict[str, Any] = dict.fromkeys(POINT_COLUMNS)
        text = {
            name: table.text(name)[i] for name in ("gpu", "cpu", "status", "cause", "remark", "physics_valid", "task")
        }
        row |= {"num_envs_per_rank": int(count), "num_envs": int(count * world[i]), "world_size": int(world[i])}
        row |= {name: values[i] for name, values in further.items()}
        row |= {"repeat": 0, "gpu_model": text["gpu"] or None, "cpu_model": text["cpu"] or None}
        row["total_fps"] = float(rates[i]) if math.isfinite(rates[i]) else None
        row["verdict"], row["message"] = _verdict(text)
        if row["gpu_memory_total_bytes"] is None:
            spec = lookup(text["gpu"]) if text["gpu"] else None
            row["gpu_memory_total_bytes"] = spec.memory_bytes if spec else None
        row["excluded"] = (
            "no throughput stated" if row["verdict"] == "valid" and row["total_fps"] is None else excluded(row)
        )
        sweeps.setdefault(text["gpu"], []).append(row)
    for rows in sweeps.values():
        rows.sort(key=lambda row: row["num_envs_per_rank"])
    if not any(len({row["num_envs_per_rank"] for row in rows}) > 1 for rows in sweeps.values()):
        raise RecordError(f"{path}: the number of environments does not change: this is no sweep")
    return sweeps


def _verdict(text: Mapping[str, str]) -> tuple[str, str | None]:
    said = "; ".join(part for part in (text["cause"], text["remark"]) if part) or None
    status = text["status"].lower()
    if _OUT_OF_MEMORY.search(f"{text['cause']} {status}"):
        return "memory", said or status
    if text["physics_valid"].strip().lower() in _NO:
        return "overflow", said or "the table says that the physics is not valid"
    if status and status not in ("completed", "complete", "ok", "valid", "success", "passed", "done"):
        return "failed", said or status
    return "valid", None


def _further_columns(path: Path, rows: int) -> dict[str, list[float | None]]:
    """Return the columns beside the rates that a sweep can use, in our units."""
    import csv
    import io

    from paceline.analysis.columns import normalise, parse_number

    lines = [line for line in read_text(path).splitlines(keepends=True) if not line.startswith("#")]
    cells = [row for row in csv.reader(io.StringIO("".join(lines))) if any(cell.strip() for cell in row)]
    header, body = [normalise(cell) for cell in cells[0]], cells[1:]
    found: dict[str, list[float | None]] = {}
    for name, aliases in _FURTHER.items():
        for alias, factor in aliases.items():
            if alias in header and name not in found and len(body) == rows:
                column = header.index(alias)
                where = f"{path}: column {cells[0][column]!r}"
                numbers = [parse_number(row[column], f"{where}, data row {i}") for i, row in enumerate(body, 1)]
                found[name] = [None if value is None else value * factor for value in numbers]
    return found


def _is_own(path: Path) -> bool:
    first = read_text(path).splitlines()[0].split(",")
    return {"num_envs_per_rank", "verdict", "excluded", "total_fps"} <= set(first)


def _own_rows(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a combined_results.csv, which this program wrote."""
    import csv
    import io

    text_columns = {
        *(
            "verdict",
            "excluded",
            "throttle_reasons",
            "overflow_buffers",
            "overflow_needed",
            "buffer_sizes",
            "gpu_model",
        ),
        *("cpu_model", "node", "message", "case_id"),
    }
    whole = {"num_envs_per_rank", "num_envs", "world_size", "repeat", "attempt", "horizon", "num_minibatches"}
    rows: list[dict[str, Any]] = []
    for number, cells in enumerate(csv.DictReader(io.StringIO(read_text(path))), 1):
        row: dict[str, Any] = dict.fromkeys(POINT_COLUMNS)
        for name in POINT_COLUMNS:
            cell = cells.get(name) or ""
            if not cell:
                continue
            try:
                row[name] = cell if name in text_columns else int(cell) if name in whole else float(cell)
            except ValueError as error:
                raise RecordError(f"{path}: data row {number}, column {name!r}: {cell!r} is not a number") from error
        if row["num_envs_per_rank"] is None:
            raise RecordError(f"{path}: data row {number} has no num_envs_per_rank")
        row["excluded"] = excluded(row)
        rows.append(row)
    models = sorted({row["gpu_model"] for row in rows if row["gpu_model"]})
    if len(models) < 2:  # a run that failed early does not know what it ran on
        return {"".join(models): rows}
    return {model: [row for row in rows if row["gpu_model"] == model] for model in models}
