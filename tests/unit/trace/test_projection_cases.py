"""The projection on small captures that can be drawn. Times are nanoseconds; R ranges, C calls, G GPU work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from paceline.analysis import nsys
from paceline.analysis.projection import engine, project
from paceline.analysis.trace import from_capture

from tests.tracegen import Call, Node, Operation, Range, Rows, write

BOTH = pytest.mark.parametrize("fast", [False, True], ids=["numpy", "numba"])


def values(folder: Path, rows: Rows, fast: bool, **how: Any) -> dict[tuple[int, str], dict[str, int]]:
    """Return what the projection says, by (process id, range name)."""
    capture = nsys.load(write(folder / "t.sqlite", rows, **how), fast=fast)
    projection = project(capture, engine(fast))
    result = {}
    for index, (process, label, _) in enumerate(projection.groups):
        row = {name: int(v[index]) for name, v in projection.per_group.items() if name != "copied"}
        result[capture.processes[process].pid, capture.labels[label][1]] = row
    return result


def check(found: dict[str, int], **expected: int) -> None:
    assert {name: found[name] for name in expected} == expected


@BOTH
def test_work_belongs_to_the_range_of_its_call(tmp_path: Path, fast: bool) -> None:
    """The work runs after the range has ended, and still belongs to it.

    R  0|---- a ----|20
    C     5|-|7  10|-|12
    G                   30|===|40   45|=|50
    """
    rows = Rows([Range(0, 20, "a")], [Call(5, 7, 1), Call(10, 12, 2)], [Operation(30, 40, 1), Operation(45, 50, 2)])
    check(values(tmp_path, rows, fast)[1, "a"], wall=20, busy=15, sum=15, span=20, active=0, launches=2, api=4)


@BOTH
def test_overlapping_streams_count_once_in_the_union(tmp_path: Path, fast: bool) -> None:
    """Two streams of one device: sum 20, union 15. The same on two devices: union 20.

    G  stream 1  30|==========|40
       stream 2        35|==========|45
    """
    for device, busy in ((0, 15), (1, 20)):
        work = [Operation(30, 40, 1, stream=1), Operation(35, 45, 2, stream=2, device=device)]
        rows = Rows([Range(0, 20, "a")], [Call(5, 7, 1), Call(10, 12, 2)], work)
        check(values(tmp_path, rows, fast)[1, "a"], sum=20, busy=busy, span=15)


@BOTH
def test_nesting(tmp_path: Path, fast: bool) -> None:
    """Outer ranges contain what inner ones cause, to any depth; a range without work has zeros.

    R  0|------------- iteration -------------|100
         1|------ rollout ------|50  51|- update -|99
            2|-physics-|20
    C         5|-|6       30|-|31
    G          6|==|16       31|==|41
    """
    ranges = [Range(0, 100, "iteration"), Range(1, 50, "rollout"), Range(2, 20, "physics"), Range(51, 99, "update")]
    rows = Rows(ranges, [Call(5, 6, 1), Call(30, 31, 2)], [Operation(6, 16, 1), Operation(31, 41, 2)])
    found = values(tmp_path, rows, fast)
    check(found[1, "iteration"], busy=20, launches=2, span=35)
    check(found[1, "rollout"], busy=20, launches=2, active=20)
    check(found[1, "physics"], busy=10, launches=1, active=10)
    check(found[1, "update"], busy=0, launches=0, span=0, operations=0, wall=48)


@BOTH
def test_a_range_inside_one_of_its_own_name_counts_once(tmp_path: Path, fast: bool) -> None:
    """R  0|---- a ----|40 with a again at 10..30: two instances, 40 ns of wall time, one launch of 10 ns."""
    rows = Rows([Range(0, 40, "a"), Range(10, 30, "a")], [Call(15, 16, 1)], [Operation(20, 30, 1)])
    check(values(tmp_path, rows, fast)[1, "a"], instances=2, wall=40, busy=10, sum=10, launches=1, api=1, span=20)


@BOTH
def test_the_same_correlation_id_in_two_processes(tmp_path: Path, fast: bool) -> None:
    """Both processes use id 1: each range gets its own process's work, not both."""
    ranges = [Range(0, 20, "a", pid=1), Range(0, 20, "a", pid=2)]
    calls = [Call(5, 6, 1, pid=1), Call(5, 6, 1, pid=2)]
    work = [Operation(10, 13, 1, pid=1), Operation(10, 17, 1, pid=2)]
    found = values(tmp_path, Rows(ranges, calls, work), fast)
    check(found[1, "a"], sum=3, operations=1)
    check(found[2, "a"], sum=7, operations=1)


