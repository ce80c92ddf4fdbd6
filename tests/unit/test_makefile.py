"""The Makefile: its variables reach `paceline` as they were typed, and its help names every target."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NASTY = (
    "two words",
    "a; touch pwned",
    '"; touch pwned; "',
    "'; touch pwned; '",
    "$(touch pwned)",
    "`touch pwned`",
    "$(shell touch pwned)",
    "$$(touch pwned) $HOME ${HOME} $@ %",
    "# no comment",
    "--cluster",
    "back\\slash\\",
    "new\nline",
    "*",
    "ümläut €",
)


ArgumentsOf = Callable[[str, dict[str, str], dict[str, str]], list[str]]


@pytest.fixture
def arguments_of(tmp_path: Path) -> ArgumentsOf:
    """Return a function that runs a target with a command that records its arguments in the place of paceline."""
    recorder = tmp_path / "recorder"
    recorder.write_text("#!/usr/bin/env bash\nprintf '%s\\0' \"$@\"\n")
    recorder.chmod(0o755)

    def run(target: str, on_command_line: dict[str, str], in_environment: dict[str, str]) -> list[str]:
        given = [f"{name}={value}" for name, value in on_command_line.items()]
        done = subprocess.run(
            # -o: the environment that runs this test is there already
            ["make", "-f", ROOT / "Makefile", "-o", "setup", target, f"paceline={recorder}", *given],
            cwd=tmp_path,
            env={**os.environ, **in_environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert not (tmp_path / "pwned").exists()
        return done.stdout.split("\0")[:-1]

    return run


def test_only_given_variables_are_passed(arguments_of: ArgumentsOf) -> None:
    assert arguments_of("strong-scaling", {}, {}) == ["run", "strong_scaling"]
    assert arguments_of("weak-scaling", {}, {}) == ["run", "weak_scaling"]


def test_every_variable_has_its_key(arguments_of: ArgumentsOf) -> None:
    given = {
        "TASK": "Isaac-Ant-Direct",
        "TRAINER": "rl_games",
        "GPUS": "1,2,4",
        "ENVS": "4096",
        "REPEATS": "5",
        "ITERATIONS": "50",
        "CLUSTER": "mysite",
        "STUDY": "my study.yaml",
        "FOLDER": "results/a b",
    }
    settings = ["task=Isaac-Ant-Direct", "trainer=rl_games", "world_sizes=1,2,4"]
    rest = ["repeats=5", "iterations=50"]
    for target, envs in (("strong-scaling", "num_envs=4096"), ("weak-scaling", "num_envs_per_rank=4096")):
        expected = ["run", "my study.yaml", "--cluster", "mysite", "--folder", "results/a b"]
        for setting in (*settings, envs, *rest):
            expected += ["--set", setting]
        assert arguments_of(target, given, {}) == expected


def test_profile_takes_sizes_and_a_window(arguments_of: ArgumentsOf) -> None:
    assert arguments_of("profile", {}, {}) == ["profile", "strong_scaling"]
    given = {"TASK": "Isaac-Ant-Direct", "ENVS": "4096", "GPUS": "1,4", "ITERATIONS": "15:18"}
    given["FOLDER"] = "a b; touch pwned"
    expected = ["profile", "strong_scaling", "--folder", "a b; touch pwned", "--set", "task=Isaac-Ant-Direct"]
    expected += ["--set", "num_envs=4096", "--gpus=1,4", "--iterations=15:18"]
    assert arguments_of("profile", given, {}) == expected


@pytest.mark.parametrize("value", NASTY)
def test_values_arrive_as_typed(arguments_of: ArgumentsOf, value: str) -> None:
    expected = ["run", value, "--cluster", value, "--set", f"task={value}", "--set", f"num_envs={value}"]
    given = {"TASK": value, "ENVS": value, "CLUSTER": value, "STUDY": value}
    assert arguments_of("strong-scaling", given, {}) == expected
    assert arguments_of("strong-scaling", {}, given) == expected


def test_help_names_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^\.PHONY: (\S+)$", text, re.MULTILINE)) - {"components"}
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    assert set(re.findall(r"^  make (\S+) ", shown, re.MULTILINE)) == targets
    wanted = {"help", "setup", "strong-scaling", "weak-scaling", "report", "test", "lint", "types", "bench", "golden"}
    assert wanted <= targets
