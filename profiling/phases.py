"""The phases of a training iteration, and how recorded times split into them.

Five phases cover an iteration without overlap, so they always sum to it:

    iteration  |---------------------------------------------------------------|
    collection |-------------------------------------|
    update                                           |-------------------------|
               | inference | env_step  | ... (repeat)|   minibatches, each with |
                             physics|o                   communication          |

    physics        time inside the simulator's step
    inference      the policy acting (and, where the library does it in the roll-out, bootstrapping)
    communication  collectives inside the update: waiting for the slowest rank, plus the transfer
    update         the update without its communication
    other          what is left: observations, rewards, resets, bookkeeping

A leaf module: standard library only, shared by the job side (which measures) and the analysis.
"""

from __future__ import annotations

from typing import NamedTuple

PHASES = ("physics", "inference", "update", "communication", "other")


class PhaseTimes(NamedTuple):
    """Seconds of one iteration on one rank, one field per phase; the fields sum to the iteration."""

    physics: float
    inference: float
    update: float
    communication: float
    other: float


def split_iteration(
    iteration_time_s: float,
    physics_time_s: float,
    inference_time_s: float,
    update_time_s: float,
    communication_time_s: float,
) -> PhaseTimes:
    """Return the exclusive phase times of one iteration of one rank, in seconds.

    Args:
        iteration_time_s: First action to end of the update, wall time.
        physics_time_s: Inclusive time in the simulator's step.
        inference_time_s: Inclusive time in the policy's act.
        update_time_s: Inclusive time from the end of the roll-out to the end of the update, communication included.
        communication_time_s: Time in collectives inside the update.

    Only device-complete (``sync``) iterations may be split: on a GPU, host times of the others say when work was
    launched, not when it ran. ``other`` is the remainder; it is negative only if a clock went wrong.
    """
    return PhaseTimes(
        physics=physics_time_s,
        inference=inference_time_s,
        update=update_time_s - communication_time_s,
        communication=communication_time_s,
        other=iteration_time_s - physics_time_s - inference_time_s - update_time_s,
    )
