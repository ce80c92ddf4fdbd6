"""The history of all studies below a folder: always what the folders say."""

from __future__ import annotations

import csv
import json
import shutil
import sqlite3
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from paceline.analysis import history as module
from paceline.analysis.history import DATABASE, history, study_folders
from paceline.analysis.study_row import study_row
from paceline.bench.cli import main
from paceline.bench.errors import RecordError
from paceline.bench.rundir import StudyDir


@pytest.fixture
def outputs(synthetic: ModuleType, tmp_path: Path) -> Any:
    recipes = {"ant": {}, "deep/down/cartpole": {"task": "Isaac-Cartpole-Direct", "kind": "weak"}}
    for name, recipe in recipes.items():
        made = synthetic.Recipe(world_sizes=(1, 2), repeats=2, iterations=30, samples=False, seed=len(name), **recipe)
        (tmp_path / name).mkdir(parents=True)
        synthetic.write_study(tmp_path / name, made)
    return tmp_path


def test_one_row_per_study_and_world_size(outputs: Path) -> None:
    rows = history(outputs)
    assert [(row["path"], row["world_size"]) for row in rows] == [
        ("ant", 1),
        ("ant", 2),
        ("deep/down/cartpole", 1),
        ("deep/down/cartpole", 2),
    ]
    ant = rows[1]
    assert ant["kind"] == "strong" and ant["gpu"] == "NVIDIA H100 80GB HBM3" and ant["num_envs_per_rank"] == 8192
    assert ant["runs_completed"] == 4 and ant["runs_failed"] == 0 and 0.85 < ant["efficiency"] < 1
    assert ant["isaaclab"] == "3.0.0" and ant["problem"] is None and ant["gpu_hours"] > 0


def test_the_same_numbers_as_the_scaling_table(outputs: Path) -> None:
    from paceline.analysis.load import load_study
    from paceline.analysis.scaling import scaling_table

    table = scaling_table(load_study(outputs / "ant"))
    rows = history(outputs, ["path=ant"])
    for name in ("total_fps", "total_fps_low", "efficiency", "efficiency_high", "num_envs", "status"):
        assert [row[name] for row in rows] == table[name].tolist()


def test_filters(outputs: Path) -> None:
    assert {row["path"] for row in history(outputs, ["task~cartpole"])} == {"deep/down/cartpole"}
    assert [row["world_size"] for row in history(outputs, ["world_size>=2", "kind!=weak"])] == [2]
    assert history(outputs, ["world_size>2"]) == []
    assert history(outputs, ["task=' OR 1=1 --"]) == []
    for bad, says in (
        ("colour=red", "no column 'colour'"),
        ("world_size=many", "'many' is not"),
        ("ant", "expected a column"),
    ):
        with pytest.raises(RecordError, match=says):
            history(outputs, [bad])


def test_only_what_changed_is_read_again(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counting(path: Path) -> Any:
        read.append(path.name)
        return study_row(path)

    monkeypatch.setattr(module, "study_row", counting)
    first = history(outputs)
    assert read == ["ant", "cartpole"]
    assert history(outputs) == first and len(read) == 2
    result = next(StudyDir(outputs / "ant").all_runs()).result_json
    result.write_text(result.read_text() + "\n")
    assert history(outputs) == first and read == ["ant", "cartpole", "ant"]
    assert history(outputs, rebuild=True) == first and len(read) == 5
    shutil.rmtree(outputs / "deep")
    assert {row["path"] for row in history(outputs)} == {"ant"}


@pytest.mark.parametrize("damage", ["text", "version"])
def test_a_damaged_database_is_made_again(outputs: Path, damage: str) -> None:
    first = history(outputs)
    if damage == "text":
        (outputs / DATABASE).write_text("this is no database, " * 100)
    else:
        connection = sqlite3.connect(outputs / DATABASE)
        connection.execute("PRAGMA user_version = 99")
        connection.commit()
        connection.close()
    assert history(outputs) == first


def test_where_no_database_can_be_written(outputs: Path) -> None:
    first = history(outputs)
    (outputs / DATABASE).unlink()
    (outputs / DATABASE).mkdir()  # stands for a folder that cannot be written, also for root
    assert history(outputs) == first


def test_an_unreadable_study_is_a_row(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    StudyDir(outputs / "ant").study_yaml.write_text("kind: [")
    rows = history(outputs, ["path=ant"])
    assert len(rows) == 1 and "not valid YAML" in rows[0]["problem"] and rows[0]["total_fps"] is None
    assert main(["history", str(outputs)]) == 0
    assert "unreadable" in capsys.readouterr().out


def test_study_folders_are_not_searched_further(outputs: Path) -> None:
    shutil.copytree(outputs / "deep", outputs / "ant" / "copy")
    assert [path.name for path in study_folders(outputs)] == ["ant", "cartpole"]


def test_command(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history", str(outputs)]) == 0
    out = capsys.readouterr().out
    assert "strong Isaac-Ant-Direct rsl_rl" in out and "2 study folder(s), 4 row(s)" in out
    assert main(["history", str(outputs), "--format", "json", "--filter", "world_size=2"]) == 0
    assert [row["world_size"] for row in json.loads(capsys.readouterr().out)] == [2, 2]
    target = outputs / "all.csv"
    assert main(["history", str(outputs), "--export", str(target)]) == 0
    with open(target, newline="", encoding="utf-8") as stream:
        assert [row["task"] for row in csv.DictReader(stream)] == ["Isaac-Ant-Direct"] * 2 + [
            "Isaac-Cartpole-Direct"
        ] * 2
    assert main(["history", str(outputs), "--export", "all.xlsx"]) == 2
    assert main(["history", str(outputs / "none")]) == 2
    assert main(["history", str(outputs), "--filter", "colour=red"]) == 2


def test_an_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history", str(tmp_path), "--format", "csv"]) == 0
    header = capsys.readouterr().out
    assert header.startswith("path,name,kind,task,") and header.count("\n") == 1
    assert main(["history", str(tmp_path)]) == 0
    assert "0 study folder(s)" in capsys.readouterr().out
