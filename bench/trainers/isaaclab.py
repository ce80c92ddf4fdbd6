"""What both trainers share: Isaac Lab's training entry, its arguments, and its refusal of several CPU ranks.

Isaac Lab is imported only after the hooks are in place, by `run_training`.
"""

from __future__ import annotations

import importlib
import os
import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from paceline.bench.errors import LaunchError
from paceline.bench.record import Case
from paceline.profiling.hooks import Hook
from paceline.profiling.patches import ImportWatch, Patches


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """The learning problem as a trainer really has it, read back from its objects. Scope: rank."""

    num_envs_per_rank: int
    horizon: int
    num_minibatches: int
    minibatch_size_per_rank: int
    num_epochs: int
    max_iterations: int
    env_seed: int | None
    device: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistics:
    """What a trainer says about the iteration that has just ended. Scope: rank."""

    reward: float | None
    """Mean episode reward as the trainer averages it, None if no episode has ended or this rank keeps no statistics."""
    episode_length: float | None
    reported_iteration_time_s: float | None
    """The trainer's own collection + learning time."""


class Trainer(Protocol):
    """What a trainer module in this package provides."""

    HOOKS: dict[str, tuple[Hook, ...]]
    """By engine version."""
    COUNTS_OPTIMIZER_STEPS: bool
    """Whether one of the hooks has the role optimizer_step; else torch's own optimiser hook counts."""

    def arguments(self, case: Case) -> list[str]:
        """Return the arguments of this trainer for a case, after the common ones."""

    def read_back(self, trainer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Problem:
        """Return the learning problem from the object and the arguments of the training method."""

    def options(self, trainer: Any) -> dict[str, str | None]:
        """Return the options in effect that levers may set, as levers call them; None where there is no such option."""

    def statistics(self, owner: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Statistics:
        """Return the statistics from the object, arguments and result of the reporting method."""

    def adapt_to_cpu(self, watch: ImportWatch, patches: Patches) -> None:
        """Let the library train on CPU ranks with gloo."""


def load_trainer(name: str) -> Trainer:
    """Return the trainer module of that name (no RL library is imported yet)."""
    module: Any = importlib.import_module(f"paceline.bench.trainers.{name}")
    trainer: Trainer = module
    return trainer


def common_arguments(case: Case) -> list[str]:
    """Return the arguments of Isaac Lab's training entry that do not depend on the trainer.

    ``--distributed`` is given for one rank as well, as ``isaaclab train_multigpu --num_gpus 1`` does, so that one rank
    and many differ in nothing but their number. Isaac Lab 3.0 adds the global rank to ``--seed`` itself; 2.3 adds the
    local rank, so there the ranks of the nodes before are added here.
    """
    sizes = ["--num_envs", str(case.num_envs_per_rank), "--max_iterations", str(case.iterations)]
    if case.engine_version.startswith("2."):
        rank, local_rank, _ = rank_of_environment()
        seed = case.seed + rank - local_rank
        # One folder per rank for what Kit writes: two Kits that share one lock each other out of its databases.
        kit = os.environ.get("PACELINE_KIT_ROOT")
        kit_arguments = ["--kit_args", f"--portable-root={kit}"] if kit else []
        return ["--task", case.task, *sizes, "--seed", str(seed), "--distributed", "--headless", *kit_arguments]
    arguments = ["--rl_library", case.trainer, "--task", case.task, *sizes, "--seed", str(case.seed), "--distributed"]
    arguments += ["--run_timestamp", "run", "--viz", "none"]
    return [*arguments, f"physics={case.physics}"] if case.physics else arguments


def is_compiled(module: Any) -> bool:
    """Return whether a module is what torch.compile returns."""
    return type(module).__name__ == "OptimizedModule"  # by name: importing its class takes torch a second


def env_of(trainer_env: Any) -> Any:
    """Return the Isaac Lab environment inside a trainer's wrapper."""
    return trainer_env.unwrapped


def run_training(case: Case, arguments: list[str]) -> int:
    """Run Isaac Lab's own training entry in this process and return its exit status."""
    if case.engine_version.startswith("2."):
        return _run_script(case, arguments)
    import warp

    # Warp reads this when a module with kernels is imported; Isaac Lab's own entry points set it first, too.
    warp.config.enable_backward = False
    dispatch = importlib.import_module("isaaclab_rl.entrypoints.dispatch")
    return int(dispatch.run_train_cli(arguments))


def _run_script(case: Case, arguments: list[str]) -> int:
    """Run the training script of Isaac Lab 2.3, which starts the simulator. Never run with Kit itself."""
    script = Path(
        os.environ.get("ISAACLAB_PATH", "."), "scripts", "reinforcement_learning", case.trainer, "train.py"
    ).absolute()
    if not script.is_file():
        raise LaunchError(f"{script} does not exist: ISAACLAB_PATH must name the folder of Isaac Lab 2.3")
    before = sys.argv, list(sys.path)
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.parent))  # it imports its neighbour cli_args
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv, sys.path[:] = before
    return 0


def use_gloo(watch: ImportWatch, patches: Patches) -> None:
    """Let Isaac Lab 3.0 run several ranks on CPU: gloo instead of NCCL, and the simulator stays on the CPU.

    Isaac Lab insists on cuda:<local rank> in `launch_simulation` and refuses the CPU in its entry points.
    """

    def torch_distributed(module: ModuleType) -> None:
        def wrap(init_process_group: Callable[..., Any]) -> Callable[..., Any]:
            def with_gloo(backend: str | None = None, **kwargs: Any) -> Any:
                return init_process_group("gloo", **kwargs)

            return with_gloo

        patches.replace(module, "init_process_group", wrap)

    def torch_cuda(module: ModuleType) -> None:
        patches.replace(module, "set_device", lambda original: lambda device: None)

    def sim_launcher(module: ModuleType) -> None:
        def resolve(cfg: Any, args: dict[str, Any]) -> None:
            sim = getattr(cfg, "sim", None)
            if sim is not None:
                sim.device = "cpu"
            args["device"] = "cpu"

        patches.replace(module, "_resolve_distributed_device", lambda original: resolve)

    def validate(module: ModuleType) -> None:
        patches.replace(module, "validate_distributed_device", lambda original: lambda args: None)

    watch.on_import("torch.distributed", torch_distributed)
    watch.on_import("torch.cuda", torch_cuda)
    watch.on_import("isaaclab.app.sim_launcher", sim_launcher)
    watch.on_import("isaaclab_rl.entrypoints.common", validate)


def rank_of_environment() -> tuple[int, int, int]:
    """Return (global rank, local rank, world size) as torchrun gave them."""
    return (
        int(os.environ.get("RANK", "0")),
        int(os.environ.get("LOCAL_RANK", "0")),
        int(os.environ.get("WORLD_SIZE", "1")),
    )
