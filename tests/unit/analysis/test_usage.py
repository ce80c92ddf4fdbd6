"""GPU hours and their price; a GPU at its power limit is told and counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from paceline.analysis.checks import check_table
from paceline.analysis.load import load_study
from paceline.analysis.page import html, markdown
from paceline.analysis.report import Analysis
from paceline.analysis.study_table import study_table
from paceline.bench.rundir import StudyDir, read_json, write_json

from tests.synthetic import Recipe, case_of, write_failure, write_study

SMALL = Recipe(world_sizes=(1, 2), repeats=2, iterations=20, warmup_iterations=5)


def with_prices(folder: Path, prices: Any, gpu_type: str | None = None) -> Analysis:
    path = StudyDir(folder).cluster_yaml
    cluster = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**cluster, "prices": prices, "gpu_type": gpu_type}))
    return Analysis(load_study(folder))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_study(tmp_path, SMALL)
    return tmp_path


def test_hours_are_those_of_all_attempts(folder: Path) -> None:
    case = case_of(SMALL, 2, 5)
    write_failure(StudyDir(folder).run(case.case_id, 1), case, "oom_device", "no memory")  # 30 s on 2 GPUs
    analysis = Analysis(load_study(folder))
    runs = analysis.loaded.runs
    assert analysis.usage["attempts"] == 6 and analysis.usage["attempts_without_time"] == 0
    expected = sum(float(s) * int(n) for s, n in zip(runs["wall_s"], runs["world_size"], strict=True)) / 3600.0
    assert analysis.usage["rank_hours"] == pytest.approx(expected)
    assert analysis.usage["rank_hours"] - analysis.usage["rank_hours_counted"] > 60.0 / 3600.0
    assert analysis.usage["cost"] is None


def test_what_the_watchdog_saved_is_said(folder: Path) -> None:
    assert "The watchdog" not in html(Analysis(load_study(folder)), "now")
    case = case_of(SMALL, 2, 5)
    run = StudyDir(folder).run(case.case_id, 1)
    write_failure(run, case, "stalled", "no rank has recorded anything for 1800 s")
    result = read_json(run.result_json)
    result["extra"] |= {"watchdog": {"reason": "no rank has recorded anything", "saved_rank_hours": 7.25}}
    write_json(run.result_json, result)
    analysis = Analysis(load_study(folder))
    assert (analysis.usage["hung"], analysis.usage["rank_hours_saved"]) == (1, 7.25)
    for page in (html(analysis, "now"), markdown(analysis, "now")):
        assert "The watchdog ended 1 hung attempt and saved 7.25 GPU-hours of the time limit." in page


@pytest.mark.parametrize(
    ("gpu_type", "prices"), [("h100", {"h100": 2.5, "l40": 9.0}), (None, {"H100": 2.5, "h10": 9.0})]
)
def test_cost_by_asked_type_or_by_name(folder: Path, gpu_type: str | None, prices: dict[str, float]) -> None:
    analysis = with_prices(folder, {"gpu_hour": prices, "currency": "EUR"}, gpu_type)
    used = analysis.usage
    assert used["price_gpu_hour"] == 2.5 and used["currency"] == "EUR"
    assert used["cost"] == pytest.approx(2.5 * used["rank_hours"])
    for row in analysis.rows:
        frames_per_hour = row["total_fps"] * 3600.0
        assert row["cost_per_million_frames"] == pytest.approx(2.5 * row["world_size"] / frames_per_hour * 1e6)
        assert row["cost"] == pytest.approx(2.5 * row["gpu_hours"])
        assert row["frames_per_joule"] * row["energy_j_per_million_frames"] == pytest.approx(1e6)
    page = html(analysis, "now")
    assert "EUR per million frames" in page and "2.50 EUR per" in page


def test_no_price_fits(folder: Path) -> None:
    analysis = with_prices(folder, {"gpu_hour": {"l40": 0.8}, "currency": "EUR"})
    assert analysis.usage["cost"] is None and analysis.rows[0]["cost"] is None
    assert any(note.startswith("No cost: the cluster profile has prices for l40, not for") for note in analysis.notes)


@pytest.mark.parametrize("prices", [None, [], "much", {"gpu_hour": 3}, {"gpu_hour": {"h100": "dear"}}])
def test_damaged_prices_are_none(folder: Path, prices: Any) -> None:
    assert with_prices(folder, prices).usage["cost"] is None


def test_power_limit_is_a_note_and_heat_is_not(folder: Path) -> None:
    for run in StudyDir(folder).all_runs():
        for path in run.samples_files():
            path.write_text(path.read_text().replace('"throttle": []', '"throttle": ["sw_power_cap"]'))
    analysis = Analysis(load_study(folder))
    assert all(not run["flags"] for run in analysis.runs)
    assert [row["repeats"] for row in analysis.rows] == [2, 2]
    assert [row["power_limited_pct"] for row in analysis.rows] == [100.0, 100.0]
    assert [run["throttled_share"] for run in analysis.runs if run["counts"]] == [0.0] * 4
    assert any(note.startswith("GPUs at their power limit") for note in analysis.notes)
    assert {finding.id for finding in check_table(study_table(analysis.loaded))}.isdisjoint({"F-THROTTLE"})
    assert "At power limit" in html(analysis, "now")
    (path,) = StudyDir(folder).run(case_of(SMALL, 2, 1).case_id, 1).samples_files()
    path.write_text(path.read_text().replace('["sw_power_cap"]', '["sw_power_cap", "hw_thermal_slowdown"]'))
    again = Analysis(load_study(folder))
    (hot,) = [run for run in again.runs if run["flags"]]
    assert hot["flags"] == "GPU clocks limited in 100 % of the samples (hw_thermal_slowdown)"
    assert [finding.message for finding in again.findings if finding.id == "F-THROTTLE"] == [
        "100 % of samples throttled (hw_thermal_slowdown) at N=2"
    ]


def test_share_of_throttled_samples_survives_thinning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large study only some seconds are read; throttled ones must not be picked."""
    from paceline.analysis import sampletable

    recipe = Recipe(world_sizes=(1,), repeats=1, iterations=400, warmup_iterations=20, base_time_s=0.5)
    write_study(tmp_path, recipe)
    (path,) = StudyDir(tmp_path).run(case_of(recipe, 1, 0).case_id, 1).samples_files()
    lines = path.read_text().splitlines()
    slow = set(np.random.default_rng(0).choice(np.arange(20, len(lines) - 1), (len(lines) - 21) // 50, replace=False))
    for i in slow:
        lines[int(i)] = lines[int(i)].replace('"throttle": []', '"throttle": ["hw_slowdown"]')
    path.write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(sampletable, "_BUDGET_BYTES", path.stat().st_size // 4)
    analysis = Analysis(load_study(tmp_path))
    (run,) = [run for run in analysis.runs if run["counts"]]
    assert any("read every" in note for note in analysis.notes)
    assert run["throttled_share"] < 0.05 and not run["flags"]
