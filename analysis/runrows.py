"""The attempts of a study as rows of the report: what was asked for, what became of each, its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paceline.analysis.load import Loaded
from paceline.analysis.scaling import planned_sizes
from paceline.analysis.units import known
from paceline.bench.failures import classes

if TYPE_CHECKING:
    import pandas as pd

RUN_COLUMNS = [
    *("world_size", "repeat", "attempt", "kind", "status", "cause", "message", "counts", "why_not", "flags", "note"),
    *("total_fps", "collection_fps", "iteration_time_s", "iteration_median_s", "iteration_p95_s"),
    *("step_fps", "step_inference_fps", "sync_iteration_s", "rank_spread_pct", "slowest_rank", "iterations_measured"),
    *(
        "power_w",
        "gpu_util_pct",
        "throttled_share",
        "power_limited_share",
        "final_reward",
        "wall_s",
        "start_unix_s",
        "job_id",
        "nodes",
        "case_id",
    ),
]


def run_rows(loaded: Loaded, summaries: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one dict per attempt: what was asked for, what became of it, and its numbers if it has any."""
    numbers = {int(str(run)): plain(row) for run, row in summaries.to_dict("index").items()}
    rows = []
    for run, asked in loaded.runs.to_dict("index").items():
        row = {str(key): value for key, value in asked.items()} | numbers.get(int(str(run)), {})
        flags = row.get("flags") or []
        reasons = [*flags, row.get("warmup_note") if row.get("counts") else None]
        if row["status"] != "completed":
            reasons.insert(0, f"{row.get('cause') or 'cause unknown'}: {row.get('message') or 'no message'}")
            if row.get("cause") in classes():
                reasons.insert(1, classes()[row["cause"]].advice)
        elif not row["counts"]:
            reasons.insert(0, row["why_not"])
        invalid = loaded.extras.get(int(str(run)), {}).get("invalid_physics")
        if invalid and not flags:  # flags are of runs that count: here a later attempt does
            reasons.append(f"invalid physics: {invalid}")
        row["flags"] = "; ".join(flags) or None
        row["note"] = "; ".join(reason for reason in reasons if reason) or None
        rows.append(plain({key: row.get(key) for key in RUN_COLUMNS}))
    return sorted(rows, key=lambda row: (row["world_size"] or 0, _first(row["repeat"]), row["attempt"] or 0))


def label(run: Mapping[str, Any]) -> str:
    """Return the name of an attempt as the checks give it."""
    return f"{run['case_id']}/attempt-{run['attempt']}"


def _first(value: Any) -> int:
    return -1 if value is None else int(value)


def missing_rows(loaded: Loaded) -> list[dict[str, Any]]:
    """Return one row for each planned repeat that has no run at all."""
    repeats = loaded.study.get("repeats")
    if not isinstance(repeats, int):
        return []
    own = loaded.runs[loaded.runs["kind"].isin(("strong", "weak"))]
    have = {(int(size), int(repeat)) for size, repeat in zip(own["world_size"], own["repeat"], strict=True)}
    empty = dict.fromkeys(RUN_COLUMNS)
    note = "planned, no run in the folder"
    return [
        {
            **empty,
            "world_size": size,
            "repeat": repeat,
            "kind": loaded.kind,
            "status": "missing",
            "note": note,
            "counts": False,
        }
        for size in planned_sizes(loaded.study)
        for repeat in range(min(repeats, 1000))
        if (size, repeat) not in have
    ]


def plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a row with Python numbers, None in place of what is not known."""
    out: dict[str, Any] = {}
    for key, value in row.items():
        item = value.item() if hasattr(value, "item") else value
        out[str(key)] = item if known(item) else None
    return out
