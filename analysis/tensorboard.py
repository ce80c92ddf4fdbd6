"""TensorBoard events of rl_games and rsl_rl (all versions) -> Table, one row per iteration.

rl_games 1.6         performance/step_fps, step_inference_fps, step_inference_rl_update_fps
                         (the step axis counts frames)
                     performance/step_time, step_inference_time, rl_update_time               seconds per epoch, rank 0
rsl_rl 2.3 to 3.1    Perf/total_fps, Perf/collection time (with a space), Perf/learning_time
                         (the step axis counts iterations)
rsl_rl 3.3 to 5.5    Perf/total_fps, Perf/collection_time, Perf/learning_time
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from paceline.analysis.console_log import log_table
from paceline.analysis.table import Mode, Table
from paceline.analysis.tfevents import Scalars, read_scalars
from paceline.bench.errors import RecordError

_RL_GAMES = {
    "fps_step": "performance/step_fps",
    "fps_step_inference": "performance/step_inference_fps",
    "total_fps": "performance/step_inference_rl_update_fps",
    "env_step_time_s": "performance/step_time",
    "collection_time_s": "performance/step_inference_time",
    "update_time_s": "performance/rl_update_time",
}
_RSL_RL = {
    "total_fps": "Perf/total_fps",
    "collection_time_s": "Perf/collection_time",
    "update_time_s": "Perf/learning_time",
}


def event_files(folder: Path) -> list[Path]:
    """Return the event files below a folder, by path."""
    return sorted(path for path in folder.rglob("*tfevents*") if path.is_file())


def read_events(paths: list[Path], mode: Mode | None = None) -> Table:
    """Return one run's iterations from its event files; RecordError if none holds the scalars of a known library.

    A run that was resumed wrote several files: they are joined, and where steps repeat the later file counts.
    """
    merged: dict[str, dict[int, float]] = {}
    for path in paths:
        for tag, scalars in read_scalars(path).items():
            merged.setdefault(tag, {}).update(zip(scalars.steps, scalars.values, strict=True))
    tags = {tag: Scalars(steps=sorted(v), values=[v[s] for s in sorted(v)]) for tag, v in merged.items()}
    source = str(paths[0]) if len(paths) == 1 else str(paths[0].parent)
    if "Perf/collection time" in tags:
        tags["Perf/collection_time"] = tags.pop("Perf/collection time")
    if _RL_GAMES["total_fps"] in tags:
        return _table(tags, _RL_GAMES, "rl_games", source, mode)
    if _RSL_RL["total_fps"] in tags:
        return _table(tags, _RSL_RL, "rsl_rl", source, mode)
    known = ", ".join(sorted(tags)[:6]) or "none"
    raise RecordError(
        f"{source}: no throughput of rl_games (performance/...) or rsl_rl (Perf/total_fps) in these events (tags: "
        f"{known})"
    )


def _table(tags: dict[str, Scalars], names: dict[str, str], library: str, source: str, mode: Mode | None) -> Table:
    steps = tags[names["total_fps"]].steps
    columns = {}
    for name, tag in names.items():
        found = dict(zip(tags[tag].steps, tags[tag].values, strict=True)) if tag in tags else {}
        columns[name] = np.array([found.get(step, np.nan) for step in steps])
    total_s = columns["collection_time_s"] + columns["update_time_s"]
    columns["iteration_time_s"] = total_s
    if library == "rl_games":
        columns["frames_total"] = np.array(steps, dtype=np.float64)
        columns["iteration"] = np.arange(1.0, len(steps) + 1.0)
    else:
        columns["iteration"] = np.array(steps, dtype=np.float64)
    batch = columns["total_fps"] * total_s
    if np.isfinite(batch).any():
        # Rates are stored as whole numbers and 32-bit floats: the product is the frame count but for rounding.
        columns["global_batch"] = np.full(len(steps), np.round(np.nanmedian(batch)))
        if library == "rsl_rl":
            with np.errstate(divide="ignore", invalid="ignore"):
                columns["collection_fps"] = columns["global_batch"] / columns["collection_time_s"]
    data = {name: values.tolist() for name, values in columns.items()}
    return log_table("", source, library, data, list(range(len(steps))), mode)
