"""rsl_rl: where the clock attaches, what it is told, what is read back, and how it trains on CPU ranks.

With several ranks each keeps its own rollout storage of num_envs_per_rank * horizon samples and cuts it into
num_mini_batches, so the number of minibatches stays when the world grows.
"""

from __future__ import annotations

import statistics as stats
from types import ModuleType
from typing import Any

from paceline.bench.record import Case
from paceline.bench.trainers.isaaclab import Problem, Statistics, env_of, is_compiled, rank_of_environment
from paceline.profiling.hooks import Hook
from paceline.profiling.patches import ImportWatch, Patches

_RUNNER = "rsl_rl.runners.on_policy_runner"
_PPO = "rsl_rl.algorithms.ppo"
_STORAGE = "rsl_rl.storage.rollout_storage"

_COMMON = (
    Hook(_RUNNER, "OnPolicyRunner", "learn", "training"),
    Hook(_PPO, "PPO", "act", "inference"),
    Hook(_PPO, "PPO", "compute_returns", "update_start"),
    Hook(_PPO, "PPO", "update", "iteration_end"),
    Hook(_STORAGE, "RolloutStorage", "mini_batch_generator", "minibatch_generator"),
    Hook(_STORAGE, "RolloutStorage", "recurrent_mini_batch_generator", "minibatch_generator", optional=True),
    Hook("isaaclab_rl.rsl_rl.vecenv_wrapper", "RslRlVecEnvWrapper", "step", "env_step"),
)

HOOKS: dict[str, tuple[Hook, ...]] = {
    "3.0": (*_COMMON, Hook("rsl_rl.utils.logger", "Logger", "log", "report_before")),  # rsl-rl-lib 5.5.1
    # rsl-rl-lib 3.0.1 to 3.1.2: OnPolicyRunner.log(locs), on rank 0 only.
    "2.3": (*_COMMON, Hook(_RUNNER, "OnPolicyRunner", "log", "report_before")),
}

COUNTS_OPTIMIZER_STEPS = False


def arguments(case: Case) -> list[str]:
    """Return the rsl_rl settings of a case."""
    settings = [
        f"agent.num_steps_per_env={case.horizon}",
        f"agent.algorithm.num_mini_batches={case.num_minibatches}",
        f"agent.algorithm.num_learning_epochs={case.num_epochs}",
    ]
    levers = dict(case.levers)
    if "torch_compile" in levers:
        mode = levers["torch_compile"]
        settings.append(f"agent.torch_compile_mode={'null' if mode == 'off' else mode}")
    if "check_for_nan" in levers:
        settings.append(f"agent.check_for_nan={levers['check_for_nan']}")
    return settings


def options(trainer: Any) -> dict[str, str | None]:
    """Return the options of an OnPolicyRunner that levers may set."""
    algorithm = trainer.alg
    models = (algorithm.actor, algorithm.critic) if hasattr(algorithm, "actor") else (algorithm.policy,)  # 5, 3
    compiled = all(is_compiled(model) for model in models)
    return {
        "torch_compile": str(trainer.cfg.get("torch_compile_mode")) if compiled else "off",
        "check_for_nan": str(bool(trainer.cfg.get("check_for_nan", True))).lower(),
    }


def read_back(trainer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Problem:
    """Return the learning problem of an OnPolicyRunner whose learn method is being called."""
    algorithm, storage = trainer.alg, trainer.alg.storage
    samples = storage.num_envs * storage.num_transitions_per_env
    return Problem(
        num_envs_per_rank=env_of(trainer.env).num_envs,
        horizon=storage.num_transitions_per_env,
        num_minibatches=algorithm.num_mini_batches,
        minibatch_size_per_rank=samples // algorithm.num_mini_batches,
        num_epochs=algorithm.num_learning_epochs,
        max_iterations=kwargs.get("num_learning_iterations", args[0] if args else 0),
        env_seed=env_of(trainer.env).cfg.seed,
        device=str(trainer.device),
    )


def statistics(owner: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Statistics:
    """Return what rsl_rl is about to log; it fills its reward buffer on global rank 0 only."""
    values: dict[str, Any] = args[0] if args and isinstance(args[0], dict) else kwargs  # 3.x: log(locs)
    rewards = values.get("rewbuffer", getattr(owner, "rewbuffer", ()))
    lengths = values.get("lenbuffer", getattr(owner, "lenbuffer", ()))
    collection, learning = (
        values.get("collect_time", values.get("collection_time")),
        values.get("learn_time"),
    )
    return Statistics(
        reward=stats.fmean(rewards) if len(rewards) else None,
        episode_length=stats.fmean(lengths) if len(lengths) else None,
        reported_iteration_time_s=collection + learning if collection is not None and learning is not None else None,
    )


def adapt_to_cpu(watch: ImportWatch, patches: Patches) -> None:
    """Replace OnPolicyRunner's set-up of ranks, which demands cuda:<local rank> and NCCL, by the same on CPU."""

    def configure_multi_gpu(self: Any) -> None:
        import torch.distributed

        rank, local_rank, world_size = rank_of_environment()
        self.gpu_world_size, self.gpu_global_rank, self.gpu_local_rank = world_size, rank, local_rank
        self.is_distributed = world_size > 1
        ranks = {"global_rank": rank, "local_rank": local_rank, "world_size": world_size}
        self.cfg["multi_gpu"] = self.multi_gpu_cfg = ranks if self.is_distributed else None  # rsl_rl 5, rsl_rl 3
        if self.is_distributed:
            torch.distributed.init_process_group(backend="gloo", rank=rank, world_size=world_size)

    def runner(module: ModuleType) -> None:
        patches.replace(module.OnPolicyRunner, "_configure_multi_gpu", lambda original: configure_multi_gpu)

    watch.on_import(_RUNNER, runner)
