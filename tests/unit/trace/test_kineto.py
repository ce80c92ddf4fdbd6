"""Kineto traces: the same projection from torch.profiler's JSON."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from paceline.analysis import trace, trace_merge
from paceline.bench.errors import TraceError


def event(category: str, name: str, ts: float, dur: float, tid: int = 1, **args: Any) -> dict[str, Any]:
    return {"ph": "X", "cat": category, "name": name, "pid": 10, "tid": tid, "ts": ts, "dur": dur, "args": args}


def example() -> dict[str, Any]:
    """R  0|--------- iteration ---------|100   with update at 50..90; two launches and a copy, times in us."""
    events = [
        {"ph": "M", "name": "process_name", "pid": 10},
        event("user_annotation", "paceline:iteration", 0, 100),
        event("user_annotation", "paceline:update", 50, 40),
        event("cpu_op", "aten::add", 5, 10),
        event("cuda_runtime", "cudaLaunchKernel", 10, 2, correlation=1),
        event("cuda_runtime", "cudaGraphLaunch", 60, 2, correlation=2),
        event("cuda_runtime", "cudaMemcpyAsync", 70, 2.5, correlation=3),
        event("kernel", "add_kernel", 15, 10, device=0, stream=7, correlation=1),
        event("kernel", "ncclDevKernel_AllReduce", 65, 10.5, device=0, stream=8, correlation=2, **{"graph node id": 4}),
        event("kernel", "mul_kernel", 70, 10, device=0, stream=7, correlation=2, **{"graph node id": 5}),
        event("gpu_memcpy", "Memcpy HtoD (Pinned -> Device)", 90, 1, device=0, stream=7, correlation=3, bytes=4096),
    ]
    return {"schemaVersion": 1, "distributedInfo": {"rank": 2, "world_size": 4}, "traceEvents": events}


@pytest.mark.parametrize("name", ["t.json", "t.json.gz"])
def test_projection(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    text = json.dumps(example()).encode()
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    found = trace.analyse(path)
    rows = {row["name"]: row for row in found.ranges}
    assert {row["rank"] for row in found.ranges} == {2}
    assert rows["iteration"]["gpu_busy_s"] == pytest.approx(26e-6)
    assert rows["update"]["gpu_busy_s"] == pytest.approx(16e-6)
    assert rows["update"]["gpu_sum_s"] == pytest.approx(21.5e-6)
    assert (rows["update"]["launches"], rows["update"]["graph_launches"], rows["update"]["kernels"]) == (1, 1, 2)
    assert rows["update"]["memcpy_bytes"]["h2d"] == 4096
    assert rows["update"]["nccl_s"] == pytest.approx(10.5e-6)
    assert rows["update"]["nccl_exposed_s"] == pytest.approx(5e-6)
    assert found.graph_trace == "node"
    assert found.details["profiler"] == "torch.profiler (Kineto)"


def test_ranks_of_a_run_are_put_together(tmp_path: Path) -> None:
    """One trace per rank; a run of one rank has no distributedInfo, so Paceline's own entry says the rank."""
    traces = []
    for rank in range(2):
        data = example() | {"paceline": {"rank": rank, "world_size": 2}}
        del data["distributedInfo"]
        path = tmp_path / f"kineto-rank-{rank:04d}.json"
        path.write_text(json.dumps(data))
        traces.append(trace.analyse(path))
    merged = trace_merge.merge(traces, "2 GPUs, profiled")
    assert sorted((row["rank"], row["name"]) for row in merged.ranges) == [
        (0, "iteration"), (0, "update"), (1, "iteration"), (1, "update"),
    ]  # fmt: skip
    assert len({row["process"] for row in merged.ranges}) == 2  # both were process 10 on their nodes
    assert merged.details["num_operations"] == 8
    assert merged.graph_trace == "node" and merged.source == "2 GPUs, profiled"
    assert "on rank" in merged.diagnosis
    json.dumps(merged.to_json(), allow_nan=False)


def test_bad_files(tmp_path: Path) -> None:
    cases = {
        "cut.json": (json.dumps(example())[:200].encode(), "not valid JSON"),
        "other.json": (b'{"a": 1}', "not a Kineto trace"),
        "empty.json": (b'{"traceEvents": []}', "no GPU work"),
        "cut.json.gz": (gzip.compress(b"x" * 1000)[:20], "cannot be read"),
    }
    for name, (content, message) in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(TraceError, match=message) as caught:
            trace.analyse(path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)
