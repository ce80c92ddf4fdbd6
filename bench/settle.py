"""Writes the sentinel of runs that could not write their own. Scope: the machine that watches a study.

A job that is killed at once leaves none, a disk that fills up leaves half of one, and Slurm forgets: the report, made
anywhere and later, must still know what became of the run. The records decide, as they do on the node; the scheduler's
word and the log say why.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from paceline.bench import sentinel
from paceline.bench.cluster import Cluster
from paceline.bench.errors import PacelineError, RecordError
from paceline.bench.failures import failure_class
from paceline.bench.record import Result
from paceline.bench.rundir import RunDir, StudyDir, read_json, write_json
from paceline.bench.status import CaseStatus

_ENDED = frozenset({"failed", "interrupted", "cancelled", "lost"})
# What the scheduler knows better than the end of the log.
_SLURM_KNOWS = frozenset({"time_limit", "preempted", "node_failure", "oom_host", "cancelled", "dependency"})
_LOG_KNOWS_NOTHING = frozenset({"unknown", "truncated", "missing_ranks"})
_LATE_S = 5.0
"""Time that a file from another node may take to appear here, after the scheduler called its job ended."""


class Opened(Protocol):
    """A study or campaign folder that has been opened."""

    @property
    def directory(self) -> StudyDir:
        """The folder."""

    @property
    def cluster(self) -> Cluster:
        """Where its runs were started."""


def settle(opened: Opened, statuses: Sequence[CaseStatus]) -> bool:
    """Write the sentinels that are missing or damaged; return whether any was written."""
    waited = settled = False
    for status in statuses:
        if status.state not in _ENDED or status.attempt is None:
            continue
        run = opened.directory.run(status.case.case_id, status.attempt)
        if not _wanting(run):
            continue
        if status.state == "lost" and opened.cluster.scheduler == "slurm" and not waited:
            time.sleep(_LATE_S)
            waited = True
            if not _wanting(run):
                settled = True
                continue
        with suppress(OSError):  # a folder that cannot be written now is settled another time
            write_json(run.result_json, _result(run, status).to_json())
            settled = True
    return settled


def _wanting(run: RunDir) -> bool:
    """Return whether a run has no sentinel that can be read."""
    try:
        Result.from_json(read_json(run.result_json), str(run.result_json))
    except (FileNotFoundError, RecordError):
        return True
    except OSError:
        return False
    return False


def _result(run: RunDir, status: CaseStatus) -> Result:
    from_slurm = status.cause if status.cause in _SLURM_KNOWS else None
    outside = from_slurm if from_slurm in sentinel.FROM_OUTSIDE else None
    result = sentinel.judge(run, status.case, interrupted=outside)
    extra = {**result.extra, "written_by": "watcher"}
    launched = time.time()
    with suppress(OSError, PacelineError):
        launched = read_json(run.launch_json).get("submitted_unix_s", launched)
    start = min(launched, result.start_unix_s)
    nodes = result.nodes or ((status.nodes,) if status.nodes else ())
    result = replace(result, job_id=status.job_id, start_unix_s=start, nodes=nodes, extra=extra)
    if result.status == "completed":
        return result
    cause, message = result.cause, result.message
    # That the training was told to end is a consequence, where its job script vanished.
    vanished = status.cause == "lost" and result.cause == "signal"
    if from_slurm or vanished or result.cause in _LOG_KNOWS_NOTHING:
        cause, message = status.cause, status.message
        known = failure_class(cause)
        old = extra.get("failure") or {}
        evidence = [line for line in (message, *old.get("evidence", ())) if line]
        extra["failure"] = {"family": known.family, "advice": known.advice, "evidence": evidence}
    state = "failed" if status.state in ("failed", "lost") else "interrupted"
    return replace(result, status=state, cause=cause, message=message)  # type: ignore[arg-type]
