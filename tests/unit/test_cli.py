"""The command line as a person meets it: help, errors on one line, exit codes."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from paceline.bench import cli


def paceline(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).with_name("paceline")), *arguments], capture_output=True, text=True, cwd=cwd
    )


def error_of(*arguments: str, cwd: Path | None = None) -> str:
    """Return the error, after checking that it is one line on stderr, without a traceback, and exit code 2."""
    answer = paceline(*arguments, cwd=cwd)
    assert answer.returncode == 2, answer
    assert answer.stdout == ""
    lines = answer.stderr.strip().splitlines()
    assert len(lines) == 1, answer.stderr
    assert "Traceback" not in answer.stderr
    return lines[0]


def test_help_lists_every_command() -> None:
    answer = paceline("--help")
    assert answer.returncode == 0
    for name, text in cli.COMMANDS.items():
        assert f"  {name}" in answer.stdout
        assert text in answer.stdout


def test_help_imports_no_heavy_library() -> None:
    code = (
        "import sys; from paceline.bench.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('pydantic', 'submitit', 'pandas', 'numpy', 'rich', 'jinja2') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    answer = paceline(name, "--help")
    assert answer.returncode == 0, answer.stderr
    module = importlib.import_module(f"paceline.bench.commands.{name.replace('-', '_')}")
    assert module.EXAMPLE.startswith(f"paceline {name} ")
    assert module.EXAMPLE in answer.stdout


def test_a_misspelt_command_names_the_nearest() -> None:
    assert "did you mean report?" in error_of("reprot")


def test_the_version_is_the_packages() -> None:
    from importlib.metadata import version

    assert paceline("--version").stdout == f"paceline {version('paceline')}\n"


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    assert "nowhere: no such study folder" in error_of("status", "nowhere", cwd=tmp_path)


def test_a_folder_that_is_no_study_is_one_line(tmp_path: Path) -> None:
    assert "not a study folder" in error_of("watch", str(tmp_path))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["world_sizes=0"], "world_sizes"),
        (["world_sizes=-1"], "world_sizes"),
        (["world_sizes=3.5"], "world_sizes"),
        (["repeats=0"], "repeats"),
        (["num_envs=1000", "world_sizes=1,3"], "num_envs"),
        (["task=Isaac-Cartpole-Drect"], "Isaac-Cartpole-Direct"),
        (["trainer=sb3"], "rsl_rl"),
        (["wrold_sizes=1"], "world_sizes"),
        (["world_sizes"], "KEY=VALUE"),
        (["seed=!!python/object/apply:os.system ['true']"], "seed"),
    ],
)
def test_bad_settings_are_one_line_that_says_what_is_allowed(settings: list[str], words: str, tmp_path: Path) -> None:
    arguments = [part for setting in settings for part in ("--set", setting)]
    assert words in error_of("plan", "strong_scaling", *arguments, cwd=tmp_path)


def test_an_unknown_study_and_an_unknown_cluster_name_the_nearest(tmp_path: Path) -> None:
    assert "strong_scaling" in error_of("plan", "strong_scalling", cwd=tmp_path)
    assert "local" in error_of("plan", "strong_scaling", "--cluster", "lcoal", cwd=tmp_path)


def test_more_gpus_than_there_are_is_an_error_before_anything_starts(tmp_path: Path) -> None:
    site = "schema: paceline.cluster/1\nname: site\nscheduler: slurm\ngpus_per_node: 8\n"
    (tmp_path / "site.yaml").write_text(site)
    error = error_of("run", "strong_scaling", "--cluster", "site", "--set", "world_sizes=64", cwd=tmp_path)
    assert "64" in error
    assert "8" in error
    assert [path.name for path in tmp_path.iterdir()] == ["site.yaml"]


def test_a_plan_shows_cases_and_writes_scripts_that_bash_accepts(tmp_path: Path) -> None:
    answer = paceline("plan", "strong_scaling", "--set", "device=cpu", "--scripts", "scripts", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    scripts = sorted((tmp_path / "scripts").glob("*.sh"))
    assert len(scripts) == 7  # 2 world sizes x 3 repeats, and the warm-up
    for script in scripts:
        subprocess.run(["bash", "-n", str(script)], check=True)
        assert script.stem in answer.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"scripts"}


def test_a_reader_that_leaves_early_is_no_error() -> None:
    code = "set -o pipefail; paceline plan strong_scaling --set device=cpu | true"
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    answer = subprocess.run(["bash", "-c", code], capture_output=True, text=True, env={"PATH": path, "HOME": "/"})
    assert answer.stderr == ""
