"""The real Nsight Systems: a program with known NVTX ranges is profiled, exported, analysed and scrubbed.

nsys is fetched from Debian packages at test time (tests/install/nsys.sh) into a folder that git ignores. There is no
GPU here: NVTX only.
"""

from __future__ import annotations

import csv
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from paceline.analysis import trace
from paceline.analysis.scrub import scrub
from paceline.bench.errors import TraceError
from paceline.profiling import nsys

from tests.integration.nsystool import real_nsys
from tests.tracegen import synthetic

pytestmark = pytest.mark.slow
ITERATIONS = 20
PROGRAM = Path(__file__).parent / "programs" / "nvtx_ranges.py"
TOKEN = "planted-token-4f2a9c7e1b"


@pytest.fixture(scope="module", params=["2024.2.3", "2023.4.4"])
def tool(request: pytest.FixtureRequest, repository: Path) -> Iterator[Path]:
    """The real nsys."""
    with real_nsys(repository, request.param) as path:
        yield path


@pytest.fixture(scope="module")
def profiled(tool: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, float]]]:
    """A report, and what the processes measured themselves."""
    report = tmp_path_factory.mktemp("nsys") / "report.nsys-rep"
    command = nsys.profile_command(
        tool, [sys.executable, str(PROGRAM), str(ITERATIONS)], report, cuda=False, window=False
    )
    environment = {**os.environ, **nsys.ENVIRONMENT, "MY_API_TOKEN": TOKEN}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"rank"')]
    assert len(lines) == 2
    return report, sorted(lines, key=lambda line: float(line["rank"]))


@pytest.fixture(scope="module")
def exported(tool: Path, profiled: tuple[Path, list[dict[str, float]]]) -> Path:
    report, _ = profiled
    return nsys.export(tool, report, report.with_suffix(".sqlite"))


def check(path: Path, measured: list[dict[str, float]], fast: bool | None = None) -> None:
    found = trace.analyse(path, fast=fast)
    rows = {(row["name"], row["rank"]): row for row in found.ranges}
    names = ("iteration", "rollout", "update", "overlapping", "never closed")
    assert set(rows) == {(name, rank) for name in names for rank in (0, 1)}
    for rank in (0, 1):
        for name in ("iteration", "rollout", "update"):
            row = rows[name, rank]
            assert (row["instances"], row["style"], row["domain"]) == (ITERATIONS, "push_pop", "paceline")
            # The program's clock readings lie just outside of its ranges.
            assert row["wall_s"] == pytest.approx(measured[rank][name], rel=0.1, abs=0.02)
        assert rows["overlapping", rank]["style"] == "start_end"
        assert rows["overlapping", rank]["instances"] == ITERATIONS
        assert rows["iteration", rank]["wall_s"] > rows["rollout", rank]["wall_s"] + rows["update", rank]["wall_s"]
    assert rows["rollout", 1]["wall_s"] > rows["rollout", 0]["wall_s"]
    assert found.graph_trace == "none"
    assert any("no GPU work" in warning for warning in found.warnings)


def test_sqlite(exported: Path, profiled: tuple[Path, list[dict[str, float]]]) -> None:
    for fast in (False, True):
        check(exported, profiled[1], fast)


def test_ranges_that_a_process_never_closed(exported: Path) -> None:
    rows = [row for row in trace.analyse(exported).ranges if row["name"] == "never closed"]
    assert len(rows) == 2 and all(row["unclosed"] in (0, 1) for row in rows)


def test_parquet(tool: Path, profiled: tuple[Path, list[dict[str, float]]]) -> None:
    report, measured = profiled
    folder = nsys.export(tool, report, report.with_name("report_pqtdir"), "parquetdir")
    check(folder, measured)


def test_scrubbed(exported: Path, profiled: tuple[Path, list[dict[str, float]]], tmp_path: Path) -> None:
    """A token in the environment is all over the report and the export, and nowhere in the scrubbed copy."""
    assert TOKEN.encode() in exported.read_bytes()
    done = scrub(exported, tmp_path / "clean.sqlite")
    content = done.path.read_bytes()
    assert TOKEN.encode() not in content
    assert str(PROGRAM).encode() not in content
    with closing(sqlite3.connect(done.path)) as connection:
        words = {word for text in every_text(connection) for word in re.findall(r"\w+", text)}
    assert "rollout" in words and os.uname().nodename not in words
    check(done.path, profiled[1])


def every_text(connection: sqlite3.Connection) -> Iterator[str]:
    """Yield every text in every table."""
    for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        for row in connection.execute(f'SELECT * FROM "{table}"'):
            yield from (value for value in row if isinstance(value, str))


