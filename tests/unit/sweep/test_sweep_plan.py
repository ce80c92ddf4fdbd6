"""Which numbers of environments a sweep visits, and as which cases."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paceline.bench.errors import StudyError
from paceline.bench.plan import make_plan
from paceline.bench.render import render_job
from paceline.bench.rundir import StudyDir
from paceline.bench.study import Study, parse_study, resolve, to_yaml
from paceline.bench.sweep import Outcome, Point, Stop, case_of, ladder, next_point, step
from paceline.bench.yamlfile import parse

from tests.sweepworld import CLUSTER, sweep_study


def test_doubling_ends_at_the_limit_itself() -> None:
    assert ladder(sweep_study(start_envs=1000, limit_envs=9000)) == [1000, 2000, 4000, 8000, 9000]
    assert ladder(sweep_study(start_envs=1024, limit_envs=1024)) == [1024]


def test_rsl_rl_keeps_the_number_of_minibatches_rl_games_their_size() -> None:
    rsl_rl, rl_games = sweep_study(start_envs=2048), sweep_study(start_envs=2048, trainer="rl_games")
    for count in (2048, 4096, 65536):
        point = Point(num_envs_per_rank=count, why="")
        assert case_of(rsl_rl, CLUSTER, point).num_minibatches == rsl_rl.num_minibatches
        assert case_of(rl_games, CLUSTER, point).minibatch_size_per_rank == 32768
    assert step(rl_games) == 2048, "each count makes whole minibatches"


def test_raised_buffers_come_after_the_study_s_own_overrides() -> None:
    study = sweep_study(overrides=("env.decimation=2",))
    case = case_of(study, CLUSTER, Point(num_envs_per_rank=1024, sizes=(("gpu_collision_stack_size", 7),), why=""))
    assert case.overrides == ("env.decimation=2", "env.sim.physics.gpu_collision_stack_size=7")
    plain = case_of(study, CLUSTER, Point(num_envs_per_rank=1024, why="another reason"))
    assert plain.case_id != case.case_id
    assert plain.case_id == case_of(study, CLUSTER, Point(num_envs_per_rank=1024, why="")).case_id


@given(largest=st.integers(1024, 2**20), resolution_pct=st.floats(0.5, 20))
def test_any_wall_is_found_to_its_resolution(largest: int, resolution_pct: float) -> None:
    study = sweep_study(limit_envs=2**20, resolution_pct=resolution_pct)
    outcomes: list[Outcome] = []
    for _ in range(60):
        point = next_point(study, outcomes)
        if isinstance(point, Stop):
            break
        assert point.num_envs_per_rank % step(study) == 0
        fits = point.num_envs_per_rank <= largest
        outcomes.append(Outcome(point=point, verdict="valid" if fits else "memory", why=None if fits else "full"))
    else:
        pytest.fail("the sweep does not end")
    tried = [outcome.point.num_envs_per_rank for outcome in outcomes]
    assert len(tried) == len(set(tried))
    valid = max(n for n in tried if n <= largest)
    above = [n for n in tried if n > largest]
    if above:
        assert point.by == "memory"
        assert min(above) - valid <= max(step(study), valid * resolution_pct / 100)
    else:
        assert point.by == "limit" and valid == 2**20


def test_a_sweep_has_one_world_size_and_its_own_keys() -> None:
    with pytest.raises(StudyError, match="a sweep runs at one world size"):
        sweep_study(world_sizes=(1, 2), device="cpu")
    with pytest.raises(ValueError, match="num_envs: a sweep is stated by start_envs and limit_envs"):
        Study(name="x", kind="sweep", num_envs=64)
    with pytest.raises(ValueError, match="start_envs: strong scaling is stated by num_envs"):
        Study(name="x", kind="strong", start_envs=64)
    study = sweep_study()
    assert resolve(study, CLUSTER, 1) == study
    assert parse_study(parse(to_yaml(study), "x", StudyError), {}) == study
    assert [case.num_envs for case in make_plan(study, CLUSTER).cases] == ladder(study)


@pytest.mark.parametrize(("cool", "expected"), [({}, False), ({"cool_to_c": 50.0, "cool_s": 60.0}, True)])
def test_only_a_case_that_asks_for_it_cools_down(cool: dict[str, Any], expected: bool, tmp_path: Any) -> None:
    study = sweep_study(**cool)
    case = case_of(study, CLUSTER, Point(num_envs_per_rank=1024, why=""))
    script = render_job(case, CLUSTER, StudyDir(tmp_path), 1, "python3", None)
    assert ("paceline.profiling.cooldown" in script) is expected
    warmup = make_plan(study, CLUSTER).warmup
    assert warmup is not None and warmup.cool_s == 0.0, "a warm-up measures nothing"
