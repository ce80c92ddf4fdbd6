"""Cases, results and the files that hold them."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paceline.bench.errors import RecordError
from paceline.bench.record import Case, Result
from paceline.bench.rundir import RunDir, StudyDir, read_json, write_json

from tests.unit.test_status import make_case


def test_a_case_survives_its_file(tmp_path: Path) -> None:
    case = make_case(world_size=2, overrides=("env.x=1",), environment=(("A", "b c"),))
    write_json(tmp_path / "case.json", case.to_json())
    assert Case.from_json(read_json(tmp_path / "case.json")) == case


def test_the_case_id_is_a_content_hash() -> None:
    assert make_case().case_id == make_case().case_id
    assert make_case().case_id != make_case(repeat=1).case_id
    # A later version that adds a field with a default must find the runs of this one.
    assert make_case().case_id == make_case(engine="isaaclab").case_id


def test_an_edited_case_is_refused() -> None:
    data = make_case().to_json()
    data["num_envs"] = 128
    with pytest.raises(RecordError, match="does not match its content"):
        Case.from_json(data)


def test_another_schema_is_refused_by_name() -> None:
    with pytest.raises(RecordError, match=r"paceline\.case/9"):
        Case.from_json({**make_case().to_json(), "schema": "paceline.case/9"})


@given(
    world_size=st.sampled_from([1, 2, 4, 8, 16]),
    envs_per_rank=st.integers(1, 64),
    horizon=st.sampled_from([8, 16, 24, 32]),
    num_minibatches=st.sampled_from([1, 2, 4, 8]),
    num_epochs=st.integers(1, 8),
)
def test_ranks_and_minibatches_add_up_to_the_global_batch(
    world_size: int, envs_per_rank: int, horizon: int, num_minibatches: int, num_epochs: int
) -> None:
    case = make_case(
        world_size=world_size,
        num_envs=world_size * envs_per_rank,
        horizon=horizon,
        num_minibatches=num_minibatches,
        num_epochs=num_epochs,
    )
    assert case.minibatch_size_per_rank * case.num_minibatches * case.world_size == case.global_batch
    assert case.optimizer_steps_per_iteration == num_minibatches * num_epochs


@pytest.mark.parametrize(
    "changes",
    [{"world_size": 3}, {"world_size": 0}, {"num_minibatches": 7}, {"warmup_iterations": 10}, {"num_nodes": 2}],
)
def test_a_case_that_exists_is_valid(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        make_case(**changes)


def test_a_result_survives_its_file() -> None:
    result = Result(
        case_id="0" * 12,
        attempt=2,
        status="failed",
        cause="oom_device",
        message="CUDA out of memory",
        exit_code=1,
        ranks_expected=4,
        ranks_completed=(0, 2),
        start_unix_s=1.0,
        end_unix_s=3.0,
        nodes=("a", "b"),
    )
    assert Result.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_files_are_written_whole_with_the_users_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "x.json", {"a": 1})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x.json").stat().st_mode) == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_a_value_that_json_does_not_know_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="nan"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=r"x\.json"):
        read_json(path)


def test_attempts_are_in_numerical_order_and_foreign_names_are_ignored(tmp_path: Path) -> None:
    study = StudyDir(tmp_path)
    for name in ("attempt-10", "attempt-2", "attempt-x", "notes", "attempt-01"):
        (study.runs / "0123456789ab" / name).mkdir(parents=True)
    (study.runs / "not-a-case").mkdir()
    assert [run.attempt for run in study.attempts("0123456789ab")] == [2, 10]
    assert study.case_ids() == ["0123456789ab"]


def test_a_folder_that_is_no_attempt_says_so(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="attempt"):
        _ = RunDir(tmp_path / "other").attempt
