from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paceline.bench import study as study_module
from paceline.bench import yamlfile
from paceline.bench.cluster import Cluster
from paceline.bench.errors import StudyError
from paceline.bench.study import Study, load_study, parse_study, resolve, shipped, to_yaml

LOCAL = Cluster(name="here", scheduler="local")
SLURM = Cluster(name="site", scheduler="slurm", gpus_per_node=8, max_nodes=4)

STRONG = {
    "name": "s",
    "kind": "strong",
    "task": "Isaac-Ant-Direct",
    "world_sizes": (1, 2, 4),
    "num_envs": 16384,
}


def strong(**changes: Any) -> Study:
    return Study(**(STRONG | changes))


def weak(**changes: Any) -> Study:
    values = {k: v for k, v in STRONG.items() if k != "num_envs"} | {"kind": "weak", "num_envs_per_rank": 4096}
    return Study(**(values | changes))


def text_error(text: str, settings: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(StudyError) as caught:
        parse_study(yamlfile.parse(text, "my.yaml", StudyError), settings or {})
    return str(caught.value).split("\n")


def resolve_error(study: Study, cluster: Cluster = LOCAL, devices: int | None = 8) -> str:
    with pytest.raises(StudyError) as caught:
        resolve(study, cluster, devices)
    assert "\n" not in str(caught.value)
    return str(caught.value)


HEAD = "name: s\nkind: strong\n"

# ------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_env: 1", "my.yaml:3: unknown key 'num_env'; did you mean 'num_envs'? (valid keys: task, trainer, "),
        ("on_gpu:\n  num_env: 1", "my.yaml:4: unknown key 'on_gpu.num_env'; did you mean 'num_envs'?"),
        ("num_envs: '4096'", "my.yaml:3: num_envs: expected a whole number, found '4096'; write it without quotes"),
        ("num_envs: 4096.0", "my.yaml:3: num_envs: expected a whole number, found 4096.0"),
        ("num_envs: true", "my.yaml:3: num_envs: expected a whole number, found true"),
        ("num_envs: 1e3", "my.yaml:3: num_envs: expected a whole number, found 1000.0"),
        ("num_envs: 0", "my.yaml:3: num_envs: must be at least 1, not 0"),
        ("repeats: 0", "my.yaml:3: repeats: must be at least 1, not 0"),
        ("repeats: -2", "my.yaml:3: repeats: must be at least 1, not -2"),
        ("seed: -1", "my.yaml:3: seed: must be at least 0, not -1"),
        ("time_limit_min: 12:00:00", "my.yaml:3: time_limit_min: expected a whole number, found '12:00:00'"),
        ("task: 3", "my.yaml:3: task: expected text, found 3; put it in quotes"),
        ("task: [a]", "my.yaml:3: task: expected text, found a list"),
        ('task: "a\\nb"', "my.yaml:3: task: must not contain line breaks or control characters"),
        ('task: "\\ud800"', "my.yaml:3: task: must not contain half of a surrogate pair"),
        ("trainer: rslrl", "my.yaml:3: trainer: must be 'rsl_rl' or 'rl_games', not 'rslrl'; did you mean 'rsl_rl'?"),
        ("world_sizes: [0, 1]", "my.yaml:3: world_sizes: a world size must lie in 1..1000, not 0"),
        ("world_sizes: [-1]", "my.yaml:3: world_sizes: a world size must lie in 1..1000, not -1"),
        ("world_sizes: [3.5]", "my.yaml:3: world_sizes: 3.5 is not a whole number; state world sizes such as"),
        ("world_sizes: [true]", "my.yaml:3: world_sizes: True is not a whole number"),
        ("world_sizes: []", "my.yaml:3: world_sizes: is an empty list"),
        ("world_sizes: [2, 2]", "my.yaml:3: world_sizes: 2 is stated twice"),
        ("world_sizes: some", "my.yaml:3: world_sizes: 'some' is not a whole number"),
        ("overrides: a=1", "my.yaml:3: overrides: expected a list, found 'a=1'"),
        ("environment: {NCCL_DEBUG: 1}", "my.yaml:3: environment.NCCL_DEBUG: expected text, found 1; put it in quotes"),
        ("environment: {'a b': x}", "my.yaml:3: environment: 'a b' is not a name of an environment variable"),
        ("environment: {PYTHONPATH: x}", "my.yaml:3: environment: PYTHONPATH is set by Paceline itself"),
        ("environment: {BASH_ENV: x}", "my.yaml:3: environment: BASH_ENV steers the shell and cannot be set"),
        ("on_cpu: 3", "my.yaml:3: on_cpu: expected keys and values, found 3"),
        ("num_envs_per_rank: 8", "my.yaml: num_envs_per_rank: strong scaling is stated by num_envs"),
        ("on_cpu: {num_envs_per_rank: 8}", "my.yaml: on_cpu.num_envs_per_rank: strong scaling is stated by num_envs"),
        ("schema: paceline.study/2", "my.yaml:3: schema is 'paceline.study/2', this version of Paceline reads"),
        ("num_envs: 1\nnum_envs: 2", "my.yaml:4: key 'num_envs' is stated twice (first in line 3)"),
    ],
)
def test_bad_files_are_told_in_one_line(text: str, message: str) -> None:
    lines = text_error(HEAD + text)
    assert len(lines) == 1
    assert lines[0].startswith(message)


def test_all_problems_at_once_in_the_order_of_the_file() -> None:
    lines = text_error("name: s\nkind: strnog\nrepeats: 0\nnum_env: 3\n")
    assert [line.split(" ")[0] for line in lines] == ["my.yaml:2:", "my.yaml:3:", "my.yaml:4:"]
    assert text_error("repeats: 1") == ["my.yaml: name is missing", "my.yaml: kind is missing"]


