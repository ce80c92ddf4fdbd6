"""A budget as text and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paceline.analysis.budget import BUDGET_SCHEMA, Measured, Wish, plan
from paceline.analysis.reportfiles import terminal
from paceline.analysis.sweeptables import kept_columns
from paceline.analysis.tables import Column, Table
from paceline.analysis.units import interval, known, show

_BOTH = {"label", "fps"}


def data(measured: Sequence[Measured], wish: Wish, source: str) -> dict[str, Any]:
    """Return the budget as JSON: what was asked, and a row for each way to train, the best first if there is one."""
    rows = [plan(each, wish) for each in measured]
    best = best_row(rows, wish)
    return {
        "schema": BUDGET_SCHEMA,
        "source": source,
        "asked": {
            "frames": wish.frames,
            "iterations": wish.iterations,
            "hours": wish.hours,
            "gpu_hours": wish.gpu_hours,
            "time_limit_h": wish.time_limit_h,
            "save_interval": wish.save_interval,
        },
        "best": best["label"] if best else None,
        "rows": rows,
        "notes": notes(rows, wish),
    }


def best_row(rows: Sequence[Mapping[str, Any]], wish: Wish) -> Mapping[str, Any] | None:
    """Return the way to train that is done first, or reaches most; None where nothing was asked."""
    if wish.hours is not None or wish.gpu_hours is not None:
        return max((row for row in rows if known(row["frames"])), key=lambda row: row["frames"], default=None)
    if wish.iterations is not None and len({row["frames"] for row in rows}) > 1:
        return None  # the same number of iterations is not the same amount of training
    if wish.frames is not None or wish.iterations is not None:
        return min((row for row in rows if known(row["hours"])), key=lambda row: row["hours"], default=None)
    return None


def headline(rows: Sequence[Mapping[str, Any]], wish: Wish) -> str:
    """Return the answer in a sentence."""
    best = best_row(rows, wish)
    if best is None and wish.iterations is not None:
        return f"{wish.iterations:,} iterations, each way to train:"
    if best is None:
        return "What each way to train does in an hour:"
    if wish.hours is not None or wish.gpu_hours is not None:
        time = (
            f"{show(wish.hours, 'number')} h"
            if wish.hours is not None
            else f"{show(wish.gpu_hours, 'number')} GPU-hours"
        )
        bounds = interval(best["frames_low"], best["frames_high"], "large")
        text = f"In {time}, {best['label']} gets furthest: {show(best['frames'], 'large')} frames"
        text += f" ({bounds})" if bounds else ""
        return text + (f", {show(best['iterations'], 'count')} iterations." if known(best["iterations"]) else ".")
    what = f"{show(wish.iterations, 'count')} iterations" if wish.iterations else f"{show(wish.frames, 'large')} frames"
    bounds = interval(best["hours_low"], best["hours_high"], "number")
    text = f"{what} are done first with {best['label']}: {show(best['hours'], 'number')} h"
    return text + (f" ({bounds})" if bounds else "") + f", {show(best['gpu_hours'], 'number')} GPU-hours."


def text(measured: Sequence[Measured], wish: Wish) -> str:
    """Return the budget for a terminal."""
    rows = [
        {**row, "disk_gb": row["disk_bytes"] / 1e9 if known(row["disk_bytes"]) else None}
        for row in (plan(each, wish) for each in measured)
    ]
    columns = [
        Column("label", "With", "text"),
        Column("fps", "Frames/s", "fps", bounds=True),
        Column("iterations_per_hour", "Iterations/h", "number", bounds=True),
        Column("frames", "Frames", "large", bounds=True),
        Column("iterations", "Iterations", "count", bounds=True),
        Column("hours", "Hours", "number", bounds=True),
        Column("gpu_hours", "GPU-hours", "number", bounds=True),
        Column("jobs", "Jobs", "plain"),
        Column("price", "Price", "number", bounds=True),
        Column("checkpoints", "Checkpoints", "count"),
        Column("disk_gb", "Disk GB", "number"),
    ]
    table = Table("budget", "", kept_columns(columns, rows, _BOTH), tuple(rows))
    return terminal(headline(rows, wish), [], [table], notes(rows, wish))


def notes(rows: Sequence[Mapping[str, Any]], wish: Wish) -> list[str]:
    """Return what limits the answer, one sentence each."""
    found = []
    kinds = {row["interval_from"] for row in rows}
    if "repeats" in kinds:
        found.append("95 % intervals over repeats (second lines).")
    if "blocks of one run" in kinds:
        found.append("n=1: the interval is the scatter inside one run; between runs it is larger.")
    if "none" in kinds:
        found.append("n=1, no interval: plan with a margin.")
    if wish.iterations and len({row["num_envs"] for row in rows}) > 1:
        found.append(
            "An iteration has num_envs x horizon frames: with other environments it is another amount of experience."
        )
    timed = wish.hours is not None or wish.gpu_hours is not None
    if timed and len({row["num_envs"] for row in rows}) > 1:
        found.append("Most frames is not most learning: with more environments there are fewer, larger updates.")
    if any(row["iterations_per_hour"] is None for row in rows):
        found.append("Iterations are not known without environments and horizon (--envs, --horizon).")
    if any(known(row["checkpoints"]) for row in rows):
        unknown = not any(known(row["disk_bytes"]) for row in rows)
        found.append(
            f"A checkpoint every {wish.save_interval} iterations"
            + ("; their size is not known (--checkpoint-mb)." if unknown else ".")
        )
    found.append("Measured early in training: longer episodes and harder terrain can make a step slower later.")
    return found
