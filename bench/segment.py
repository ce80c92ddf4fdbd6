"""What one start of a campaign works on: where it resumes, what is left to do. Scope: job; standard library only.

Global rank 0 decides and writes segment.json; the other ranks wait for it, so that all resume from the same checkpoint.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paceline.bench import checkpoint as checkpoints
from paceline.bench.campaignfile import (
    RESUME_SCHEMA,
    SEGMENT_SCHEMA,
    Campaign,
    CampaignDir,
    runs_in_order,
    segment_json,
)
from paceline.bench.checkpointcontents import read_contents
from paceline.bench.errors import LaunchError, RecordError
from paceline.bench.failures import FROM_THE_CLUSTER
from paceline.bench.rankscan import last_line
from paceline.bench.record import Case
from paceline.bench.rundir import RunDir, read_json, write_json

_WAIT_S = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """One start of a campaign."""

    start_id: str
    """Which start this is about: a requeued job uses the same folder again."""
    start_iteration: int
    """Iterations that are done, which is the number of the one to do next."""
    checkpoint: str | None
    """Path of the checkpoint to resume from, None for a start from scratch."""
    sha256: str | None
    passed_over: tuple[str, ...]
    """Newer checkpoints that are not whole, with the reason."""
    spent_s: float
    """Time that earlier starts have trained."""


def take(campaign_dir: CampaignDir, campaign: Campaign, run: RunDir, case: Case, rank: int) -> Segment:
    """Return what this start works on; rank 0 decides, the others wait for its word.

    Raises:
        LaunchError: The checkpoint is of another trainer, too many starts failed in a row, or rank 0 does not answer.
    """
    start_id = f"{os.environ.get('TORCHELASTIC_RUN_ID', '')}.{os.environ.get('SLURM_RESTART_COUNT', '0')}"
    path = segment_json(run.path)
    if rank == 0:
        segment = decide(campaign_dir, campaign, run, case, start_id)
        write_json(path, {"schema": SEGMENT_SCHEMA, **asdict(segment)})
        return segment
    give_up = time.monotonic() + _WAIT_S
    while time.monotonic() < give_up:
        try:
            values = read_json(path)
            if values.get("start_id") == start_id:
                values.pop("schema")
                return Segment(**{**values, "passed_over": tuple(values["passed_over"])})
        except (FileNotFoundError, RecordError):
            pass
        time.sleep(0.2)
    raise LaunchError(f"rank {rank}: rank 0 has not written {path.name} within {_WAIT_S:.0f} s")


def decide(campaign_dir: CampaignDir, campaign: Campaign, run: RunDir, case: Case, start_id: str = "") -> Segment:
    """Return what a start of a campaign that begins now works on; LaunchError if it must not begin."""
    request = read_request(campaign_dir)
    named = request.get("checkpoint")
    since = float(request.get("requested_unix_s", 0.0)) if named else 0.0
    found, passed = checkpoints.newest_complete(campaign_dir.trainer, since)
    if found is None and not named:
        found, more = checkpoints.newest_complete(campaign_dir.checkpoints)
        passed += more
    path: Path | None = found.path if found else None
    if path is None and named:
        path = Path(named)
        reason = checkpoints.why_incomplete(path)
        if reason is None and checkpoints.sha256(path) != request.get("sha256"):
            reason = "changed since it was named"
        if reason is not None:
            raise LaunchError(f"the checkpoint to resume from, {path}: {reason}")
    start = 0
    if path is not None:
        contents = read_contents(path)
        if contents.trainer != case.trainer:
            raise LaunchError(f"{path} is a checkpoint of {contents.trainer}, the campaign trains with {case.trainer}")
        start = contents.next_iteration
    _refuse_hopeless(campaign_dir, campaign, run, start, float(request.get("requested_unix_s", 0.0)))
    return Segment(
        start_id=start_id,
        start_iteration=start,
        checkpoint=str(path) if path is not None else None,
        sha256=checkpoints.sha256(path) if path is not None else None,
        passed_over=tuple(f"{p.name}: {reason}" for p, reason in passed),
        spent_s=sum(trained_s(folder) for folder in runs_in_order(campaign_dir.path) if folder != run.path),
    )


def read_request(campaign_dir: CampaignDir) -> dict[str, Any]:
    """Return what `paceline resume` asked for; empty if nothing."""
    try:
        request = read_json(campaign_dir.resume_json)
    except FileNotFoundError:
        return {}
    if request.get("schema") != RESUME_SCHEMA:
        raise LaunchError(f"{campaign_dir.resume_json}: not a file of this version of Paceline")
    return request


def trained_s(run: Path) -> float:
    """Return how long rank 0 of a start has run, from its record, in seconds."""
    line = last_line(run / "rank-0000.jsonl")
    if isinstance(line, dict):
        return float(line.get("end_s") or 0.0)
    if isinstance(line, list) and len(line) > 4 and line[3] is not None:
        return float(line[3]) + float(line[4] or 0.0)
    return 0.0


def goal_reached(campaign: Campaign, case: Case, done: int, trained: float, reward: float | None) -> str | None:
    """Return which goal of a campaign is reached, None if training goes on.

    Args:
        campaign: What is to be done.
        case: What runs; ``global_batch`` frames an iteration.
        done: Iterations done.
        trained: Seconds trained, all starts together.
        reward: Mean episode reward over the campaign's window, None if not known yet.
    """
    if done >= case.iterations:
        return "iterations"
    if campaign.frames is not None and done * case.global_batch >= campaign.frames:
        return "frames"
    if campaign.hours is not None and trained >= campaign.hours * 3600.0:
        return "hours"
    if campaign.reward is not None and reward is not None and reward >= campaign.reward:
        return "reward"
    return None


def _refuse_hopeless(
    campaign_dir: CampaignDir, campaign: Campaign, run: RunDir, start: int, since_unix_s: float
) -> None:
    """Raise LaunchError if the last starts all failed where this one would begin."""
    failures = 0
    message = "no reason recorded"
    attempts = sorted(
        (path for path in run.path.parent.glob("attempt-*") if path != run.path and segment_json(path).exists()),
        key=lambda path: segment_json(path).stat().st_mtime,
        reverse=True,
    )
    for path in attempts:
        if segment_json(path).stat().st_mtime < since_unix_s:
            break
        try:
            result = read_json(path / "result.json")
        except (FileNotFoundError, RecordError):
            result = {"message": "it left no result.json"}
        if int(read_json(segment_json(path))["start_iteration"]) < start or result.get("status") == "completed":
            break
        if result.get("cause") not in FROM_THE_CLUSTER:
            failures += 1
            if failures == 1:
                message = str(result.get("message") or message)
    if failures >= campaign.max_failures:
        if "time_limit" in message:
            message += "; the time limit may be too short for a start and one iteration"
        raise LaunchError(
            f"{failures} starts in a row ended at iteration {start} without a new checkpoint, so the campaign stops; "
            f"the last one: {message} (`paceline resume {campaign_dir.path}` tries again)"
        )
