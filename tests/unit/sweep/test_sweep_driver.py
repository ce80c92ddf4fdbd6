"""What ends a run on this machine before it does harm: its time limit, and the last of the memory."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from paceline.bench import launch, sweepdriver
from paceline.bench.display import Display
from paceline.bench.launch import JobSide, OpenStudy
from paceline.bench.record import LAUNCH_SCHEMA, Result
from paceline.bench.rundir import RunDir, read_json, write_json
from paceline.bench.status import process_start_ticks
from paceline.bench.study import Study, resolve
from paceline.bench.sweep import Point, case_of
from paceline.bench.sweepdriver import SweepDriver, _Guard, peak_memory_bytes
from paceline.bench.sweepledger import Entry
from rich.console import Console

from tests.sweepworld import CLUSTER, World, play, sweep_study


def opened(folder: Path, **changes: Any) -> OpenStudy:
    values: dict[str, Any] = {"name": "sweep", "kind": "sweep", "task": "Isaac-Cartpole-Direct", "device": "cpu"}
    values |= {"start_envs": 64, "limit_envs": 1024, "iterations": 6, "time_limit_min": 1, "num_minibatches": 4}
    return launch.create(folder, resolve(Study.model_validate(values | changes), CLUSTER, 0), CLUSTER)


class Job:
    """A process that a run folder calls its job script: ends by the signal that comes before a time limit."""

    def __init__(self, study: OpenStudy, started_s_ago: float) -> None:
        self.case = case_of(study.study, study.cluster, Point(num_envs_per_rank=64, why=""))
        self.run: RunDir = study.directory.run(self.case.case_id, 1)
        self.run.path.mkdir(parents=True)
        self.process = subprocess.Popen(["bash", "-c", 'trap "exit 9" USR1; while :; do sleep 0.05; done'])
        launched: dict[str, Any] = {"schema": LAUNCH_SCHEMA, "launcher": "local", "pid": self.process.pid}
        launched |= {"start_ticks": process_start_ticks(self.process.pid), "hostname": "here"}
        write_json(self.run.launch_json, launched | {"submitted_unix_s": time.time() - started_s_ago})

    def end(self) -> int:
        code = self.process.wait(20)
        result = Result(
            case_id=self.case.case_id,
            attempt=1,
            status="interrupted",
            cause="time_limit",
            message="interrupted",
            exit_code=code,
            ranks_expected=1,
            ranks_completed=(),
            start_unix_s=0.0,
            end_unix_s=1.0,
        )
        write_json(self.run.result_json, result.to_json())
        return code


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    monkeypatch.setattr(sweepdriver, "_GUARD_EVERY_S", 0.05)
    yield monkeypatch


def test_a_run_that_outlives_its_time_limit_is_ended(tmp_path: Path, quick: pytest.MonkeyPatch) -> None:
    study = opened(tmp_path)
    with _Guard(study, case_of(study.study, study.cluster, Point(num_envs_per_rank=64, why="")), 0):
        job = Job(study, started_s_ago=3600.0)
        assert job.end() == 9
    assert read_json(job.run.result_json)["cause"] == "time_limit"


def test_a_run_that_takes_the_last_memory_is_ended_and_called_that(tmp_path: Path, quick: pytest.MonkeyPatch) -> None:
    quick.setattr(sweepdriver, "memory_is_ending", lambda: True)
    study = opened(tmp_path)
    with _Guard(study, case_of(study.study, study.cluster, Point(num_envs_per_rank=64, why="")), 0):
        job = Job(study, started_s_ago=0.0)
        assert job.end() == 9
    result = read_json(job.run.result_json)
    assert (result["status"], result["cause"]) == ("failed", "oom_host") and "memory" in result["message"]


def test_a_run_of_an_earlier_session_is_left_alone(tmp_path: Path, quick: pytest.MonkeyPatch) -> None:
    study = opened(tmp_path)
    job = Job(study, started_s_ago=3600.0)
    try:
        with _Guard(study, job.case, 1):
            time.sleep(0.4)
        assert job.process.poll() is None
    finally:
        job.process.kill()
        job.process.wait(20)


def test_a_point_that_would_not_fit_into_this_machine_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(fixed_bytes=1e9, bytes_per_env=1e6)
    entries, _ = play(tmp_path / "gpu", sweep_study(limit_envs=4096), world)
    study = opened(tmp_path / "cpu", task="Isaac-Ant-Direct")
    driver = SweepDriver(study, JobSide(python="python3", asset_root=None), Display(Console(), "x"))
    moved = [_as_cpu(entry, study, tmp_path / "gpu") for entry in entries]
    monkeypatch.setattr(sweepdriver, "free_memory_bytes", lambda: 8e9)
    stop = driver._room_on_this_machine(moved, Point(num_envs_per_rank=8192, why=""))
    assert stop is not None and stop.by == "memory"
    assert "8,192 environments would need about 9.2 GB" in stop.why and "8.0 GB are free" in stop.why
    monkeypatch.setattr(sweepdriver, "free_memory_bytes", lambda: 10e9)
    assert driver._room_on_this_machine(moved, Point(num_envs_per_rank=8192, why="")) is None
    assert driver._room_on_this_machine(moved[:1], Point(num_envs_per_rank=8192, why="")) is None


def _as_cpu(entry: Entry, study: OpenStudy, source: Path) -> Entry:
    """Put a run's record where the sweep on CPU looks for it."""
    target = study.directory.run(entry.case.case_id, 1)
    target.path.mkdir(parents=True)
    record = source / "runs" / entry.case.case_id / "attempt-1" / "rank-0000.jsonl"
    target.rank_jsonl(0).write_text(record.read_text())
    assert peak_memory_bytes(target) is not None
    return replace(entry, attempt=1)
