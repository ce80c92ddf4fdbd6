"""Console log of rl_games (1.6) -> Table, one row per epoch.

    fps step: 565415 fps step and policy inference: 434748 fps total: 234591 epoch: 15/150 frames: 1835008

Rank 0 prints frames of all ranks over its own times, without synchronising the device. Frames per epoch follow from the
frame counter, which counts before the epoch with continuous actions and after it with discrete ones; its differences
are the same.
"""

from __future__ import annotations

import re

import numpy as np
from paceline.analysis.console_log import COLOURS, log_table
from paceline.analysis.table import Mode, Table

LINE = re.compile(
    r"fps step:? +(\d+(?:\.\d+)?) +fps step and policy inference:? +(\d+(?:\.\d+)?) +fps total:? +(\d+(?:\.\d+)?)"
    r"(?: +epoch: (\d+)(?:/(\d+))?)?(?: +frames: (\d+)(?:/\d+)?)?"
)


def is_log(text: str) -> bool:
    """Return whether rl_games wrote this."""
    return LINE.search(text) is not None


def parse(text: str, source: str, mode: Mode | None = None) -> Table:
    """Return the epochs in a log; the caller has asked ``is_log``."""
    text = COLOURS.sub("", text)
    found = list(LINE.finditer(text))
    fields = np.array([[float(m.group(k) or "nan") for k in (1, 2, 3, 4, 6)] for m in found])
    frames = fields[:, 4]
    batch = np.full(len(found), np.nan)
    steps = np.diff(frames)
    if len(steps) and np.isfinite(steps).all() and (steps > 0).all():
        batch[:] = float(np.median(steps))
    columns = {
        "fps_step": fields[:, 0],
        "fps_step_inference": fields[:, 1],
        "total_fps": fields[:, 2],
        "iteration": fields[:, 3],
        "frames_total": frames,
        "global_batch": batch,
    }
    return log_table(
        text, source, "rl_games", {k: v.tolist() for k, v in columns.items()}, [m.start() for m in found], mode
    )
