"""Saving checkpoints on a file system that is full, and stopping between iterations."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from paceline.bench import checkpoint as checkpoints
from paceline.bench.campaignfile import CampaignDir, training_jsonl
from paceline.bench.errors import LaunchError
from paceline.bench.rundir import RunDir
from paceline.bench.segment import Segment
from paceline.bench.segmentrun import SegmentMeasurement, StopTraining
from paceline.bench.trainers.isaaclab import load_trainer
from paceline.bench.trainlog import TrainLog

from tests.campaigns import case, write_campaign
from tests.unit.test_checkpoint import rsl_rl


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 300 kB, which root may mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k,nr_inodes=400", "none", disk], check=True)
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


Make = Callable[[Path], SegmentMeasurement]


@pytest.fixture
def measurement() -> Iterator[Make]:
    """Return a function that makes rank 0 of the first start of a campaign in a folder."""
    made: list[SegmentMeasurement] = []

    def make(folder: Path) -> SegmentMeasurement:
        a_case = case(device="cpu")
        campaign = write_campaign(folder, a_case)
        (folder / "trainer").mkdir(exist_ok=True)
        run = RunDir(folder / "runs" / a_case.case_id / "attempt-1")
        run.path.mkdir(parents=True)
        segment = Segment(start_id="", start_iteration=0, checkpoint=None, sha256=None, passed_over=(), spent_s=0.0)
        rank = SegmentMeasurement(a_case, run, load_trainer("rsl_rl"), CampaignDir(folder), campaign, segment)
        rank._log = TrainLog(training_jsonl(run.path))
        made.append(rank)
        return rank

    yield make
    for rank in made:
        rank.file.end("failed", 0.0)
        assert rank._log is not None
        rank._log.close()


def events(rank: SegmentMeasurement) -> list[dict[str, Any]]:
    return [json.loads(line) for line in training_jsonl(rank.run.path).read_text().splitlines()]


def writer(source: Path) -> Callable[[Path], None]:
    return lambda target: _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())


def test_a_full_disk_costs_a_checkpoint_not_the_training(small_disk: Path, tmp_path: Path, measurement: Make) -> None:
    rank = measurement(small_disk)
    source = rsl_rl(tmp_path, 10)
    rank.clock.iteration = 11
    rank.saver.save(small_disk / "trainer" / "model_10.pt", writer(source))
    (small_disk / "ballast").write_bytes(b"x" * os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize)
    rank.clock.iteration = 21
    rank.saver.save(small_disk / "trainer" / "model_20.pt", writer(source))  # does not raise
    found, passed = checkpoints.newest_complete(small_disk)
    assert found is not None and found.path.name == "model_10.pt" and passed == []
    assert not list((small_disk / "trainer").glob(".paceline-*"))
    (small_disk / "ballast").unlink()
    rank.clock.iteration = 31
    rank.saver.save(small_disk / "trainer" / "model_30.pt", writer(source))
    named = [(e["event"], e["next_iteration"]) for e in events(rank)]
    # The note about the failure itself may find no room; what was written before and after stands.
    assert [name for name in named if name[0] == "checkpoint"] == [("checkpoint", 11), ("checkpoint", 31)]


def test_the_last_checkpoint_must_be_written(small_disk: Path, tmp_path: Path, measurement: Make) -> None:
    rank = measurement(small_disk)
    source = rsl_rl(tmp_path, 10)
    rank.clock.iteration = rank.case.iterations
    (small_disk / "ballast").write_bytes(b"x" * os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize)
    with pytest.raises(LaunchError, match=r"the last checkpoint cannot be written: .*No space left on device"):
        rank.saver.save(small_disk / "trainer" / "model_4999.pt", writer(source))
    (small_disk / "ballast").unlink()


class Saver:
    """What `save_now` needs of rsl_rl's runner."""

    def __init__(self, folder: Path, source: Path) -> None:
        self.current_learning_iteration = 6
        self.logger = self
        self.log_dir = str(folder)
        self.saved: list[str] = []

    def save(self, path: str) -> None:
        self.saved.append(path)


def test_a_signal_stops_between_two_iterations(tmp_path: Path, measurement: Make) -> None:
    rank = measurement(tmp_path)
    rank._agent = Saver(tmp_path, tmp_path)
    rank._between(6)
    rank._on_signal(15, None)
    with pytest.raises(StopTraining):
        rank._between(7)
    assert rank._agent.saved == [str(tmp_path / "model_6.pt")]
    rank._end()
    (end,) = [json.loads(line) for line in rank.file.path.read_text().splitlines() if "end" in line]
    assert end["status"] == "interrupted" and "SIGTERM" in end["error"]


def test_a_goal_stops_and_completes(tmp_path: Path, measurement: Make) -> None:
    rank = measurement(tmp_path)
    rank._agent = Saver(tmp_path, tmp_path)
    rank.goal = "reward"
    with pytest.raises(StopTraining):
        rank._between(7)
    rank._end()
    end = json.loads(rank.file.path.read_text().splitlines()[-1])
    assert (end["status"], end["goal"]) == ("completed", "reward")
