"""The scaling table on studies whose truth is known."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from paceline.analysis.laws import parameter_intervals
from paceline.analysis.load import CASE_COLUMNS, Loaded, load_study
from paceline.analysis.sampletable import SAMPLE_COLUMNS
from paceline.analysis.scaling import CONTRACT_COLUMNS, scaling_table
from paceline.analysis.stats import median_interval, ratio_interval
from paceline.analysis.summary import SPLIT, run_arrays, summarise
from paceline.bench.record import ITERATION_COLUMNS
from paceline.bench.rundir import StudyDir

from tests.synthetic import (
    Recipe,
    case_of,
    iteration_tables,
    truth_of,
    write_failure,
    write_run,
    write_study,
    write_study_yaml,
)

CONTRACT = (
    "world_size, num_nodes, num_envs, num_envs_per_rank, repeats, total_fps, total_fps_low, total_fps_high, speedup, "
    "speedup_low, speedup_high, efficiency, efficiency_low, efficiency_high, status"
)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def test_contract_columns_come_first() -> None:
    assert ", ".join(CONTRACT_COLUMNS) == CONTRACT


@pytest.mark.parametrize(("kind", "seed"), [("strong", 1), ("strong", 2), ("weak", 3)])
def test_known_truth_lies_in_the_intervals(tmp_path: Path, kind: str, seed: int) -> None:
    recipe = Recipe(kind=kind, seed=seed, num_envs=16384 if kind == "strong" else 4096, samples=False)
    truth = write_study(tmp_path, recipe)
    table = scaling_table(load_study(tmp_path))
    assert list(table.columns[: len(CONTRACT_COLUMNS)]) == list(CONTRACT_COLUMNS)
    assert table["world_size"].tolist() == [1, 2, 4, 8]
    for row in records(table):
        size = int(row["world_size"])
        assert row["total_fps"] == pytest.approx(truth.total_fps[size], rel=0.04)
        for name, exact in (("speedup", truth.speedup[size]), ("efficiency", truth.efficiency[size])):
            assert row[f"{name}_low"] <= exact <= row[f"{name}_high"], (size, name)
        assert row["status"] == "completed" and row["repeats"] == 3
        assert row["efficiency"] == pytest.approx(row["speedup"] / size)
        assert row["num_envs"] == (16384 if kind == "strong" else 4096 * size)
        assert row["num_envs_per_rank"] == row["num_envs"] / size


def simulate(recipe: Recipe, rng: np.random.Generator) -> Loaded:
    """Return a study as load_study would, without the files in between."""
    runs: list[dict[str, Any]] = []
    tables: list[np.ndarray] = []
    ranks: list[int] = []
    for repeat, size in itertools.product(range(recipe.repeats), recipe.world_sizes):
        case = case_of(recipe, size, repeat)
        job = math.exp(rng.normal(0.0, recipe.job_noise))
        tables.append(iteration_tables(recipe, case, rng, job).reshape(-1, len(ITERATION_COLUMNS)))
        ranks += range(case.world_size)
        row = {name: getattr(case, name) for name in CASE_COLUMNS}
        done = {"status": "completed", "counts": True, "left_out": None, "why_not": None, "wall_s": 60.0}
        runs.append({**row, "case_id": "", "attempt": 1, **done})
    columns: dict[str, Any] = {
        "run": np.repeat(np.arange(len(runs)), [len(table) for table in tables]),
        "rank": np.repeat(ranks, recipe.iterations),
    }
    columns |= dict(zip(ITERATION_COLUMNS, np.concatenate(tables).T, strict=True))
    for name in ("sync", "warmup", "iteration"):
        columns[name] = columns[name].astype(np.int32)
    samples = pd.DataFrame({name: [] for name in ("run", *SAMPLE_COLUMNS, "unix_s")})
    study = {"kind": recipe.kind, "world_sizes": list(recipe.world_sizes), "repeats": recipe.repeats}
    frame = pd.DataFrame(runs, dtype=object)
    headers = {run: [{"clock_origin_unix_s": 0.0}] for run in range(len(runs))}
    return Loaded(Path("simulated"), study, {}, {}, frame, pd.DataFrame(columns), samples, headers=headers)


Intervals = dict[tuple[str, int], tuple[float | None, float | None]]


def intervals_of(loaded: Loaded) -> tuple[Intervals, dict[int, list[float]]]:
    """Return the intervals of a study's table, by name and world size, and the throughput of its repeats.

    By the functions that make the table, without the table: it takes five times as long as everything else.
    """
    rates = summarise(loaded, run_arrays(loaded))["total_fps"]
    sizes = loaded.runs["world_size"].to_numpy()
    repeats = {size: rates[sizes == size].tolist() for size in loaded.study["world_sizes"]}
    found: Intervals = {}
    for size, values in repeats.items():
        found["total_fps", size] = median_interval(values)[1:]
        if size > 1:  # 1 by definition
            speedup = ratio_interval(values, repeats[1])
            found["speedup", size], found["efficiency", size] = speedup[1:], speedup.scaled(1.0 / size)[1:]
    return found, repeats


COVERAGE = Recipe(world_sizes=(1, 2, 4), iterations=50, warmup_iterations=12, job_noise=0.015, samples=False)


def coverage(studies: int, repeats: int) -> dict[str, float]:
    """Return how often the intervals of simulated studies hold the truth; noise, warm-up, a straggler as in reality."""
    recipe = dataclasses.replace(COVERAGE, repeats=repeats)
    truth = truth_of(recipe)
    rng = np.random.default_rng(repeats)
    hits: dict[str, list[bool]] = {}
    for _ in range(studies):
        found, repeats_of = intervals_of(simulate(recipe, rng))
        values = [np.array(each) for each in repeats_of.values()]
        low, high = parameter_intervals("amdahl", list(repeats_of), values)["s"]
        hits.setdefault("amdahl", []).append(low <= recipe.serial_fraction <= high)
        for (name, size), bounds in found.items():
            assert bounds[0] is not None and bounds[1] is not None
            hits.setdefault(name, []).append(bounds[0] <= getattr(truth, name)[size] <= bounds[1])
    return {name: float(np.mean(own)) for name, own in hits.items()}


def test_coverage_is_that_of_the_table() -> None:
    """What the coverage is counted on is what the table says, to the last digit."""
    rng = np.random.default_rng(8)
    for _ in range(5):
        loaded = simulate(COVERAGE, rng)
        table = {int(row["world_size"]): row for row in records(scaling_table(loaded))}
        for (name, size), bounds in intervals_of(loaded)[0].items():
            assert (table[size][f"{name}_low"], table[size][f"{name}_high"]) == bounds


def test_coverage_of_studies() -> None:
    found = coverage(60, 3)
    assert min(found.values()) >= 0.93, found


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [3, 5])
def test_coverage_of_a_thousand_studies(repeats: int) -> None:
    found = coverage(1000, repeats)
    assert min(found.values()) >= 0.93, found


def test_attribution_is_exact(tmp_path: Path) -> None:
    write_study(tmp_path, Recipe(samples=False, straggler=0.08, serial_fraction=0.15))
    rows = records(scaling_table(load_study(tmp_path)))
    for row in rows:
        assert math.fsum(row[f"loss_{part}"] for part in SPLIT) == pytest.approx(1.0 - row["efficiency"], abs=1e-9)
        assert math.fsum(row[f"{part}_s"] for part in SPLIT) == pytest.approx(row["sync_iteration_s"], rel=1e-9)
        assert row["cost_us"] == pytest.approx(row["world_size"] / row["total_fps"] * 1e6)
        product = row["pop_load_balance"] * row["pop_serialisation"] * row["pop_transfer"]
        assert product == pytest.approx(row["pop_parallel_efficiency"], rel=1e-3)  # a mean over jobs of products
        assert 0.0 < row["pop_parallel_efficiency"] <= 1.0 + 1e-12
    assert rows[0]["imbalance_s"] == rows[0]["communication_s"] == 0.0
    eight = rows[-1]
    assert eight["imbalance_s"] == pytest.approx(0.08 / 1.08 * 7 / 8 * 0.93 * eight["sync_iteration_s"], rel=0.05)
    assert eight["rank_spread_pct"] == pytest.approx(8.0, rel=0.1)


def test_numbers_of_a_run_by_hand(tmp_path: Path) -> None:
    """Frames of all ranks over the slowest rank's time, undisturbed iterations after warm-up only."""
    recipe = Recipe(world_sizes=(2,), repeats=1, iterations=20, warmup_iterations=6, samples=False)
    write_study_yaml(tmp_path, recipe)
    case = case_of(recipe, 2, 0)
    run = StudyDir(tmp_path).run(case.case_id, 1)
    write_run(run, recipe, 2, 0, np.random.default_rng(0))
    loaded = load_study(tmp_path)
    rows = loaded.iterations
    rows.loc[rows["rank"] == 1, "iteration_time_s"] *= 1.25
    kept = rows[(rows["warmup"] == 0) & (rows["sync"] == 0)]
    slowest = kept.groupby("iteration")["iteration_time_s"].max()
    numbers = summarise(loaded, run_arrays(loaded)).iloc[0]
    assert numbers["total_fps"] == pytest.approx(kept["frames"].sum() / slowest.sum())
    assert numbers["iteration_time_s"] == pytest.approx(slowest.mean())
    assert numbers["iterations_measured"] == len(slowest) == 11
    synced = rows[(rows["warmup"] == 0) & (rows["sync"] == 1)]
    step = synced.groupby("iteration")["env_step_time_s"].max().sum()
    assert numbers["step_fps"] == pytest.approx(synced["frames"].sum() / step)


