"""Brackets: what is put around a hooked method, by the role that the method plays (profiling/hooks.py lists the roles).

Every function here takes the clock and returns a wrapper of methods. What is wrapped keeps its name, arguments, result
and exceptions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from paceline.profiling.clock import COMMUNICATION, ENV_STEP, INFERENCE, PHASE_NAMES, PHYSICS, IterationClock
from paceline.profiling.patches import Wrap

Function = Callable[..., Any]
Report = Callable[[Any, tuple[Any, ...], dict[str, Any], Any], None]
"""Called with instance, arguments, keyword arguments and (report_after) the result of the reporting method."""
Training = Callable[[Any, tuple[Any, ...], dict[str, Any], Callable[[], Any]], Any]
"""Called with instance, arguments, keyword arguments, and the training itself as a function of no arguments."""


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
