from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paceline.bench import yamlfile
from paceline.bench.cluster import Cluster
from paceline.bench.errors import StudyError
from paceline.bench.study import Study, StudyValues, load_study, parse_study, resolve, shipped, to_yaml

LOCAL = Cluster(name="here", scheduler="local")
SLURM = Cluster(name="site", scheduler="slurm", gpus_per_node=8, max_nodes=4)

STRONG: dict[str, Any] = {
    "name": "s",
    "kind": "strong",
    "task": "Isaac-Ant-Direct",
    "world_sizes": (1, 2, 4),
    "num_envs": 16384,
}


def strong(**changes: Any) -> Study:
    return Study.model_validate(STRONG | changes)


def weak(**changes: Any) -> Study:
    values = {k: v for k, v in STRONG.items() if k != "num_envs"} | {"kind": "weak", "num_envs_per_rank": 4096}
    return Study.model_validate(values | changes)


def resolve_error(study: Study, cluster: Cluster = LOCAL, devices: int | None = 8) -> str:
    with pytest.raises(StudyError) as caught:
        resolve(study, cluster, devices)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -------------------------------------------------------------------------------------------------- resolving


def test_resolved_study_states_every_value() -> None:
    study = resolve(strong(), LOCAL, 8)
    missing = [key for key, value in study.stated().items() if value is None]
    assert not missing
    optional = {"cool_to_c", "levers", "tuning"}  # nothing, unless a file states it
    of_other_kinds = {"num_envs_per_rank", "start_envs", "limit_envs", "resolution_pct", "sweep_time_min"}
    assert set(study.stated()) == set(StudyValues.model_fields) - optional - of_other_kinds
    assert (study.device, study.horizon, study.num_minibatches, study.num_epochs) == ("cuda", 32, 4, 5)
    assert (study.seed, study.repeats, study.iterations, study.warmup_iterations) == (42, 3, 60, 15)
    assert study.on_cpu is None
    assert study.on_gpu is None
    assert study.is_resolved
    assert not strong().is_resolved


@pytest.mark.parametrize(
    ("cluster", "devices", "device", "expected", "sizes"),
    [
        (LOCAL, 0, "auto", "cpu", (1, 2)),
        (LOCAL, 1, "auto", "cuda", (1,)),
        (LOCAL, 3, "auto", "cuda", (1, 2)),
        (LOCAL, 6, "auto", "cuda", (1, 2, 4)),
        (LOCAL, 8, "auto", "cuda", (1, 2, 4, 8)),
        (LOCAL, 8, "cpu", "cpu", (1, 2)),
        (SLURM, None, "auto", "cuda", (1, 2, 4, 8)),
        (SLURM.model_copy(update={"gpus_per_node": 0}), None, "auto", "cpu", (1, 2)),
    ],
)
def test_device_and_world_sizes_follow_the_site(
    cluster: Cluster, devices: int | None, device: str, expected: str, sizes: tuple[int, ...]
) -> None:
    study = resolve(strong(world_sizes="auto", device=device), cluster, devices)
    assert (study.device, study.world_sizes) == (expected, sizes)


def test_auto_uses_the_nodes_that_the_study_states() -> None:
    study = resolve(strong(world_sizes="auto", num_nodes=2), SLURM)
    assert study.world_sizes == (1, 2, 4, 8, 16)
    assert [study.nodes_of(size) for size in (1, 2, 4, 8, 16)] == [1, 1, 1, 1, 2]


def test_time_limit_and_block_of_the_device() -> None:
    blocks = {"on_cpu": {"task": "Isaac-Cartpole"}, "on_gpu": {"task": "Isaac-Ant", "time_limit_min": 5}}
    study = Study.model_validate({k: v for k, v in STRONG.items() if k != "task"} | blocks)
    assert resolve(study, LOCAL, 0).task == "Isaac-Cartpole"
    assert resolve(study, LOCAL, 0).time_limit_min == LOCAL.time_limit_min
    assert resolve(study, LOCAL, 4).task == "Isaac-Ant"
    assert resolve(study, LOCAL, 4).time_limit_min == 5


