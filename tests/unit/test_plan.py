from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paceline.bench.cluster import Cluster
from paceline.bench.errors import StudyError
from paceline.bench.plan import SEED_STRIDE, make_plan
from paceline.bench.record import Case
from paceline.bench.study import Study, resolve

LOCAL = Cluster(name="here", scheduler="local")
SLURM = Cluster(name="site", scheduler="slurm", gpus_per_node=4, gpu_type="l40", time_limit_min=30)


def study(kind: str = "strong", **changes: Any) -> Study:
    envs = {"num_envs": 4096} if kind == "strong" else {"num_envs_per_rank": 1024}
    values: dict[str, Any] = {"name": "s", "kind": kind, "task": "Isaac-Ant-Direct", "world_sizes": (1, 2, 4)}
    return Study.model_validate(values | envs | changes)


def test_strong_scaling_keeps_the_learning_problem() -> None:
    for trainer in ("rsl_rl", "rl_games"):
        plan = make_plan(resolve(study(trainer=trainer), LOCAL, 4), LOCAL)
        assert {case.num_envs for case in plan.cases} == {4096}
        assert len({case.global_batch for case in plan.cases}) == 1
        assert len({case.optimizer_steps_per_iteration for case in plan.cases}) == 1
        assert len({case.minibatch_size_per_rank * case.world_size for case in plan.cases}) == 1
        assert {case.num_envs_per_rank for case in plan.cases} == {4096, 2048, 1024}


def test_weak_scaling_keeps_the_part_of_a_rank() -> None:
    plan = make_plan(resolve(study("weak"), LOCAL, 4), LOCAL)
    assert {case.num_envs_per_rank for case in plan.cases} == {1024}
    assert {case.world_size: case.num_envs for case in plan.cases} == {1: 1024, 2: 2048, 4: 4096}
    assert len({case.minibatch_size_per_rank for case in plan.cases}) == 1
    assert {case.world_size: case.global_batch for case in plan.cases} == {1: 32768, 2: 65536, 4: 131072}


def test_repeats_are_interleaved_and_rotated() -> None:
    plan = make_plan(resolve(study(repeats=4), LOCAL, 4), LOCAL)
    order = [(case.repeat, case.world_size) for case in plan.cases]
    assert order == [
        (0, 1), (0, 2), (0, 4),
        (1, 2), (1, 4), (1, 1),
        (2, 4), (2, 1), (2, 2),
        (3, 1), (3, 2), (3, 4),
    ]  # fmt: skip


def test_warmup_comes_first_and_is_small() -> None:
    plan = make_plan(resolve(study(), LOCAL, 4), LOCAL)
    warmup = plan.warmup
    assert warmup is not None
    assert plan.all_cases == (warmup, *plan.cases)
    assert (warmup.kind, warmup.world_size, warmup.num_envs) == ("warmup", 1, 1024)
    assert warmup.iterations == 2
    assert warmup.sync_every == 0
    # More repeats or a longer run need no other warm-up: it is the same case.
    more = make_plan(resolve(study(repeats=9, iterations=99), LOCAL, 4), LOCAL)
    assert more.warmup is not None
    assert more.warmup.case_id == warmup.case_id


def test_more_repeats_keep_the_cases_there_are() -> None:
    few = make_plan(resolve(study(repeats=2), LOCAL, 4), LOCAL)
    many = make_plan(resolve(study(repeats=3), LOCAL, 4), LOCAL)
    assert {case.case_id for case in few.cases} < {case.case_id for case in many.cases}


def test_hours_asked_for() -> None:
    plan = make_plan(resolve(study(repeats=2, world_sizes=(1, 4)), SLURM), SLURM)
    assert plan.gpu_hours == 0.5 * (1 + 2 * (1 + 4))
    assert plan.node_hours == 0.5 * 5
    exclusive = SLURM.model_copy(update={"exclusive": True})
    assert make_plan(resolve(study(repeats=2), exclusive), exclusive).gpu_hours == 0.5 * 4 * 7
    assert make_plan(resolve(study(world_sizes=(1, 2)), LOCAL, 0), LOCAL).gpu_hours == 0


def test_nodes_gpu_type_and_image() -> None:
    cluster = SLURM.model_copy(update={"runtime": SLURM.runtime.model_copy(update={"image": "x.sif"})})
    plan = make_plan(resolve(study(world_sizes=(1, 2, 4, 8), num_nodes=2), cluster), cluster)
    assert {case.world_size: case.num_nodes for case in plan.cases} == {1: 1, 2: 1, 4: 1, 8: 2}
    assert {case.local_world_size for case in plan.cases if case.world_size == 8} == {4}
    assert {(case.gpu_type, case.image) for case in plan.cases} == {("l40", "x.sif")}


def test_an_unresolved_study_is_refused() -> None:
    with pytest.raises(StudyError, match="not resolved"):
        make_plan(study(), LOCAL)


@given(
    kind=st.sampled_from(["strong", "weak"]),
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=5, unique=True),
    repeats=st.integers(1, 5),
    factor=st.integers(1, 50),
    horizon=st.integers(1, 33),
    minibatches=st.integers(1, 9),
    seed=st.integers(0, 2**31),
)
def test_any_plan_is_complete_and_distinct(
    kind: str, sizes: list[int], repeats: int, factor: int, horizon: int, minibatches: int, seed: int
) -> None:
    key = "num_envs" if kind == "strong" else "num_envs_per_rank"
    envs = factor * minibatches * 27720  # a multiple of every world size up to 12
    values: dict[str, Any] = {
        "horizon": horizon,
        "num_minibatches": minibatches,
        "num_epochs": 2,
        "seed": seed,
        key: envs,
    }
    resolved = resolve(
        study(kind, **{"world_sizes": tuple(sizes), "repeats": repeats, "task": "Own"} | values), LOCAL, 12
    )
    plan = make_plan(resolved, LOCAL)
    assert Counter((case.world_size, case.repeat) for case in plan.cases) == Counter(
        (size, repeat) for size in sizes for repeat in range(repeats)
    )
    assert [case.repeat for case in plan.cases] == sorted(case.repeat for case in plan.cases)
    ids = [case.case_id for case in plan.all_cases]
    assert len(set(ids)) == len(ids)
    # No two ranks of different repeats share a seed.
    ranges = {(case.repeat, case.seed) for case in plan.cases}
    assert len(ranges) == repeats
    assert all(case.world_size <= SEED_STRIDE for case in plan.cases)
    for case in plan.all_cases:
        assert Case.from_json(case.to_json()) == case
    assert make_plan(resolved, LOCAL) == plan
    assert dataclasses.asdict(plan) == dataclasses.asdict(make_plan(resolved, LOCAL))
