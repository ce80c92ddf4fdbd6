"""Identities that hold whatever the numbers are."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from paceline.analysis.attribution import costs_from_rates, loss_attribution, pop_of_run, pop_tree, rate_scaling
from paceline.analysis.load import load_study
from paceline.analysis.summary import run_arrays

cost = st.floats(min_value=1e-9, max_value=1e3)
costs = st.dictionaries(st.sampled_from(["physics", "inference", "update", "communication", "other"]), cost, min_size=1)
useful = hnp.arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(1, 20)), elements=st.floats(1e-3, 10.0))


@given(costs, costs)
def test_losses_add_up_to_the_loss(reference: Any, here: Any) -> None:
    split = loss_attribution(reference, here)
    assert sum(split.loss.values()) == pytest.approx(1 - split.efficiency, abs=1e-9, rel=1e-9)
    assert split.cost_s_per_frame == pytest.approx(sum(here.values()))


@given(st.integers(2, 512), st.lists(st.floats(1.0, 1e7), min_size=6, max_size=6))
def test_losses_from_rates_add_up(world_size: Any, rates: Any) -> None:
    first, second = sorted(rates[:3], reverse=True), sorted(rates[3:], reverse=True)
    n = np.array([1.0, float(world_size)])
    phases = costs_from_rates(n, *(np.array([a, b]) for a, b in zip(first, second, strict=True)))
    split = loss_attribution({p: v[0] for p, v in phases.items()}, {p: v[1] for p, v in phases.items()})
    efficiency = (second[2] / first[2]) / world_size
    assert split.efficiency == pytest.approx(efficiency, rel=1e-9)
    assert sum(split.loss.values()) == pytest.approx(1 - efficiency, abs=1e-9 * max(1.0, efficiency))


def test_a_phase_that_is_new_is_a_loss_of_its_own() -> None:
    split = loss_attribution({"physics": 2.0}, {"physics": 2.0, "communication": 2.0})
    assert split.efficiency == 0.5 and split.loss == {"physics": 0.0, "communication": 0.5}
    assert split.phase_efficiency == {"physics": 1.0, "communication": 0.0}


@given(useful, st.floats(0.0, 5.0), useful, st.floats(1.0, 1e6), st.floats(1.0, 1e6))
def test_pop_identities(times: Any, transfer: Any, reference: Any, frames: Any, reference_frames: Any) -> None:
    wall = float(times.max(axis=0).sum()) + transfer
    tree: Any = pop_tree(times, wall, frames, (reference, reference_frames))
    assert tree.parallel_efficiency == pytest.approx(tree.load_balance * tree.communication_efficiency)
    assert tree.communication_efficiency == pytest.approx(tree.serialisation_efficiency * tree.transfer_efficiency)
    assert tree.global_efficiency == pytest.approx(tree.parallel_efficiency * tree.computation_scaling)
    for name in ("parallel", "communication", "serialisation", "transfer"):
        assert 0 < getattr(tree, f"{name}_efficiency") <= 1 + 1e-9
    assert 0 < tree.load_balance <= 1 + 1e-9
    # GE_N / GE_ref is the classic efficiency when the reference's own tree is taken the same way.
    reference_wall = float(reference.max(axis=0).sum())
    base: Any = pop_tree(reference, reference_wall, reference_frames, (reference, reference_frames))
    rate, base_rate = frames / wall / len(times), reference_frames / reference_wall / len(reference)
    assert tree.global_efficiency / base.global_efficiency == pytest.approx(rate / base_rate, rel=1e-6)


def test_pop_of_a_drawn_case() -> None:
    """Two ranks, two segments, then one second of transfer: |==2==|=1=.|  and  |=1=.|==2==|"""
    tree: Any = pop_tree(np.array([[2.0, 1.0], [1.0, 2.0]]), wall_time_s=5.0, frames=1.0)
    assert tree.load_balance == 1.0
    assert tree.serialisation_efficiency == 0.75
    assert tree.transfer_efficiency == 0.8
    assert tree.parallel_efficiency == pytest.approx(0.6)
    assert tree.computation_scaling is None and tree.global_efficiency is None


def test_pop_tree_of_a_study_finds_the_straggler(synthetic: ModuleType, tmp_path: Path) -> None:
    recipe = synthetic.Recipe(world_sizes=(1, 4), repeats=1, straggler=0.10, iterations=60)
    synthetic.write_study(tmp_path, recipe)
    loaded = load_study(tmp_path)
    arrays = run_arrays(loaded)
    size = {n: loaded.runs.at[n, "world_size"] for n in arrays if loaded.runs.at[n, "kind"] == "strong"}
    one, four = (arrays[next(n for n, s in size.items() if s == wanted)] for wanted in (1, 4))
    tree: Any = pop_of_run(four, one)
    # Three ranks work 1/1.1 of what the fourth does, which works 93 % of the iteration.
    assert tree.load_balance == pytest.approx((3 / 1.1 + 1) / 4, abs=0.01)
    assert tree.communication_efficiency == pytest.approx(0.93, abs=0.01)
    alone: Any = pop_of_run(one, one)
    assert alone.parallel_efficiency == pytest.approx(1.0) and alone.computation_scaling == pytest.approx(1.0)


def test_factors_of_computation_scaling_multiply_back() -> None:
    parts = rate_scaling(0.8, (100.0, 125.0), (1980.0, 1584.0))
    assert parts["work_scaling"] == 0.8 and parts["frequency_scaling"] == 0.8
    assert np.prod(list(parts.values())) == pytest.approx(0.8)
