"""Presets against the real configuration of their tasks, as the jobs' Python has it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from paceline.bench import environment, presetcheck
from paceline.bench.errors import StudyError
from paceline.bench.preset import Preset, load_preset, shipped

pytestmark = [pytest.mark.slow, pytest.mark.isaaclab]

MISTAKES = {
    "rewards.feet_air_tim": "0.5",
    "agent.algorithm.learning_rat": "0.1",
    "env.episode_length_s": "soon",
    "events.push_robot.interval_rang_s": "[1, 2]",
}


def question(preset: Preset) -> dict[str, Any]:
    settings = preset.settings()
    return {"task": preset.task, "trainer": preset.trainer, "physics": preset.physics, "settings": settings}


def test_shipped_presets_fit_their_tasks_and_mistakes_are_named(jobs_environment: Path, repository: Path) -> None:
    """One process answers for all presets: what they set exists, with the stock values that the plans call defaults."""
    wrong = load_preset("anymal_c_rough_48h", MISTAKES)
    presets = [load_preset(name) for name in shipped()]
    questions = [question(preset) for preset in [*presets, wrong]]
    questions.append({**questions[0], "task": "Isaac-Cartpole-Dirct"})
    questions[0]["packages"] = ["torch", "no_such_package"]
    link = repository / "build" / "typing"
    assert (link / "paceline").is_dir() or subprocess.run(["make", "build/typing"], cwd=repository, check=True)
    done = subprocess.run(
        [jobs_environment, "-m", "paceline.bench.taskprobe"],
        input=json.dumps(questions),
        env={**os.environ, **environment.cache_variables(), "PYTHONPATH": str(link), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    answers = json.loads(done.stdout.splitlines()[-1])
    by_name = dict(zip(shipped(), answers, strict=False))
    for name, answer in by_name.items():
        assert answer["errors"] == [], name
    assert answers[0]["missing"] == ["no_such_package"] and answers[1]["missing"] == []
    anymal = by_name["anymal_c_rough_48h"]
    # What the plan calls the defaults is what the task has, so the preset changes what the plan changes.
    assert anymal["defaults"]["agent.actor.hidden_dims"] == [512, 256, 128]
    assert anymal["defaults"]["agent.algorithm.learning_rate"] == 1.0e-3
    assert anymal["defaults"]["env.rewards.track_lin_vel_xy_exp.weight"] == 1.0
    assert anymal["networks"] == {"actor": [1024, 512, 256], "critic": [1024, 512, 256]}
    assert anymal["agent"] == {"horizon": 24, "num_minibatches": 8, "num_epochs": 8}
    assert by_name["spot_rough_48h"]["defaults"]["env.rewards.foot_clearance.weight"] == 0.5

    errors = {error["key"]: error for error in answers[len(by_name)]["errors"]}
    assert set(errors) == {
        "env.rewards.feet_air_tim.weight",
        "agent.algorithm.learning_rat",
        "env.episode_length_s",
        "env.events.push_robot.interval_rang_s",
    }
    assert errors["env.rewards.feet_air_tim.weight"]["near"] == ["env.rewards.feet_air_time"]
    assert errors["agent.algorithm.learning_rat"]["near"][0] == "agent.algorithm.learning_rate"
    assert errors["env.events.push_robot.interval_rang_s"]["near"][0] == "env.events.push_robot.interval_range_s"
    assert "expected a number like 20.0" in errors["env.episode_length_s"]["message"]
    assert answers[-1]["errors"][0]["near"][0] == "Isaac-Cartpole-Direct"


def test_a_misspelt_reward_is_one_line(jobs_environment: Path) -> None:
    preset = load_preset("cartpole_2min", {"rewards.aliv": "1"})
    with pytest.raises(StudyError) as caught:
        presetcheck.check(preset, str(jobs_environment))
    assert str(caught.value).startswith("preset cartpole_2min: ") and "\n" not in str(caught.value)
