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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from paceline.bench.errors import LaunchError
from paceline.profiling.clock import COMMUNICATION, ENV_STEP, INFERENCE, PHASE_NAMES, PHYSICS, IterationClock
from paceline.profiling.patches import ImportWatch, Patches, Wrap

Function = Callable[..., Any]
Report = Callable[[Any, tuple[Any, ...], dict[str, Any], Any], None]
"""Called with instance, arguments, keyword arguments and (report_after) the result of the reporting method."""
Training = Callable[[Any, tuple[Any, ...], dict[str, Any], Callable[[], Any]], Any]
"""Called with instance, arguments, keyword arguments, and the training itself as a function of no arguments."""


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
    "2.3": (Hook("isaaclab.sim.simulation_context", "SimulationContext", "step", "physics"),),  # read, never run
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


def timed(clock: IterationClock, phase: int, starts_iteration: bool = False) -> Wrap:
    """Return a wrapper that adds a method's duration to a phase of the running iteration."""
    now, name = clock.now, PHASE_NAMES[phase]

    def wrap(function: Function) -> Function:
        @functools.wraps(function)
        def measured(*args: Any, **kwargs: Any) -> Any:
            if starts_iteration and not clock.running:
                clock.start_iteration()
            if clock.sync:
                clock.synchronize()
            if clock.ranges is not None:
                clock.ranges.push(name)
            start = now()
            try:
                return function(*args, **kwargs)
            finally:
                if clock.sync:
                    clock.synchronize()
                clock.totals[phase] += now() - start
                if clock.ranges is not None:
                    clock.ranges.pop()

        return measured

    return wrap


def collection(clock: IterationClock) -> Wrap:
    """Return a wrapper for a method that is the whole roll-out."""

    def wrap(function: Function) -> Function:
        @functools.wraps(function)
        def measured(*args: Any, **kwargs: Any) -> Any:
            clock.start_iteration()
            result = function(*args, **kwargs)
            clock.end_collection()
            return result

        return measured

    return wrap


def update_start(clock: IterationClock) -> Wrap:
    """Return a wrapper for the first method of the update."""

    def wrap(function: Function) -> Function:
        @functools.wraps(function)
        def measured(*args: Any, **kwargs: Any) -> Any:
            clock.start_update()
            return function(*args, **kwargs)

        return measured

    return wrap


def iteration_end(clock: IterationClock) -> Wrap:
    """Return a wrapper for the last method of an iteration."""

    def wrap(function: Function) -> Function:
        @functools.wraps(function)
        def measured(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            clock.end_iteration()
            return result

        return measured

    return wrap


def optimizer_step(clock: IterationClock) -> Wrap:
    """Return a wrapper that counts the calls of a method as optimiser steps."""

    def wrap(function: Function) -> Function:
        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            clock.optimizer_steps += 1
            return function(*args, **kwargs)

        return counted

    return wrap


def minibatch(clock: IterationClock) -> Wrap:
    """Return a wrapper that puts a method call into a range, if ranges are on."""

    def wrap(function: Function) -> Function:
        if clock.ranges is None:
            return function
        ranges = clock.ranges

        @functools.wraps(function)
        def ranged(*args: Any, **kwargs: Any) -> Any:
            ranges.push("minibatch")
            try:
                return function(*args, **kwargs)
            finally:
                ranges.pop()

        return ranged

    return wrap


def minibatch_generator(clock: IterationClock) -> Wrap:
    """Return a wrapper for an iterator over minibatches: what is done with each lies in a range, if ranges are on."""

    def wrap(function: Function) -> Function:
        if clock.ranges is None:
            return function
        ranges = clock.ranges

        @functools.wraps(function)
        def ranged(*args: Any, **kwargs: Any) -> Iterator[Any]:
            for batch in function(*args, **kwargs):
                ranges.push("minibatch")
                try:
                    yield batch
                finally:
                    ranges.pop()

        return ranged

    return wrap


class TimedWork:
    """The handle of an asynchronous collective: waiting for it is communication as well."""

    def __init__(self, work: Any, clock: IterationClock) -> None:
        self._work = work
        self.wait = timed(clock, COMMUNICATION)(work.wait)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)


def collective(clock: IterationClock) -> Wrap:
    """Return a wrapper for a function of torch.distributed; collectives that it calls itself count as one."""
    inside = False

    def wrap(function: Function) -> Function:
        measured = timed(clock, COMMUNICATION)(function)

        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            if inside or not clock.in_update:
                return function(*args, **kwargs)
            inside = True
            try:
                clock.collectives += 1
                work = measured(*args, **kwargs)
            finally:
                inside = False
            return TimedWork(work, clock) if kwargs.get("async_op") and work is not None else work

        return counted

    return wrap


def report(call: Report, before: bool) -> Wrap:
    """Return a wrapper that reports the iteration before or after the method runs."""

    def wrap(function: Function) -> Function:
        @functools.wraps(function)
        def reporting(self: Any, *args: Any, **kwargs: Any) -> Any:
            if before:
                call(self, args, kwargs, None)
                return function(self, *args, **kwargs)
            result = function(self, *args, **kwargs)
            call(self, args, kwargs, result)
            return result

        return reporting

    return wrap


def training(call: Training) -> Wrap:
    """Return a wrapper that hands the whole training to ``call``."""

    def wrap(function: Function) -> Function:
        @functools.wraps(function)
        def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
            return call(self, args, kwargs, lambda: function(self, *args, **kwargs))

        return watched

    return wrap


def wrappers(clock: IterationClock, on_report: Report, on_training: Training) -> dict[str, Wrap]:
    """Return the wrapper of every role."""
    return {
        "physics": timed(clock, PHYSICS),
        "env_step": timed(clock, ENV_STEP),
        "inference": timed(clock, INFERENCE, starts_iteration=True),
        "bootstrap": timed(clock, INFERENCE),
        "collection": collection(clock),
        "update_start": update_start(clock),
        "iteration_end": iteration_end(clock),
        "minibatch": minibatch(clock),
        "minibatch_generator": minibatch_generator(clock),
        "optimizer_step": optimizer_step(clock),
        "training": training(on_training),
        "report_before": report(on_report, before=True),
        "report_after": report(on_report, before=False),
    }


class Attachment:
    """Attaches hooks as their modules are imported. The patches of roles in ``steady`` can be told from the others."""

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
