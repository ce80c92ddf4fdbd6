"""Holds a preset against the task's real configuration, which the jobs' Python knows, before anything is queued."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paceline.bench import environment, tasks
from paceline.bench.errors import LaunchError, StudyError
from paceline.bench.preset import Preset

_PROBE_S = 300.0
_NEEDED_BY = {"wandb": "wandb", "prometheus_client": "metrics_port"}
"""Key of a preset that needs an optional package, by package."""
# Where the two trainers keep the numbers that planning needs.
_NUMBERS = {
    "rsl_rl": {
        "horizon": "agent.num_steps_per_env",
        "num_minibatches": "agent.algorithm.num_mini_batches",
        "num_epochs": "agent.algorithm.num_learning_epochs",
    },
    "rl_games": {
        "horizon": "agent.params.config.horizon_length",
        "minibatch_size": "agent.params.config.minibatch_size",
        "num_epochs": "agent.params.config.mini_epochs",
    },
}


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What the task's configuration says to a preset."""

    settings: dict[str, Any]
    """The preset's settings, whole numbers turned into floats where the configuration has floats."""
    agent: dict[str, int]
    """horizon, num_epochs and either num_minibatches or minibatch_size, the preset's settings applied."""
    hidden_layers: dict[str, list[int]]
    """Widths of the hidden layers by network (``actor``, ``critic``), empty where not known."""
    defaults: dict[str, Any]
    """What the settings are without the preset."""
    verified: bool
    """False where the jobs' Python cannot run on this machine: only task, trainer and physics were checked."""
    missing: tuple[str, ...] = ()
    """Optional packages that the preset needs and the jobs' Python on this machine does not have."""


def check(preset: Preset, python: str) -> Checked:
    """Return what the task's configuration says to a preset.

    Args:
        preset: The preset.
        python: Python of the jobs on this machine.

    Raises:
        StudyError: Unknown task, trainer, physics or settings, with the nearest names; one line per problem.
        LaunchError: The configuration cannot be read.
    """
    _check_table(preset)
    program = shutil.which(python)
    if program is None:
        return _unverified(preset)
    settings = preset.settings()
    question = {"task": preset.task, "trainer": preset.trainer, "physics": preset.physics, "settings": settings}
    answer = _ask({**question, "packages": packages(preset)}, program)
    if answer["errors"]:
        raise StudyError("\n".join(_line(preset, error) for error in answer["errors"]))
    for key, default in answer["defaults"].items():
        if isinstance(default, float) and isinstance(settings[key], int) and not isinstance(settings[key], bool):
            settings[key] = float(settings[key])
        elif isinstance(default, list) and default and all(isinstance(item, float) for item in default):
            settings[key] = [float(item) if isinstance(item, int) else item for item in settings[key]]
    return Checked(
        settings=settings,
        agent=answer["agent"],
        hidden_layers=answer["networks"],
        defaults=answer["defaults"],
        verified=True,
        missing=tuple(answer["missing"]),
    )


def packages(preset: Preset) -> list[str]:
    """Return the optional packages that a preset needs in the jobs' Python; Paceline installs none of them."""
    return [name for name, key in _NEEDED_BY.items() if getattr(preset, key) is not None]


def require_packages(preset: Preset, checked: Checked, python: str) -> None:
    """Raise StudyError if a package that the preset needs is missing."""
    for name in checked.missing:
        key = _NEEDED_BY[name]
        raise StudyError(
            f"preset {preset.name}: {key}: needs {name}, which the jobs' Python does not have; install it "
            f"with `uv pip install --python {python} {name}`, or remove {key} from the preset"
        )


def _check_table(preset: Preset) -> None:
    """Raise StudyError for what the table of tasks knows to be wrong; a task that it does not list may be your own."""
    task = tasks.lookup(preset.task)
    if task is None:
        return
    if preset.trainer not in task.trainers:
        raise StudyError(
            f"preset {preset.name}: trainer {preset.trainer}: task {preset.task} has no stock configuration for it "
            f"(it has {', '.join(task.trainers)})"
        )
    if task.physics and preset.physics not in task.physics:
        raise StudyError(
            f"preset {preset.name}: physics {preset.physics!r}: task {preset.task} has no such preset "
            f"(it has {', '.join(task.physics)})"
        )


def _unverified(preset: Preset) -> Checked:
    task = tasks.lookup(preset.task)
    agent = task.agent(preset.trainer, preset.physics) if task else None
    if agent is None:
        near = tasks.nearest(preset.task)
        raise StudyError(
            f"preset {preset.name}: task {preset.task!r}: not in Isaac Lab {tasks.isaaclab_version()}"
            + (f"; nearest: {', '.join(near)}" if near else "")
        )
    settings = preset.settings()
    numbers = {name: getattr(agent, name) for name in ("horizon", "num_epochs", "num_minibatches", "minibatch_size")}
    numbers |= {name: settings[key] for name, key in _NUMBERS[preset.trainer].items() if key in settings}
    return Checked(
        settings=settings,
        agent={name: value for name, value in numbers.items() if value is not None},
        hidden_layers={},
        defaults={},
        verified=False,
    )


def _ask(question: dict[str, Any], python: str) -> dict[str, Any]:
    # The jobs' interpreter has nothing of ours, and the probe needs nothing: it is run by its path.
    own = {"PYTHONSAFEPATH": "1", "CUDA_VISIBLE_DEVICES": "", **environment.cache_variables()}
    try:
        done = subprocess.run(
            [python, str(Path(__file__).with_name("taskprobe.py"))],
            input=json.dumps(question),
            env={**os.environ, **own},
            capture_output=True,
            text=True,
            timeout=_PROBE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LaunchError(f"the configuration of {question['task']} cannot be read with {python}: {error}") from error
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer
    except (ValueError, IndexError):
        reason = [line for line in done.stderr.strip().splitlines() if line.strip()] or ["no reason given"]
        raise LaunchError(
            f"the configuration of {question['task']} cannot be read with {python}: {reason[-1]}"
        ) from None


def _line(preset: Preset, error: dict[str, Any]) -> str:
    key = str(error["key"])
    for group in ("rewards", "events"):  # as the preset states it
        if key.startswith(f"env.{group}."):
            key = key.removeprefix("env.")
    near = [
        str(name).removeprefix("env.") if key.startswith(("rewards.", "events.")) else name for name in error["near"]
    ]
    hint = f"; nearest: {', '.join(near)}" if near else ""
    return f"preset {preset.name}: {key}: {error['message']}{hint} (task {preset.task})"
