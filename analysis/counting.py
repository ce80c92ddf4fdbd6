"""Which runs of a study folder make up its curve."""

from __future__ import annotations

from typing import Any

from paceline.bench.record import lever_pairs

CURVE_KINDS = ("strong", "weak", "sweep", "gpus")


def mark_counting(study: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Set ``counts``, ``left_out`` and ``why_not``: of each case of the study, the newest completed attempt counts."""
    newest: dict[str, dict[str, Any]] = {}
    for row in rows:
        row["counts"] = False
        row["why_not"] = _foreign(study, row)
        row["left_out"] = "foreign" if row["why_not"] else None
        if row["why_not"] is None and row.get("status") != "completed":
            row |= {"left_out": "status", "why_not": f"status {row.get('status')}"}
        if row["why_not"] is not None:
            continue
        older = newest.get(row["case_id"])
        if older is not None:
            why = f"attempt {row['attempt']} of the same case is newer"
            older |= {"counts": False, "left_out": "older", "why_not": why}
        row["counts"] = True
        newest[row["case_id"]] = row


def _foreign(study: dict[str, Any], row: dict[str, Any]) -> str | None:
    """Return why a run is no point of the study's curve, None if it is one."""
    kind = row.get("kind")
    if kind is None:
        return "unknown case"
    if kind not in CURVE_KINDS:
        return "warm-up run" if kind == "warmup" else f"kind {kind}"
    for key in ("kind", "task", "trainer", "iterations", "device"):
        wanted = study.get(key)
        if wanted not in (None, "auto") and not isinstance(wanted, list | dict) and wanted != row.get(key):
            return f"{key} is {row.get(key)}, the study has {wanted}"
    for key in ("num_envs", "num_envs_per_rank"):
        fixed = (kind == "strong") == (key == "num_envs")
        wanted = study.get(key)
        if fixed and isinstance(wanted, int) and wanted != row.get(key):
            return f"{key} is {row.get(key)}, the study has {wanted}"
    own = study.get("levers")
    levers = lever_pairs(own) if isinstance(own, dict) else ()
    if tuple(row.get("levers") or ()) != levers:
        stated, wanted = (
            ", ".join(f"{name}={value}" for name, value in pairs) or "none"
            for pairs in (row.get("levers") or (), levers)
        )
        return f"levers: {stated}; those of the study's curve: {wanted}"
    sizes = study.get("world_sizes")
    if isinstance(sizes, list) and row.get("world_size") not in sizes:
        return f"world_size {row.get('world_size')} is not in the study"
    return None
