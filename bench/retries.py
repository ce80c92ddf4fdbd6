"""Which runs are repeated without being asked, and what their next attempt changes. Plan side.

The policy of each class of failures is in bench/failures.json: a bug is never repeated, a run that overflowed gets
larger buffers, one that failed on a bad node runs on another.
"""

from __future__ import annotations

import math
from contextlib import suppress

from paceline.bench.attempt import Attempt, read_attempt
from paceline.bench.errors import RecordError
from paceline.bench.failures import AUTOMATIC, Retry, failure_class
from paceline.bench.launch import OpenStudy
from paceline.bench.overflow import override
from paceline.bench.record import Result
from paceline.bench.rundir import RunDir, read_json
from paceline.bench.status import UNFINISHED, CaseStatus

_HEADROOM = 1.25
"""Buffers get a quarter more than the log asks for: the next run meets other contacts."""


def policy(status: CaseStatus) -> Retry:
    """Return how a case that has no valid run is to be repeated."""
    return failure_class(status.cause).retry


def why_not(opened: OpenStudy, status: CaseStatus) -> str | None:
    """Return why a case is not repeated without being asked, None if it is."""
    if status.done or status.state in UNFINISHED or status.state == "missing" or status.attempt is None:
        return "it has no run that failed"
    if opened.study.kind == "sweep":
        return "a sweep decides by itself"
    known = failure_class(status.cause)
    if known.retry not in AUTOMATIC:
        return f"{known.family}: {known.advice}"
    limit = max_attempts(opened)
    if status.attempt >= limit:
        return f"attempt {status.attempt} of {limit} (max_attempts)"
    if known.retry == "elsewhere" and opened.cluster.scheduler == "local":
        return "there is no other node here"
    if known.retry == "larger" and not enlarged(opened, status):
        return "no setting of the buffer that was too small is known"
    return None


def max_attempts(opened: OpenStudy) -> int:
    """Return how many attempts at a case are made without being asked."""
    return opened.study.max_attempts or opened.cluster.max_attempts


def next_attempt(opened: OpenStudy, status: CaseStatus) -> Attempt | None:
    """Return what the next attempt at a case changes; None for a first attempt."""
    if status.attempt is None or status.state == "missing":
        return None
    before = read_attempt(_run(opened, status)) or Attempt()
    exclude = before.exclude
    if policy(status) == "elsewhere" and status.case.num_nodes == 1 and status.nodes and _may_go_elsewhere(opened):
        exclude = tuple(dict.fromkeys([*exclude, status.nodes]))
    overrides = before.overrides
    if policy(status) == "larger":
        overrides = enlarged(opened, status) or overrides
    return Attempt(
        overrides=overrides, exclude=exclude, after=status.attempt, cause=status.cause, message=status.message
    )


def _may_go_elsewhere(opened: OpenStudy) -> bool:
    return opened.cluster.scheduler == "slurm" and opened.cluster.nodelist is None


def enlarged(opened: OpenStudy, status: CaseStatus) -> tuple[str, ...]:
    """Return the overrides of the last attempt with the buffers that overflowed in it enlarged, none if none can be."""
    run = _run(opened, status)
    found: list[dict[str, object]] = []
    with suppress(OSError, RecordError):
        found = Result.from_json(read_json(run.result_json)).extra.get("overflows") or []
    before = read_attempt(run)
    sizes = dict(text.split("=", 1) for text in (before.overrides if before else ()))
    changed = False
    for each in found:
        if each.get("setting") and each.get("needed"):
            size = _rounded(str(each["setting"]), int(str(each["needed"])))
            key, _, value = override(str(each["setting"]), size, status.case.engine_version).partition("=")
            sizes[key] = str(max(int(value), int(sizes.get(key, 0))))
            changed = True
    return tuple(f"{key}={value}" for key, value in sizes.items()) if changed else ()


def _rounded(setting: str, needed: int) -> int:
    size = math.ceil(needed * _HEADROOM)
    return size if setting.startswith("solver_cfg.") else 1 << (size - 1).bit_length()  # PhysX: powers of two


def _run(opened: OpenStudy, status: CaseStatus) -> RunDir:
    assert status.attempt is not None
    return opened.directory.run(status.case.case_id, status.attempt)
