"""Levers in real training on two CPU ranks: in effect in every rank, and the learning is the same to the last digit."""

from __future__ import annotations

import ctypes.util
import dataclasses
import os
from pathlib import Path

import pytest
from paceline.bench import environment

from tests.integration.test_training import CASE, Jobs

pytestmark = [pytest.mark.slow, pytest.mark.isaaclab, pytest.mark.timeout(900)]

PLAIN = dataclasses.replace(CASE, world_size=2, num_envs=64, iterations=6, warmup_iterations=1)


@pytest.fixture(scope="module")
def jobs(jobs_environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    assets = environment.ensure_assets(jobs_environment)
    return Jobs(jobs_environment, assets, tmp_path_factory.mktemp("levers"))


def test_levers_are_in_effect_and_learning_is_the_same(jobs: Jobs) -> None:
    # A library that Python does not load by itself stands for a host allocator.
    library = next(path for name in ("anl", "util", "rt") if (path := ctypes.util.find_library(name)))
    asked = {
        "check_for_nan": "false",
        "cpu_affinity": "split",
        "environment.OF_A_LEVER": "it's $HOME",
        "gc": "per_iteration",
        "malloc": library,
    }
    plain = jobs.train(PLAIN)
    tuned = jobs.train(dataclasses.replace(PLAIN, levers=tuple(sorted(asked.items()))))
    allowed = sorted(os.sched_getaffinity(0))
    shares = []
    for header in tuned.headers:
        assert header["levers"]["asked"] == asked
        effective = header["levers"]["effective"]
        assert effective["environment"] == {"OF_A_LEVER": "it's $HOME"}
        assert effective["options"]["check_for_nan"] == "false"
        assert effective["gc"]["enabled"] is False
        assert effective["gc"]["frozen"] > 100_000
        assert effective["malloc"].endswith(library)
        assert effective["cores"] == header["cpu"]["affinity"]
        shares.append(effective["cores"])
    if len(allowed) > 1:
        assert not set(shares[0]) & set(shares[1])
        assert sorted(shares[0] + shares[1]) == allowed
    for header in plain.headers:
        assert header["levers"]["asked"] == {}
        assert header["levers"]["effective"]["options"] == {"torch_compile": "off", "check_for_nan": "true"}
        assert header["cpu"]["affinity"] == allowed
    assert tuned.column("reward") == plain.column("reward")
    assert any(reward is not None for reward in plain.column("reward"))
    assert tuned.column("optimizer_steps") == plain.column("optimizer_steps")
