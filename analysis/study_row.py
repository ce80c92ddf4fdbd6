"""One study as rows of the history: what it asked, what it ran on, what came out, and what the checks found."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from paceline.analysis.checks import check_table
from paceline.analysis.load import Loaded, load_study
from paceline.analysis.scaling import scaling_table
from paceline.analysis.study_table import study_table
from paceline.bench.errors import RecordError

STUDY_COLUMNS = {
    "path": "TEXT",
    "name": "TEXT",
    "kind": "TEXT",
    "task": "TEXT",
    "trainer": "TEXT",
    "device": "TEXT",
    "gpu": "TEXT",
    "driver": "TEXT",
    "isaaclab": "TEXT",
    "torch": "TEXT",
    "git_commit": "TEXT",
    "started_unix_s": "REAL",
    "ended_unix_s": "REAL",
    "runs_completed": "INTEGER",
    "runs_failed": "INTEGER",
    "gpu_hours": "REAL",
    "errors": "INTEGER",
    "findings": "TEXT",
    "problem": "TEXT",
}
"""Column of a study, and its SQL type.

``gpu_hours`` counts rank-hours on CPU; ``problem`` says why a study cannot be read.
"""

POINT_COLUMNS = {
    "world_size": "INTEGER",
    "num_nodes": "INTEGER",
    "num_envs": "INTEGER",
    "num_envs_per_rank": "INTEGER",
    "repeats": "INTEGER",
    "total_fps": "REAL",
    "total_fps_low": "REAL",
    "total_fps_high": "REAL",
    "speedup": "REAL",
    "efficiency": "REAL",
    "efficiency_low": "REAL",
    "efficiency_high": "REAL",
    "status": "TEXT",
}
"""Column of a point, and its SQL type; the same numbers as in report/scaling.csv."""


def study_row(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a study's row and the rows of its points; one that cannot be read has a ``problem`` and no points."""
    row: dict[str, Any] = dict.fromkeys(STUDY_COLUMNS)
    row["path"] = str(path)
    try:
        loaded = load_study(path)
        row |= _facts(loaded)
        table = scaling_table(loaded)
        found = check_table(study_table(loaded))
    except RecordError as error:
        row["problem"] = " ".join(str(error).split())
        return row, []
    row["errors"] = sum(finding.severity == "error" for finding in found)
    row["findings"] = " ".join(dict.fromkeys(finding.id for finding in found))
    points = [{name: _plain(point.get(name)) for name in POINT_COLUMNS} for point in table.to_dict("records")]
    if loaded.kind in ("sweep", "gpus"):
        points = []  # at one world size they ran several things, which have no common throughput
    hours = [float(value) for value in table["gpu_hours"] if value is not None]
    row["gpu_hours"] = math.fsum(hours) if hours else None
    return row, points


def _facts(loaded: Loaded) -> dict[str, Any]:
    runs = loaded.runs[loaded.runs["kind"] != "warmup"]
    header = next((headers[0] for headers in loaded.headers.values() if headers), {})
    versions, device = header.get("versions", {}), header.get("device", {})
    started, ended = runs["start_unix_s"].dropna(), runs["end_unix_s"].dropna()
    return {
        "name": loaded.study.get("name"),
        "kind": loaded.kind,
        "task": loaded.study.get("task"),
        "trainer": loaded.study.get("trainer"),
        "device": device.get("kind"),
        "gpu": device.get("name"),
        "driver": device.get("driver_version"),
        "isaaclab": versions.get("isaaclab"),
        "torch": versions.get("torch"),
        "git_commit": loaded.snapshot.get("git_commit"),
        "started_unix_s": float(started.min()) if len(started) else None,
        "ended_unix_s": float(ended.max()) if len(ended) else None,
        "runs_completed": int((runs["status"] == "completed").sum()),
        "runs_failed": int(runs["status"].isin(("failed", "interrupted", "unreadable")).sum()),
    }


def _plain(value: Any) -> Any:
    """Return a value as SQLite and JSON take it."""
    if value is None or isinstance(value, str):
        return value
    number = float(value)
    if not math.isfinite(number):
        return None
    return int(number) if number == int(number) and not isinstance(value, float) else number
