"""One rank of one start of a campaign: resumes from the newest whole checkpoint and trains on. Scope: rank.

`bench.worker` hands over to this when the run folder lies in a campaign folder. What Isaac Lab and the trainer write
goes to ``trainer/`` of the campaign, the same for all starts, so that TensorBoard sees one curve.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from typing import Any

from paceline.bench import segment as segments
from paceline.bench.campaignfile import Campaign, CampaignDir
from paceline.bench.checkpointcontents import network_mismatch
from paceline.bench.errors import LaunchError
from paceline.bench.record import Case
from paceline.bench.rundir import RunDir
from paceline.bench.segment import Segment
from paceline.bench.segmentrun import SegmentMeasurement
from paceline.bench.trainers.isaaclab import common_arguments, load_trainer, rank_of_environment, run_training


def work(run: RunDir, case: Case, applied: Any = None) -> int:
    """Train one rank on from the newest whole checkpoint, and return Isaac Lab's exit status."""
    folder = CampaignDir.of_run(run.path)
    assert folder is not None
    campaign = folder.read()
    rank, _, _ = rank_of_environment()
    folder.trainer.mkdir(exist_ok=True)
    os.chdir(folder.trainer)
    if campaign.wandb_project is not None:
        _join_wandb(folder)
    segment = segments.take(folder, campaign, run, case, rank)
    if rank == 0:
        _tell(segment)
    measurement = SegmentMeasurement(case, run, load_trainer(case.trainer), folder, campaign, segment, applied)
    if measurement.goal is not None:
        measurement.finish_without_training()
        return 0
    try:
        with measurement.attached():
            import torch

            torch.set_num_threads(case.threads_per_rank)
            torch.set_num_interop_threads(case.threads_per_rank)
            status = run_training(case, _arguments(case, campaign, segment))
    except BaseException as error:
        said = network_mismatch(segment.checkpoint, error) if segment.checkpoint else None
        if said is None:
            measurement.fail(error)
            raise
        mismatch = LaunchError(said)
        measurement.fail(mismatch)
        raise mismatch from error
    measurement.finish()
    return status


def _arguments(case: Case, campaign: Campaign, segment: Segment) -> list[str]:
    resume: Any = importlib.import_module(f"paceline.bench.trainers.{case.trainer}_resume")
    arguments = [*common_arguments(case), *load_trainer(case.trainer).arguments(case)]
    arguments += resume.arguments(case, segment.start_iteration, segment.checkpoint, campaign.save_interval)
    if campaign.wandb_project is not None:
        arguments += resume.wandb(campaign.wandb_project, os.environ.get("WANDB_ENTITY"))
    return [*arguments, *case.overrides]


def _join_wandb(folder: CampaignDir) -> None:
    """Let all starts be one run of Weights & Biases; LaunchError if it is not installed."""
    if importlib.util.find_spec("wandb") is None:
        raise LaunchError("the preset asks for wandb, which is not installed in the jobs' Python")
    digest = hashlib.sha256(str(folder.path).encode()).hexdigest()[:16]
    os.environ.setdefault("WANDB_RUN_ID", f"paceline-{digest}")
    os.environ.setdefault("WANDB_RESUME", "allow")


def _tell(segment: Segment) -> None:
    for reason in segment.passed_over:
        print(f"paceline: checkpoint passed over: {reason}", file=sys.stderr)
    source = f"from {segment.checkpoint}" if segment.checkpoint else "from scratch"
    print(f"paceline: iteration {segment.start_iteration} comes next, {source}", file=sys.stderr, flush=True)
