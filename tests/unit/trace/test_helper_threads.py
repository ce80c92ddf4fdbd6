"""Threads that launch for another one: which they are, and what becomes of their calls. Times are nanoseconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from paceline.analysis import trace
from paceline.analysis.kineto import load as load_kineto

from tests.tracegen import Call, Operation, Range, Rows, write

BOTH = pytest.mark.parametrize("fast", [False, True], ids=["numpy", "numba"])


def found(folder: Path, rows: Rows, fast: bool) -> dict[str, tuple[int, float]]:
    """Return launches and GPU time (ns) of each range of process 1, and how many calls were moved, as ``moved``."""
    result = trace.analyse(write(folder / "t.sqlite", rows), fast=fast)
    values = {r["name"]: (r["launches"], round(r["gpu_busy_s"] * 1e9)) for r in result.ranges if r["process"] == 1}
    return values | {"moved": (result.details["helper_calls"], 0)}


def backward() -> Rows:
    """Thread 1 has the ranges, thread 2 launches within them.

    thread 1  0|------ update ---------|100   |- rollout -|200
                 10|-a-|30
    calls           L15              L80
    thread 2             L20   L50                L150
    """
    return Rows(
        [Range(0, 100, "update"), Range(10, 30, "a"), Range(110, 200, "rollout")],
        [Call(15, 16, 1), Call(80, 81, 2), Call(20, 21, 3, tid=2), Call(50, 51, 4, tid=2), Call(150, 151, 5, tid=2)],
        [Operation(300 + 10 * i, 305 + 10 * i, i) for i in range(1, 6)],
    )


@BOTH
def test_a_thread_without_ranges_launches_for_the_one_that_has_them(tmp_path: Path, fast: bool) -> None:
    expected = {"update": (4, 20), "a": (2, 10), "rollout": (1, 5), "moved": (3, 0)}
    assert found(tmp_path, backward(), fast) == expected


@BOTH
def test_a_thread_with_a_range_speaks_for_itself(tmp_path: Path, fast: bool) -> None:
    """Thread 2 opens a range of its own at some time: nobody can know whom it works for at others."""
    rows = backward()
    rows.ranges.append(Range(45, 60, "own", tid=2))
    assert found(tmp_path, rows, fast) == {
        "update": (2, 10),
        "a": (1, 5),
        "rollout": (0, 0),
        "own": (1, 5),
        "moved": (0, 0),
    }


@BOTH
def test_of_two_threads_with_ranges_the_one_with_pacelines_is_meant(tmp_path: Path, fast: bool) -> None:
    rows = backward()
    rows.ranges.append(Range(0, 500, "loader", tid=3))
    assert found(tmp_path, rows, fast)["moved"] == (0, 0)
    rows.ranges[0].domain = 1
    (tmp_path / "t.sqlite").unlink()
    assert found(tmp_path, rows, fast) == {"update": (4, 20), "moved": (3, 0)}


@BOTH
def test_a_thread_that_launches_nothing_stays_where_it_is(tmp_path: Path, fast: bool) -> None:
    """Such as NCCL's watchdog, which asks for events all the time."""
    rows = backward()
    for call in rows.calls[2:]:
        call.name = "cudaEventQuery_v3020"
    assert found(tmp_path, rows, fast) == {"update": (2, 10), "a": (1, 5), "rollout": (0, 0), "moved": (0, 0)}


@BOTH
def test_processes_do_not_help_each_other(tmp_path: Path, fast: bool) -> None:
    rows = backward()
    for call, operation in zip(rows.calls[2:], rows.operations[2:], strict=True):
        call.pid = operation.pid = 2
    assert found(tmp_path, rows, fast) == {"update": (2, 10), "a": (1, 5), "rollout": (0, 0), "moved": (0, 0)}


def test_torch_profiler(tmp_path: Path) -> None:
    """Kineto: an annotation on one thread, a launch on another."""
    launch = {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "pid": 5, "dur": 1}
    kernel = {"ph": "X", "cat": "kernel", "name": "k", "pid": 0, "tid": 7, "dur": 2}
    events = [
        {"ph": "X", "cat": "user_annotation", "name": "paceline:update", "pid": 5, "tid": 5, "ts": 0, "dur": 100},
        launch | {"tid": 6, "ts": 10, "args": {"correlation": 1}},
        kernel | {"ts": 20, "args": {"correlation": 1, "device": 0}},
    ]
    path = tmp_path / "rank0.json"
    path.write_text(json.dumps({"traceEvents": events, "distributedInfo": {"rank": 0}}))
    assert len(load_kineto(path).calls) == 1
    (row,) = trace.analyse(path).ranges
    assert (row["name"], row["launches"], round(row["gpu_busy_s"] * 1e6)) == ("update", 1, 2)
