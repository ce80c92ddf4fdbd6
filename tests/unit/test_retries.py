"""Which runs are repeated, what their next attempt changes, and sentinels that a watcher writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from paceline.bench import launch, retries, settle
from paceline.bench.attempt import Attempt, read_attempt, write_attempt
from paceline.bench.cluster import Cluster
from paceline.bench.failures import classes
from paceline.bench.launch import OpenStudy
from paceline.bench.record import LAUNCH_SCHEMA, RANK_SCHEMA, Result
from paceline.bench.rundir import RunDir, read_json, write_json
from paceline.bench.status import CaseStatus
from paceline.bench.study import Study, resolve

SLURM = Cluster(name="site", scheduler="slurm", gpus_per_node=0, max_attempts=3)
LOCAL = Cluster(name="here", scheduler="local")


@pytest.fixture(params=[SLURM])
def opened(tmp_path: Path, request: pytest.FixtureRequest) -> OpenStudy:
    study = Study(
        name="s", kind="strong", task="Isaac-Cartpole-Direct", world_sizes=(1,), num_envs=64, repeats=1, iterations=4
    )
    return launch.create(tmp_path / "study", resolve(study, request.param, 0), request.param)


def attempt(opened: OpenStudy, number: int = 1, **result: Any) -> RunDir:
    """Make an attempt at the first measured case, with a sentinel if anything of one is given."""
    case = opened.plan.cases[0]
    run = opened.directory.run(case.case_id, number)
    run.path.mkdir(parents=True)
    write_json(run.case_json, case.to_json())
    write_json(
        run.launch_json,
        {
            "schema": LAUNCH_SCHEMA,
            "launcher": "local",
            "job_id": "1",
            "pid": 1,
            "hostname": "",
            "submitted_unix_s": 5.0,
        },
    )
    if result:
        values: dict[str, Any] = {
            "case_id": case.case_id, "attempt": number, "status": "failed", "cause": None, "message": "m",
            "exit_code": 1,
            "ranks_expected": 1, "ranks_completed": (), "start_unix_s": 1.0, "end_unix_s": 2.0,
        }  # fmt: skip
        write_json(run.result_json, Result(**(values | result)).to_json())
    return run


def status(opened: OpenStudy) -> CaseStatus:
    return next(each for each in opened.status() if each.case.kind != "warmup")


OVERFLOW = {
    "buffer": "Patch", "setting": "gpu_max_rigid_patch_count", "needed": 200_000, "count": 7, "first": "Patch buffer"
}  # fmt: skip
INVALID = {"invalid_physics": "Patch buffer overflow: it needs at least 200000", "overflows": [OVERFLOW]}


@pytest.mark.parametrize("name", sorted(classes()))
def test_each_class_has_its_policy(opened: OpenStudy, name: str) -> None:
    attempt(opened, cause=name, nodes=("node1",))
    found = status(opened)
    policy = classes()[name].retry
    refused = retries.why_not(opened, found)
    if policy in ("again", "elsewhere"):
        assert refused is None
    elif policy == "larger":
        assert refused == "no setting of the buffer that was too small is known"
    else:
        assert refused is not None and classes()[name].advice in refused
    following = retries.next_attempt(opened, found)
    assert following is not None and (following.after, following.cause) == (1, name)
    assert following.exclude == (("node1",) if policy == "elsewhere" else ())


def test_attempts_have_a_limit(opened: OpenStudy) -> None:
    for number in (1, 2, 3):
        attempt(opened, number, cause="killed")
        refused = retries.why_not(opened, status(opened))
        assert refused == (None if number < 3 else "attempt 3 of 3 (max_attempts)")


def test_a_study_may_state_the_limit(opened: OpenStudy) -> None:
    assert retries.max_attempts(opened) == 3
    own = opened.study.model_copy(update={"max_attempts": 1})
    attempt(opened, cause="killed")
    limited = OpenStudy(directory=opened.directory, study=own, cluster=opened.cluster, plan=opened.plan)
    assert retries.why_not(limited, status(opened)) == "attempt 1 of 1 (max_attempts)"


def test_an_overflow_makes_a_completed_run_invalid_and_the_next_one_larger(opened: OpenStudy) -> None:
    first = attempt(opened, status="completed", ranks_completed=(0,), extra=INVALID)
    found = status(opened)
    assert (found.state, found.done, found.cause) == ("completed", False, "invalid_physics")
    assert found.message == INVALID["invalid_physics"] and found.advice is not None
    assert retries.why_not(opened, found) is None
    following = retries.next_attempt(opened, found)
    assert following is not None
    # 1.25 * 200,000, up to a power of two
    assert following.overrides == ("env.sim.physics.gpu_max_rigid_patch_count=262144",)

    # It overflows again, and another buffer with it: what was enlarged stays so.
    second = attempt(opened, 2)
    write_attempt(second, following)
    assert read_attempt(second) == following and read_attempt(first) is None
    contacts = {**OVERFLOW, "buffer": "nconmax", "setting": "solver_cfg.nconmax", "needed": 40}
    write_json(
        second.result_json,
        {**read_json(first.result_json), "attempt": 2, "extra": {**INVALID, "overflows": [contacts]}},
    )
    third = retries.next_attempt(opened, status(opened))
    assert third is not None and third.overrides == (
        "env.sim.physics.gpu_max_rigid_patch_count=262144",
        "env.sim.physics.solver_cfg.nconmax=50",
    )
    # Once an attempt is valid, it counts, whatever follows.
    attempt(opened, 3, status="completed", ranks_completed=(0,))
    attempt(opened, 4, cause="killed")
    assert (status(opened).done, status(opened).attempt) == (True, 3)


def test_a_pinned_node_cannot_be_left_out(opened: OpenStudy) -> None:
    attempt(opened, cause="gpu", nodes=("node1",))
    pinned = opened.cluster.model_copy(update={"nodelist": "node1"})
    study = OpenStudy(directory=opened.directory, study=opened.study, cluster=pinned, plan=opened.plan)
    following = retries.next_attempt(study, status(opened))
    assert following is not None and following.exclude == ()


@pytest.mark.parametrize("opened", [LOCAL], indirect=True)
def test_this_machine_has_no_other_node(opened: OpenStudy) -> None:
    attempt(opened, cause="gpu")
    assert retries.why_not(opened, status(opened)) == "there is no other node here"


def test_what_changes_nothing_or_is_damaged_is_no_attempt_file(opened: OpenStudy) -> None:
    run = attempt(opened, cause="error")
    assert read_attempt(run) is None
    run.attempt_json.write_text('{"schema": "paceline.attempt/1", "overr')
    assert read_attempt(run) is None
    write_attempt(run, Attempt(after=1))
    assert read_attempt(run) == Attempt(after=1)


# ---------------------------------------------------------------------------------------------------------- settle


def record(run: RunDir, case_id: str, iterations: int = 4) -> None:
    header = {
        "type": "header", "schema": RANK_SCHEMA, "case_id": case_id, "rank": 0, "node": "node1",
        "clock_origin_unix_s": 10.0,
    }  # fmt: skip
    end = {"type": "end", "status": "completed", "end_s": 3.0, "error": None}
    lines = [header, *([[n] for n in range(iterations)]), end]
    run.rank_jsonl(0).write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("damage", [b"", b'{"schema": "paceline.result/1", "case', b"\xff\x00"])
def test_a_damaged_sentinel_is_written_again_from_the_records(opened: OpenStudy, damage: bytes) -> None:
    run = attempt(opened)
    run.result_json.write_bytes(damage)
    assert (status(opened).state, status(opened).cause) == ("failed", "record")
    record(run, run.case_id)
    assert settle.settle(opened, opened.status())
    assert status(opened).done
    assert read_json(run.result_json)["extra"] == {"written_by": "watcher"}
    assert not settle.settle(opened, opened.status()), "once is enough"


def test_a_lost_run_is_told_by_its_log(opened: OpenStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle, "_LATE_S", 0.0)
    run = attempt(opened)
    run.train_log.write_text("RuntimeError: CUDA error: out of memory\n")
    lost = CaseStatus(case=opened.plan.cases[0], state="lost", attempt=1, cause="lost", message="gone", nodes="node1")
    assert settle.settle(opened, [lost])
    result = Result.from_json(read_json(run.result_json))
    assert (result.status, result.cause, result.nodes) == ("failed", "oom_device", ("node1",))
    assert result.extra["failure"]["evidence"] == ["RuntimeError: CUDA error: out of memory"]


def test_a_script_that_vanished_is_the_cause_of_the_signal(opened: OpenStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle, "_LATE_S", 0.0)
    run = attempt(opened)
    run.train_log.write_text("torch.distributed.SignalException: Process 5 got signal: 15\n")
    lost = CaseStatus(case=opened.plan.cases[0], state="lost", attempt=1, cause="lost", message="gone")
    assert settle.settle(opened, [lost])
    assert (status(opened).cause, status(opened).message) == ("lost", "gone")


def test_slurm_knows_best_why_it_ended_a_job(opened: OpenStudy) -> None:
    run = attempt(opened)
    run.train_log.write_text("ValueError: a consequence\n")
    ended = CaseStatus(
        case=opened.plan.cases[0],
        state="failed",
        attempt=1,
        cause="node_failure",
        message="Slurm: NODE_FAIL",
        nodes="n1",
    )
    assert settle.settle(opened, [ended])
    found = status(opened)
    assert (found.state, found.cause, found.message, found.nodes) == (
        "failed",
        "node_failure",
        "Slurm: NODE_FAIL",
        "n1",
    )
    assert found.evidence[0] == "Slurm: NODE_FAIL"


def test_a_folder_that_cannot_be_written_is_settled_later(opened: OpenStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    run = attempt(opened)

    def refuse(*args: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(settle, "write_json", refuse)
    ended = CaseStatus(case=opened.plan.cases[0], state="failed", attempt=1, cause="error", message="m")
    assert not settle.settle(opened, [ended])
    assert not run.result_json.exists()