def test_rl_games_takes_the_minibatches_of_one_rank() -> None:
    # Isaac-Ant-Direct: horizon 16, minibatch_size 32768
    assert resolve(strong(trainer="rl_games"), LOCAL, 8).num_minibatches == 16384 * 16 // 32768
    assert resolve(weak(trainer="rl_games"), LOCAL, 8).num_minibatches == 4096 * 16 // 32768
    assert resolve(strong(trainer="rl_games", num_minibatches=16), LOCAL, 8).num_minibatches == 16


@pytest.mark.parametrize(
    ("study", "cluster", "devices", "message"),
    [
        (
            strong(num_envs=1001),
            LOCAL,
            8,
            "num_envs 1001 does not divide evenly over 1, 2, 4 ranks with 4 minibatches of horizon 32; "
            "the nearest that do: 1000 and 1004",
        ),
        (strong(num_envs=1), LOCAL, 8, "the nearest that do: 4"),
        (
            strong(num_envs=1000, trainer="rl_games"),
            LOCAL,
            8,
            "num_envs 1000 does not divide evenly over 1, 2, 4 ranks with rl_games's minibatch_size 32768 at horizon "
            "16; the nearest that do: 2048",
        ),
        (
            strong(trainer="rl_games", world_sizes=(1, 3), num_envs=3072),
            LOCAL,
            8,
            "world size 3: rl_games's minibatch_size 32768 at horizon 16 does not divide by it at any num_envs; "
            "state num_minibatches in the study",
        ),
        (
            weak(num_envs_per_rank=7, num_minibatches=64),
            LOCAL,
            8,
            "7 does not divide evenly with 64 minibatches of horizon 32; the nearest that do: 6 and 8",
        ),
        (strong(num_envs=None), LOCAL, 8, "num_envs is missing; strong scaling needs it"),
        (weak(num_envs_per_rank=None), LOCAL, 8, "num_envs_per_rank is missing; weak scaling needs it"),
        (strong(task=None), LOCAL, 8, "task is missing; state an Isaac Lab task id"),
        (
            strong(task="Isaac-Ant-Direct-v0"),
            LOCAL,
            8,
            "task 'Isaac-Ant-Direct-v0': not in Isaac Lab 3.0.0; nearest: Isaac-Ant-Direct",
        ),
        (strong(task="MyTask"), LOCAL, 8, "A task of your own needs horizon, num_minibatches and num_epochs stated"),
        (
            strong(task="IsaacContrib-Factory-PegInsert-Direct", physics="physx"),
            LOCAL,
            8,
            "physics 'physx': task IsaacContrib-Factory-PegInsert-Direct has no such preset (it has none: ",
        ),
        (
            strong(physics="mujoco"),
            LOCAL,
            8,
            "physics 'mujoco': task Isaac-Ant-Direct has no such preset (it",
        ),
        (
            strong(task="Isaac-Velocity-Rough-H1", trainer="rl_games"),
            LOCAL,
            8,
            "trainer rl_games: task Isaac-Velocity-Rough-H1 has no stock configuration for it (it has rsl_rl)",
        ),
        (strong(), LOCAL, 2, "world size 4 needs 4 GPUs on a node, this machine has 2"),
        (
            strong(world_sizes=(16,)),
            SLURM,
            None,
            "world size 16 needs 16 GPUs on a node, a node of 'site' has 8; state num_nodes: 2 or more",
        ),
        (
            strong(device="cuda"),
            LOCAL,
            0,
            "device: cuda, but there is no GPU on this machine; state device:",
        ),
        (strong(num_nodes=2), LOCAL, 8, "num_nodes 2: scheduler: local has one node"),
        (strong(num_nodes=8, world_sizes=(8,)), SLURM, None, "num_nodes 8: cluster profile 'site' allows max_nodes 4"),
        (strong(num_nodes=3), SLURM, None, "world size 4 does not divide over num_nodes 3"),
        (strong(num_nodes=2, world_sizes=(3, 4)), SLURM, None, "world size 3 does not divide over 2 nodes of 2 ranks"),
        (strong(iterations=5, warmup_iterations=5), LOCAL, 8, "warmup_iterations 5 must be less than iterations 5"),
    ],
)
def test_what_cannot_run_is_told(study: Study, cluster: Cluster, devices: int | None, message: str) -> None:
    assert message in resolve_error(study, cluster, devices)


def test_a_task_of_ones_own() -> None:
    study = resolve(strong(task="My-Task", horizon=24, num_minibatches=4, num_epochs=5, physics="mine"), LOCAL, 8)
    assert (study.task, study.horizon, study.num_minibatches, study.physics) == ("My-Task", 24, 4, "mine")


