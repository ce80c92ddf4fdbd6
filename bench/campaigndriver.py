"""Drives a campaign: one start after another until a goal is reached, as a chain of Slurm jobs or on this machine.

On Slurm each job of the chain waits for the end of the one before, however it ended, and finds the newest whole
checkpoint itself. So the chain goes on when nobody watches; a job that finds the goal reached ends at once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from paceline.bench import local, render, slurm, snapshot
from paceline.bench.campaign import OpenCampaign, Start
from paceline.bench.errors import ClusterError, LaunchError
from paceline.bench.failures import FROM_THE_CLUSTER
from paceline.bench.launch import JobSide
from paceline.bench.record import Case
from paceline.bench.rundir import RunDir, read_json
from paceline.bench.runfolder import next_run, write_launch, write_run
from paceline.bench.settle import settle
from paceline.bench.status import UNFINISHED, CaseStatus

Show = Callable[[Sequence[Start]], None]
"""Is called with the state of all starts, again and again while a campaign runs."""
Say = Callable[[str], None]

_CHAIN_WITHOUT_HOURS = 3
_LONGEST_CHAIN = 30
_SPARE_JOBS = 1


def completed(opened: OpenCampaign, starts: Sequence[Start]) -> bool:
    """Return whether a goal of the campaign is reached: the newest start that trained says so, of the present goals.

    One that was queued behind it, found nothing left to do and was cancelled meanwhile takes nothing back.
    """
    for start in reversed(starts):
        if start.state == "completed":
            stated = opened.folder.campaign_json.stat().st_mtime
            return start.run.case_id == opened.case.case_id and start.run.result_json.stat().st_mtime >= stated
        if start.state not in UNFINISHED and start.trained:
            return False
    return False


def hopeless(opened: OpenCampaign, starts: Sequence[Start]) -> Start | None:
    """Return the newest of the failed starts without progress if they are too many in a row; None if it goes on."""
    ended = [start for start in starts if start.state not in UNFINISHED]
    for row, start in enumerate(reversed(ended), start=1):
        if start.state == "completed" or start.cause in FROM_THE_CLUSTER or start.trained:
            break
        if row >= opened.campaign.max_failures:
            return ended[-1]
    return None


def run_locally(opened: OpenCampaign, side: JobSide, show: Show, say: Say, poll_s: float = 0.5) -> list[Start]:
    """Start again and again on this machine until a goal is reached; return all starts.

    Raises:
        LaunchError: A start of this campaign is still going, started by another process.
    """
    before = opened.starts()
    going = [start for start in before if start.state in UNFINISHED]
    if going:
        raise LaunchError(
            f"{opened.folder.path}: a start of this campaign is still going (process {going[0].job_id}); "
            "`paceline watch` follows it, `paceline cancel` ends it"
        )
    snapshot.take(opened.directory)
    mine: list[RunDir] = []
    while True:
        run = prepare(opened, side)
        mine.append(run)
        process = local.LocalRun(run)
        try:
            while process.poll() is None:
                show(opened.starts())
                time.sleep(poll_s)
        except BaseException:
            say(f"stopping {run.path.name}: it saves a checkpoint first ...")
            process.stop()
            raise
        starts = opened.starts()
        show(starts)
        last = starts[-1]
        recent = [start for start in starts if start.run.path in {r.path for r in mine}]
        if last.state == "completed" or last.cause in ("cancelled", "signal") or hopeless(opened, recent) is not None:
            return starts
        say(f"{run.path.name} ended ({last.cause or last.state}: {last.message or 'no reason'}): going on")


def submit_chain(opened: OpenCampaign, side: JobSide, say: Say) -> None:
    """Queue jobs until as many wait as the preset asks for; LaunchError or ClusterError if Slurm refuses."""
    snapshot.take(opened.directory)
    waiting = [start for start in opened.starts() if start.state in UNFINISHED]
    wanted = chain_length(opened) - len(waiting)
    executor = slurm.executor(opened.folder.path)
    after = waiting[-1].job_id if waiting else None
    for number in range(max(0, wanted)):
        run = prepare(opened, side)
        if number == 0:
            objection = slurm.check_script(run)
            if objection:
                raise ClusterError(f"Slurm would refuse the jobs: {objection} (script: {run.job_sh})")
        job = executor.submit_script(run, arguments=[f"--dependency=afterany:{after}"] if after else [])
        write_launch(run, job.job_id)
        after = job.job_id
    if wanted > 0:
        say(f"submitted {wanted} jobs, one after another; Ctrl-C leaves them queued")


def follow(opened: OpenCampaign, show: Show, top_up: Callable[[], None] | None = None) -> list[Start]:
    """Show a campaign until nothing of it is queued or running; return all starts.

    Args:
        opened: The campaign.
        show: Called with the state of all starts.
        top_up: Called when a job of the chain has ended and the goal is not reached, to queue another.
    """
    interval_s = 1.0
    ended = -1
    while True:
        starts = opened.starts()
        show(starts)
        going = [start for start in starts if start.state in UNFINISHED]
        if completed(opened, starts) and going:
            slurm.cancel(start.job_id for start in going if start.job_id)  # they would find nothing left to do
        if not going:
            _settle(opened, starts)
            return starts
        now_ended = len(starts) - len(going)
        if top_up is not None and ended not in (-1, now_ended) and not completed(opened, starts):
            if hopeless(opened, starts) is None:
                top_up()
            interval_s = 1.0
        ended = now_ended
        time.sleep(interval_s)
        interval_s = min(15.0, interval_s * 1.2)  # a controller serves a whole site


def _settle(opened: OpenCampaign, starts: Sequence[Start]) -> None:
    """Write the result of jobs that could not write their own: Slurm forgets what became of them after a while."""
    statuses = [
        CaseStatus(
            case=Case.from_json(read_json(start.run.case_json), str(start.run.case_json)),
            state=start.state,
            attempt=start.run.attempt,
            job_id=start.job_id,
            cause=start.cause,
            message=start.message,
        )
        for start in starts
        if start.state not in UNFINISHED and not start.run.result_json.exists()
    ]
    settle(opened, statuses)


def cancel(opened: OpenCampaign) -> list[Start]:
    """End what is queued or running of a campaign; a running start saves a checkpoint first. Return what was ended."""
    going = [start for start in opened.starts() if start.state in UNFINISHED]
    if opened.cluster.scheduler == "slurm":
        # The waiting ones first, or the next would begin when the running one ends.
        for state in ("queued", "running"):
            slurm.cancel(start.job_id for start in going if start.job_id and start.state == state)
    else:
        for start in going:
            local.cancel(read_json(start.run.launch_json))
    return going


def chain_length(opened: OpenCampaign) -> int:
    """Return how many jobs of a campaign are queued at once."""
    preset = opened.preset
    if preset.jobs_ahead is not None:
        return preset.jobs_ahead
    if preset.hours is None:
        return _CHAIN_WITHOUT_HOURS
    limit_min = preset.time_limit_min or opened.cluster.time_limit_min
    return min(_LONGEST_CHAIN, math.ceil(preset.hours * 60 / limit_min) + _SPARE_JOBS)


def prepare(opened: OpenCampaign, side: JobSide) -> RunDir:
    """Make the folder and the script of the next start; LaunchError if they cannot be written."""
    run = next_run(opened.directory, opened.case.case_id)
    script = render.render_job(
        opened.case,
        # The chain goes on by itself: a job that Slurm queued again would run beside the next one's turn.
        opened.cluster.model_copy(update={"requeue": False}),
        opened.directory,
        run.attempt,
        python=side.python,
        asset_root=side.asset_root,
        time_limit_min=opened.preset.time_limit_min,
    )
    write_run(run, opened.case, script)
    return run
