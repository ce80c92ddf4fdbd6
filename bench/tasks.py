"""What the stock training configuration of every Isaac Lab task says, without importing Isaac Lab.

The login node plans a study without Isaac Lab, so the few numbers that planning needs (horizon, minibatches, epochs,
default environments, physics presets) are kept in tasks.json, made from an installed Isaac Lab by

    python -m paceline.bench.tasks --generate        (with the Python of the jobs environment)

They are defaults only: the worker reads back what the trainer really uses and refuses to run on a difference.
"""

from __future__ import annotations

import difflib
import functools
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

TASKS_SCHEMA = "paceline.tasks/1"
TRAINERS = ("rsl_rl", "rl_games")


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentDefaults:
    """The stock agent of one task and trainer. Exactly one of the two minibatch fields is known."""

    horizon: int
    """Environment steps per environment and iteration."""
    num_epochs: int
    num_minibatches: int | None = None
    """rsl_rl states the number of minibatches ..."""
    minibatch_size: int | None = None
    """... rl_games their size, in samples of one rank."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One registered task."""

    name: str
    default_num_envs: int | None
    physics: tuple[str, ...]
    """Physics presets (``physics=...``) that the task has, in alphabetical order; empty if it has none."""
    agents: dict[tuple[str, str | None], AgentDefaults]
    """By trainer and physics preset; preset None holds for all that have no entry of their own."""

    @property
    def trainers(self) -> tuple[str, ...]:
        """Trainers that have a stock configuration for this task."""
        return tuple(t for t in TRAINERS if (t, None) in self.agents)

    def agent(self, trainer: str, physics: str) -> AgentDefaults | None:
        """Return the stock agent of a trainer under a physics preset, None if the task has none."""
        return self.agents.get((trainer, physics)) or self.agents.get((trainer, None))


@functools.cache
def _table() -> dict[str, Any]:
    text = resources.files("paceline.bench").joinpath("tasks.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    return table


def isaaclab_version() -> str:
    """Return the version of Isaac Lab that the table was made from."""
    return str(_table()["isaaclab"])


def names() -> list[str]:
    """Return the ids of all known tasks, in alphabetical order."""
    return sorted(_table()["tasks"])


def lookup(name: str) -> Task | None:
    """Return what is known about a task, None if Isaac Lab ships no such task."""
    entry = _table()["tasks"].get(name)
    if entry is None:
        return None
    agents: dict[tuple[str, str | None], AgentDefaults] = {}
    for trainer in TRAINERS:
        for values in entry.get(trainer, ()):
            numbers = {key: value for key, value in values.items() if key != "physics"}
            agents[trainer, values.get("physics")] = AgentDefaults(**numbers)
    return Task(name=name, default_num_envs=entry["num_envs"], physics=tuple(entry["physics"]), agents=agents)


def nearest(name: str, count: int = 3) -> list[str]:
    """Return the ids of the tasks whose names are most like the given one, best first."""
    lowered = {candidate.lower(): candidate for candidate in names()}
    # Isaac Lab 2 ended its ids in a version; 3 does not.
    close = difflib.get_close_matches(name.lower().removesuffix("-v0"), lowered, n=count, cutoff=0.5)
    return [lowered[candidate] for candidate in close]


# ------------------------------------------------------------------------------- generation (jobs environment)


def _generate() -> dict[str, Any]:
    """Return the table for the Isaac Lab that this Python has. Takes about a minute."""
    import contextlib
    import importlib.metadata
    import os
    import sys

    import gymnasium

    # Isaac Lab prints a line per configuration.
    with open(os.devnull, "w", encoding="utf-8") as quiet, contextlib.redirect_stdout(quiet):
        import isaaclab_tasks  # noqa: F401  # registers the tasks

        found: dict[str, Any] = {}
        for spec in sorted(gymnasium.registry.values(), key=lambda spec: spec.id):
            if "env_cfg_entry_point" not in spec.kwargs or spec.kwargs.get("deprecated"):
                continue
            if not any(spec.kwargs.get(f"{trainer}_cfg_entry_point") for trainer in TRAINERS):
                continue
            try:
                found[spec.id] = _task_entry(spec.id, spec.kwargs)
            except Exception as problem:  # a task that needs a package we do not have is left out, and said
                print(f"left out {spec.id}: {type(problem).__name__}: {problem}", file=sys.stderr)
    return {
        "schema": TASKS_SCHEMA,
        "isaaclab": importlib.metadata.version("isaaclab"),
        "tasks": found,
    }


def _task_entry(name: str, registered: dict[str, Any]) -> dict[str, Any]:
    """Return the table entry of one task: resolved as Isaac Lab's own command line resolves presets."""
    from isaaclab_tasks.utils.hydra import resolve_presets
    from isaaclab_tasks.utils.parse_cfg import load_cfg_from_registry
    from isaaclab_tasks.utils.preset_cli import enumerate_task_presets
    from isaaclab_tasks.utils.preset_target import PresetTarget

    presets = enumerate_task_presets(name)
    if presets is None:
        raise RuntimeError("its environment configuration cannot be loaded")
    physics = sorted(presets[PresetTarget.PHYSICS])
    env_cfg = resolve_presets(load_cfg_from_registry(name, "env_cfg_entry_point"))
    num_envs = env_cfg.scene.num_envs
    entry: dict[str, Any] = {"num_envs": num_envs if isinstance(num_envs, int) else None, "physics": physics}
    for trainer in TRAINERS:
        key = f"{trainer}_cfg_entry_point"
        if not registered.get(key):
            continue
        rows = [_agent_entry(trainer, resolve_presets(load_cfg_from_registry(name, key)))]
        for preset in physics:
            row = _agent_entry(trainer, resolve_presets(load_cfg_from_registry(name, key), (preset,)))
            if row != rows[0]:
                rows.append({"physics": preset, **row})
        entry[trainer] = rows
    return entry


def _agent_entry(trainer: str, agent: Any) -> dict[str, int]:
    """Return the numbers of one resolved agent configuration."""
    if trainer == "rsl_rl":
        algorithm = agent.algorithm
        return {
            "horizon": int(agent.num_steps_per_env),
            "num_minibatches": int(algorithm.num_mini_batches),
            "num_epochs": int(algorithm.num_learning_epochs),
        }
    config = agent["params"]["config"]
    return {
        "horizon": int(config["horizon_length"]),
        "minibatch_size": int(config["minibatch_size"]),
        "num_epochs": int(config["mini_epochs"]),
    }


def _to_text(table: dict[str, Any]) -> str:
    """Return tasks.json: one line per task, so that a diff between Isaac Lab versions can be read."""
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in table["tasks"].items())
    head = f'{{\n "schema": {json.dumps(table["schema"])},\n "isaaclab": {json.dumps(table["isaaclab"])},\n'
    return f'{head} "tasks": {{\n{rows}\n }}\n}}\n'


def main() -> None:
    """Regenerate tasks.json, or compare it with the installed Isaac Lab (``--check``)."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m paceline.bench.tasks", description=__doc__.split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--generate", action="store_true", help="write the table of the installed Isaac Lab")
    what.add_argument("--check", action="store_true", help="exit 1 if the table is not that of the installed one")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("tasks.json"))
    arguments = parser.parse_args()
    text = _to_text(_generate())
    if arguments.check:
        raise SystemExit(0 if arguments.output.read_text(encoding="utf-8") == text else 1)
    arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
