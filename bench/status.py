"""What state every case of a study is in, from its run folders and one question to the scheduler."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from paceline.bench import jsontext
from paceline.bench.errors import RecordError
from paceline.bench.failures import failure_class
from paceline.bench.record import Case, Result
from paceline.bench.rundir import RunDir, StudyDir, read_json

State = Literal["missing", "queued", "running", "completed", "failed", "interrupted", "cancelled", "lost"]

UNFINISHED: frozenset[str] = frozenset({"queued", "running"})
"""States that may still change by themselves."""

_SLURM_STATES: dict[str, tuple[State, str | None]] = {
    "PENDING": ("queued", None),
    "UNANSWERED": ("queued", None),  # a controller that restarts has lost nothing: wait for its word
    "CONFIGURING": ("queued", None),
    "REQUEUED": ("queued", None),
    "REQUEUE_HOLD": ("queued", None),
    "REQUEUE_FED": ("queued", None),
    "RESV_DEL_HOLD": ("queued", None),
    "SPECIAL_EXIT": ("queued", None),
    "RUNNING": ("running", None),
    "COMPLETING": ("running", None),
    "SUSPENDED": ("running", None),
    "STOPPED": ("running", None),
    "SIGNALING": ("running", None),
    "STAGE_OUT": ("running", None),
    "RESIZING": ("running", None),
    "CANCELLED": ("cancelled", "cancelled"),
    "REVOKED": ("cancelled", "cancelled"),
    "TIMEOUT": ("interrupted", "time_limit"),
    "DEADLINE": ("interrupted", "time_limit"),
    "PREEMPTED": ("interrupted", "preempted"),
    "NODE_FAIL": ("failed", "node_failure"),
    "BOOT_FAIL": ("failed", "node_failure"),
    "OUT_OF_MEMORY": ("failed", "oom_host"),
    "FAILED": ("failed", "lost"),  # asked only where the job left no sentinel: it was killed before it could
}


@dataclass(frozen=True, kw_only=True)
class CaseStatus:
    """State of one case: of its newest attempt, or of an older one that completed."""

    case: Case
    state: State
    attempt: int | None = None
    job_id: str | None = None
    cause: str | None = None
    message: str | None = None
    iterations_done: int = 0
    """Iterations that rank 0 has recorded; at most the case's iterations."""
    nodes: str | None = None
    """Nodes of the attempt as Slurm names them."""
    invalid_physics: str | None = None
    """Of a completed run: which buffers of the simulator overflowed."""
    evidence: tuple[str, ...] = ()
    """Lines of the log that tell the cause."""

    @property
    def done(self) -> bool:
        """Whether the case has a completed run whose physics was valid, so that it never runs again.

        For a sweep an overflow is a result like any other, and for the numbers of a warm-up nobody asks.
        """
        return self.state == "completed" and (
            self.invalid_physics is None or self.case.kind not in ("strong", "weak", "gpus")
        )

    @property
    def advice(self) -> str | None:
        """One sentence on what to do about a run that failed."""
        return failure_class(self.cause).advice if self.cause else None


def study_status(study: StudyDir, cases: Iterable[Case]) -> list[CaseStatus]:
    """Return the state of each case, in the order given. Asks the scheduler once, if something may still run."""
    found = [(case, *_newest(study, case)) for case in cases]
    waiting = [launch["job_id"] for _, launch, result, _ in found if launch and _slurm(launch) and _open(result)]
    states: Mapping[str, Mapping[str, str]] = {}
    if waiting:
        from paceline.bench.slurm import job_states  # submitit: only where a job may still run

        states = job_states(waiting)
    return [_case_status(case, launch, result, run, states) for case, launch, result, run in found]


def summary(statuses: Sequence[CaseStatus]) -> str:
    """Return one line: how many cases are in which state."""
    counts = Counter(status.state for status in statuses)
    order: tuple[State, ...] = (
        "completed",
        "running",
        "queued",
        "failed",
        "interrupted",
        "cancelled",
        "lost",
        "missing",
    )
    return ", ".join(f"{counts[state]} {state}" for state in order if counts[state]) or "no cases"


def _slurm(launch: Mapping[str, object]) -> bool:
    return launch.get("launcher") == "slurm"


def _open(result: Result | None) -> bool:
    # An interrupted run may have been requeued under the same job id: Slurm knows.
    return result is None or result.status == "interrupted"


def _newest(study: StudyDir, case: Case) -> tuple[dict[str, str] | None, Result | None, RunDir | None]:
    """Return launch data, result and folder of the attempt that counts: a completed one, else the newest."""
    newest: tuple[dict[str, str] | None, Result | None, RunDir | None] = (None, None, None)
    for run in reversed(study.attempts(case.case_id)):
        result = _read_result(run)
        if newest[2] is None:
            newest = (_read_launch(run), result, run)
        if result is not None and result.status == "completed" and not result.extra.get("invalid_physics"):
            return _read_launch(run), result, run
    return newest