def test_every_state_of_a_point_is_a_row(tmp_path: Path) -> None:
    recipe = Recipe(world_sizes=(1, 2, 4, 8, 16), repeats=2, iterations=20, warmup_iterations=5)
    write_study_yaml(tmp_path, recipe)
    rng = np.random.default_rng(0)
    folder = StudyDir(tmp_path)
    for repeat in range(2):
        write_run(folder.run(case_of(recipe, 1, repeat).case_id, 1), recipe, 1, repeat, rng)
    write_run(folder.run(case_of(recipe, 2, 0).case_id, 1), recipe, 2, 0, rng)
    for repeat in range(2):
        run = folder.run(case_of(recipe, 4, repeat).case_id, 1)
        write_run(run, recipe, 4, repeat, rng, throttle=repeat == 0, foreign=repeat == 1)
    write_failure(folder.run(case_of(recipe, 8, 0).case_id, 1), case_of(recipe, 8, 0), "oom_device", "out of memory")
    rows = {row["world_size"]: row for row in records(scaling_table(load_study(tmp_path)))}
    assert [rows[size]["status"] for size in (1, 2, 4, 8, 16)] == [
        "completed",
        "partial",
        "flagged",
        "failed",
        "missing",
    ]
    assert rows[2]["speedup"] is not None and rows[2]["speedup_low"] is None  # n=1
    for size in (4, 8, 16):
        assert rows[size]["total_fps"] is None and rows[size]["speedup"] is None and rows[size]["repeats"] == 0
    assert rows[4]["runs_flagged"] == 2
    assert rows[8]["runs_failed"] == 1
    assert rows[16]["num_envs_per_rank"] == 1024


