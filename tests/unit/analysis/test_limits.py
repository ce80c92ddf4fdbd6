"""What limits strong scaling, on records whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from paceline.analysis.findings_text import limits_of
from paceline.analysis.limits import limits, parts_of_run, ranks_of_run
from paceline.analysis.load import load_study
from paceline.analysis.report import Analysis
from paceline.analysis.summary import RunArrays

from tests.synthetic import Recipe, write_study

ITERATIONS = 12  # 2 of warm-up, then every fifth device-complete


def block(world_size: int, fixed: dict[str, float], divided: dict[str, float], noise: float = 0.0) -> RunArrays:
    """Return a run in which part p takes fixed[p] + divided[p] / world_size seconds."""
    shape = (world_size, ITERATIONS)
    parts = {p: fixed.get(p, 0.0) + divided.get(p, 0.0) / world_size + noise for p in (*fixed, *divided)}
    get = {p: np.full(shape, parts.get(p, 0.0)) for p in ("physics", "environment", "inference", "rest", "update")}
    communication = np.full(shape, 0.01 if world_size > 1 else 0.0)
    roll_out = get["physics"] + get["environment"] + get["inference"] + get["rest"]
    update = get["update"] + communication
    index = np.arange(ITERATIONS, dtype=np.float64)
    start = np.cumsum(roll_out + update + 0.002, axis=1)
    return RunArrays(
        run=0,
        iteration=index,
        sync=np.asarray((index >= 2) & (index % 5 == 4)),
        warmup=np.asarray(index < 2),
        values={
            "iteration_time_s": roll_out + update,
            "collection_time_s": roll_out,
            "env_step_time_s": get["physics"] + get["environment"],
            "physics_time_s": get["physics"],
            "inference_time_s": get["inference"],
            "update_time_s": update,
            "communication_time_s": communication,
            "start_s": start,
            "collectives": np.full(shape, 60.0 if world_size > 1 else 0.0),
            "optimizer_steps": np.full(shape, 20.0),
        },
    )


FIXED = {"physics": 0.04, "environment": 0.09, "update": 0.08}
DIVIDED = {"physics": 0.06, "inference": 0.02, "rest": 0.01, "update": 0.04}


def test_fixed_parts_and_shares_are_found() -> None:
    blocks = {n: [block(n, FIXED, DIVIDED, noise) for noise in (0.0, 1e-4, -1e-4)] for n in (1, 2, 4)}
    found = limits(blocks, {1: {"threads": {"torch": 1}, "cpu": {"affinity_cores": 8}}})
    assert found is not None
    rows = {row["part"]: row for row in found.parts}
    assert [row["part"] for row in found.parts][-1] == "iteration"
    for part, truth in (("physics", 0.04), ("environment", 0.09), ("inference", 0.0), ("update", 0.08)):
        assert rows[part]["fixed_s"] == pytest.approx(truth, abs=1e-4)
        assert rows[part]["fixed_s_low"] <= truth <= rows[part]["fixed_s_high"]
    # Beyond its share: physics 0.04 * (1 - 1/4); environment likewise; communication all of it.
    assert rows["physics"]["excess_s"] == pytest.approx(0.03)
    assert rows["environment"]["excess_s"] == pytest.approx(0.0675)
    assert rows["communication"]["excess_s"] == pytest.approx(0.01)
    assert "fixed_s" not in rows["communication"]
    assert sum(row["share"] for row in found.parts[:-1]) == pytest.approx(1.0)
    assert rows["iteration"]["s_4"] == pytest.approx(sum(row["s_4"] for row in found.parts[:-1]))
    assert found.sizes[0]["threads"] == 1
    assert found.sizes[2]["collectives_per_step"] == 3.0
    assert found.sizes[0]["rank0_rollout_s"] is None
    assert found.sizes[1]["between_others_s"] == pytest.approx(0.002)


def test_rank_0_that_does_more_is_seen() -> None:
    run = block(4, FIXED, DIVIDED)
    run.values["collection_time_s"][0] += 0.005
    run.values["start_s"] = np.array(run.values["start_s"])
    run.values["start_s"][0] += np.arange(ITERATIONS) * 0.0015
    found = ranks_of_run(run)
    assert found["rank0_rollout_s"] == pytest.approx(0.005)
    assert found["between_rank0_s"] - found["between_others_s"] == pytest.approx(0.0015)


def test_two_sizes_fit_nothing_and_one_says_nothing() -> None:
    two = limits({n: [block(n, FIXED, DIVIDED)] for n in (1, 2)}, {})
    assert two is not None
    assert {row.get("fixed_s") for row in two.parts} == {None}
    assert limits({1: [block(1, FIXED, DIVIDED)]}, {}) is None
    without = block(2, FIXED, DIVIDED)
    without.sync = np.zeros(ITERATIONS, dtype=bool)
    assert parts_of_run(without) is None


def test_a_whole_study(tmp_path: Path) -> None:
    write_study(tmp_path, Recipe(world_sizes=(1, 2, 4), repeats=3, iterations=40, samples=False, serial_fraction=0.2))
    found = limits_of(Analysis(load_study(tmp_path)))
    assert found is not None
    row = next(row for row in found.parts if row["part"] == "physics")
    # Amdahl: a fifth of each part stays, 0.8 s * 0.52 * 0.2; on several ranks 93 % of the time is work.
    assert row["fixed_s"] == pytest.approx(0.8 * 0.52 * 0.2, rel=0.35)
    assert row["s_1"] == pytest.approx(0.8 * 0.52 * 1.03, rel=0.05)
