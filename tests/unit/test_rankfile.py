"""The record of a rank as it is written, and as it is read while it is written."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from paceline.bench import hardware
from paceline.bench.rankfile import RankFile, one_line
from paceline.bench.rankscan import last_line, read_rank
from paceline.bench.record import ITERATION_COLUMNS, RANK_SCHEMA

ROW = [0, 1, 0, *([0.25] * (len(ITERATION_COLUMNS) - 3))]


def test_lines(tmp_path: Path) -> None:
    path = tmp_path / "rank-0000.jsonl"
    file = RankFile(path)
    assert not file.has_header
    file.header({"rank": 0, "case_id": "0123456789ab"})
    file.iteration(ROW)
    assert path.read_text().count("\n") == 2  # there without closing the file
    file.iteration([1, 0, 0, math.nan, math.inf, None, 1 / 3, *([0.5] * (len(ITERATION_COLUMNS) - 7))])
    file.end("completed", 12.34567891)
    file.end("failed", 13.0, "only the first end counts")
    header, first, second, end = (json.loads(line) for line in path.read_text().splitlines())
    assert header["schema"] == RANK_SCHEMA and header["columns"] == list(ITERATION_COLUMNS)
    assert first == ROW
    assert second[3:7] == [None, None, None, 0.333333333]
    assert end == {"type": "end", "status": "completed", "iterations": 2, "end_s": 12.345679, "error": None}
    summary = read_rank(path, 0)
    assert summary.iterations == 2 and summary.end == end


def test_a_row_must_fit_the_columns(tmp_path: Path) -> None:
    file = RankFile(tmp_path / "rank-0000.jsonl")
    with pytest.raises(ValueError, match="the columns are"):
        file.iteration([1, 2, 3])
    file.end("failed", 0.0)


def test_a_killed_writer_loses_nothing_that_was_written(tmp_path: Path) -> None:
    path = tmp_path / "rank-0000.jsonl"
    code = f"""
import os, signal
from paceline.bench.rankfile import RankFile
file = RankFile({str(path)!r})
file.header({{"rank": 0}})
for _ in range(100):
    file.iteration({ROW!r})
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    summary = read_rank(path, 0)
    assert summary.header is not None and summary.iterations == 100 and summary.end is None


@pytest.mark.parametrize(
    ("content", "last"),
    [
        (b"", None),
        (b"[1]\n", [1]),
        (b"[1]\n[2]", None),
        (b"[1]\n[2", None),
        (b"[1]\nnot json\n", None),
        (b'[1]\n{"type":"end"}\n', {"type": "end"}),
        (b"[" + b"1," * 100_000 + b"1]\n[3]\n", [3]),
    ],
)
def test_last_line(tmp_path: Path, content: bytes, last: object) -> None:
    path = tmp_path / "rank-0000.jsonl"
    path.write_bytes(content)
    assert last_line(path) == last


def test_last_line_of_no_file(tmp_path: Path) -> None:
    assert last_line(tmp_path / "missing") is None
    assert read_rank(tmp_path / "missing", 3).header is None


def test_errors_in_one_line() -> None:
    assert one_line(ValueError("first\nsecond")) == "ValueError: first"
    assert one_line(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert len(one_line(ValueError("x" * 1000))) == 300


def test_facts_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = hardware.cpu_facts()
    assert cpu["logical_cores"] == os.cpu_count()
    assert cpu["affinity_cores"] == len(os.sched_getaffinity(0)) == len(cpu["affinity"])
    device = hardware.device_facts("cpu")
    assert device["kind"] == "cpu" and device["memory_total_bytes"] > 1e8 and device["uuid"] is None
    resident = hardware.resident_bytes()
    assert resident is not None and resident > 1e6
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURMD_NODENAME", "node3")
    assert hardware.slurm_facts() == {"job_id": "7", "node": "node3"}
    assert hardware.node_name() == "node3"
    monkeypatch.delenv("SLURMD_NODENAME")
    assert "." not in hardware.node_name()


def test_thread_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        monkeypatch.setenv(name, "77")
    monkeypatch.setenv("PXR_WORK_THREAD_LIMIT", "77")
    hardware.limit_threads(3)
    assert {value for name, value in os.environ.items() if name.endswith(("_NUM_THREADS", "_THREAD_LIMIT"))} == {"3"}


@pytest.mark.parametrize(
    ("text", "uuid"),
    [
        ("0123ABCD-0000", "GPU-0123abcd-0000"),  # as torch says it
        ("GPU-0123abcd-0000", "GPU-0123abcd-0000"),
        ("MIG-0123abcd-0000", "MIG-0123abcd-0000"),
    ],
)
def test_uuids_as_nvml_writes_them(text: str, uuid: str) -> None:
    assert hardware.gpu_uuid(text) == uuid
