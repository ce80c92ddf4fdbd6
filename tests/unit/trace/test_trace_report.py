"""The trace report, the text and the command."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from paceline.analysis import trace, trace_report, trace_text
from paceline.bench import cli
from paceline.bench.errors import TraceError

from tests.tracegen import Call, Operation, Range, Rows, write


def two_ranks(folder: Path, name: str = "t.sqlite", update_ns: int = 40_000) -> Path:
    """Iterations of 100 us on two ranks; NCCL is exposed on rank 1."""
    rows = Rows(marks=[(0, f"rank={pid - 1} world=2 local={pid - 1}", pid) for pid in (1, 2)])
    for pid in (1, 2):
        for i in range(8):
            start = 1000 + i * 100_000
            rows.ranges += [
                Range(start, start + 50_000 + update_ns, "iteration", pid, domain=1),
                Range(start + 50_000, start + 50_000 + update_ns, "update", pid, domain=1),
                Range(start + 10, start + 40_000, "<script>alert(1)</script>", pid, domain=2),
            ]
            rows.calls += [
                Call(start + 100, start + 5_000, 2 * i, pid),
                Call(start + 51_000, start + 52_000, 2 * i + 1, pid),
            ]
            rows.operations += [
                Operation(start + 6_000, start + 16_000, 2 * i, pid, kind="graph"),
                Operation(start + 53_000, start + 73_000, 2 * i + 1, pid, name="ncclDevKernel_AllReduce"),
            ]
    return write(folder / name, rows)


def test_report_of_one_trace(tmp_path: Path) -> None:
    found = trace.analyse(two_ranks(tmp_path))
    page = trace_report.write(found, tmp_path / "report")
    text = page.read_text()
    assert found.diagnosis.startswith("communication-bound: NCCL that nothing hides takes 50 % of update")
    assert found.diagnosis[1:] in text
    assert "<svg" in text and "Between ranks" in text and "CUDA graphs recorded whole" in text
    assert "<script>alert" not in text
    assert not re.search(r'(?:src|href)="(?:https?:)?//', text), "the page must work without a network"
    with open(tmp_path / "report" / "ranges.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["wall_s"]) for row in rows] == [row["wall_s"] for row in found.ranges]
    assert json.loads((tmp_path / "report" / "trace.json").read_text()) == found.to_json()


def test_report_of_two_traces(tmp_path: Path) -> None:
    a = trace.analyse(two_ranks(tmp_path, "a.sqlite"))
    b = trace.analyse(two_ranks(tmp_path, "b.sqlite", update_ns=45_000))
    text = trace_report.write([a, b], tmp_path / "report").read_text()
    assert "B takes 1.06 times as long as A per iteration; update changes most, by a factor of 1.12" in text
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names >= {"trace_a.json", "trace_b.json", "comparison.csv", "ranges_a.csv", "ranges_b.csv"}


def test_names_of_an_odd_kind_reach_every_output(tmp_path: Path) -> None:
    rows = Rows([Range(0, 100, b"caf\xe9 \x01"), Range(10, 20, 'a,"b"\n')], [Call(11, 12, 1)], [Operation(15, 16, 1)])
    found = trace.analyse(write(tmp_path / "t.sqlite", rows))
    trace_report.write(found, tmp_path / "report")
    assert "caf\\xe9" in trace_text.one(found)


def test_report_that_cannot_be_written(tmp_path: Path) -> None:
    found = trace.analyse(two_ranks(tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(TraceError, match="cannot be written"):
        trace_report.write(found, tmp_path / "file" / "report")


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(two_ranks(tmp_path))
    assert cli.main(["trace", path]) == 0
    assert capsys.readouterr().out.startswith("Communication-bound: ")
    assert cli.main(["trace", path, "--format", "json", "--range", "update"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)["ranges"]] == ["update", "update"]
    assert cli.main(["trace", path, "--compare", path, "--format", "json"]) == 0
    assert {"a", "b", "comparison"} == set(json.loads(capsys.readouterr().out))
    assert cli.main(["trace", path, "--compare", path]) == 0
    assert "Side by side" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    assert cli.main(["trace", path, "--format", "html"]) == 0
    assert Path(capsys.readouterr().out.strip()).is_file()
    assert cli.main(["trace", "scrub", path, "--out", str(tmp_path / "clean.sqlite")]) == 0
    assert "tables kept" in capsys.readouterr().out
    assert cli.main(["trace", str(tmp_path / "clean.sqlite"), "--format", "json"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.sqlite"], "no such file"),
        (["a", "b"], "give one FILE"),
        (["scrub", "t.sqlite"], "scrub needs --out"),
        (["t.sqlite", "--range", "nothing"], "no range named 'nothing'"),
    ],
)
def test_command_errors(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    two_ranks(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["trace", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
