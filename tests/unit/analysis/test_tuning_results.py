"""Tuning studies with known truth: what a variant gained is found, in throughput and in reward."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from paceline.analysis.load import load_study
from paceline.analysis.report import Analysis, terminal_table, write_analysis
from paceline.analysis.tuning import compare_learning, tuning_results, tuning_verdict, variants
from paceline.bench.rundir import StudyDir

from tests.synthetic import Recipe, case_of, write_failure, write_run, write_study

FACTORS = {"affinity": 0.9, "gc": 1.0, "compile": 1.2}  # of the time of an iteration
LEVERS = {
    "affinity": {"cpu_affinity": "numa"},
    "gc": {"gc": "freeze"},
    "compile": {"torch_compile": "default"},
}


def tuning_study(folder: Path, repeats: int = 5) -> Recipe:
    recipe = Recipe(
        world_sizes=(1, 4), repeats=repeats, job_noise=0.01, iterations=40, samples=False, study={"tuning": LEVERS}
    )
    write_study(folder, recipe)
    rng = np.random.default_rng(1)
    for name, factor in FACTORS.items():
        own = dataclasses.replace(recipe, levers=tuple(LEVERS[name].items()))
        for repeat in range(repeats):
            for size in recipe.world_sizes:
                run = StudyDir(folder).run(case_of(own, size, repeat).case_id, 1)
                write_run(run, own, size, repeat, rng, factor=factor)
    return recipe


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuning")
    tuning_study(folder)
    return folder


def test_the_gain_of_every_variant_is_found(study: Path) -> None:
    analysis = Analysis(load_study(study))
    results = tuning_results(analysis.loaded, analysis.arrays)
    assert [(r.variant, r.change.world_size) for r in results] == [
        (name, size) for name in FACTORS for size in (1, 4, None)
    ]
    for result in results:
        truth = 1 / FACTORS[result.variant]
        assert result.change.low is not None
        assert result.change.high is not None
        assert 1 + result.change.low <= truth * 1.01
        assert 1 + result.change.high >= truth * 0.99
        assert result.change.pairs == (5 if result.change.world_size else 10)
    verdicts = {r.variant: r.change.verdict for r in results if r.change.world_size is None}
    assert verdicts == {"affinity": "better", "gc": "inconclusive", "compile": "worse"}


def test_variants_are_not_on_the_curve_of_the_study(study: Path) -> None:
    analysis = Analysis(load_study(study))
    assert [row["repeats"] for row in analysis.rows] == [5, 5]
    assert analysis.missing == []
    left_out = analysis.loaded.runs[analysis.loaded.runs["levers"].map(bool)]
    assert len(left_out) == 30
    assert set(left_out["why_not"]) == {
        f"levers: {name}={value}; those of the study's curve: none"
        for levers in LEVERS.values()
        for name, value in levers.items()
    }


def test_the_report_says_it(study: Path) -> None:
    analysis = Analysis(load_study(study))
    page = write_analysis(analysis)
    verdict = analysis.verdict
    assert verdict.tone == "better"
    assert verdict.headline.startswith("Variant affinity is better at world size 4: +1")
    assert any(text.startswith("6 comparisons at 95\u202f%: about 0.3 of them") for text in verdict.details)
    with open(study / "report" / "tuning.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["variant"] for row in rows] == [name for name in FACTORS for _ in range(3)]
    assert float(rows[0]["ratio_low"]) <= float(rows[0]["ratio"]) <= float(rows[0]["ratio_high"])
    assert rows[2]["world_size"] == ""
    told = json.loads((study / "report" / "report.json").read_text())["tuning"]
    assert [row["variant"] for row in told] == [row["variant"] for row in rows]
    assert verdict.headline in str(terminal_table(analysis))
    assert "<table" in page.read_text().partition("Levers against the baseline")[2].partition("</section>")[0]
    assert "| affinity | 4 | 5 |" in (study / "report" / "report.md").read_text()
    text = (study / "report" / "tuning.md").read_text()
    assert "| compile | torch\\_compile=default |" in text
    assert "| affinity | 4 | 5 |" in text


def test_failed_variants_and_single_runs_are_not_judged(tmp_path: Path) -> None:
    recipe = Recipe(world_sizes=(2,), repeats=1, samples=False, study={"tuning": LEVERS})
    write_study(tmp_path, recipe)
    own = dataclasses.replace(recipe, levers=(("gc", "freeze"),))
    write_run(StudyDir(tmp_path).run(case_of(own, 2, 0).case_id, 1), own, 2, 0, np.random.default_rng(2), factor=0.5)
    failed = case_of(dataclasses.replace(recipe, levers=(("cpu_affinity", "numa"),)), 2, 0)
    write_failure(StudyDir(tmp_path).run(failed.case_id, 1), failed, "error", "lever cpu_affinity=numa: no")
    analysis = Analysis(load_study(tmp_path))
    results = tuning_results(analysis.loaded, analysis.arrays)
    assert [(r.variant, r.change.verdict, r.change.low) for r in results] == [("gc", "inconclusive", None)]
    verdict = tuning_verdict(results, 2)
    assert verdict.tone == "inconclusive"
    assert "One run per point gives no interval: nothing is judged." in verdict.details


def test_a_study_without_variants_has_no_such_report(tmp_path: Path) -> None:
    write_study(tmp_path, Recipe(world_sizes=(1, 2), repeats=2, samples=False))
    analysis = Analysis(load_study(tmp_path))
    assert variants(analysis.loaded.study) == {}
    assert "Levers against the baseline" not in write_analysis(analysis).read_text()
    assert not (tmp_path / "report" / "tuning.csv").exists()


CURVES = {k: np.concatenate([[np.nan, np.nan], np.linspace(0, 10 + k, 20)]) for k in range(4)}  # seeds differ


def test_equal_rewards_are_the_same_and_shifted_ones_are_not() -> None:
    same = compare_learning(CURVES, CURVES)
    assert same is not None
    assert (same.verdict, same.difference) == ("same", 0.0)
    assert same.seed_noise == pytest.approx(np.std([5.0, 5.5, 6.0, 6.5], ddof=1))
    noise = (0.3, -0.2, 0.1, -0.25)
    within = compare_learning(CURVES, {k: CURVES[k] + noise[k] for k in CURVES})
    assert within is not None
    assert within.verdict == "same"
    worse = compare_learning(CURVES, {k: CURVES[k] - 2.0 + noise[k] for k in CURVES})
    assert worse is not None
    assert worse.verdict == "differs"
    assert worse.difference == pytest.approx(-2.0125)
    assert worse.low is not None
    assert worse.low < -2.0125 < (worse.high or 0.0) < 0.0


def test_what_another_seed_does_as_well_is_no_change_of_learning() -> None:
    small = compare_learning(CURVES, {k: CURVES[k] + 0.1 for k in CURVES})  # the same shift with every seed, noise 0.65
    assert small is not None
    assert small.verdict == "same"
    assert [small.low, small.high] == pytest.approx([0.1, 0.1])
    large = compare_learning(CURVES, {k: CURVES[k] + 0.8 for k in CURVES})
    assert large is not None
    assert large.verdict == "differs"


def test_rewards_are_compared_where_both_have_some() -> None:
    late = {k: np.where(np.arange(22) < 12, np.nan, CURVES[k]) for k in CURVES}
    found = compare_learning(CURVES, late)
    assert found is not None
    assert found.difference == 0.0
    assert compare_learning(CURVES, {k: np.full(22, np.nan) for k in CURVES}) is None
    assert compare_learning(CURVES, {}) is None
    single = compare_learning({0: CURVES[0]}, {0: CURVES[0] + 1})
    assert single is not None
    assert (single.verdict, single.low) == ("not judged", None)
