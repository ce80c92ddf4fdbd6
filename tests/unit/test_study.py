from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paceline.bench import yamlfile
from paceline.bench.cluster import Cluster
from paceline.bench.errors import StudyError
from paceline.bench.study import Study, load_study, parse_study, resolve, shipped, to_yaml

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


def text_error(text: str, settings: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(StudyError) as caught:
        parse_study(yamlfile.parse(text, "my.yaml", StudyError), settings or {})
    return str(caught.value).split("\n")


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
        f"(shipped studies: {', '.join(shipped())})"
    )


def test_a_file_of_the_name_of_a_shipped_study_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("strong_scaling").write_text("name: mine\nkind: weak\n")
    assert load_study("strong_scaling", {}).name == "mine"


# ------------------------------------------------------------------------------------------------------- files


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
