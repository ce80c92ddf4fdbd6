"""States of cases, from what lies in their run folders."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from paceline.bench.record import LAUNCH_SCHEMA, Case, Result
from paceline.bench.rundir import RunDir, StudyDir, write_json
from paceline.bench.status import (
    CaseStatus,
    _attempt_state,
    iterations_done,
    process_start_ticks,
    study_status,
    summary,
)


def make_case(**changes: Any) -> Case:
    values: dict[str, Any] = {
        "kind": "strong",
        "task": "Isaac-Cartpole-Direct",
        "trainer": "rsl_rl",
        "world_size": 1,
        "num_envs": 64,
        "horizon": 16,
        "num_minibatches": 4,
        "num_epochs": 5,
        "iterations": 10,
        "warmup_iterations": 2,
        "repeat": 0,
        "seed": 42,
        "device": "cpu",
    }
    return Case(**{**values, **changes})


def make_attempt(study: StudyDir, case: Case, number: int = 1, status: str | None = None, **launch: Any) -> RunDir:
    run = study.run(case.case_id, number)
    run.path.mkdir(parents=True)
    write_json(run.case_json, case.to_json())
    if launch:
        write_json(run.launch_json, {"schema": LAUNCH_SCHEMA, "submitted_unix_s": time.time(), **launch})
    if status:
        result = Result(
            case_id=case.case_id,
            attempt=number,
            status=status,  # type: ignore[arg-type]
            cause=None if status == "completed" else "error",
            message=None if status == "completed" else "ValueError: no",
            exit_code=0,
            ranks_expected=1,
            ranks_completed=(0,),
            start_unix_s=1.0,
            end_unix_s=2.0,
        )
        write_json(run.result_json, result.to_json())
    return run


def own_process() -> dict[str, Any]:
    pid = os.getpid()
    return {
        "launcher": "local",
        "job_id": str(pid),
        "pid": pid,
        "start_ticks": process_start_ticks(pid),
        "hostname": socket.gethostname(),
    }


def only(study: StudyDir, case: Case) -> CaseStatus:
    (status,) = study_status(study, [case])
    return status


def test_a_case_without_a_run_folder_is_missing(tmp_path: Path) -> None:
    assert only(StudyDir(tmp_path), make_case()).state == "missing"


def test_a_prepared_attempt_that_never_started_is_missing(tmp_path: Path) -> None:
    study, case = StudyDir(tmp_path), make_case()
    make_attempt(study, case)
    assert only(study, case).state == "missing"


@pytest.mark.parametrize("status", ["completed", "failed", "interrupted"])
def test_the_sentinel_decides(tmp_path: Path, status: str) -> None:
    study, case = StudyDir(tmp_path), make_case()
    make_attempt(study, case, status=status, **own_process())
    found = only(study, case)
    assert found.state == status
    assert found.done == (status == "completed")


def test_a_completed_attempt_counts_even_if_a_later_one_failed(tmp_path: Path) -> None:
    study, case = StudyDir(tmp_path), make_case()
    make_attempt(study, case, 1, "completed", **own_process())
    make_attempt(study, case, 2, "failed", **own_process())
    found = only(study, case)
    assert (found.state, found.attempt) == ("completed", 1)


def test_a_local_run_is_running_while_its_process_lives_and_lost_after(tmp_path: Path) -> None:
    study, case = StudyDir(tmp_path), make_case()
    with subprocess.Popen(["sleep", "60"]) as process:
        launch = {**own_process(), "pid": process.pid, "start_ticks": process_start_ticks(process.pid)}
        make_attempt(study, case, **launch)
        assert only(study, case).state == "running"
        process.kill()
    found = only(study, case)
    assert found.state == "lost"
    assert "result.json" in (found.message or "")


def test_a_process_id_that_was_used_again_does_not_look_like_the_run(tmp_path: Path) -> None:
    study, case = StudyDir(tmp_path), make_case()
    make_attempt(study, case, **{**own_process(), "start_ticks": "1"})
    assert only(study, case).state == "lost"


def test_a_damaged_sentinel_is_a_failure_that_names_the_file(tmp_path: Path) -> None:
    study, case = StudyDir(tmp_path), make_case()
    run = make_attempt(study, case, **own_process())
    run.result_json.write_text('{"schema": "paceline.result/1", "sta')
    found = only(study, case)
    assert (found.state, found.cause) == ("failed", "record")
    assert str(run.result_json) in (found.message or "")


def test_progress_counts_whole_rows_only(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    rows = "".join(json.dumps([i, 0, 0, 1.5]) + "\n" for i in range(7))
    run.rank_jsonl(0).write_text('{"type": "header"}\n' + rows + "[7, 0, 0, 1.")
    assert iterations_done(run) == 7


def test_progress_survives_the_end_record_and_an_empty_file(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.rank_jsonl(0).write_text('{"type": "header"}\n[0, 0]\n[1, 0]\n{"type": "end"}\n')
    assert iterations_done(run) == 2
    run.rank_jsonl(0).write_text("")
    assert iterations_done(run) == 0


SLURM: dict[str, Any] = {"launcher": "slurm", "job_id": "17"}


@pytest.mark.parametrize(
    ("word", "state", "cause"),
    [
        ("PENDING", "queued", None),
        ("RUNNING", "running", None),
        ("COMPLETING", "running", None),
        ("CANCELLED", "cancelled", "cancelled"),
        ("TIMEOUT", "interrupted", "time_limit"),
        ("PREEMPTED", "interrupted", "preempted"),
        ("NODE_FAIL", "failed", "node_failure"),
        ("OUT_OF_MEMORY", "failed", "oom_host"),
        ("FAILED", "failed", "lost"),
        ("COMPLETED", "lost", "no_sentinel"),
        ("UNKNOWN", "lost", "lost"),
    ],
)
def test_without_a_sentinel_slurms_word_decides(word: str, state: str, cause: str | None) -> None:
    assert _attempt_state(dict(SLURM), None, {"17": {"State": word}})[:2] == (state, cause)


def test_a_requeued_job_runs_again_although_its_first_life_left_a_sentinel(tmp_path: Path) -> None:
    study, case = StudyDir(tmp_path), make_case()
    run = make_attempt(study, case, status="interrupted", **SLURM)
    result = Result.from_json(json.loads(run.result_json.read_text()))
    assert _attempt_state(dict(SLURM), result, {"17": {"State": "PENDING"}})[0] == "queued"
    assert _attempt_state(dict(SLURM), result, {"17": {"State": "COMPLETED"}})[0] == "interrupted"


def test_the_summary_counts_states(tmp_path: Path) -> None:
    study = StudyDir(tmp_path)
    cases = [make_case(repeat=repeat) for repeat in range(3)]
    make_attempt(study, cases[0], status="completed", **own_process())
    make_attempt(study, cases[1], status="failed", **own_process())
    assert summary(study_status(study, cases)) == "1 completed, 1 failed, 1 missing"
