"""rsl_rl: resuming, saving between iterations, and what it says about an iteration, for campaigns."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from paceline.bench.record import Case

SUMMARY_WRITERS = (("torch.utils.tensorboard.writer", False),)
"""Modules with the SummaryWriter it logs with, and whether the steps of its curves are frames, not iterations."""


def arguments(case: Case, start: int, checkpoint: str | None, save_interval: int) -> list[str]:
    """Return the further arguments of a start that resumes at an iteration.

    rsl_rl is told how many iterations to do, not up to which. The last --max_iterations counts.
    """
    settings = ["--max_iterations", str(max_iterations(case, start))]
    if checkpoint is not None:
        settings += ["--checkpoint", checkpoint]
    return [*settings, f"agent.save_interval={save_interval}"]


def wandb(project: str, entity: str | None) -> list[str]:
    """Return the arguments that make it log to Weights & Biases."""
    return ["--logger", "wandb", "--log_project_name", project]


def max_iterations(case: Case, start: int) -> int:
    """Return the number of iterations that the trainer is told for a start at an iteration."""
    return case.iterations - start


def resumed(runner: Any, start: int) -> None:
    """Let the OnPolicyRunner count on from the iteration after the checkpoint's.

    Its checkpoint holds the number of the iteration just done, and it would do that number a second time.
    """
    runner.current_learning_iteration = start


def save_now(runner: Any) -> None:
    """Save a checkpoint between two iterations, unless the one of the last iteration is there."""
    path = os.path.join(runner.logger.log_dir, f"model_{runner.current_learning_iteration}.pt")
    if not os.path.exists(path):
        runner.save(path)


def flush(runner: Any) -> None:
    """Write out what the logger holds back."""
    writer = runner.logger.writer
    if writer is not None and hasattr(writer, "flush"):
        writer.flush()


def unnumbered_checkpoint(runner: Any) -> str | None:
    """Return the name of the checkpoint that is overwritten again and again; rsl_rl has none."""
    return None


def trained(owner: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> dict[str, Any]:
    """Return learning rate, losses, and the terrain level, if the task has one, of the iteration being logged."""
    values = args[0] if args and isinstance(args[0], dict) else kwargs
    losses = {str(name): float(value) for name, value in (values.get("loss_dict") or {}).items()}
    found = {"learning_rate": values.get("learning_rate"), "losses": losses}
    return found | curriculum(getattr(owner, "ep_extras", ()))


def curriculum(infos: Any) -> dict[str, Any]:
    """Return the mean terrain level in what the environment logged at episode ends, empty if it logs none."""
    levels = [
        float(info[key])
        for info in infos
        for key in info
        if str(key).rsplit("/", 1)[-1] in ("terrain_levels", "terrain_level")
    ]
    return {"terrain_level": sum(levels) / len(levels)} if levels else {}