def test_name_that_could_be_a_path() -> None:
    for name in ("../x", "a b", ".hidden", "x" * 65, "a/b"):
        assert text_error(f"name: {name}\nkind: strong\n")[0].startswith("my.yaml:1: name: ")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_env": "3"}, "--set num_env: unknown key 'num_env'; did you mean 'num_envs'?"),
        ({"num_envs": "many"}, "--set num_envs: num_envs: expected a whole number, found 'many'"),
        ({"num_envs": ""}, "--set num_envs: the value is empty"),
        ({"world_sizes": "1,2,3.5"}, "--set world_sizes: world_sizes: 3.5 is not a whole number"),
        ({"world_sizes": "1,,2"}, "--set world_sizes: world_sizes: None is not a whole number"),
        ({"world_sizes": "-1"}, "--set world_sizes: world_sizes: a world size must lie in 1..1000, not -1"),
        ({"world_sizes": "[1"}, "--set world_sizes: '[1' is not a valid value"),
        ({"on_gpu": "{}"}, "--set on_gpu: cannot be set"),
        ({"on_gpu.num_envs": "3"}, "--set on_gpu.num_envs: cannot be set"),
        ({"trainer": "ppo"}, "--set trainer: trainer: must be 'rsl_rl' or 'rl_games', not 'ppo'"),
        ({"name": "!!python/name:os.system"}, "--set name: name: "),
        ({"iterations": "!!python/name:os.system"}, "--set iterations: '!!python/name:os.system' YAML tags"),
    ],
)
def test_bad_settings_name_themselves(settings: dict[str, str], message: str) -> None:
    lines = text_error(HEAD, settings)
    assert len(lines) == 1
    assert lines[0].startswith(message)


def test_settings_win_over_file_and_block() -> None:
    text = HEAD + "task: Isaac-Ant\nnum_envs: 64\non_cpu: {iterations: 7, num_envs: 32, repeats: 2}\n"
    settings = {
        "world_sizes": "4,1",
        "iterations": "9",
        "environment.NCCL_DEBUG": "1",
        "overrides": "env.decimation=2",
        "physics": "newton_kamino",
    }
    study = resolve(parse_study(yamlfile.parse(text, "x", StudyError), settings), LOCAL, 0)
    assert study.world_sizes == (1, 4)
    assert (study.iterations, study.num_envs, study.repeats) == (9, 64, 2)
    assert study.environment == {"NCCL_DEBUG": "1"}
    assert study.overrides == ("env.decimation=2",)
    assert study.physics == "newton_kamino"


def test_unknown_study_names_the_shipped_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StudyError) as caught:
        load_study("strong_scalling", {})
    assert str(caught.value) == (
        "study 'strong_scalling': no such file; did you mean 'strong_scaling'? "
        "(shipped studies: strong_scaling, weak_scaling)"
    )


def test_a_file_of_the_name_of_a_shipped_study_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("strong_scaling").write_text("name: mine\nkind: weak\n")
    assert load_study("strong_scaling", {}).name == "mine"


# -------------------------------------------------------------------------------------------------- resolving


def test_resolved_study_states_every_value() -> None:
    study = resolve(strong(), LOCAL, 8)
    missing = [key for key, value in study.stated().items() if value is None]
    assert not missing
    assert set(study.stated()) == set(study_module.StudyValues.model_fields) - {"num_envs_per_rank"}
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
            envs, rest = study.num_envs_per_rank or 0, 0
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
        return Study(name="s", kind=kind, task="Own", **{key: n}, **fixed)  # type: ignore[arg-type]

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
        return Study(
            name="s", kind=kind, task="Isaac-Ant-Direct", trainer="rl_games", world_sizes=world_sizes, **{key: n}
        )  # type: ignore[arg-type]

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


# ------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("trainer", ["rsl_rl", "rl_games"])
@pytest.mark.parametrize("devices", [0, 1, 2, 4, 8])
@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_studies_resolve_everywhere(name: str, devices: int, trainer: str) -> None:
    study = resolve(load_study(name, {"trainer": trainer}), LOCAL, devices)
    assert divides(study)
    assert study.repeats == 3
    assert resolve(study, LOCAL, devices) == study
    assert parse_study(yamlfile.parse(to_yaml(study), "x", StudyError), {}) == study
    if devices:
        assert study.task == ("Isaac-Ant-Direct" if name == "strong_scaling" else "Isaac-Cartpole-Direct")


texts = st.text(max_size=20)
lines = st.text(st.characters(categories=("L", "N", "P", "S", "Zs")), max_size=20)
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True).filter(lambda name: name.isascii())


@given(
    overrides=st.lists(lines, max_size=3),
    environment=st.dictionaries(names, texts, max_size=3),
    task=lines,
    seed=st.integers(0, 2**40),
)
def test_a_written_study_loads_equal(overrides: list[str], environment: dict[str, str], task: str, seed: int) -> None:
    text = {"schema": "paceline.study/1", "overrides": overrides, "environment": environment, "seed": seed}
    own = {"task": task, "horizon": 4, "num_minibatches": 1, "num_epochs": 1}
    try:
        study = Study.model_validate(STRONG | text | own)
    except ValueError:
        return  # refused: nothing to write
    for version in (study, resolve(study, LOCAL, 4) if task else study):
        assert parse_study(yamlfile.parse(to_yaml(version), "x", StudyError), {}) == version


def test_planning_needs_no_heavy_library() -> None:
    code = (
        "import sys; import paceline.bench.study, paceline.bench.plan, paceline.bench.render; "
        "heavy = {'torch', 'pandas', 'numpy', 'scipy', 'submitit', 'isaaclab'} & set(sys.modules); "
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
