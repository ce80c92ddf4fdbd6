"""Inputs that are damaged, foreign or incomplete: one clear error line, or a result that says what is missing."""

from __future__ import annotations

import json
import lzma
import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from paceline.analysis import memory, trace
from paceline.bench.errors import TraceError

from tests.tracegen import Call, Operation, Range, Rows, write

BOTH = pytest.mark.parametrize("fast", [False, True], ids=["numpy", "numba"])


def good() -> Rows:
    return Rows(
        [Range(0, 100, "a")],
        [Call(10 * i, 10 * i + 5, i) for i in range(9)],
        [Operation(10 * i + 6, 10 * i + 9, i) for i in range(9)],
        marks=[(0, "rank=3 world=8 local=3", 1)],
    )


def refuse(path: Path, *words: str, fast: bool | None = None) -> None:
    with pytest.raises(TraceError) as caught:
        trace.analyse(path, fast=fast)
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(path), *words):
        assert word in message, message


@BOTH
@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
def test_truncated(tmp_path: Path, fast: bool, part: float) -> None:
    rows = good()
    rows.ranges = [Range(i, i + 1, f"range number {i}") for i in range(3000)]
    path = write(tmp_path / "t.sqlite", rows)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    refuse(path, "truncated", fast=fast)


@BOTH
def test_damaged_inside(tmp_path: Path, fast: bool) -> None:
    """Pages overwritten with noise: an error, never a crash."""
    rows = good()
    rows.ranges = [Range(i, i + 1, f"range number {i}") for i in range(3000)]
    path = write(tmp_path / "t.sqlite", rows)
    content = bytearray(path.read_bytes())
    for page in range(3, len(content) // 4096, 3):
        content[page * 4096 : (page + 1) * 4096] = os.urandom(4096)
    path.write_bytes(content)
    refuse(path, "damaged SQLite file", fast=fast)


def test_wrong_types(tmp_path: Path) -> None:
    for name, content in {"t.sqlite": b"hello", "empty.sqlite": b"", "t.nsys-rep": b"\x01\x02"}.items():
        path = tmp_path / name
        path.write_bytes(content)
        words = {"t.sqlite": "not an SQLite file", "empty.sqlite": "empty file", "t.nsys-rep": "nsys export"}[name]
        refuse(path, words)
    refuse(tmp_path / "absent.sqlite", "no such file")
    (tmp_path / "folder").mkdir()
    refuse(tmp_path / "folder", "not an nsys export")


def test_foreign_database(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE people (name TEXT)")
        connection.commit()
    refuse(path, "not an nsys export")


def test_export_with_nothing_to_analyse(tmp_path: Path) -> None:
    refuse(write(tmp_path / "t.sqlite", Rows()), "neither CUDA nor NVTX rows")


def test_missing_column(tmp_path: Path) -> None:
    path = write(tmp_path / "t.sqlite", good())
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE CUPTI_ACTIVITY_KIND_RUNTIME RENAME COLUMN correlationId TO correlation")
        connection.commit()
    refuse(path, "CUPTI_ACTIVITY_KIND_RUNTIME lacks column correlationId")


@BOTH
def test_no_nvtx(tmp_path: Path, fast: bool) -> None:
    rows = good()
    rows.ranges, rows.marks = [], []
    found = trace.analyse(write(tmp_path / "t.sqlite", rows), fast=fast)
    assert any("no NVTX ranges" in warning for warning in found.warnings)
    assert found.ranges == [] and found.processes[0]["outside_operations"] == 9
    assert found.diagnosis.startswith("no ranges: the GPU works for")


@BOTH
def test_no_cuda(tmp_path: Path, fast: bool) -> None:
    rows = good()
    rows.calls, rows.operations = [], []
    found = trace.analyse(write(tmp_path / "t.sqlite", rows), fast=fast)
    assert any("no GPU work in the capture" in warning for warning in found.warnings)
    assert found.ranges[0]["wall_s"] == 100e-9 and found.kernels == [] and found.gaps == []
    assert found.diagnosis.startswith("no GPU work in the capture")


@BOTH
def test_graph_launches_without_gpu_rows(tmp_path: Path, fast: bool) -> None:
    """A driver that cannot record graphs: missing work is named, not called idle without a word."""
    rows = good()
    rows.calls.append(Call(95, 97, 50, name="cudaGraphLaunch_v10000"))
    found = trace.analyse(write(tmp_path / "t.sqlite", rows), fast=fast)
    assert found.graph_trace == "none"
    assert any("1 CUDA graph launches have no GPU rows" in warning for warning in found.warnings)


@BOTH
def test_ten_thousand_names(tmp_path: Path, fast: bool) -> None:
    rows = good()
    rows.ranges = [Range(i, i + 1, f"step {i}") for i in range(10_000)]
    found = trace.analyse(write(tmp_path / "t.sqlite", rows), fast=fast)
    assert len(found.ranges) == 40
    assert any("10,000 distinct ranges" in warning for warning in found.warnings)


@BOTH
def test_names_that_are_not_utf8_stay_apart(tmp_path: Path, fast: bool) -> None:
    rows = good()
    rows.ranges = [Range(0, 50, b"caf\xe9"), Range(50, 100, b"caf\xe8"), Range(10, 20, "café")]
    found = trace.analyse(write(tmp_path / "t.sqlite", rows), fast=fast)
    assert {row["name"] for row in found.ranges} == {"caf\\xe9", "caf\\xe8", "café"}
    json.dumps(found.to_json())


@BOTH
def test_ranks_from_marks(tmp_path: Path, fast: bool) -> None:
    found = trace.analyse(write(tmp_path / "t.sqlite", good()), fast=fast)
    assert [row["rank"] for row in found.ranges] == [3]
    assert not any("inferred" in warning for warning in found.warnings)


def test_unknown_range(tmp_path: Path) -> None:
    path = write(tmp_path / "t.sqlite", good())
    with pytest.raises(TraceError, match="no range named 'b' in the capture; it has a"):
        trace.analyse(path, ranges=["b"])


def test_no_permission(tmp_path: Path) -> None:
    """Root may read everything, so the test gives that up for a moment."""
    tmp_path.chmod(0o755)
    path = write(tmp_path / "t.sqlite", good())
    path.chmod(0)
    before = os.geteuid()
    if before == 0:
        for parent in tmp_path.parents:
            if parent.owner() == "root" and str(parent).startswith(tempfile.gettempdir()) and parent != Path("/tmp"):
                parent.chmod(0o755)
        os.seteuid(65534)
    try:
        refuse(path, "cannot be read (Permission denied)")
    finally:
        os.seteuid(before)


def test_too_large_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused with the size needed, before anything is loaded."""
    path = write(tmp_path / "t.sqlite", good())
    monkeypatch.setattr(memory, "available_bytes", lambda: 10_000_000)
    refuse(path, "rows need about 0.3 GB of memory, 0.0 GB are free")


def test_read_only_folder_is_enough(tmp_path: Path) -> None:
    """Nothing is written beside the capture."""
    folder = tmp_path / "shared"
    folder.mkdir()
    path = write(folder / "t.sqlite", good())
    trace.analyse(path)
    assert [item.name for item in folder.iterdir()] == ["t.sqlite"]


def test_compressed_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An .xz file is read as it is; a damaged one is one line, and leaves nothing in the temporary folder."""
    path = write(tmp_path / "t.sqlite", Rows([Range(0, 9, "a")], [Call(1, 2, 1)], [Operation(3, 4, 1)]))
    packed = tmp_path / "t.sqlite.xz"
    packed.write_bytes(lzma.compress(path.read_bytes()))
    assert trace.analyse(packed).ranges == trace.analyse(path).ranges
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    for content in (packed.read_bytes()[:-40], b"no xz at all", lzma.compress(b"no SQLite at all" * 100)):
        packed.write_bytes(content)
        with pytest.raises(TraceError) as caught:
            trace.analyse(packed)
        assert "\n" not in str(caught.value) and str(packed) in str(caught.value)
    assert not list((tmp_path / "temporary").iterdir())
