"""Credentials: told by name and form, refused in files, taken out of texts and files; a planned study runs nothing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from paceline.bench.errors import ClusterError, StudyError
from paceline.bench.redaction import MASK, is_secret_name, looks_secret, mask_files, redact, secret_values
from paceline.bench.rundir import write_json

TOKEN = "hf_" + "Planted0123456789abcdef"


@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "NGC_APIKEY", "DB_PASSWORD", "GITHUB_PAT", "SESSION_COOKIE"],
)
def test_names_of_credentials(name: str) -> None:
    assert is_secret_name(name) and is_secret_name(name.lower())


@pytest.mark.parametrize(
    "name", ["TOKENIZERS_PARALLELISM", "NCCL_DEBUG", "PATH", "KEYBOARD", "AUTHOR", "PASSIVE", "OMP_NUM_THREADS"]
)
def test_names_of_other_things(name: str) -> None:
    assert not is_secret_name(name)


def test_forms() -> None:
    assert looks_secret(f"x={TOKEN}") and looks_secret("https://user:password@host/path")
    assert not looks_secret("env.sim.physics.gpu_max_rigid_patch_count=262144")
    assert not looks_secret("http://proxy:8080")


def test_texts() -> None:
    values = secret_values({"HF_TOKEN": "a-secret-of-mine", "A_TOKEN": "short", "HOME": "/home/user"})
    assert values == ("a-secret-of-mine",)
    assert redact(f"curl a-secret-of-mine {TOKEN} /home/user", values) == f"curl {MASK} {MASK} /home/user"


def test_files_keep_their_length(tmp_path: Path) -> None:
    secret = "a-secret-of-mine"
    (tmp_path / "train.log").write_text(f"one {secret} two {secret}\n")
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "params.yaml").write_text(f"key: {secret}")
    (tmp_path / "empty.log").touch()
    (tmp_path / "model.pt").write_bytes(secret.encode())  # binary files are left: they would not load any more
    size = (tmp_path / "train.log").stat().st_size
    assert mask_files(tmp_path, [secret]) == 3
    assert (tmp_path / "train.log").read_text() == f"one {'*' * 16} two {'*' * 16}\n"
    assert (tmp_path / "train.log").stat().st_size == size
    assert secret in (tmp_path / "model.pt").read_text()
    assert mask_files(tmp_path, []) == 0


@pytest.mark.parametrize(
    "line",
    [
        "environment: {WANDB_API_KEY: anything-at-all}",
        f"environment: {{RUN_NAME: {TOKEN}}}",
        f"overrides: [agent.key={TOKEN}]",
        "overrides: [agent.wandb.api_key=abc]",
    ],
)
def test_study_files_cannot_hold_any(tmp_path: Path, line: str) -> None:
    from paceline.bench.study import load_study

    path = tmp_path / "mine.yaml"
    path.write_text(f"name: x\nkind: strong\n{line}\n")
    with pytest.raises(StudyError, match="holds a credential") as error:
        load_study(path)
    assert TOKEN not in str(error.value)


def test_profiles_cannot_hold_any(tmp_path: Path) -> None:
    from paceline.bench.cluster import load_cluster

    path = tmp_path / "mine.yaml"
    path.write_text("name: x\nscheduler: local\nenvironment: {HF_TOKEN: something}\n")
    with pytest.raises(ClusterError, match="HF_TOKEN holds a credential"):
        load_cluster(path)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_follow_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_json(tmp_path / "x.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "x.json").stat().st_mode & 0o777 == 0o666 & ~umask


def test_planning_a_stranger_s_study_runs_nothing(tmp_path: Path, paceline: Path) -> None:
    """Code in any place of a study file stays text; planning starts no process but our own and writes nothing."""
    canary = tmp_path / "canary"
    (tmp_path / "stranger.yaml").write_text(
        f"""\
name: stranger
kind: strong
device: cpu
task: Isaac-Cartpole-Direct
num_envs: 64
world_sizes: [1]
overrides: ["env.x=$(touch {canary})", "`touch {canary}`", "; touch {canary}"]
environment: {{X: "$(touch {canary})", Y: "'; touch {canary}; '"}}
"""
    )
    done = subprocess.run(
        [paceline, "plan", tmp_path / "stranger.yaml", "--scripts", tmp_path / "scripts"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for script in (tmp_path / "scripts").glob("*.sh"):
        syntax = subprocess.run(["bash", "-n", script], capture_output=True, text=True, timeout=30, check=False)
        assert syntax.returncode == 0, syntax.stderr
        exports = [line for line in script.read_text().splitlines() if line.startswith(("export X=", "export Y="))]
        assert len(exports) == 2
        shown = subprocess.run(
            ["bash", "-c", "\n".join([*exports, "printf '%s\\n' \"$X\""])], capture_output=True, text=True, check=True
        )
        assert shown.stdout == f"$(touch {canary})\n"
    assert not canary.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scripts", "stranger.yaml"]


def test_nothing_is_run_from_folders_that_all_may_write(repository: Path) -> None:
    """No script names a fixed place in a shared temporary folder, where somebody else could put a file first."""
    shared = "/" + "tmp/"
    for path in [*(repository / "slurm_templates").glob("*.j2"), *(repository / "bench").rglob("*.py")]:
        assert shared not in path.read_text(encoding="utf-8"), path
