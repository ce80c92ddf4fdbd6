"""Console log of rsl_rl -> Table, one row per iteration.

Two formats, told apart by what they print:

    2.3 to 3.1    Computation: 45678 steps/s (collection: 1.234s, learning 0.123s)      Total timesteps: 98304
    3.3 to 5.5    Steps per second: 433    Collection time: 0.199s    Learning time: 2.164s    Total steps: 3072

Rank 0 prints frames of all ranks over its own times, without synchronising the device; returns are computed in the
learning part.
"""

from __future__ import annotations

import re

import numpy as np
from paceline.analysis.console_log import COLOURS, log_table
from paceline.analysis.table import Mode, Table

_OLD = re.compile(r"Computation: +(\d+) steps/s \(collection: +([\d.]+)s, learning:? +([\d.]+)s\)")
_NEW = re.compile(r"Steps per second: +(\d+)\s+Collection time: +([\d.]+)s\s+Learning time: +([\d.]+)s")
_ITERATION = re.compile(r"Learning iteration (\d+)/(\d+)")
_TOTAL = re.compile(r"Total (?:time)?steps: +(\d+)")


def is_log(text: str) -> bool:
    """Return whether rsl_rl wrote this."""
    text = COLOURS.sub("", text)
    return _OLD.search(text) is not None or _NEW.search(text) is not None


def parse(text: str, source: str, mode: Mode | None = None) -> Table:
    """Return the iterations in a log; the caller has asked ``is_log``."""
    text = COLOURS.sub("", text)
    found = list(_OLD.finditer(text)) or list(_NEW.finditer(text))
    starts = list(_ITERATION.finditer(text))
    totals = list(_TOTAL.finditer(text))
    blocks = np.array([m.start() for m in starts])
    rate, collection, learning, iteration, frames = [], [], [], [], []
    for m in found:
        # Each block opens with its number; old logs print the step counter at its end, new ones in the middle.
        k = int(np.searchsorted(blocks, m.start())) - 1
        begin = starts[k].start() if k >= 0 else 0
        end = starts[k + 1].start() if k + 1 < len(starts) else len(text)
        total = next((float(t.group(1)) for t in totals if begin <= t.start() < end), float("nan"))
        rate.append(float(m.group(1)))
        collection.append(float(m.group(2)))
        learning.append(float(m.group(3)))
        iteration.append(float(starts[k].group(1)) if k >= 0 else float(len(rate) - 1))
        frames.append(total)
    steps = np.diff(frames)
    batch = float(np.median(steps)) if len(steps) and np.isfinite(steps).all() and (steps > 0).all() else float("nan")
    collected, learned = np.array(collection), np.array(learning)
    with np.errstate(divide="ignore"):
        collection_fps = np.where(collected > 0, batch / collected, np.nan)
    columns = {
        "total_fps": rate,
        "collection_fps": collection_fps.tolist(),
        "iteration_time_s": (collected + learned).tolist(),
        "collection_time_s": collection,
        "update_time_s": learning,
        "iteration": iteration,
        "frames_total": frames,
        "global_batch": [batch] * len(rate),
    }
    return log_table(text, source, "rsl_rl", columns, [m.start() for m in found], mode)
