"""The learning problem that scaling must hold fixed, and which sizes divide evenly.

Strong scaling keeps the global number of environments, the horizon, the number of minibatches and the number of
epochs while the world size w grows, so every rank takes 1/w of every minibatch:

    global batch   num_envs * horizon                     (frames per iteration, all ranks)
    rank's part    num_envs / w * horizon
    rank's minibatch = rank's part / num_minibatches       must be a whole number for every w of the study

Weak scaling keeps the environments of a rank instead, so each rank's minibatch stays and the global batch grows.

With M minibatches of horizon h, n environments of one rank divide exactly when M / gcd(M, h) divides n. Hence a
global number of environments serves all world sizes exactly when it is a multiple of lcm(world sizes) * M / gcd(M, h).
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def env_step(horizon: int, num_minibatches: int) -> int:
    """Return the number that the environments of one rank must be a multiple of."""
    return num_minibatches // math.gcd(num_minibatches, horizon)


def strong_step(world_sizes: Sequence[int], horizon: int, num_minibatches: int) -> int:
    """Return the number that the global environments must be a multiple of, so that every world size divides."""
    return math.lcm(*world_sizes) * env_step(horizon, num_minibatches)


def strong_step_of_size(world_sizes: Sequence[int], horizon: int, minibatch_size: int) -> int | None:
    """Return the same step where the global minibatch size is fixed instead (rl_games), None if no number will do.

    The number of minibatches is then num_envs * horizon / minibatch_size, and each rank takes minibatch_size / w of
    every minibatch: the minibatch itself must divide by every world size, whatever the number of environments.
    """
    if any(minibatch_size % world_size for world_size in world_sizes):
        return None
    return math.lcm(*world_sizes, minibatch_size // math.gcd(minibatch_size, horizon))


def nearest_multiples(value: int, step: int) -> tuple[int, ...]:
    """Return the multiples of ``step`` next to ``value``: (below, above), or (above,) if only 0 lies below."""
    below = value // step * step
    return (below, below + step) if below else (step,)
