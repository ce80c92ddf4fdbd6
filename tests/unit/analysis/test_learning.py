"""Time to reward: known learning curves, and what real runs of a growing batch show."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paceline.analysis.learning import COLUMNS, Curve, curve_of, learning_row, target_of
from paceline.analysis.load import load_study
from paceline.analysis.scaling import scaling_table
from paceline.analysis.summary import RunArrays

RECORDED = Path(__file__).parents[2] / "data" / "h200"


def block(reward: Any, frames: float = 100.0, ranks: int = 1) -> RunArrays:
    values = np.broadcast_to(np.asarray(reward, dtype=np.float64), (ranks, len(reward)))
    count = len(reward)
    nothing = np.zeros(count, dtype=bool)
    columns = {"reward": values, "frames": np.full((ranks, count), frames)}
    return RunArrays(run=0, iteration=np.arange(count, dtype=np.float64), sync=nothing, warmup=nothing, values=columns)


def curve(reward: Any, frames: float = 100.0) -> Curve:
    found = curve_of(block(reward, frames))
    assert found is not None
    return found


def test_frames_to_a_reward_are_interpolated_and_not_delayed() -> None:
    straight = curve(np.arange(40.0))  # reward i after (i + 1) * 100 frames; smoothing leaves a straight line as it is
    assert straight.frames_to(20.5) == pytest.approx(2150.0)
    assert straight.frames_to(1000.0) == math.inf
    assert straight.mean_until(1100.0, 2100.0) == pytest.approx(15.0)
    assert straight.scatter == pytest.approx(0.0, abs=1e-12)


def test_ranks_are_averaged_and_silence_is_left_out() -> None:
    reward = np.arange(20.0)
    both = block(reward, ranks=2)
    both.values["reward"] = np.stack([reward - 1.0, reward + 1.0])
    both.values["reward"][:, :3] = np.nan
    found = curve_of(both)
    assert found is not None and found.frames[0] == 800.0 and found.reward[5] == pytest.approx(8.0)
    assert curve_of(block(np.full(20, np.nan))) is None


def test_target_is_part_of_the_way() -> None:
    rising = 10.0 * (1.0 - np.exp(-np.arange(60) / 15.0))
    found = target_of({1: [curve(rising)] * 3, 2: [curve(rising)]})
    assert found.threshold is not None and 7.0 < found.threshold < 9.0 and "world size 1" in found.how
    assert target_of({1: [curve(rising)]}, stated=3.0).threshold == 3.0
    flat = np.random.default_rng(0).normal(0.0, 1.0, 60)
    told = target_of({1: [curve(flat)]})
    assert told.threshold is None and "did not rise" in told.how
    assert target_of({1: [], 2: []}).threshold is None


def test_speedup_in_time_to_reward_is_the_product() -> None:
    """Four ranks with four times the batch that need twice the frames: half as efficient, whatever their throughput."""
    rng = np.random.default_rng(1)

    def learner(frames: float, scale: float) -> Curve:
        count = round(200_000 / frames)
        x = np.arange(1, count + 1) * frames * rng.normal(1.0, 0.01)
        return curve(10.0 * (1.0 - np.exp(-x / (20_000.0 * scale))), frames)

    one = [(1000.0 * rng.normal(1.0, 0.01), learner(500.0, 1.0)) for _ in range(5)]
    four = [(3600.0 * rng.normal(1.0, 0.01), learner(2000.0, 2.0)) for _ in range(5)]
    speedup = float(np.median([rate for rate, _ in four]) / np.median([rate for rate, _ in one]))
    target = target_of({1: [c for _, c in one], 4: [c for _, c in four]}, stated=8.0)
    row: dict[str, Any] = learning_row(four, one, target, speedup)
    assert set(row) == set(COLUMNS)
    assert row["statistical_efficiency"] == pytest.approx(0.5, rel=0.05)
    assert row["statistical_efficiency_low"] < 0.5 < row["statistical_efficiency_high"]
    assert row["time_to_reward_speedup"] == pytest.approx(speedup * row["statistical_efficiency"], rel=1e-12)
    assert row["time_to_reward_speedup_low"] < row["time_to_reward_speedup"] < row["time_to_reward_speedup_high"]
    assert row["time_to_reward_speedup"] == pytest.approx(1.8, rel=0.05)
    assert row["runs_reaching_reward"] == 5
    base: dict[str, Any] = learning_row(one, one, target, 1.0)
    assert base["time_to_reward_speedup"] == base["time_to_reward_speedup_low"] == 1.0
    assert base["time_to_reward_s"] == pytest.approx(base["frames_to_reward"] / 1000.0, rel=0.05)


def test_runs_that_never_get_there_are_counted() -> None:
    good, bad = np.arange(40.0), np.zeros(40)
    target = target_of({1: [curve(good)]}, stated=20.0)
    mixed = [(1.0, curve(good)), (1.0, curve(good)), (1.0, curve(bad))]
    row: dict[str, Any] = learning_row(mixed, [(1.0, curve(good))] * 3, target, 1.0)
    assert row["runs_reaching_reward"] == 2 and row["statistical_efficiency"] == 1.0
    assert row["statistical_efficiency_low"] is None
    none: dict[str, Any] = learning_row([(1.0, curve(bad))] * 3, [(1.0, curve(good))] * 3, target, 1.0)
    assert none["runs_reaching_reward"] == 0 and none["frames_to_reward"] is None
    assert none["time_to_reward_speedup"] is None and none["mean_reward"] == 0.0


def test_coverage_of_the_speedup_in_time_to_reward() -> None:
    """Runs differ in throughput and in how fast they learn; the interval holds the true product in 93 % of studies."""
    rng = np.random.default_rng(3)
    x = np.arange(1, 101, dtype=np.float64) * 1000.0
    hits = 0
    studies = 400
    for _ in range(studies):
        runs = {
            size: [
                (rate * math.exp(rng.normal(0.0, 0.02)), Curve(x, x / (need * math.exp(rng.normal(0.0, 0.05))), 0.0))
                for _ in range(3)
            ]
            for size, rate, need in ((1, 1000.0, 20_000.0), (4, 3500.0, 40_000.0))
        }
        target = target_of({size: [c for _, c in own] for size, own in runs.items()}, stated=1.0)
        speedup = float(np.median([r for r, _ in runs[4]]) / np.median([r for r, _ in runs[1]]))
        row: dict[str, Any] = learning_row(runs[4], runs[1], target, speedup)
        hits += row["time_to_reward_speedup_low"] <= 1.75 <= row["time_to_reward_speedup_high"]
    assert hits / studies >= 0.93


def test_real_runs_with_a_growing_batch() -> None:
    """Weak scaling of Cartpole on H200: 3.7 times the frames per second, and hardly any gain in time to reward."""
    rows = scaling_table(load_study(RECORDED / "weak_cartpole_rl_games")).to_dict("records")
    assert rows[2]["speedup"] > 3.5 and rows[2]["statistical_efficiency"] < 0.4
    assert rows[2]["time_to_reward_speedup_low"] < 1.0 < rows[2]["time_to_reward_speedup_high"]
    for row in rows:
        product = row["speedup"] * row["statistical_efficiency"]
        assert row["time_to_reward_speedup"] == pytest.approx(product, rel=1e-12)


def test_real_runs_of_one_problem() -> None:
    """Strong scaling holds the problem: no world size needs other amounts of frames, beyond the noise of seeds."""
    rows = scaling_table(load_study(RECORDED / "strong_ant_rsl_rl")).to_dict("records")
    for row in rows[1:]:
        assert row["statistical_efficiency_low"] <= 1.0 <= row["statistical_efficiency_high"]
