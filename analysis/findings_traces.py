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
    """Return the section of one entry that ``check`` returned."""
    rows = []
    for label, path in entry["paths"].items():
        rows += [{**row, "capture": label} for row in _rows(path, entry["ranges"])]
    rows.sort(key=lambda row: entry["ranges"].index(row["name"]))  # captures of a range beside each other
    inside_graphs = any(row["kernels"] > row["launches"] for row in rows)
    seen = [c for c in _COLUMNS if any(row[c.key] for row in rows) and (inside_graphs or c.key != "kernels_each")]
    table = markdown(Table("trace", "Trace", tuple(seen), tuple(rows)))
    links = ", ".join(f"[{file}](../{file})" for file in entry["captures"].values())
    word = "Captures" if len(entry["captures"]) > 1 else "Capture"
    return f"### {entry['title']}\n\n{table}\n\n{entry['note'].strip()} {word}: {links}."


def _rows(path: Path, ranges: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row per range."""
    from paceline.analysis import trace

    found = trace.representative(trace.analyse(str(path), ranges, picture=False))
    return [
        {
            **row,
            "each_s": row["wall_s"] / row["instances"],
            "launches_each": row["launches"] / row["instances"],
            "kernels_each": row["kernels"] / row["instances"],
            "idle": row["gpu_idle_s"] / row["wall_s"],
            "nccl_each_s": row["nccl_s"] / row["instances"],
            "exposed_each_s": row["nccl_exposed_s"] / row["instances"],
        }
        for row in found.values()
    ]
