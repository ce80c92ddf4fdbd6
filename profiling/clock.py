"""The clock of one rank's iterations: where they start and end, and the time inside each phase.

Two kinds of iterations, never mixed (DESIGN rule 3):

    async   host clock only, read where an iteration, a phase or the update begins and ends; the device is never waited
            for. iteration_time_s is what Isaac Lab calls collection + learning. On a GPU the phase times of these
            iterations say when work was launched, not when it ran.
    sync    every sync_every-th iteration after the warm-up: the device is completed before every clock reading, so a
            phase's time is the time its work took. Overlap of phases is lost: these do not count for throughput.

torch.cuda.synchronize completes all streams of the device's primary context, and warp launches its kernels and CUDA
graphs in that same context, so physics is complete as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from paceline.profiling.ranges import AnyRanges

PHYSICS, ENV_STEP, INFERENCE, COMMUNICATION = range(4)
PHASE_NAMES = ("physics", "env_step", "inference", "communication")


class IterationTimes(NamedTuple):
    """Measured times of one iteration of one rank, in seconds, and what was counted in it."""

    iteration: int
    sync: bool
    warmup: bool
    start: float
    """Reading of the clock at the start."""
    iteration_time_s: float
    collection_time_s: float
    physics_time_s: float
    env_step_time_s: float
    inference_time_s: float
    update_time_s: float
    communication_time_s: float
    collectives: int
    optimizer_steps: int


class IterationClock:
    """Measures iterations of one rank. The hooks call it; `take` hands out an iteration when it is over."""

    def __init__(
        self,
        *,
        warmup_iterations: int,
        sync_every: int,
        synchronize: Callable[[], None] = lambda: None,
        ranges: AnyRanges | None = None,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.warmup_iterations = warmup_iterations
        self.sync_every = sync_every
        self.synchronize = synchronize
        self.ranges = ranges
        self.now = now
        self.on_start: Callable[[int], None] | None = None
        """Called with the number of the iteration just before it starts, outside its time."""
        self.first_of_iteration: Callable[[], object] | None = None
        """Called when an iteration has started, inside its time."""
        self.on_untaken: Callable[[], object] | None = None
        """Called before an iteration starts if nobody has taken the one before it, outside the time of both."""
        self.iteration = 0
        self.running = False
        self.ended = False
        """Whether an iteration has ended that nobody has taken yet."""
        self.in_update = False
        self.sync = False
        self.totals = [0.0, 0.0, 0.0, 0.0]
        self.collectives = 0
        self.optimizer_steps = 0
        self._start = self._collection_end = self._update_start = self._end = 0.0

    def is_sync(self, iteration: int) -> bool:
        """Return whether an iteration measures device-complete phase times.

        With 2 warm-up iterations and sync_every = 3: w w . . S . . S ...
        """
        after_warmup = iteration - self.warmup_iterations
        return self.sync_every > 0 and after_warmup >= 0 and after_warmup % self.sync_every == self.sync_every - 1

    def start_iteration(self) -> None:
        """Start an iteration: the first action of the roll-out is about to be computed."""
        if self.ended and self.on_untaken is not None:
            self.on_untaken()
        if self.on_start is not None:
            self.on_start(self.iteration)
        self.running = True
        self.in_update = False
        self.sync = self.is_sync(self.iteration)
        self.totals = [0.0, 0.0, 0.0, 0.0]
        self.collectives = 0
        self.optimizer_steps = 0
        self._collection_end = 0.0
        if self.ranges is not None:
            self.ranges.push("iteration", self.iteration)
            self.ranges.push("rollout")
        if self.sync:
            self.synchronize()
        self._start = self.now()
        if self.first_of_iteration is not None:
            self.first_of_iteration()

    def end_collection(self) -> None:
        """Mark the end of the roll-out as the library counts it; without this call it ends where the update starts."""
        if self.sync:
            self.synchronize()
        self._collection_end = self.now()

    def start_update(self) -> None:
        """Start the update: the returns are about to be computed."""
        if self.in_update or not self.running:
            return
        if self.sync:
            self.synchronize()
        self._update_start = self.now()
        self.in_update = True
        if self.ranges is not None:
            self.ranges.pop()
            self.ranges.push("update")

    def end_iteration(self) -> None:
        """End the iteration: the last optimiser step is done."""
        if self.sync:
            self.synchronize()
        self._end = self.now()
        self.running = False
        self.ended = True
        self.in_update = False
        self.sync = False
        if self.ranges is not None:
            self.ranges.pop()
            self.ranges.pop()

    def take(self) -> IterationTimes:
        """Return the iteration that has just ended, and count on to the next."""
        physics, env_step, inference, communication = self.totals
        times = IterationTimes(
            iteration=self.iteration,
            sync=self.is_sync(self.iteration),
            warmup=self.iteration < self.warmup_iterations,
            start=self._start,
            iteration_time_s=self._end - self._start,
            collection_time_s=(self._collection_end or self._update_start) - self._start,
            physics_time_s=physics,
            env_step_time_s=env_step,
            inference_time_s=inference,
            update_time_s=self._end - self._update_start,
            communication_time_s=communication,
            collectives=self.collectives,
            optimizer_steps=self.optimizer_steps,
        )
        self.iteration += 1
        self.ended = False
        return times