def test_reference_is_the_smallest_size_with_a_number(tmp_path: Path) -> None:
    recipe = Recipe(world_sizes=(2, 4), repeats=3, samples=False)
    truth = write_study(tmp_path, recipe)
    rows = records(scaling_table(load_study(tmp_path)))
    assert rows[0]["speedup"] == 1.0
    assert rows[1]["speedup_low"] <= truth.speedup[4] <= rows[1]["speedup_high"]
    assert rows[1]["efficiency"] == pytest.approx(rows[1]["speedup"] / 2)


def test_flagged_runs_do_not_move_the_curve(tmp_path: Path) -> None:
    recipe = Recipe(world_sizes=(1, 2), repeats=4, job_noise=0.002)
    write_study_yaml(tmp_path, recipe)
    rng = np.random.default_rng(0)
    for repeat in range(4):
        for size in (1, 2):
            slow = size == 2 and repeat == 3
            run = StudyDir(tmp_path).run(case_of(recipe, size, repeat).case_id, 1)
            extra = {"invalid_physics": "contact buffer overflow"} if slow else None
            write_run(run, recipe, size, repeat, rng, factor=2.0 if slow else 1.0, extra=extra)
    loaded = load_study(tmp_path)
    summaries = summarise(loaded, run_arrays(loaded))
    assert [flags for flags in summaries["flags"] if flags] == [["invalid physics: contact buffer overflow"]]
    row = records(scaling_table(loaded))[1]
    assert row["repeats"] == 3 and row["runs_flagged"] == 1 and row["status"] == "partial"
    assert row["speedup"] == pytest.approx(truth_of(recipe).speedup[2], rel=0.02)


