"""rl_games: where the clock attaches, what it is told, what is read back, and how it trains on CPU ranks.

rl_games is told a minibatch size, per rank. To keep the number of minibatches while the world grows, the size is
divided with the environments: ``minibatch_size = num_envs_per_rank * horizon / num_minibatches``.

Seeds: Isaac Lab adds the rank to the seed of environment and agent, and rl_games adds it once more to the agent's. So
rank r has environment seed + r (recorded as the seed) and draws its actions from seed + 2 r; all are distinct.

Normalisation: rl_games averages gradients over ranks, but each rank normalises observations and values
(``normalize_input``, ``normalize_value``) by the statistics of its own environments only. With few environments on a
rank these differ, and training with many ranks is then a harder problem than with one: Cartpole with 2 x 128
environments did not learn in 70 iterations what 1 x 256 did (CPU, seed 42), and did with both settings off. Paceline
leaves the settings as the task has them.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from paceline.bench.record import Case
from paceline.bench.trainers.isaaclab import Problem, Statistics, env_of, is_compiled
from paceline.profiling.hooks import Hook
from paceline.profiling.patches import ImportWatch, Patches

_BASE = "rl_games.common.a2c_common"

_HOOKS = (
    *(Hook(_BASE, cls, "train", "training") for cls in ("ContinuousA2CBase", "DiscreteA2CBase")),
    *(Hook(_BASE, "A2CBase", method, "collection") for method in ("play_steps", "play_steps_rnn")),
    Hook(_BASE, "A2CBase", "get_action_values", "inference"),
    Hook(_BASE, "A2CBase", "get_masked_action_values", "inference", optional=True),
    Hook(_BASE, "A2CBase", "get_values", "bootstrap"),
    Hook(_BASE, "A2CBase", "env_step", "env_step"),
    Hook(_BASE, "A2CBase", "discount_values", "update_start"),
    Hook(_BASE, "A2CBase", "trancate_gradients_and_step", "optimizer_step"),
    Hook("rl_games.algos_torch.a2c_continuous", "A2CAgent", "train_actor_critic", "minibatch"),
    Hook("rl_games.algos_torch.a2c_discrete", "DiscreteA2CAgent", "train_actor_critic", "minibatch"),
    *(Hook(_BASE, cls, "train_epoch", "iteration_end") for cls in ("ContinuousA2CBase", "DiscreteA2CBase")),
    *(Hook(_BASE, cls, "train_epoch", "report_after") for cls in ("ContinuousA2CBase", "DiscreteA2CBase")),
)

HOOKS: dict[str, tuple[Hook, ...]] = {
    "3.0": _HOOKS,  # rl-games 1.6.5
    "2.3": _HOOKS,  # NVIDIA's fork of rl-games: the same names. Written from the sources, never run.
}

COUNTS_OPTIMIZER_STEPS = True

_NEVER = 1.0e12  # a mean episode reward that no task reaches


def arguments(case: Case) -> list[str]:
    """Return the rl_games settings of a case.

    ``score_to_win`` would end a run early. ``torch_threads`` is min(4, cores / world size) by default, which changes
    with the world size. torch.compile needs a C++ compiler for the CPU and half a minute; on a GPU it stays as it is.
    """
    settings = [
        f"agent.params.config.horizon_length={case.horizon}",
        f"agent.params.config.minibatch_size={case.minibatch_size_per_rank}",
        f"agent.params.config.mini_epochs={case.num_epochs}",
        f"agent.params.config.score_to_win={_NEVER!r}",
    ]
    if case.engine_version.startswith("2."):  # its rl_games knows neither of the following
        return settings
    settings.append(f"agent.params.torch_threads={case.threads_per_rank}")
    mode = dict(case.levers).get("torch_compile", "off" if case.device == "cpu" else None)
    if mode is not None:
        settings.append(f"agent.params.config.torch_compile={'False' if mode == 'off' else mode}")
    return settings


def options(trainer: Any) -> dict[str, str | None]:
    """Return the options of an agent that levers may set. True is how rl_games states torch.compile's default mode."""
    mode = trainer.config.get("torch_compile", True)
    return {"torch_compile": ("default" if mode is True else str(mode)) if is_compiled(trainer.model) else "off"}


def read_back(trainer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Problem:
    """Return the learning problem of an agent whose train method is being called."""
    env = env_of(trainer.vec_env.env)
    return Problem(
        num_envs_per_rank=env.num_envs,
        horizon=trainer.horizon_length,
        num_minibatches=trainer.num_minibatches,
        minibatch_size_per_rank=trainer.minibatch_size,
        num_epochs=trainer.mini_epochs_num,
        max_iterations=trainer.max_epochs,
        env_seed=env.cfg.seed,
        device=str(trainer.ppo_device),
    )


def statistics(owner: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Statistics:
    """Return the statistics that every rank keeps, and the time that train_epoch returns: roll-out plus update."""
    ended = owner.game_rewards.current_size > 0
    return Statistics(
        reward=float(owner.game_rewards.get_mean()[0]) if ended else None,
        episode_length=float(owner.game_lengths.get_mean()) if ended else None,
        reported_iteration_time_s=float(result[3]),
    )


class _CpuConfig(dict[str, Any]):
    """The agent's configuration, in which A2CBase.__init__ cannot write cuda:<local rank>."""

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, "cpu" if key in ("device", "device_name") else value)


def adapt_to_cpu(watch: ImportWatch, patches: Patches) -> None:
    """Keep the agent's device on the CPU: rl_games writes cuda:<local rank> into its own configuration."""

    def a2c_common(module: ModuleType) -> None:
        def wrap(original: Any) -> Any:
            def init(self: Any, base_name: str, params: dict[str, Any]) -> None:
                params["config"] = _CpuConfig(params["config"])
                original(self, base_name, params)

            return init

        patches.replace(module.A2CBase, "__init__", wrap)

    watch.on_import(_BASE, a2c_common)
