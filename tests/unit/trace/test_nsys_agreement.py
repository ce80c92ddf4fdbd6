"""The shipped capture: Paceline's projection against what nsys itself prints (differences: docs/trace.md)."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from paceline.analysis import nsys, trace
from paceline.analysis.capture import GRAPH, Capture
from paceline.analysis.projection import Projection, engine, project

from tests.unit.trace.conftest import DATA

BOTH = pytest.mark.parametrize("fast", [False, True], ids=["numpy", "numba"])


def nvidia() -> dict[str, dict[str, str]]:
    with open(DATA / "cartpole_h200_graph.nvtx_gpu_proj_sum.csv", newline="", encoding="utf-8") as stream:
        return {row["Range"]: row for row in csv.DictReader(stream)}


def without_graphs(capture: Capture) -> Capture:
    """Drop graph launches, as nsys's report does."""
    operations = capture.operations
    keep = operations.kind != GRAPH
    for name in ("start", "end", "process", "device", "stream", "correlation", "kind", "name"):
        setattr(operations, name, getattr(operations, name)[keep])
    return capture


def by_name(capture: Capture, projection: Projection) -> dict[str, int]:
    return {":".join(filter(None, capture.labels[label])): i for i, (_, label, _) in enumerate(projection.groups)}


@BOTH
def test_agrees_with_nsys_where_it_defines_the_same(cartpole: Path, fast: bool) -> None:
    """Kernels, copies and sets only: instances with work, hulls and operations are nsys's, to the nanosecond."""
    capture = without_graphs(nsys.load(cartpole, fast=fast))
    projection = project(capture, engine(fast))
    groups = by_name(capture, projection)
    expected = nvidia()
    assert groups.keys() == expected.keys()
    hull = projection.per_range["last"] - projection.per_range["first"]
    worked = projection.per_range["operations"] > 0
    for name, group in groups.items():
        row = expected[name]
        mine = (projection.group == group) & worked
        assert int(projection.per_group["span"][group]) == int(row["Total Proj Time (ns)"]), name
        assert int(projection.per_group["operations"][group]) == int(row["Total GPU Ops"]), name
        assert int(mine.sum()) == int(row["Range Instances"]), name
        length = (capture.ranges.end - capture.ranges.start)[mine]
        assert int(length.sum()) == int(row["Total Range Time (ns)"]), name
        assert (int(hull[mine].min()), int(hull[mine].max())) == (
            int(row["Proj Min (ns)"]),
            int(row["Proj Max (ns)"]),
        ), name
        assert np.median(hull[mine]) == float(row["Proj Med (ns)"]), name


@BOTH
def test_graph_launches_are_most_of_the_physics(cartpole: Path, fast: bool) -> None:
    """With graph rows: 65.2 ms of GPU work in physics where nsys's report sees 1.8 ms."""
    found = trace.analyse(cartpole, fast=fast)
    rows = {row["name"]: row for row in found.ranges if not row["domain"]}
    busy = {name: round(row["gpu_busy_s"] * 1e9) for name, row in rows.items()}
    assert busy == {"env_step": 81_784_565, "physics": 65_226_227, "inference": 5_747_204, "update": 46_870_722}
    assert round(rows["physics"]["gpu_span_s"] * 1e9) == 394_129_512
    assert (rows["physics"]["graph_launches"], rows["physics"]["instances"]) == (191, 192)
    assert found.graph_trace == "graph"
    (process,) = found.processes
    assert round(process["gpu_busy_s"] * 1e9) == 143_695_116
    graph = next(row for row in found.kernels if row["name"] == "CUDA graph")
    assert (graph["range"], graph["instances"], round(graph["sum_s"] * 1e9)) == ("physics", 191, 63_415_006)


def test_the_backward_pass_belongs_to_the_update(cartpole: Path) -> None:
    """autograd launches on a thread of its own: nsys leaves its 11,520 kernels out of the range, Paceline does not."""
    found = trace.analyse(cartpole)
    (update,) = (row for row in found.ranges if row["name"] == "update")
    plain = nsys.load(cartpole, fast=False)
    projection = project(plain, engine(False))
    alone = projection.per_group["launches"][by_name(plain, projection)["update"]]
    assert update["launches"] == 24_730 == int(alone) + 11_520
    assert int(nvidia()["update"]["Total GPU Ops"]) < update["operations"]


def test_json_has_the_promised_keys(cartpole: Path) -> None:
    found = trace.analyse(cartpole).to_json()
    assert {"ranges", "kernels", "gaps", "graph_trace", "warnings", "diagnosis"} <= found.keys()
    keys = {"name", "domain", "process", "rank", "instances", "wall_s", "gpu_busy_s", "gpu_sum_s", "gpu_span_s"}
    keys |= {"launches", "memcpy_bytes", "nccl_s"}
    assert all(keys <= row.keys() for row in found["ranges"])
    assert found["graph_trace"] in ("graph", "node", "none")
    assert found["diagnosis"].startswith("host-bound: the GPU idles")
    assert found["schema"] == trace.TRACE_SCHEMA


def test_gaps_say_what_the_host_did(cartpole: Path) -> None:
    gaps = trace.analyse(cartpole).gaps
    lengths = [gap["duration_s"] for gap in gaps]
    assert lengths == sorted(lengths, reverse=True)
    assert round(lengths[0] * 1e9) == 903_030_374
    assert gaps[0]["range"] is None and gaps[0]["host"] == "host code"
    assert {gap["range"] for gap in gaps[1:4]} >= {"physics"}


def test_named_ranges(cartpole: Path) -> None:
    found = trace.analyse(cartpole, ranges=["update", "CCCL:cub::DeviceRadixSort"])
    assert [row["name"] for row in found.ranges] == ["cub::DeviceRadixSort", "update"] or {
        row["name"] for row in found.ranges
    } == {"cub::DeviceRadixSort", "update"}


def test_compare_with_itself(cartpole: Path) -> None:
    found = trace.analyse(cartpole)
    rows = trace.compare(found, found)
    assert {row["name"] for row in rows} == {row["name"] for row in found.ranges}
    assert all(row["wall_s_ratio"] == 1.0 for row in rows)
