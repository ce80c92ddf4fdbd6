"""Levers on the job side: which cores a rank gets, and that what is not in effect is found."""

from __future__ import annotations

import ctypes.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paceline.bench import levers
from paceline.bench.affinity import Topology, cpu_list, divide, numa_node_of, read_topology, share
from paceline.bench.errors import LaunchError
from paceline.bench.record import Case

# Two nodes of four physical cores with two threads each: core k and k + 8 are siblings, as the kernel numbers them.
NODES = {0: frozenset({0, 1, 2, 3, 8, 9, 10, 11}), 1: frozenset({4, 5, 6, 7, 12, 13, 14, 15})}
TOPOLOGY = Topology({core: frozenset({core % 8, core % 8 + 8}) for core in range(16)}, NODES)
ALL = frozenset(range(16))


def case(**changes: object) -> Case:
    values: dict[str, object] = {
        "kind": "strong",
        "task": "Isaac-Cartpole-Direct",
        "trainer": "rsl_rl",
        "world_size": 1,
        "num_envs": 64,
        "horizon": 16,
        "num_minibatches": 4,
        "num_epochs": 5,
        "iterations": 4,
        "warmup_iterations": 1,
        "repeat": 0,
        "seed": 42,
        "device": "cpu",
    }
    return Case(**(values | changes))  # type: ignore[arg-type]


def test_ranks_share_the_cores_near_their_gpus() -> None:
    shares = [share("numa", rank, ALL, TOPOLOGY, [0, 0, 1, 1]) for rank in range(4)]
    assert [sorted(found.cores) for found in shares] == [[0, 1, 8, 9], [2, 3, 10, 11], [4, 5, 12, 13], [6, 7, 14, 15]]
    assert {found.how for found in shares} == {"numa"}
    assert [found.gpu_numa_node for found in shares] == [0, 0, 1, 1]


def test_only_allowed_cores_are_given_out() -> None:
    allowed = frozenset({2, 3, 10, 4, 5})  # as taskset or a cpuset leaves them
    assert share("numa", 0, allowed, TOPOLOGY, [0]).cores == {2, 3, 10}
    assert share("numa", 0, allowed, TOPOLOGY, [1]).cores == {4, 5}
    assert share("split", 1, allowed, TOPOLOGY, [0, 0]).cores == {4, 5}


@pytest.mark.parametrize("nodes", [[None, None], [0, None], [0, 7]])
def test_without_a_known_node_all_cores_are_split(nodes: list[int | None]) -> None:
    shares = [share("numa", rank, ALL, TOPOLOGY, nodes) for rank in range(2)]
    assert [sorted(found.cores) for found in shares] == [sorted(NODES[0]), sorted(NODES[1])]
    assert {found.how for found in shares} == {"split"}


def test_a_node_whose_cores_are_not_allowed_means_split() -> None:
    assert share("numa", 0, NODES[0], TOPOLOGY, [1]).how == "split"


@given(st.sets(st.integers(0, 15), min_size=1), st.integers(1, 12))
def test_shares_are_disjoint_and_complete_where_there_are_cores_enough(allowed: set[int], parts: int) -> None:
    shares = [divide(frozenset(allowed), TOPOLOGY, parts, index) for index in range(parts)]
    assert all(shares)
    assert frozenset().union(*shares) <= allowed
    physical = {core % 8 for core in allowed}
    if len(physical) >= parts:
        assert sum(map(len, shares)) == len(allowed)
        assert frozenset().union(*shares) == allowed
    for found in shares:  # siblings stay together
        assert {c for c in allowed if c % 8 in {core % 8 for core in found}} == found