def _read_result(run: RunDir) -> Result | None:
    """Return the sentinel, None while there is none. A damaged one counts as a failed run, not as none."""
    path = run.result_json
    try:
        return Result.from_json(read_json(path), str(path))
    except FileNotFoundError:
        return None
    except RecordError as error:
        return Result(
            case_id=run.case_id,
            attempt=run.attempt,
            status="failed",
            cause="record",
            message=str(error),
            exit_code=None,
            ranks_expected=0,
            ranks_completed=(),
            start_unix_s=0.0,
            end_unix_s=0.0,
        )


def _read_launch(run: RunDir) -> dict[str, str] | None:
    try:
        return read_json(run.launch_json)
    except (FileNotFoundError, RecordError):
        return None


def _case_status(
    case: Case,
    launch: dict[str, str] | None,
    result: Result | None,
    run: RunDir | None,
    states: Mapping[str, Mapping[str, str]],
) -> CaseStatus:
    if run is None or (launch is None and result is None):
        return CaseStatus(case=case, state="missing")  # never started: an attempt folder without launch.json is no run
    job_id = launch.get("job_id") if launch else None
    nodes = " ".join(result.nodes) if result else None
    nodes = nodes or (states.get(job_id, {}).get("NodeList") if job_id else None)
    status = CaseStatus(case=case, state="lost", attempt=run.attempt, job_id=job_id, nodes=nodes or None)
    state, cause, message = _attempt_state(launch, result, states)
    if state == "running" and result is None and launch and _slurm(launch) and not run.train_log.exists():
        state = "queued"  # its turn in an allocation of several runs has not come
    if state in UNFINISHED or (state == "completed"):
        done = case.iterations if state == "completed" else iterations_done(run)
        status = replace(status, state=state, iterations_done=min(done, case.iterations))
        invalid = result.extra.get("invalid_physics") if state == "completed" and result else None
        if not invalid:
            return status
        return replace(status, invalid_physics=str(invalid), cause="invalid_physics", message=str(invalid))
    failure = result.extra.get("failure") if result else None
    evidence = tuple(map(str, failure.get("evidence") or ())) if isinstance(failure, dict) else ()
    done = iterations_done(run)
    return replace(status, state=state, cause=cause, message=message, iterations_done=done, evidence=evidence)


def _attempt_state(
    launch: dict[str, str] | None, result: Result | None, states: Mapping[str, Mapping[str, str]]
) -> tuple[State, str | None, str | None]:
    if launch and _slurm(launch) and _open(result):
        info = states.get(launch["job_id"], {})
        word = info.get("State", "UNKNOWN").split()[0]
        state, cause = _SLURM_STATES.get(word, ("lost", None))
        if state in UNFINISHED:
            return state, None, None
        if result is None:
            if word == "COMPLETED":
                return "lost", "no_sentinel", "the job ended without writing result.json"
            if state == "lost":
                return "lost", "lost", "Slurm no longer knows the job and there is no result.json"
            reason = info.get("Reason", "")
            detail = f" ({reason})" if reason not in ("", "None") else ""
            if state == "cancelled" and "Dependency" in reason:
                return state, "dependency", f"the warm-up did not end well, so Slurm dropped this job{detail}"
            return state, cause, f"Slurm: {word}{detail}"
    if result is not None:
        return result.status, result.cause, result.message
    if launch and _alive(launch):
        return "running", None, None
    return "lost", "lost", "the process that ran it is gone and left no result.json"


def _alive(launch: Mapping[str, object]) -> bool:
    """Whether a local run's job script is still running; a run of another host is taken to be."""
    if launch.get("hostname") != socket.gethostname():
        return True
    try:
        fields = Path(f"/proc/{launch['pid']}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, KeyError, IndexError):
        return False
    # A process id is used again after a while; its start time tells the two apart.
    return fields[0] != "Z" and fields[19] == str(launch.get("start_ticks", fields[19]))


def run_state(run: RunDir, states: Mapping[str, Mapping[str, str]]) -> tuple[State, str | None, str | None, str | None]:
    """Return state, cause, message and job id of one attempt; ``states`` is Slurm's answer for jobs that may run."""
    launch, result = _read_launch(run), _read_result(run)
    if launch is None and result is None:
        return "missing", None, None, None
    return *_attempt_state(launch, result, states), launch.get("job_id") if launch else None


def waiting_job(run: RunDir) -> str | None:
    """Return the Slurm job that may still change the state of an attempt, None if there is none to ask about."""
    launch = _read_launch(run)
    return launch["job_id"] if launch and _slurm(launch) and _open(_read_result(run)) else None


def process_start_ticks(pid: int) -> str:
    """Return a process's start time in clock ticks since boot, as Linux's /proc tells it."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]


def iterations_done(run: RunDir) -> int:
    """Return how many iterations rank 0 has recorded, reading only the end of its file."""
    path = run.rank_jsonl(0)
    try:
        with path.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            size = stream.tell()
            stream.seek(max(0, size - 4096))
            tail = stream.read()
    except OSError:
        return 0
    for line in reversed(tail.split(b"\n")[:-1]):  # what follows the last newline is being written
        if line.startswith(b"["):
            try:
                return int(jsontext.loads(line)[0]) + 1
            except (ValueError, IndexError, TypeError):
                continue
    return 0
