"""Files nested so deeply that Python (or libyaml, whose stack overflows) gives up on them are damaged files, too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from paceline.analysis import ingest, kineto
from paceline.analysis.load import load_study
from paceline.bench import jsontext
from paceline.bench.errors import PacelineError, RecordError
from paceline.bench.rundir import RunDir, StudyDir

from tests.synthetic import Recipe, case_of, write_study

DEEP = "[" * 100_000 + "\n"
SMALL = Recipe(world_sizes=(1, 2), repeats=2, iterations=20, warmup_iterations=5, true_warmup=3)


@pytest.mark.parametrize("text", [DEEP, DEEP.encode(), bytearray(DEEP.encode()), '{"a": ' * 100_000])
def test_loads_says_so(text: str | bytes | bytearray) -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        jsontext.loads(text)


def test_loads_is_json_otherwise() -> None:
    assert jsontext.loads('{"a": [1, null, NaN]}').keys() == {"a"}
    with pytest.raises(json.JSONDecodeError):
        jsontext.loads("{")


@pytest.mark.parametrize("name", ["study.yaml", "cluster.yaml", "code/snapshot.json"])
def test_a_file_of_the_study(tmp_path: Path, name: str) -> None:
    write_study(tmp_path, SMALL)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(DEEP)
    with pytest.raises(RecordError, match="nested too deeply") as caught:
        load_study(tmp_path)
    assert name in str(caught.value)


def _of_rank(text: str) -> Callable[[RunDir], object]:
    def write(run: RunDir) -> None:
        header, *rows = run.rank_jsonl(0).read_text().splitlines(keepends=True)
        run.rank_jsonl(0).write_text(text if text == DEEP else "".join([header, text, *rows[1:]]))

    return write


@pytest.mark.parametrize(
    "write",
    [
        lambda run: run.case_json.write_text(DEEP),
        lambda run: run.result_json.write_text(DEEP),
        _of_rank(DEEP),
        _of_rank("[" * 90_000 + "]" * 90_000 + "\n"),
    ],
    ids=["case", "result", "header", "row"],
)
def test_a_file_of_a_run(tmp_path: Path, write: Callable[[RunDir], object]) -> None:
    write_study(tmp_path, SMALL)
    write(StudyDir(tmp_path).run(case_of(SMALL, 2, 0).case_id, 1))
    runs = load_study(tmp_path).runs
    (bad,) = runs[runs["status"] == "unreadable"].to_dict("records")
    assert "not valid JSON" in bad["message"]
    assert runs["counts"].sum() == 3


def test_samples_of_a_run(tmp_path: Path) -> None:
    write_study(tmp_path, SMALL)
    path = StudyDir(tmp_path).run(case_of(SMALL, 2, 0).case_id, 1).samples_jsonl("node1")
    path.write_text(DEEP)
    loaded = load_study(tmp_path)
    assert loaded.runs["counts"].sum() == 4
    assert ["not valid JSON" in warning for warning in loaded.warnings] == [True]


def test_files_of_others(tmp_path: Path) -> None:
    path = tmp_path / "deep.json"
    path.write_text(DEEP)
    with pytest.raises(PacelineError, match="nested too deeply"):
        kineto.load(path)
    with pytest.raises(PacelineError, match="nested too deeply"):
        ingest.read_any(path)