# ---------------------------------------------------------------------------------- property tests on splitting

sizes = st.lists(st.integers(1, 16), min_size=1, max_size=4, unique=True).map(lambda found: tuple(sorted(found)))


def divides(study: Study) -> bool:
    """Whether a study splits evenly, by the definition: whole environments and whole minibatches on every rank."""
    assert isinstance(study.world_sizes, tuple)
    for world_size in study.world_sizes:
        if study.kind == "strong":
            envs, rest = divmod(study.num_envs or 0, world_size)
        else:
            envs, rest = study.num_envs_per_rank or study.start_envs or 0, 0
        if rest or envs < 1 or (envs * (study.horizon or 0)) % (study.num_minibatches or 1):
            return False
    return True


def try_resolve(study: Study) -> Study | str:
    try:
        return resolve(study, LOCAL, 16)
    except StudyError as error:
        return str(error)


@given(
    kind=st.sampled_from(["strong", "weak"]),
    world_sizes=sizes,
    envs=st.integers(1, 5000),
    horizon=st.integers(1, 64),
    num_minibatches=st.integers(1, 40),
)
def test_nearest_sizes_divide_for_all_world_sizes(
    kind: str, world_sizes: tuple[int, ...], envs: int, horizon: int, num_minibatches: int
) -> None:
    key = "num_envs" if kind == "strong" else "num_envs_per_rank"
    fixed = {"horizon": horizon, "num_minibatches": num_minibatches, "num_epochs": 1, "world_sizes": world_sizes}

    def study(n: int) -> Study:
        return Study.model_validate({"name": "s", "kind": kind, "task": "Own", key: n, **fixed})

    found = try_resolve(study(envs))
    if isinstance(found, Study):
        assert divides(found)
        return
    assert not divides(study(envs))
    near = [int(word) for word in found.rpartition("do: ")[2].split(" and ")]
    for n in near:
        assert isinstance(try_resolve(study(n)), Study)
    # Really the nearest: nothing between them divides.
    low, high = (near[0], near[1]) if len(near) == 2 else (0, near[0])
    assert low < envs < high
    assert not any(divides(study(n)) for n in range(max(1, low + 1), high, max(1, (high - low) // 500)))


@given(kind=st.sampled_from(["strong", "weak"]), world_sizes=sizes, envs=st.integers(1, 60_000))
def test_nearest_sizes_for_the_fixed_minibatch_size_of_rl_games(
    kind: str, world_sizes: tuple[int, ...], envs: int
) -> None:
    key = "num_envs" if kind == "strong" else "num_envs_per_rank"

    def study(n: int) -> Study:
        values = {"name": "s", "kind": kind, "task": "Isaac-Ant-Direct", "trainer": "rl_games", key: n}
        return Study.model_validate(values | {"world_sizes": world_sizes})

    found = try_resolve(study(envs))
    if isinstance(found, Study):
        assert divides(found)
        assert envs * 16 == (found.num_minibatches or 0) * 32768  # stock: horizon 16, minibatch_size 32768
        return
    if "at any num_envs" in found:
        assert kind == "strong"
        assert any(32768 % world_size for world_size in world_sizes)
        return
    for word in found.rpartition("do: ")[2].split(" and "):
        assert isinstance(try_resolve(study(int(word))), Study)


@pytest.mark.parametrize("trainer", ["rsl_rl", "rl_games"])
@pytest.mark.parametrize("devices", [0, 1, 2, 4, 8])
@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_studies_resolve_everywhere(name: str, devices: int, trainer: str) -> None:
    stated = load_study(name, {"trainer": trainer})
    if name.startswith("tuning") and (trainer == "rl_games") != name.endswith("rl_games"):
        with pytest.raises(StudyError, match=r"has no such option|has no mode"):  # a lever belongs to one trainer
            resolve(stated, LOCAL, 4)
        return
    study = resolve(stated, LOCAL, devices)
    assert divides(study)
    assert study.repeats == (1 if name == "env_sweep" else 3)
    assert resolve(study, LOCAL, devices) == study
    assert parse_study(yamlfile.parse(to_yaml(study), "x", StudyError), {}) == study
    if devices:
        assert study.task == ("Isaac-Cartpole-Direct" if name == "weak_scaling" else "Isaac-Ant-Direct")