@BOTH
def test_a_driver_call_inside_a_runtime_call_shares_its_id(tmp_path: Path, fast: bool) -> None:
    """C  5|---- cudaLaunchKernel ----|10 with cuLaunchKernel at 6..9, both id 1: one launch, 5 ns of API time."""
    rows = Rows([Range(0, 20, "a")], [Call(5, 10, 1), Call(6, 9, 1, name="cuLaunchKernel")], [Operation(12, 15, 1)])
    check(values(tmp_path, rows, fast)[1, "a"], operations=1, launches=1, sum=3, api=5)


@BOTH
def test_a_call_that_outlasts_the_inner_range_belongs_to_the_outer_one(tmp_path: Path, fast: bool) -> None:
    """R  0|------ outer ------|50,  5|-- inner --|20;  C  10|------|30 starts inside inner and ends after it."""
    rows = Rows([Range(0, 50, "outer"), Range(5, 20, "inner")], [Call(10, 30, 1)], [Operation(40, 45, 1)])
    found = values(tmp_path, rows, fast)
    check(found[1, "outer"], operations=1)
    check(found[1, "inner"], operations=0)


@BOTH
def test_start_end_ranges(tmp_path: Path, fast: bool) -> None:
    """Start/end ranges overlap freely; each takes the calls that lie inside it.

    R  0|====== a ======|30
             10|====== b ======|40
    C     5|-|    15|-|    35|-|
    """
    style = "start_end"
    ranges = [Range(0, 30, "a", style=style), Range(10, 40, "b", style=style)]
    calls = [Call(5, 6, 1), Call(15, 16, 2), Call(35, 36, 3)]
    work = [Operation(50, 51, 1), Operation(60, 62, 2), Operation(70, 74, 3)]
    found = values(tmp_path, Rows(ranges, calls, work), fast)
    check(found[1, "a"], operations=2, sum=3)
    check(found[1, "b"], operations=2, sum=6)


@BOTH
def test_a_range_closed_on_another_thread(tmp_path: Path, fast: bool) -> None:
    """Opened on thread 1, closed on thread 2: calls of both threads count, those of another process do not."""
    ranges = [Range(0, 30, "a", style="start_end", end_tid=2), Range(0, 1, "b", pid=2)]
    calls = [Call(5, 6, 1, tid=1), Call(7, 8, 2, tid=2), Call(7, 8, 3, pid=2)]
    work = [Operation(10, 11, 1), Operation(20, 22, 2), Operation(30, 34, 3, pid=2)]
    check(values(tmp_path, Rows(ranges, calls, work), fast)[1, "a"], operations=2, sum=3, cross_thread=1)


@BOTH
def test_ranges_of_two_domains_that_cross(tmp_path: Path, fast: bool) -> None:
    """Every domain has its own stack: ranges of two domains on one thread can cross. Both get what they contain.

    R  0|---- a ----|20
             10|---- b ----|30
    C     5|-|  12|-|  25|-|
    """
    ranges = [Range(0, 20, "a", domain=1), Range(10, 30, "b", domain=2)]
    calls = [Call(5, 6, 1), Call(12, 13, 2), Call(25, 26, 3)]
    work = [Operation(50, 51, 1), Operation(60, 62, 2), Operation(70, 74, 3)]
    found = values(tmp_path, Rows(ranges, calls, work), fast)
    check(found[1, "a"], operations=2, sum=3)
    check(found[1, "b"], operations=2, sum=6)


@BOTH
def test_graph_level_rows_are_gpu_work(tmp_path: Path, fast: bool) -> None:
    """One row per graph launch and no kernels: 100 ns of work, one launch; a row without stamps is dropped."""
    calls = [Call(5, 6, 1, name="cudaGraphLaunch_v10000"), Call(7, 8, 2, name="cudaGraphLaunch_v10000")]
    work = [Operation(10, 110, 1, kind="graph"), Operation(0, 0, 2, kind="graph")]
    found = values(tmp_path, Rows([Range(1, 120, "physics")], calls, work), fast)
    check(found[1, "physics"], busy=100, launches=1, graph_launches=1, graph_rows=1, kernels=0, active=100)
    capture = nsys.load(tmp_path / "t.sqlite", fast=fast)
    assert capture.graph_trace == "graph"
    assert any("1 CUDA graph launches have no time stamps" in warning for warning in capture.warnings)


