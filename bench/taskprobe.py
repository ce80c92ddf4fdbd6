"""Holds settings of a preset against a task's real configuration. Runs with the jobs' Python, starts no simulator.

    python bench/taskprobe.py < question.json > answer.json

The question names ``task``, ``trainer``, ``physics`` and ``settings`` (dotted key, such as
``env.rewards.feet_air_time.weight``, to value). The answer has ``errors`` (``key``, ``message``, ``near``), the
``defaults`` of all keys that exist, and what the agent is with the settings applied: ``agent`` (horizon, minibatches,
epochs) and ``networks`` (widths of the hidden layers); ``missing`` are those of the question's ``packages`` that are
not installed. A list of questions gets a list of answers.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

TRAINERS = ("rsl_rl", "rl_games")


def answer(question: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the installed Isaac Lab says to a question."""
    import gymnasium
    import isaaclab_tasks  # noqa: F401  # registers the tasks
    from isaaclab_tasks.utils.hydra import resolve_presets
    from isaaclab_tasks.utils.parse_cfg import load_cfg_from_registry

    task, trainer, physics = question["task"], question["trainer"], question["physics"]
    if task not in gymnasium.registry:
        known = [name for name, spec in gymnasium.registry.items() if "env_cfg_entry_point" in spec.kwargs]
        return {"errors": [_error("task", f"no task {task!r} in the installed Isaac Lab", _near(task, known))]}
    if not gymnasium.spec(task).kwargs.get(f"{trainer}_cfg_entry_point"):
        have = [t for t in TRAINERS if gymnasium.spec(task).kwargs.get(f"{t}_cfg_entry_point")]
        return {"errors": [_error("trainer", f"{task} has no configuration for {trainer}", have)]}
    presets = (physics,) if physics else ()
    roots = {
        "env": resolve_presets(load_cfg_from_registry(task, "env_cfg_entry_point"), presets),
        "agent": resolve_presets(load_cfg_from_registry(task, f"{trainer}_cfg_entry_point"), presets),
    }
    errors, defaults = [], {}
    for key, value in question["settings"].items():
        problem, default = _apply(roots, key, value)
        if problem is not None:
            errors.append(problem)
        else:
            defaults[key] = _plain(default)
    missing = [name for name in question.get("packages", ()) if importlib.util.find_spec(name) is None]
    return {"errors": errors, "defaults": defaults, "missing": missing, **_agent(roots["agent"], trainer)}


def _apply(roots: Mapping[str, Any], key: str, value: Any) -> tuple[dict[str, Any] | None, Any]:
    """Set a value in the configuration; return (what is wrong, None) or (None, the value before)."""
    parts = key.split(".")
    here: Any = roots
    for depth, part in enumerate(parts):
        names = _names(here)
        if part not in names:
            where = ".".join(parts[:depth]) or "a setting"
            near = [".".join([*parts[:depth], name]) for name in _near(part, names)]
            few = "" if near or len(names) > 12 else f" (it has: {', '.join(names) or 'nothing'})"
            return _error(key, f"{where} has no {part!r}{few}", near), None
        if depth == len(parts) - 1:
            break
        here = _get(here, part)
    before = _get(here, parts[-1])
    wrong = _wrong_type(before, value)
    if wrong:
        return _error(key, wrong, []), None
    if isinstance(here, dict):
        here[parts[-1]] = value
    else:
        setattr(here, parts[-1], value)
    return None, before


def _names(node: Any) -> list[str]:
    if isinstance(node, Mapping):
        return [str(name) for name in node]
    if node is None or isinstance(node, str | int | float | bool | list | tuple):
        return []
    return [name for name in vars(node) if not name.startswith("_")]


def _get(node: Any, name: str) -> Any:
    return node[name] if isinstance(node, Mapping) else getattr(node, name)


def _wrong_type(before: Any, value: Any) -> str | None:
    """Return what is wrong with a value in the place of another, None if it can stand there."""
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", tuple: "a list"}
    if value is None or before is None or type(before) not in kinds or callable(before):
        if value is not None and _names(before):
            return f"is a group of settings ({', '.join(_names(before)[:6])} ...), not a value"
        return None
    fits = {
        bool: (bool,),
        int: (int, float),
        float: (int, float),
        str: (str,),
        list: (list,),
        tuple: (list,),
    }[type(before)]
    good = isinstance(value, fits) and isinstance(value, bool) == isinstance(before, bool)
    if good and isinstance(before, tuple) and len(before) == 2 and len(value) != 2:
        return f"expected two values like {list(before)}, found {value!r}"
    return None if good else f"expected {kinds[type(before)]} like {before!r}, found {value!r}"


def _agent(agent: Any, trainer: str) -> dict[str, Any]:
    """Return the numbers and the hidden layers of a resolved agent."""
    if trainer == "rsl_rl":
        algorithm = agent.algorithm
        numbers = {
            "horizon": int(agent.num_steps_per_env),
            "num_minibatches": int(algorithm.num_mini_batches),
            "num_epochs": int(algorithm.num_learning_epochs),
        }
        networks = {}
        for name in ("actor", "critic"):
            model: Any = getattr(agent, name, None)
            if isinstance(getattr(model, "hidden_dims", None), list | tuple):
                networks[name] = [int(width) for width in model.hidden_dims]
        return {"agent": numbers, "networks": networks}
    config = agent["params"]["config"]
    network = agent["params"].get("network", {})
    numbers = {
        "horizon": int(config["horizon_length"]),
        "minibatch_size": int(config["minibatch_size"]),
        "num_epochs": int(config["mini_epochs"]),
    }
    units = network.get("mlp", {}).get("units") if network.get("name") == "actor_critic" else None
    return {"agent": numbers, "networks": {"actor": [int(u) for u in units]} if isinstance(units, list) else {}}


def _error(key: str, message: str, near: list[str]) -> dict[str, Any]:
    return {"key": key, "message": message, "near": near}


def _near(word: str, words: list[str]) -> list[str]:
    lowered = {candidate.lower(): candidate for candidate in words}
    close = difflib.get_close_matches(word.lower().removesuffix("-v0"), lowered, n=3, cutoff=0.5)
    return [lowered[candidate] for candidate in close]


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Isaac Lab prints out of the answer."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def main() -> int:
    """Read the question, print the answer."""
    question = json.load(sys.stdin)
    with _quiet():
        found = [answer(one) for one in question] if isinstance(question, list) else answer(question)
    json.dump(found, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
