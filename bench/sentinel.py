"""Writes result.json, the last file of a run: what became of it. Scope: job; runs once, on the batch node.

    python -m paceline.bench.sentinel [--exit-code N] [--interrupted CAUSE]

A run is completed if every rank's record ends as completed with all its iterations. The exit code never decides it:
Isaac Sim can crash or hang after its work is done, and a launcher can return 0 after a rank went missing. Standard
library only. Running it again gives the same result, and a result is never half-written.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import sys
import time
from contextlib import suppress
from typing import Any

from paceline.bench import watchdog
from paceline.bench.assignment import load_run
from paceline.bench.attempt import read_attempt
from paceline.bench.causes import Cause, LogFindings, classify, read_log, shorten
from paceline.bench.errors import PacelineError, RecordError
from paceline.bench.failures import failure_class
from paceline.bench.hardware import node_name
from paceline.bench.rankscan import RankSummary, read_rank
from paceline.bench.record import Case, Result
from paceline.bench.redaction import mask_files, redact, secret_values
from paceline.bench.rundir import RunDir, read_json, write_json
from paceline.profiling import profiler


def judge(
    run: RunDir, case: Case, exit_code: int | None = None, interrupted: str | None = None, now: float | None = None
) -> Result:
    """Return the result of a run from its case, its records and its log.

    Args:
        run: The run's folder.
        case: What was asked for.
        exit_code: Exit status of the launcher on this node, kept for information.
        interrupted: Class of what ended the run from outside (``time_limit``, ``preempted``, ``cancelled`` ...).
        now: Time of the end, seconds since 1970; the clock's if None.
    """
    ranks = [read_rank(run.rank_jsonl(rank), rank) for rank in range(case.world_size)]
    completed = tuple(rank.rank for rank in ranks if rank.completed(case))
    status, cause = "completed", None
    log = read_log(run.train_log, case.num_envs_per_rank)
    if len(completed) < case.world_size:
        cause = log.root_cause(_cause(log, case, ranks, exit_code, interrupted))
        if cause.cause in _SAYS_LITTLE and not interrupted:
            cause = _seen_from_here(run, cause, exit_code)
        status = "interrupted" if interrupted or cause.cause in FROM_OUTSIDE else "failed"
    elif case.kind == "profile" and (problem := profiler.problem(run)):
        status, cause = "failed", Cause("no_trace", problem)
    headers = [rank.header for rank in ranks if rank.header is not None]
    starts = [header["clock_origin_unix_s"] for header in headers if header.get("clock_origin_unix_s")]
    nodes = dict.fromkeys(str(header["node"]) for header in headers if header.get("node"))
    start = min(starts) if starts else None
    # A clock that was set back must not make a run end before it began.
    lasted = max((float(rank.end["end_s"]) for rank in ranks if rank.end and rank.end.get("end_s")), default=0.0)
    end = max(time.time() if now is None else now, (start or 0.0) + lasted)
    secrets = secret_values(os.environ)
    return Result(
        case_id=case.case_id,
        attempt=run.attempt,
        status=status,  # type: ignore[arg-type]
        cause=cause.cause if cause else None,
        message=redact(cause.message, secrets) if cause else None,
        exit_code=exit_code,
        ranks_expected=case.world_size,
        ranks_completed=completed,
        start_unix_s=start if start is not None else end,
        end_unix_s=end,
        nodes=tuple(nodes),
        job_id=os.environ.get("SLURM_JOB_ID"),
        extra=_extra(run, case.world_size, log, cause, secrets),
    )


def _extra(run: RunDir, ranks: int, log: LogFindings, cause: Cause | None, secrets: tuple[str, ...]) -> dict[str, Any]:
    """Return what result.json says beyond status and cause: docs/formats.md."""
    extra: dict[str, Any] = {}
    attempt, ended = read_attempt(run), watchdog.read(run)
    if cause is not None:
        known = failure_class(cause.cause)
        extra["failure"] = {
            "family": known.family,
            "advice": known.advice,
            "evidence": [redact(line, secrets) for line in cause.evidence],
        }
    if log.overflows:
        extra["invalid_physics"] = log.invalid_physics
        extra["overflows"] = [dataclasses.asdict(each) for each in log.overflows]
    if ended is not None:
        extra["watchdog"] = {"reason": ended.reason, "saved_rank_hours": round(ended.saved_s * ranks / 3600.0, 4)}
    if log.searched_bytes < log.size_bytes:
        extra["log"] = {"size_bytes": log.size_bytes, "searched_bytes": log.searched_bytes}
    if attempt is not None and attempt.overrides:
        extra["overrides"] = list(attempt.overrides)
    return extra


FROM_OUTSIDE = frozenset({"time_limit", "preempted", "node_failure", "cancelled"})


def _cause(
    log: LogFindings, case: Case, ranks: list[RankSummary], exit_code: int | None, interrupted: str | None
) -> Cause:
    """Return why a run is not completed: told from outside, known from the log, told by a rank, or missing."""
    if interrupted:
        done = min((rank.iterations for rank in ranks), default=0)
        return Cause(interrupted, f"interrupted ({interrupted}) after {done} of {case.iterations} iterations")
    from_log = log.cause
    told = [(rank.rank, str(rank.end["error"])) for rank in ranks if rank.end is not None and rank.end.get("error")]
    if from_log.cause not in ("error", "unknown"):
        return from_log
    if told:
        rank, error = told[0]
        known = classify(error) if ": " in error else Cause("error", error)
        return Cause(known.cause, shorten(f"rank {rank}: {error}"), from_log.evidence)
    if from_log.cause == "error":
        return from_log
    missing = [rank.rank for rank in ranks if rank.header is None]
    if missing:
        said = f"no record from rank {', '.join(map(str, missing))}{_exit(exit_code)}"
        return Cause("missing_ranks", shorten(said), from_log.evidence)
    cut = [f"rank {rank.rank} after {rank.iterations}" for rank in ranks if not rank.completed(case)]
    said = f"records end early: {', '.join(cut)} of {case.iterations} iterations{_exit(exit_code)}"
    return Cause("truncated", shorten(said), from_log.evidence)


_SAYS_LITTLE = frozenset({"truncated", "missing_ranks", "unknown"})
_FULL_BYTES = 1 << 20


def _seen_from_here(run: RunDir, cause: Cause, exit_code: int | None) -> Cause:
    """Return what disk and exit status tell about a run whose log and records end without a word."""
    with suppress(OSError):
        free = os.statvfs(run.path)
        if free.f_bavail * free.f_frsize < _FULL_BYTES:
            return Cause("disk_full", f"the disk of the run folder is full; {cause.message}", cause.evidence)
    if exit_code == 128 + signal.SIGKILL:
        return Cause("killed", f"the launcher was killed; {cause.message}", cause.evidence)
    return cause


def _exit(exit_code: int | None) -> str:
    return "" if exit_code is None else f" (launcher's exit status {exit_code})"


def write_result(run: RunDir, case: Case, exit_code: int | None = None, interrupted: str | None = None) -> Result:
    """Write result.json and return it; a result that is there and says completed is kept as it is."""
    try:
        old = Result.from_json(read_json(run.result_json), str(run.result_json))
        if old.status == "completed" and old.case_id == case.case_id:
            return old
    except (FileNotFoundError, RecordError):
        pass
    result = judge(run, case, exit_code, interrupted)
    if not result.nodes and not interrupted and case.num_nodes == 1:
        # No rank came so far as to say where it was. (What interrupted a run may be told later, from another node.)
        result = dataclasses.replace(result, nodes=(node_name(),))
    write_json(run.result_json, result.to_json())
    return result


def main(arguments: list[str] | None = None) -> int:
    """Write the result of the run that PACELINE_RUN_DIR names; return 0 if it is completed, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m paceline.bench.sentinel", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--exit-code", type=int, help="exit status of the trainer's launcher")
    parser.add_argument("--interrupted", metavar="CAUSE", help="what ended the run from outside, e.g. time_limit")
    options = parser.parse_args(arguments)
    run, case = load_run()
    result = write_result(run, case, options.exit_code, options.interrupted)
    masked = mask_files(run.path, secret_values(os.environ))
    if masked:
        print(f"paceline: {masked} credential(s) in files of the run were overwritten", file=sys.stderr)
    detail = "" if result.message is None else f" ({result.cause}): {result.message}"
    print(f"paceline: run {run.case_id}/attempt-{run.attempt} {result.status}{detail}", file=sys.stderr)
    return 0 if result.status == "completed" else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PacelineError as error:
        print(f"paceline: {error}", file=sys.stderr)
        sys.exit(2)
