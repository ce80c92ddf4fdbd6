"""Phase times of every rank: sums, the straggler, and what is left out."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from paceline.analysis.rank_phases import COLUMNS
from paceline.analysis.report import report_data, write_report
from paceline.bench.rundir import StudyDir
from paceline.profiling.phases import PHASES

from tests.synthetic import Recipe, case_of, write_run, write_study

ROOT = Path(__file__).resolve().parents[3]


def test_every_rank_has_phases_that_sum_to_its_iteration(tmp_path: Path) -> None:
    write_study(tmp_path, Recipe(world_sizes=(1, 2, 4), iterations=30, samples=False))
    write_report(tmp_path)
    with (StudyDir(tmp_path).report / "phases.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(int(row["world_size"]), int(row["rank"])) for row in rows] == [
        (1, 0), (2, 0), (2, 1), (4, 0), (4, 1), (4, 2), (4, 3),
    ]  # fmt: skip
    assert tuple(rows[0]) == COLUMNS
    for row in rows:
        assert sum(float(row[f"{phase}_s"]) for phase in PHASES) == pytest.approx(float(row["iteration_s"]))
        assert all(float(row[f"{phase}_s"]) >= 0 for phase in PHASES)
        assert row["runs"] == "3"
    assert float(rows[0]["communication_s"]) == 0.0


def test_they_come_from_device_complete_iterations_of_counting_runs(tmp_path: Path) -> None:
    recipe = Recipe(world_sizes=(1,), repeats=2, iterations=30, samples=False, sync_cost=0.5)
    write_study(tmp_path, recipe)
    before = report_data(tmp_path)
    (row,) = before["phases"]
    assert row["iteration_s"] == pytest.approx(before["scaling"][0]["sync_iteration_s"])
    assert row["iteration_s"] > 1.3 * before["scaling"][0]["iteration_time_s"]
    slow = StudyDir(tmp_path).run(case_of(recipe, 1, 0, "profile").case_id, 1)
    write_run(slow, recipe, 1, 0, np.random.default_rng(3), kind="profile", factor=50.0)
    assert report_data(tmp_path)["phases"] == before["phases"]


def test_without_device_complete_iterations_there_are_none(tmp_path: Path) -> None:
    write_study(tmp_path, Recipe(world_sizes=(1,), repeats=1, iterations=20, samples=False, sync_every=0))
    assert report_data(tmp_path)["phases"] == []


def test_on_gpus() -> None:
    """H200, Ant, 4 ranks: the means over ranks are the report's own, communication and imbalance apart."""
    data = report_data(ROOT / "tests" / "data" / "h200" / "strong_ant_rsl_rl")
    four = [row for row in data["phases"] if row["world_size"] == 4]
    assert len(four) == 4 and 0.05 < four[0]["physics_s"] < 0.07
    point = next(row for row in data["scaling"] if row["world_size"] == 4)
    for phase in ("physics", "inference", "update", "other"):
        assert np.mean([row[f"{phase}_s"] for row in four]) == pytest.approx(point[f"{phase}_s"])