def test_the_kernel_lists_are_read(tmp_path: Path) -> None:
    assert cpu_list("0-2,8,10-11\n") == {0, 1, 2, 8, 10, 11}
    assert cpu_list("\n") == frozenset()
    files = {
        "cpu/cpu0/topology/thread_siblings_list": "0,2",
        "cpu/cpu1/topology/thread_siblings_list": "broken",
        "node/node0/cpulist": "0-2",
        "node/node1/cpulist": "\n",  # memory without cores
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    assert read_topology(tmp_path) == Topology({0: frozenset({0, 2})}, {0: frozenset({0, 1, 2})})
    (tmp_path / "0000:17:00.0").mkdir()
    (tmp_path / "0000:17:00.0" / "numa_node").write_text("1\n")
    assert numa_node_of("00000000:17:00.0", tmp_path) == 1
    assert numa_node_of("00000000:18:00.0", tmp_path) is None
    (tmp_path / "0000:17:00.0" / "numa_node").write_text("-1\n")
    assert numa_node_of("00000000:17:00.0", tmp_path) is None


def run(code: str, **environment: str) -> str:
    """Return what a process of its own prints: levers change the whole process."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_cores_stay_within_those_of_taskset() -> None:
    one = min(os.sched_getaffinity(0))
    code = f"""
import os
os.sched_setaffinity(0, {{{one}}})
from paceline.bench import levers
from tests.unit.test_levers import case
applied = levers.apply(case(world_size=2, levers=(("cpu_affinity", "split"), ("environment.X_Y", "it's"))), 1)
print(sorted(os.sched_getaffinity(0)), applied.share.how, os.environ["X_Y"])
"""
    assert run(code) == f"[{one}] split it's"


def test_a_host_allocator_is_loaded_first_and_found_in_the_process() -> None:
    # Any shared library that this Python does not load by itself will do.
    library = next(path for name in ("rt", "util", "anl") if (path := ctypes.util.find_library(name)))
    code = f"""
import sys
from paceline.bench import levers
from tests.unit.test_levers import case
applied = levers.apply(case(levers=(("malloc", {library!r}),)), 0)
print(applied.library, bool(levers.loaded_library(applied.library)))
"""
    assert run(code).endswith("True")


def test_a_host_allocator_that_is_not_there_is_an_error() -> None:
    with pytest.raises(LaunchError, match=r"lever malloc=/no/such\.so: no such library on this node"):
        levers.apply(case(levers=(("malloc", "/no/such.so"),)), 0)
    assert levers.find_library("no_such_allocator_at_all") is None


@pytest.mark.parametrize(
    ("mode", "facts"),
    [("freeze", "True True True"), ("rare", "True True False"), ("per_iteration", "False True True")],
)
def test_garbage_collection_is_set_when_training_starts(mode: str, facts: str) -> None:
    code = f"""
import gc
from paceline.bench import levers
from tests.unit.test_levers import case
before = gc.get_threshold()
applied = levers.apply(case(levers=(("gc", {mode!r}),)), 0)
levers.train(applied)
print(gc.isenabled(), gc.get_freeze_count() > 10_000, gc.get_threshold() == before)
"""
    assert run(code) == facts


FACTS = {
    "cores": [0, 1],
    "gc": {"enabled": True, "threshold": [700, 10, 10], "frozen": 375},
    "malloc": None,
    "threads": 1,
    "options": {"torch_compile": "off", "check_for_nan": "true"},
    "environment": {"NCCL_PROTO": "Simple"},
    "cuda_allocator": "native",
}


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("cpu_affinity", "numa", "cores [0, 1]"),
        ("threads_per_rank", "4", "1 threads"),
        ("malloc", "jemalloc", "no such library in the process"),
        ("gc", "per_iteration", "{'enabled': True"),
        ("gc", "freeze", "'frozen': 375"),
        ("cuda_allocator", "expandable_segments", "native"),
        ("torch_compile", "default", "off"),
        ("check_for_nan", "false", "true"),
        ("environment.NCCL_PROTO", "LL", "'Simple'"),
    ],
)
def test_a_lever_that_is_not_in_effect_fails_the_run(name: str, value: str, found: str) -> None:
    applied = levers.Applied(asked={name: value}, frozen_before=375)
    with pytest.raises(LaunchError) as caught:
        levers.check(applied, FACTS)
    assert f"{name}={value} is not in effect (found " in str(caught.value)
    assert found in str(caught.value)


def test_levers_in_effect_pass() -> None:
    asked = {
        "torch_compile": "off",
        "check_for_nan": "true",
        "threads_per_rank": "1",
        "environment.NCCL_PROTO": "Simple",
    }
    levers.check(levers.Applied(asked=asked), FACTS)
