"""The sentinel: what counts as completed, and what is said about what does not."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from paceline.bench import causes, sentinel
from paceline.bench.errors import PacelineError
from paceline.bench.record import ITERATION_COLUMNS, RANK_SCHEMA, Case, Result
from paceline.bench.rundir import RunDir, StudyDir, read_json, write_json

CASE = Case(
    kind="strong",
    task="Isaac-Cartpole-Direct",
    trainer="rsl_rl",
    world_size=2,
    num_envs=64,
    horizon=16,
    num_minibatches=4,
    num_epochs=5,
    iterations=3,
    warmup_iterations=1,
    repeat=0,
    seed=42,
    device="cpu",
)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = StudyDir(tmp_path / "a study, with 'odd' name").run(CASE.case_id, 1)
    run.path.mkdir(parents=True)
    write_json(run.case_json, CASE.to_json())
    for rank in range(CASE.world_size):
        run.rank_jsonl(rank).write_text("".join(record(rank)))
    return run


def record(rank: int, iterations: int = CASE.iterations, end: dict[str, Any] | None = None, **header: Any) -> list[str]:
    """Return the lines of a whole record, changed as told."""
    values = {
        "type": "header",
        "schema": RANK_SCHEMA,
        "case_id": CASE.case_id,
        "rank": rank,
        "node": f"node{rank + 1}",
        "clock_origin_unix_s": 1000.0 + rank,
        "columns": ITERATION_COLUMNS,
    }
    rows = [[number, *([0.5] * (len(ITERATION_COLUMNS) - 1))] for number in range(iterations)]
    last = {"type": "end", "status": "completed", "iterations": iterations, "end_s": 9.0, "error": None, **(end or {})}
    return [json.dumps(line) + "\n" for line in (values | header, *rows, last)]


def test_completed(run: RunDir) -> None:
    result = sentinel.judge(run, CASE, exit_code=0, now=2000.0)
    assert result == Result(
        case_id=CASE.case_id,
        attempt=1,
        status="completed",
        cause=None,
        message=None,
        exit_code=0,
        ranks_expected=2,
        ranks_completed=(0, 1),
        start_unix_s=1000.0,
        end_unix_s=2000.0,
        nodes=("node1", "node2"),
    )


def test_the_exit_code_never_decides(run: RunDir) -> None:
    assert sentinel.judge(run, CASE, exit_code=139).status == "completed"
    run.rank_jsonl(1).unlink()
    assert sentinel.judge(run, CASE, exit_code=0).status == "failed"


Damage = Callable[[Path], object]


@pytest.mark.parametrize(
    ("damage", "cause", "said"),
    [
        (Path.unlink, "missing_ranks", "no record from rank 1"),
        (lambda path: path.write_bytes(b""), "missing_ranks", "no record from rank 1"),
        (lambda path: path.write_bytes(b'{"type": "hea'), "missing_ranks", "no record from rank 1"),
        (lambda path: path.write_text("".join(record(1)[:-1])), "truncated", "rank 1 after 3 of 3 iterations"),
        (lambda path: path.write_text("".join(record(1)[:3])), "truncated", "rank 1 after 2 of 3 iterations"),
        (lambda path: path.write_text("".join(record(1))[:-1]), "truncated", "rank 1 after 3 of 3 iterations"),
        (lambda path: path.write_text("".join(record(1))[:-90]), "truncated", "rank 1 after 2 of 3 iterations"),
        (lambda path: path.write_text("".join(record(1, iterations=2))), "truncated", "rank 1 after 2 of 3"),
        (lambda path: path.write_text("".join(record(0))), "truncated", "rank 1 after 3 of 3"),
        (lambda path: path.write_text("".join(record(1, case_id="0" * 12))), "truncated", "rank 1"),
        (lambda path: path.write_text("".join(record(1, schema="paceline.rank/9"))), "missing_ranks", "from rank 1"),
        (
            lambda path: path.write_text(
                "".join(record(1, iterations=1, end={"status": "failed", "error": "ValueError: no such task"}))
            ),
            "error",
            "rank 1: ValueError: no such task",
        ),
    ],
)
def test_not_completed(run: RunDir, damage: Damage, cause: str, said: str) -> None:
    damage(run.rank_jsonl(1))
    result = sentinel.judge(run, CASE, exit_code=1)
    assert (result.status, result.cause) == ("failed", cause)
    assert result.message is not None and said in result.message and "\n" not in result.message
    assert result.ranks_completed == (0,)


def test_interrupted_from_outside(run: RunDir) -> None:
    run.rank_jsonl(1).write_text("".join(record(1)[:3]))
    result = sentinel.judge(run, CASE, exit_code=143, interrupted="time_limit")
    assert (result.status, result.cause) == ("interrupted", "time_limit")
    assert result.message == "interrupted (time_limit) after 2 of 3 iterations"
    # Slurm's own line in the log says it as well, when nobody could tell.
    run.train_log.write_text(
        "slurmstepd: error: *** JOB 7 ON node1 CANCELLED AT 2026-11-21T10:00:00 DUE TO TIME LIMIT ***\n"
    )
    assert sentinel.judge(run, CASE, exit_code=143).status == "interrupted"
    # The work was done before the interruption: that counts.
    run.rank_jsonl(1).write_text("".join(record(1)))
    assert sentinel.judge(run, CASE, exit_code=143, interrupted="time_limit").status == "completed"


def test_written_once_and_again(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACELINE_RUN_DIR", str(run.path))
    assert sentinel.main(["--exit-code", "0"]) == 0
    first = run.result_json.read_bytes()
    assert Result.from_json(read_json(run.result_json)).status == "completed"
    run.rank_jsonl(1).unlink()  # what is completed stays completed
    assert sentinel.main(["--exit-code", "1"]) == 0
    assert run.result_json.read_bytes() == first
    # A result that was cut, or of a failure, is written anew.
    for content in (first[:40], json.dumps({**json.loads(first), "status": "failed"}).encode()):
        run.result_json.write_bytes(content)
        assert sentinel.main(["--exit-code", "1"]) == 1
        assert Result.from_json(read_json(run.result_json)).cause == "missing_ranks"
    assert sorted(path.name for path in run.path.iterdir() if path.name.startswith(".")) == []


def test_needs_a_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (None, str(tmp_path)):
        monkeypatch.delenv("PACELINE_RUN_DIR", raising=False)
        if folder:
            monkeypatch.setenv("PACELINE_RUN_DIR", folder)
        with pytest.raises(PacelineError, match="PACELINE_RUN_DIR"):
            sentinel.main([])


def test_refuses_an_edited_case(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    other = dataclasses.replace(CASE, world_size=1)
    write_json(run.case_json, {**other.to_json(), "case_id": CASE.case_id})
    monkeypatch.setenv("PACELINE_RUN_DIR", str(run.path))
    with pytest.raises(PacelineError, match="does not match its content"):
        sentinel.main([])


@pytest.mark.parametrize(
    ("log", "cause", "said"),
    [
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB\nRuntimeError: NCCL error",
            "oom_device",
            "2.00 GiB",
        ),
        ("[rank0]: torch.OutOfMemoryError: CUDA out of memory.", "oom_device", "torch.OutOfMemoryError"),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=7.0", "oom_host", "oom_kill"),
        ("slurmstepd: error: *** JOB 7 ON n CANCELLED AT 2026 DUE TO TIME LIMIT ***", "time_limit", "TIME LIMIT"),
        ("slurmstepd: error: *** JOB 7 ON n CANCELLED AT 2026 DUE TO PREEMPTION ***", "preempted", "PREEMPTION"),
        ("slurmstepd: error: *** JOB 7 ON n CANCELLED AT 2026 ***", "cancelled", "CANCELLED"),
        ("paceline supervise: no rank has recorded anything for 1800 s: ending them", "stalled", "1800 s"),
        ("OSError: [Errno 28] No space left on device", "disk_full", "No space left"),
        ("  paceline.bench.errors.LaunchError: rsl_rl does not do what", "settings", "LaunchError: rsl_rl"),
        ("ModuleNotFoundError: No module named 'gym'", "missing_package", "gym"),
        ("RuntimeError: Found no NVIDIA driver on your system.", "driver", "no NVIDIA driver"),
        ("RuntimeError: CUDA error: an illegal memory access was encountered", "gpu", "illegal memory access"),
        ("torch.distributed.DistBackendError: NCCL error in: x\nncclSystemError: y", "nccl", "NCCL error"),
        ("  exitcode  : -9 (pid: 5)\n", "killed", "-9"),
        ("  exitcode  : -11 (pid: 5)\n", "segfault", "-11"),
        (
            "Traceback (most recent call last):\n  File x\nValueError: first\n\nKeyError: 'second'\n"
            "torch.distributed.elastic.multiprocessing.errors.ChildFailedError:\n",
            "error",
            "ValueError: first",
        ),
        ("torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n", "unknown", "names no error"),
        ("Learning iteration 3/10\n", "unknown", "names no error"),
        ("", "unknown", "names no error"),
    ],
)
def test_causes(log: str, cause: str, said: str) -> None:
    found = causes.classify(log)
    assert found.cause == cause
    assert said in found.message
    assert "\n" not in found.message and len(found.message) <= 300


def test_long_logs_are_read_from_their_end(run: RunDir) -> None:
    with open(run.train_log, "wb") as stream:
        stream.write(
            b"torch.OutOfMemoryError: long ago\n" + b"x" * (2 << 20) + b"\n\xff\xfe not UTF-8\nValueError: now\n"
        )
    found = causes.read_log(run.train_log, CASE.num_envs_per_rank).cause
    assert (found.cause, found.message) == ("error", "ValueError: now")


def test_a_job_that_failed_before_its_ranks_began_says_on_which_node(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise its next attempt could not be kept away from that node."""
    monkeypatch.setenv("SLURMD_NODENAME", "node7")
    for path in run.rank_files():
        path.unlink()
    run.train_log.write_text("paceline: error: 1 GPUs are visible on node7, 2 are needed\n")
    assert sentinel.write_result(run, CASE, 1).nodes == ("node7",)
    assert sentinel.write_result(run, CASE, 1, "node_failure").nodes == ()
