"""Threads that launch for another thread: autograd's backward pass runs on a thread of its own.

    main      range update   |-------------------------------|
                 calls         |L|  |wait           |   |L|
    autograd     calls               |L| |L| |L|                 counted as calls of the main thread

A range belongs to the thread that opened it, and nsys counts the calls of that thread only: without more, the backward
pass would lie outside every range. A thread counts as a helper if it launches work and never opens a range, in a
process in which one thread alone does (or one thread alone opens Paceline's). Its calls then count as made on that
thread, at the time when they were made.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from paceline.analysis.capture import Capture

DOMAIN = "paceline"


def adopt(capture: Capture) -> int:
    """Move the calls of helper threads to the thread they launch for, in place; return how many were moved."""
    ranges, calls, count = capture.ranges, capture.calls, len(capture.threads)
    if not len(ranges) or not len(calls) or count < 2:
        return 0
    opens = np.bincount(ranges.thread, minlength=count) > 0
    candidates = ~opens & (np.bincount(calls.thread, minlength=count) > 0)
    if not candidates.any():
        return 0
    launching = np.array(["Launch" in name for name in capture.names] + [False])
    launches = np.flatnonzero(launching[calls.name] & candidates[calls.thread])
    helpers = np.flatnonzero(np.bincount(calls.thread[launches], minlength=count))
    own_label = np.array([domain == DOMAIN for domain, _ in capture.labels])
    opens_own = np.bincount(ranges.thread[own_label[ranges.label]], minlength=count) > 0
    process = np.array([thread.process for thread in capture.threads])
    target = np.arange(count)
    for helper in helpers.tolist():
        same = process == process[helper]
        owners = np.flatnonzero(opens_own & same) if (opens_own & same).any() else np.flatnonzero(opens & same)
        if len(owners) == 1:
            target[helper] = owners[0]
    thread: Any = target[calls.thread].astype(calls.thread.dtype)
    moved = int(np.count_nonzero(thread != calls.thread))
    calls.thread = thread
    return moved
