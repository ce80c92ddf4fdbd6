"""What the watchdog ended, and the hours that it saved (watchdog-<node>.json, of bench/supervise.py). A leaf module.

A run that hangs would hold its GPUs to the end of its time limit, so what is saved is the rest of that limit times the
ranks of the run, from the moment when its processes were ended.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from paceline.bench.errors import RecordError
from paceline.bench.rundir import RunDir, read_json, write_json

SCHEMA = "paceline.watchdog/1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A run that the watchdog ended."""

    reason: str
    """One line."""
    saved_s: float
    """Rest of the time limit, seconds; 0 if no limit was known."""


def write(run: RunDir, node: str, reason: str, saved_s: float) -> None:
    """Write that the processes of a node were ended; a run that cannot be written to is ended all the same."""
    told = {"node": node, "reason": reason, "time_unix_s": time.time(), "saved_s": round(max(0.0, saved_s), 3)}
    with suppress(OSError):
        write_json(run.watchdog_json(node), {"schema": SCHEMA, **told})


def read(run: RunDir) -> Ended | None:
    """Return what the watchdog ended, of several nodes the first to be ended; None if it had nothing to end."""
    found = []
    for path in run.watchdog_files():
        with suppress(OSError, RecordError, KeyError, TypeError, ValueError):
            data = read_json(path)
            found.append(Ended(reason=str(data["reason"]), saved_s=float(data["saved_s"])))
    return max(found, key=lambda each: each.saved_s, default=None)


def saved(runs: Iterable[RunDir]) -> tuple[int, float]:
    """Return how many of these attempts the watchdog ended, and the rank hours (GPU hours on GPUs) that it saved."""
    count, seconds = 0, 0.0
    for run in runs:
        ended = read(run)
        if ended is not None:
            count += 1
            with suppress(OSError, RecordError, KeyError, TypeError, ValueError):
                seconds += ended.saved_s * int(read_json(run.case_json)["world_size"])
    return count, seconds / 3600.0
