"""Levers in a study: what may be stated, which cases it makes, in which order."""

from __future__ import annotations

import json
from collections import Counter
from itertools import product
from typing import Any

import pytest
from paceline.bench import yamlfile
from paceline.bench.cluster import load_cluster
from paceline.bench.errors import StudyError
from paceline.bench.plan import make_plan
from paceline.bench.record import Case, lever_pairs
from paceline.bench.study import Study, load_study, parse_study, resolve, to_yaml

TEXT = """
schema: paceline.study/1
name: levers
kind: strong
task: Isaac-Cartpole-Direct
trainer: {trainer}
device: {device}
num_envs: 1024
num_minibatches: 4
world_sizes: [1, 2]
repeats: 3
{rest}
"""
VARIANTS = """
tuning:
  affinity: {cpu_affinity: numa}
  several: {threads_per_rank: 2, check_for_nan: false, environment: {NCCL_PROTO: LL}}
"""


def study(rest: str, trainer: str = "rsl_rl", device: str = "cuda") -> Study:
    text = TEXT.format(trainer=trainer, device=device, rest=rest)
    parsed = parse_study(yamlfile.parse(text, "levers.yaml", StudyError), {})
    return resolve(parsed, load_cluster("local"), 4 if device == "cuda" else 0)


def cases(rest: str, **changes: Any) -> tuple[Case, ...]:
    return make_plan(study(rest, **changes), load_cluster("local")).cases


def test_every_variant_runs_at_every_size_and_repeat_beside_its_baseline() -> None:
    found = cases(VARIANTS)
    assert len(found) == 2 * 3 * 3
    several = (("check_for_nan", "false"), ("environment.NCCL_PROTO", "LL"), ("threads_per_rank", "2"))
    assert Counter(case.levers for case in found) == {(): 6, (("cpu_affinity", "numa"),): 6, several: 6}
    blocks = [found[start : start + 3] for start in range(0, len(found), 3)]
    for block in blocks:  # the variants of one size and repeat follow one another, with the same seed
        assert len({(case.world_size, case.repeat, case.seed) for case in block}) == 1
        assert len({case.levers for case in block}) == 3
    # ... and in every repeat another one comes first.
    assert len({block[0].levers for block in blocks if block[0].world_size == 1}) == 3
    assert all(case.threads_per_rank == (2 if case.levers == several else 1) for case in found)


def test_a_study_without_levers_has_the_cases_that_it_always_had() -> None:
    plain = cases("")
    assert {case.levers for case in plain} == {()}
    assert set(case.case_id for case in plain) <= {case.case_id for case in cases(VARIANTS)}
    assert Case.from_json(json.loads(json.dumps(plain[0].to_json()))) == plain[0]
    old = {
        key: value for key, value in plain[0].to_json().items() if key != "levers"
    }  # as written before there were any
    assert Case.from_json(old) == plain[0]


def test_levers_of_the_study_are_in_every_case() -> None:
    found = cases("levers: {gc: freeze}" + VARIANTS)
    assert {case.levers for case in found} == {
        (("gc", "freeze"),),
        (("cpu_affinity", "numa"),),
        (("check_for_nan", "false"), ("environment.NCCL_PROTO", "LL"), ("threads_per_rank", "2")),
    }


def test_levers_of_other_kinds_are_in_every_case() -> None:
    text = TEXT.format(trainer="rsl_rl", device="cuda", rest="levers: {threads_per_rank: 3}")
    text = text.replace("kind: strong", "kind: sweep").replace("num_envs: 1024", "start_envs: 256\nlimit_envs: 1024")
    text = text.replace("world_sizes: [1, 2]", "world_sizes: [1]").replace("repeats: 3", "repeats: 1")
    parsed = parse_study(yamlfile.parse(text, "x", StudyError), {})
    found = make_plan(resolve(parsed, load_cluster("local"), 4), load_cluster("local")).all_cases
    assert {(case.levers, case.threads_per_rank) for case in found} == {((("threads_per_rank", "3"),), 3)}
    text = text.replace("levers: {threads_per_rank: 3}", "tuning:\n  a: {gc: freeze}")
    with pytest.raises(StudyError, match="tuning: has a meaning for kind strong and weak only, not for sweep"):
        resolve(parse_study(yamlfile.parse(text, "x", StudyError), {}), load_cluster("local"), 4)


def test_a_study_with_levers_is_written_back_equal() -> None:
    before = study("levers: {gc: freeze}" + VARIANTS)
    assert parse_study(yamlfile.parse(to_yaml(before), "again", StudyError), {}) == before


@pytest.mark.parametrize(
    ("rest", "changes", "message"),
    [
        (
            "tuning:\n  a: {cpu_affinty: numa}",
            {},
            "unknown key 'tuning.a.cpu_affinty'; did you mean 'cpu_affinity'? (valid",
        ),
        ("tuning:\n  a: {gc: always}", {}, "tuning.a.gc: must be 'freeze', 'rare' or 'per_iteration', not 'always'"),
        ("tuning:\n  a: {}", {}, "tuning.a: states no lever (levers: cpu_affinity, "),
        ("tuning:\n  a b: {gc: freeze}", {}, "tuning.a b"),
        ("tuning:\n  baseline: {gc: freeze}", {}, "tuning.baseline: the baseline is the study without a variant"),
        ("tuning:\n  a: {gc: freeze}\n  b: {gc: freeze}", {}, "tuning.b: the same levers as a"),
        ("levers: {gc: freeze}\ntuning:\n  b: {gc: freeze}", {}, "tuning.b: the same levers as baseline"),
        ("levers: {cuda_allocator: expandable_segments}", {"device": "cpu"}, "levers.cuda_allocator: needs GPUs"),
        (
            "levers: {check_for_nan: false}",
            {"trainer": "rl_games"},
            "levers.check_for_nan: rl_games has no such option",
        ),
        ("levers: {torch_compile: reduce-overhead}", {}, "levers.torch_compile: rsl_rl has no mode 'reduce-overhead'"),
        ("levers: {threads_per_rank: 0}", {}, "levers.threads_per_rank: must be at least 1, not 0"),
        ("levers: {environment: {PYTHONPATH: x}}", {}, "PYTHONPATH is set by Paceline itself"),
        ('levers: {malloc: "a\\nb"}', {}, "levers.malloc: must not contain line breaks"),
    ],
)
def test_what_cannot_be_had_is_refused_with_one_line(rest: str, changes: dict[str, str], message: str) -> None:
    with pytest.raises(StudyError) as caught:
        study(rest, **changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_shipped_study_compares_its_levers() -> None:
    for name, device in product(("tuning", "tuning_rl_games"), ("cuda", "cpu")):
        shipped = resolve(load_study(name, {"device": device}), load_cluster("local"), 4)
        assert shipped.tuning is not None
        found = make_plan(shipped, load_cluster("local")).cases
        assert isinstance(shipped.world_sizes, tuple)
        assert len(found) == len(shipped.world_sizes) * 3 * (1 + len(shipped.tuning))


def test_pairs_are_text() -> None:
    assert lever_pairs({"b": True, "a": 3, "c": None, "environment": {"Y": "1"}}) == (
        ("a", "3"),
        ("b", "true"),
        ("environment.Y", "1"),
    )
