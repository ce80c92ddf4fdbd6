"""Sections of docs/findings.md about profiles: what the host launches, and how long GPUs wait, by range.

An entry has one capture (``file``), or several side by side (``captures``: label to file), such as 1 and 4 GPUs. Of a
capture of several ranks, the one that the others wait for stands for all of them, as in ``trace.compare``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paceline.analysis.tables import Column, Table, markdown
from paceline.bench.errors import RecordError

_KEYS = {"title", "ranges", "note"}
_COLUMNS = (
    Column("name", "Range", "text"),
    Column("capture", "Capture", "text"),
    Column("instances", "Instances", "count"),
    Column("launches_each", "Launches, each", "number"),
    Column("kernels_each", "Kernels, each", "number"),
    Column("each_s", "Wall time, each, ms", "ms"),
    Column("idle", "GPU idle %", "percent"),
    Column("busy_each_s", "GPU work, each, ms", "ms"),
    Column("nccl_each_s", "NCCL, each, ms", "ms"),
    Column("exposed_each_s", "NCCL with nothing else running, each, ms", "ms"),
)


def check(entries: Sequence[Any], path: Path) -> tuple[Mapping[str, Any], ...]:
    """Return the entries of a manifest at ``path``, each with its ``captures`` and their ``paths``; or RecordError."""
    checked: list[dict[str, Any]] = []
    for entry in entries:
        keys = set(entry) if isinstance(entry, dict) else set()
        several = entry.get("captures") if isinstance(entry, dict) else None
        if keys not in (_KEYS | {"file"}, _KEYS | {"captures"}) or not isinstance(several, dict | None):
            raise RecordError(f"{path}: traces: expected a list of title, file or captures, ranges and note")
        captures = several or {"": entry["file"]}
        paths = {label: path.parents[1] / file for label, file in captures.items()}
        checked.append({**entry, "captures": captures, "paths": paths})
    return tuple(checked)


def section(entry: Mapping[str, Any]) -> str:
    """Return the section of one entry that ``check`` returned; RecordError if no capture has one of its ranges."""
    rows = []
    for label, path in entry["paths"].items():
        rows += [{**row, "capture": label} for row in _rows(path, entry["ranges"])]
    missing = set(entry["ranges"]) - {row["name"] for row in rows}
    if missing:
        raise RecordError(f"traces: {entry['title']}: no capture has a range {min(missing)!r}")
    rows.sort(key=lambda row: entry["ranges"].index(row["name"]))  # captures of a range beside each other
    same = set()  # columns that say no more than the one before them
    if all(row["kernels"] <= row["launches"] for row in rows):
        same.add("kernels_each")
    if all(row["nccl_exposed_s"] == row["nccl_s"] for row in rows):
        same.add("exposed_each_s")
    seen = [column for column in _COLUMNS if column.key not in same and any(row[column.key] for row in rows)]
    table = markdown(Table("trace", "Trace", tuple(seen), tuple(rows)))
    links = ", ".join(f"[{file}](../{file})" for file in entry["captures"].values())
    word = "Captures" if len(entry["captures"]) > 1 else "Capture"
    return f"### {entry['title']}\n\n{table}\n\n{entry['note'].strip()} {word}: {links}."


def _rows(path: Path, ranges: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row per range, of those that the capture has."""
    from paceline.analysis import trace

    found = trace.representative(trace.analyse(str(path), picture=False))
    return [
        {
            **row,
            "each_s": row["wall_s"] / row["instances"],
            "launches_each": row["launches"] / row["instances"],
            "kernels_each": row["kernels"] / row["instances"],
            "busy_each_s": row["gpu_busy_s"] / row["instances"],
            "idle": row["gpu_idle_s"] / row["wall_s"],
            "nccl_each_s": row["nccl_s"] / row["instances"],
            "exposed_each_s": row["nccl_exposed_s"] / row["instances"],
        }
        for row in found.values()
        if row["name"] in ranges
    ]
