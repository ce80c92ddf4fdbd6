"""rl_games: resuming, saving between iterations, and what it says about an iteration, for campaigns."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from paceline.bench.errors import LaunchError
from paceline.bench.record import Case
from paceline.bench.trainers.rsl_rl_resume import curriculum

SUMMARY_WRITERS = (("tensorboardX", True),)
"""Modules with the SummaryWriter it logs with, and whether the steps of its curves are frames, not iterations."""


def arguments(case: Case, start: int, checkpoint: str | None, save_interval: int) -> list[str]:
    """Return the further arguments of a start that resumes at an iteration. rl_games counts on from its checkpoint."""
    settings = [] if checkpoint is None else ["--checkpoint", checkpoint]
    return [*settings, f"agent.params.config.save_frequency={save_interval}"]


def wandb(project: str, entity: str | None) -> list[str]:
    """Return the arguments that make it log to Weights & Biases."""
    return ["--track", "--wandb-project-name", project, *(["--wandb-entity", entity] if entity else [])]


def max_iterations(case: Case, start: int) -> int:
    """Return the number of iterations that the trainer is told for a start at an iteration."""
    return case.iterations


def resumed(agent: Any, start: int) -> None:
    """Let the agent go on as it was: it restores its optimiser, but neither its own learning rate nor its best reward.

    The adaptive schedule would start again from the configured rate, and a worse policy would take the place of the
    best one: its training resets the best reward, so it is put back after the first iteration (`trained`).
    """
    if agent.epoch_num != start:
        raise LaunchError(
            f"rl_games resumes after {agent.epoch_num} iterations, the checkpoint was said to hold {start}"
        )
    if start:
        agent.last_lr = agent.optimizer.param_groups[0]["lr"]
        agent.paceline_best_reward = agent.last_mean_rewards


def save_now(agent: Any) -> None:
    """Save a checkpoint between two iterations, unless the one of the last iteration is there.

    The agent has counted on to the next iteration already; the checkpoint must say how many are done.
    """
    agent.epoch_num -= 1
    try:
        reward = agent.game_rewards.get_mean()[0] if agent.game_rewards.current_size > 0 else "none"
        name = f"last_{agent.config['name']}_ep_{agent.epoch_num}_rew_{reward}"
        if not os.path.exists(os.path.join(agent.nn_dir, f"{name}.pth")):
            agent.save(os.path.join(agent.nn_dir, name))
    finally:
        agent.epoch_num += 1


def flush(agent: Any) -> None:
    """Write out what the logger holds back."""
    writer = getattr(agent, "writer", None)
    if writer is not None:
        writer.flush()


def unnumbered_checkpoint(agent: Any) -> str | None:
    """Return the name of the checkpoint that is overwritten again and again: the best so far."""
    return None if agent is None else f"{agent.config['name']}.pth"


def trained(agent: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> dict[str, Any]:
    """Return learning rate, losses, and the terrain level, if the task has one, of the iteration that has ended."""
    best = getattr(agent, "paceline_best_reward", None)
    if best is not None:
        agent.last_mean_rewards = max(best, agent.last_mean_rewards)
        agent.paceline_best_reward = None
    actor, critic, rest = result[4], result[5], result[6:]
    losses = {"actor": _mean(actor), "critic": _mean(critic)}
    if len(rest) == 5:  # continuous actions: bounds, entropies, kls, last_lr, lr_mul
        losses["bounds"] = _mean(rest[0])
        rest = rest[1:]
    losses["entropy"] = _mean(rest[0])
    found = {"learning_rate": float(rest[2]) * float(rest[3]), "losses": losses}
    return found | curriculum(getattr(getattr(agent, "algo_observer", None), "ep_infos", ()))


def _mean(values: Any) -> float | None:
    """Return the mean of some numbers or tensors of one; one wait for the device, not one for each."""
    if not len(values):
        return None
    import torch

    return float(torch.stack([torch.as_tensor(value).detach().float().reshape(()) for value in values]).mean())