@BOTH
def test_node_level_graph(tmp_path: Path, fast: bool) -> None:
    """Every kernel of a graph is a row with the correlation id of the graph launch: three kernels, one launch.

    The nodes were captured inside the ranges collide and solve; 12 is a clone of 2, captured in solve.
    """
    ranges = [Range(1, 5, "collide"), Range(6, 9, "solve"), Range(20, 60, "physics")]
    nodes = [Node(2, 1), Node(3, 11, original=1), Node(7, 2), Node(8, 12, original=2)]
    work = [Operation(30, 33, 9, node=11), Operation(33, 38, 9, node=12), Operation(38, 40, 9, node=99)]
    rows = Rows(ranges, [Call(21, 25, 9, name="cudaGraphLaunch_v10000")], work, nodes)
    check(values(tmp_path, rows, fast)[1, "physics"], kernels=3, launches=1, graph_launches=1, sum=10, busy=10)
    capture = nsys.load(tmp_path / "t.sqlite", fast=fast)
    trace = from_capture(capture, project(capture, engine(fast)), "t.sqlite")
    assert trace.graph_trace == "node"
    found = {row["range"]: (row["kernels"], row["sum_s"]) for row in trace.graph_nodes}
    assert found == {"collide": (1, 3e-9), "solve": (1, 5e-9)}
    assert any("1 kernels belong to CUDA graphs that were built before" in warning for warning in trace.warnings)


@BOTH
def test_work_outside_ranges_and_without_calls_is_shown(tmp_path: Path, fast: bool) -> None:
    """Id 2 is called outside of a, id 7 has no call: both count as outside, neither vanishes."""
    work = [Operation(10, 11, 1), Operation(20, 22, 2), Operation(30, 34, 7)]
    rows = Rows([Range(0, 8, "a")], [Call(5, 6, 1), Call(15, 16, 2)], work)
    capture = nsys.load(write(tmp_path / "t.sqlite", rows), fast=fast)
    trace = from_capture(capture, project(capture, engine(fast)), "t.sqlite")
    (process,) = trace.processes
    assert (process["operations"], process["outside_operations"], process["outside_sum_s"]) == (3, 2, 6e-9)
    assert process["uncaused_operations"] == 1
    assert any("1 GPU operations have no CUDA call" in warning for warning in trace.warnings)
    assert {row["range"]: row["sum_s"] for row in trace.kernels} == {"a": 1e-9, "(outside ranges)": 6e-9}


@BOTH
def test_nccl_hidden_and_exposed(tmp_path: Path, fast: bool) -> None:
    """Half of the collective runs beside a kernel of another range: 10 ns of NCCL, 5 exposed.

    G  nccl     30|==========|40
       compute  25|=====|35
    """
    ranges = [Range(0, 10, "communication"), Range(10, 20, "update")]
    work = [Operation(30, 40, 1, stream=2, name="ncclDevKernel_AllReduce"), Operation(25, 35, 2)]
    found = values(tmp_path, Rows(ranges, [Call(5, 6, 1), Call(15, 16, 2)], work), fast)
    check(found[1, "communication"], nccl=10, nccl_exposed=5)
    check(found[1, "update"], nccl=0, nccl_exposed=0)


@BOTH
def test_unclosed_range_ends_with_the_capture(tmp_path: Path, fast: bool) -> None:
    """R  10|---- a ...: the capture ends at 60 with the last kernel; a lasts 50 and contains the call at 40."""
    rows = Rows([Range(10, None, "a")], [Call(40, 41, 1)], [Operation(50, 60, 1)])
    check(values(tmp_path, rows, fast)[1, "a"], wall=50, unclosed=1, operations=1)


@BOTH
def test_clock_going_backwards_and_empty_ranges(tmp_path: Path, fast: bool) -> None:
    """A range that ends before it starts is empty, as is one without length; neither contains anything."""
    ranges = [Range(20, 10, "back"), Range(15, 15, "empty"), Range(0, 40, "a")]
    rows = Rows(ranges, [Call(15, 16, 1), Call(20, 18, 2)], [Operation(30, 35, 1), Operation(36, 33, 2)])
    found = values(tmp_path, rows, fast)
    check(found[1, "back"], wall=0, operations=0)
    check(found[1, "empty"], wall=0, operations=0)
    check(found[1, "a"], operations=2, sum=5)


@BOTH
@pytest.mark.parametrize("how", [{"shuffle": 3}, {"registered": True}, {"suffix": "_V3"}, {"page_bytes": 512}])
def test_storage_makes_no_difference(tmp_path: Path, fast: bool, how: dict[str, Any]) -> None:
    """Order of rows, registered names, versioned table names and page size leave the result alone."""
    ranges = [Range(10 * i, 10 * i + 9, f"phase {i % 7} of a run with a long name") for i in range(300)]
    calls = [Call(10 * i + 2, 10 * i + 3, i) for i in range(300)]
    work = [Operation(10 * i + 4, 10 * i + 8, i) for i in range(300)]
    plain = values(tmp_path, Rows(ranges, calls, work), fast)
    assert values(tmp_path, Rows(ranges, calls, work), fast, **how) == plain
    check(plain[1, "phase 0 of a run with a long name"], instances=43, sum=172)