def test_nvidia_reads_the_scrubbed_copy(tool: Path, exported: Path, tmp_path: Path) -> None:
    """`nsys stats` prints the same numbers for the original and for the copy."""
    copy = scrub(exported, tmp_path / "clean.sqlite").path
    texts = []
    for path in (exported, copy):
        command = [str(tool), "stats", "-q", "-r", "nvtx_sum", "--format", "csv", str(path)]
        texts.append(subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout)
    assert "paceline:rollout" in texts[0]
    assert texts[0] == texts[1]


def test_projection_agrees_with_nsys_on_eight_processes(tool: Path, tmp_path: Path) -> None:
    """Correlation ids repeat in every process: nsys's own projection has the same hulls and counts."""
    path = tmp_path / "made.sqlite"
    synthetic(path, kernels=8_000, ranges=2_000, processes=8)
    command = [str(tool), "stats", "-q", "-r", "nvtx_gpu_proj_sum", "--format", "csv", str(path)]
    text = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    lines = text[text.index("Range,") :].strip().splitlines()
    expected = {row["Range"]: row for row in csv.DictReader(lines)}
    for fast in (False, True):
        sums: dict[str, list[int]] = {}
        for row in trace.analyse(path, fast=fast).ranges:
            found = sums.setdefault(f"paceline:{row['name']}", [0, 0])
            found[0] += round(row["gpu_span_s"] * 1e9)
            found[1] += row["operations"]
        assert sums.keys() == expected.keys()
        for name, (span, operations) in sums.items():
            assert span == int(expected[name]["Total Proj Time (ns)"]), name
            assert operations == int(expected[name]["Total GPU Ops"]), name


def test_broken_reports(tool: Path, profiled: tuple[Path, list[dict[str, float]]], tmp_path: Path) -> None:
    """Killed while profiling, cut off, or full disk: one clear line, and nothing left of the export."""
    report, _ = profiled
    with pytest.raises(TraceError, match="no such report"):
        nsys.export(tool, tmp_path / "absent.nsys-rep", tmp_path / "o.sqlite")
    (tmp_path / "empty.nsys-rep").touch()
    with pytest.raises(TraceError, match="empty report"):
        nsys.export(tool, tmp_path / "empty.nsys-rep", tmp_path / "o.sqlite")
    cut = tmp_path / "cut.nsys-rep"
    cut.write_bytes(report.read_bytes()[: report.stat().st_size // 2])
    with pytest.raises(TraceError, match="could not export it") as caught:
        nsys.export(tool, cut, tmp_path / "o.sqlite")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "o.sqlite").exists()


def test_disk_full_while_exporting(tool: Path, profiled: tuple[Path, list[dict[str, float]]], tmp_path: Path) -> None:
    """The system refuses to let the export grow: one clear line, and nothing of the export is left."""
    program = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "from paceline.bench.errors import TraceError\n"
        "from paceline.profiling import nsys\n"
        "try:\n    nsys.export(*sys.argv[1:])\n"
        "except TraceError as error:\n    print(error)\n"
    )
    output = tmp_path / "out.sqlite"
    arguments = [str(tool), str(profiled[0]), str(output)]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{profiled[0]}: nsys could not export it (") and done.stdout.count("\n") == 1
    assert not output.exists()


def test_a_trace_cut_by_a_kill(tool: Path, tmp_path: Path) -> None:
    """The profiled program is killed inside a range: what it did up to then is analysed."""
    program = (
        "import nvtx, os, signal, time\n"
        "nvtx.mark('rank=0 world=1', domain='paceline')\n"
        "for iteration in range(3):\n"
        "    nvtx.push_range('iteration', domain='paceline', payload=iteration)\n"
        "    time.sleep(0.05)\n"
        "    if iteration == 2:\n"
        "        nvtx.push_range('update', domain='paceline')\n"
        "        time.sleep(0.3)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    nvtx.pop_range(domain='paceline')\n"
    )
    report = tmp_path / "report.nsys-rep"
    command = nsys.profile_command(tool, [sys.executable, "-c", program], report, cuda=False, window=False)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 137
    found = trace.analyse(nsys.export(tool, report, tmp_path / "report.sqlite"))
    rows = {row["name"]: row for row in found.ranges}
    # A range that was open at the kill ends there, or with the capture and is counted as never closed.
    assert rows["iteration"]["instances"] in (2, 3) and rows["iteration"]["wall_s"] > 0.1
    assert rows["iteration"]["rank"] == 0


def test_version(tool: Path) -> None:
    found = nsys.version(tool)
    assert found[:2] in ((2024, 2), (2023, 4))
    assert (nsys.problem(found, "580.159.04") is None) == (found[:2] == (2024, 2))
