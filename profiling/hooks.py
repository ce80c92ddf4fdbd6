"""Hooks: the methods of Isaac Lab and of the trainers that the iteration clock is attached to, and how.

A hook names a class and a method, never an instance, and says which role the method plays. Both trainers get the same
roles, so their numbers compare:

    physics          SimulationContext.step
    env_step         the trainer's call into the environment: physics, observations, rewards, resets
    inference        the policy acting; the first one of an iteration starts it
    collection       the whole roll-out, where the library has a method for it: starts the iteration
    update_start     computing returns and advantages (GAE), which counts as update for both trainers: rsl_rl computes
                     them after its roll-out (compute_returns, bootstrap value included), rl_games at the end of
                     play_steps (discount_values; the bootstrap value before it is inference). So for rl_games
                     collection_time_s, which follows the library, and update_time_s overlap by the GAE.
    iteration_end    the update's last method
    minibatch        one minibatch, for NVTX only;  minibatch_generator: the iterator that hands them out
    optimizer_step   one optimiser step, where the library wraps it (a gradient scaler may skip the optimiser's own)
    training         the whole training: on entry the settings are read back, on return the record is ended
    report_before    iteration over, statistics ready: the row is written before / after this method runs;
    report_after     neither lies inside the time of an iteration

Communication is every collective of torch.distributed that is called inside the update; collectives elsewhere (rl_games
broadcasts an exit flag between iterations) belong to no iteration.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from types import ModuleType

from paceline.bench.errors import LaunchError
from paceline.profiling.brackets import collective
from paceline.profiling.clock import IterationClock
from paceline.profiling.patches import ImportWatch, Patches, Wrap


@dataclass(frozen=True, slots=True)
class Hook:
    """One method to attach to."""

    module: str
    cls: str
    method: str
    role: str
    optional: bool = False
    """The library may lack this method; a missing required one is an error."""


# Isaac Lab. Class and method names are the same in 3.0.0 and 2.3.2; with graph-safe Newton actuators one call of
# SimulationContext.step covers all substeps of a decimation, so time is what counts, not calls.
ISAACLAB_HOOKS: dict[str, tuple[Hook, ...]] = {
    "3.0": (Hook("isaaclab.sim.simulation_context", "SimulationContext", "step", "physics"),),
    "2.3": (Hook("isaaclab.sim.simulation_context", "SimulationContext", "step", "physics"),),  # never run with Kit
}

# The functions of torch.distributed that move data or wait for other ranks.
COLLECTIVES = (
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_object",
    "all_reduce",
    "all_reduce_coalesced",
    "all_to_all",
    "all_to_all_single",
    "barrier",
    "broadcast",
    "broadcast_object_list",
    "gather",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
    "scatter",
)


class Attachment:
    """Attaches hooks as their modules are imported."""

    def __init__(self, watch: ImportWatch, patches: Patches, roles: dict[str, Wrap]) -> None:
        self._watch = watch
        self._patches = patches
        self._roles = roles
        self.attached: list[Hook] = []

    def attach(self, hooks: tuple[Hook, ...]) -> None:
        """Attach every hook now, if its module is imported, or when it is."""
        for hook in hooks:
            self._watch.on_import(hook.module, functools.partial(self._attach_one, hook))

    def attach_collectives(self, clock: IterationClock) -> None:
        """Time and count the collectives of torch.distributed."""
        wrap = collective(clock)

        def action(module: ModuleType) -> None:
            for name in COLLECTIVES:
                if hasattr(module, name):  # a torch without distributed support has none
                    self._patches.replace(module, name, wrap)

        self._watch.on_import("torch.distributed", action)

    def _attach_one(self, hook: Hook, module: ModuleType) -> None:
        owner = getattr(module, hook.cls, None)
        if owner is None or not hasattr(owner, hook.method):
            if hook.optional:
                return
            raise LaunchError(
                f"{hook.module}.{hook.cls}.{hook.method} does not exist in this installation; "
                f"it is needed for {hook.role}: this version of the library is not supported"
            )
        self._patches.replace(owner, hook.method, self._roles[hook.role])
        self.attached.append(hook)