def test_energy_comes_from_the_counter(tmp_path: Path) -> None:
    write_study(tmp_path, Recipe(world_sizes=(1, 2), iterations=120))
    rows = records(scaling_table(load_study(tmp_path)))
    assert rows[0]["power_w"] == pytest.approx(420.0, rel=0.02)
    assert rows[1]["power_w"] == pytest.approx(840.0, rel=0.02)
    assert rows[1]["energy_j_per_million_frames"] == pytest.approx(840.0 / rows[1]["total_fps"] * 1e6, rel=0.02)


def test_warmup_that_is_too_short_is_named(tmp_path: Path) -> None:
    good = Recipe(world_sizes=(1,), repeats=1, iterations=100, warmup_iterations=20, samples=False)
    short = dataclasses.replace(good, true_warmup=40, iteration_noise=0.01)
    for recipe, noted in ((good, False), (short, True)):
        folder = tmp_path / str(noted)
        folder.mkdir()
        write_study(folder, recipe)
        loaded = load_study(folder)
        notes = summarise(loaded, run_arrays(loaded))["warmup_note"].tolist()
        assert [bool(note) for note in notes] == [noted], notes


def test_study_without_sync_iterations_has_no_split(tmp_path: Path) -> None:
    write_study(tmp_path, Recipe(world_sizes=(1, 2), sync_every=0, samples=False))
    rows = records(scaling_table(load_study(tmp_path)))
    for row in rows:
        assert row["total_fps"] is not None and row["step_fps"] is None
        assert all(row[f"{part}_s"] is None and row[f"loss_{part}"] is None for part in SPLIT)


@pytest.mark.parametrize("name", ["strong_ant_rl_games", "strong_ant_rsl_rl", "weak_cartpole_rl_games"])
def test_recorded_studies_add_up(name: str) -> None:
    """Real runs on real GPUs: every run counts, and every identity holds."""
    loaded = load_study(Path(__file__).parents[2] / "data" / "h200" / name)
    assert loaded.warnings == []
    rows = records(scaling_table(loaded))
    assert [row["world_size"] for row in rows] == [1, 2, 4]
    for row in rows:
        assert row["status"] == "completed" and row["repeats"] == 3 and row["runs_flagged"] == 0
        assert row["total_fps_low"] < row["total_fps"] < row["total_fps_high"]
        assert row["step_fps"] > row["step_inference_fps"]
        assert row["collection_fps"] > row["total_fps"]
        assert math.fsum(row[f"{part}_s"] for part in SPLIT) == pytest.approx(row["sync_iteration_s"], rel=1e-6)
        assert math.fsum(row[f"loss_{part}"] for part in SPLIT) == pytest.approx(1.0 - row["efficiency"], abs=1e-9)
        assert 0.7 < row["pop_parallel_efficiency"] <= 1.0 + 1e-12
        assert row["power_w"] > 100.0 * row["world_size"]
    batches = {row["global_batch"] for row in rows}
    assert len(batches) == (1 if loaded.kind == "strong" else 3)
