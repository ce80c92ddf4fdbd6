"""Environment sweep: which number of environments to try next, from what became of the ones before.

    start, 2 start, 4 start ...   until memory, invalid physics, time or the limit ends it
    bisection                     between the largest valid and the smallest invalid number of environments
    repeats                       of the valid points, if the study asks for any

A buffer of the physics engine that overflows is no end: the point runs again with the size that the message asks for,
and both runs are kept. Pure: the same study and the same outcomes give the same next point, so a sweep that was
interrupted goes on where it was. Numbers of environments are per rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from paceline.bench import problem
from paceline.bench.cluster import Cluster
from paceline.bench.overflow import Overflow, override, prefix
from paceline.bench.plan import SEED_STRIDE, shared_values
from paceline.bench.record import Case
from paceline.bench.study import Study

MENDS = 4
"""Runs of one number of environments with raised buffers, after which its physics counts as invalid."""
_MARGIN = 1.25  # on a size that was raised before and did not do
_LARGEST_SIZE = 2**32 - 1  # PhysX keeps sizes in 32 bits

Verdict = Literal["valid", "memory", "overflow", "physics", "time", "failed"]
Sizes = tuple[tuple[str, int], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """What to run next."""

    num_envs_per_rank: int
    sizes: Sizes = ()
    """Sizes of physics buffers, by setting, where they are not the task's own."""
    repeat: int = 0
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of a point."""

    point: Point
    verdict: Verdict
    """memory: it ran out of it. overflow: a physics buffer was too small. time: it did not end within its limit."""
    why: str | None = None
    overflows: tuple[Overflow, ...] = ()
    wall_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """Why the sweep has ended."""

    by: Literal["limit", "memory", "physics", "time", "failed"]
    why: str


def step(study: Study) -> int:
    """Return the number that the environments of a rank must be a multiple of."""
    assert study.horizon and study.num_minibatches
    if study.trainer == "rl_games":
        size = minibatch_size(study)
        return size // math.gcd(size, study.horizon)
    return problem.env_step(study.horizon, study.num_minibatches)


def minibatch_size(study: Study) -> int:
    """Return rl_games' minibatch of one rank, which it keeps while the environments grow. Only for rl_games."""
    assert study.start_envs and study.horizon and study.num_minibatches
    return study.start_envs * study.horizon // study.num_minibatches


def ladder(study: Study) -> list[int]:
    """Return the numbers of environments that doubling visits, the limit included if it divides."""
    assert study.start_envs and study.limit_envs
    counts = []
    count = study.start_envs
    while count <= study.limit_envs:
        counts.append(count)
        count *= 2
    last = study.limit_envs // step(study) * step(study)
    return counts if last <= counts[-1] else [*counts, last]


def ladder_cases(study: Study, cluster: Cluster) -> list[Case]:
    """Return the cases of the doubling: what the sweep runs if nothing stops it before the limit."""
    return [case_of(study, cluster, Point(num_envs_per_rank=count, why="")) for count in ladder(study)]


def case_of(study: Study, cluster: Cluster, point: Point) -> Case:
    """Return the case of a point: rsl_rl keeps the number of minibatches, rl_games their size, as by default."""
    assert isinstance(study.world_sizes, tuple) and study.horizon and study.num_minibatches
    world_size = study.world_sizes[0]
    values = shared_values(study, cluster)
    engine_version = str(values.get("engine_version", "3.0"))
    raised = tuple(override(setting, size, engine_version) for setting, size in point.sizes)
    minibatches = study.num_minibatches
    if study.trainer == "rl_games":
        minibatches = point.num_envs_per_rank * study.horizon // minibatch_size(study)
    return Case(
        **values
        | {
            "kind": "sweep",
            "world_size": world_size,
            "num_nodes": study.nodes_of(world_size),
            "num_envs": point.num_envs_per_rank * world_size,
            "num_minibatches": minibatches,
            "iterations": study.iterations,
            "warmup_iterations": study.warmup_iterations,
            "sync_every": study.sync_every,
            "repeat": point.repeat,
            "seed": (study.seed or 0) + SEED_STRIDE * point.repeat,
            "overrides": (*(study.overrides or ()), *raised),
        }
    )


def next_point(study: Study, outcomes: Sequence[Outcome]) -> Point | Stop:
    """Return what to run after these outcomes (in the order in which they came), or why nothing more is to run."""
    first = [outcome for outcome in outcomes if outcome.point.repeat == 0]
    planned = _first_pass(study, first)
    if isinstance(planned, Stop) and planned.by in ("limit", "memory", "physics"):
        planned = next(_missing_repeats(study, outcomes), planned)
    if isinstance(planned, Point) and study.sweep_time_min:
        used_min = sum(outcome.wall_s for outcome in outcomes) / 60
        if used_min >= study.sweep_time_min:
            return Stop(by="time", why=f"{used_min:.0f} of {study.sweep_time_min} minutes are used")
    return planned


def largest_valid(outcomes: Iterable[Outcome]) -> int | None:
    """Return the largest number of environments that ran with valid physics, None if none did."""
    return max((o.point.num_envs_per_rank for o in outcomes if o.verdict == "valid"), default=None)


def _first_pass(study: Study, outcomes: Sequence[Outcome]) -> Point | Stop:
    counts = ladder(study)
    if not outcomes:
        return Point(num_envs_per_rank=counts[0], why="first point")
    last = outcomes[-1]
    if last.verdict == "overflow":
        again = _mended(outcomes)
        if again is not None:
            return again
    if last.verdict in ("time", "failed"):
        return Stop(by=last.verdict, why=f"{last.point.num_envs_per_rank:,} environments: {last.why}")
    best = largest_valid(outcomes)
    ends = _ends(outcomes)
    if not ends:
        assert best is not None
        following = next((count for count in counts if count > best), None)
        if following is None:
            return Stop(by="limit", why=f"{best:,} environments are valid, and limit_envs is {study.limit_envs:,}")
        return Point(num_envs_per_rank=following, sizes=_sizes_below(outcomes, following), why="twice as many")
    wall, end = min(ends.items())
    why = f"{wall:,} environments: {end.why}"
    by: Literal["memory", "physics"] = "memory" if end.verdict == "memory" else "physics"
    if best is None:
        return Stop(by=by, why=f"{why} (the first point already; begin with fewer)")
    middle = _between(best, wall, step(study), study.resolution_pct or 5.0)
    if middle is None:
        return Stop(by=by, why=why)
    found = f"between {best:,} (valid) and {wall:,} ({by})"
    return Point(num_envs_per_rank=middle, sizes=_sizes_below(outcomes, middle), why=found)


def _ends(outcomes: Sequence[Outcome]) -> dict[int, Outcome]:
    """Return the numbers of environments that are not possible, with what says so."""
    best = largest_valid(outcomes) or 0
    ends = {}
    for outcome in outcomes:
        count = outcome.point.num_envs_per_rank
        if outcome.verdict in ("memory", "physics", "overflow") and count > best:
            ends[count] = outcome  # of several runs with the same number the last one decides
    return ends


def _mended(outcomes: Sequence[Outcome]) -> Point | None:
    """Return the last point with the buffer sizes that its messages ask for, None where that cannot help."""
    last = outcomes[-1]
    count = last.point.num_envs_per_rank
    tries = sum(o.verdict == "overflow" and o.point.num_envs_per_rank == count for o in outcomes)
    sizes = dict(last.point.sizes)
    named = [overflow for overflow in last.overflows if overflow.setting is not None and overflow.needed is not None]
    if len(named) < len(last.overflows) or not named or tries > MENDS:
        return None
    for overflow in named:
        assert overflow.setting is not None and overflow.needed is not None
        asked = overflow.needed
        if tries > 1:  # a size that was asked for did not do
            asked = max(asked, math.ceil(sizes.get(overflow.setting, 0) * _MARGIN))
        if overflow.needed > _LARGEST_SIZE:
            return None
        sizes[overflow.setting] = min(asked, _LARGEST_SIZE)
    why = ", ".join(f"{overflow.buffer} {sizes[str(overflow.setting)]:,}" for overflow in named)
    return Point(num_envs_per_rank=count, sizes=tuple(sorted(sizes.items())), why=f"again with {why}")


def _sizes_below(outcomes: Sequence[Outcome], count: int) -> Sizes:
    """Return the buffer sizes that the largest valid point below ``count`` ran with."""
    valid = [o for o in outcomes if o.verdict == "valid" and o.point.num_envs_per_rank < count]
    return max(valid, key=lambda o: o.point.num_envs_per_rank).point.sizes if valid else ()


def _between(low: int, high: int, multiple: int, resolution_pct: float) -> int | None:
    """Return the multiple nearest to the middle, None once the two are as near as they need to be."""
    if high - low <= max(multiple, low * resolution_pct / 100.0):
        return None
    middle = (low + high) // 2 // multiple * multiple
    middle = middle if middle > low else middle + multiple
    return middle if low < middle < high else None


def _missing_repeats(study: Study, outcomes: Sequence[Outcome]) -> Iterator[Point]:
    """Yield the repeats that are still to run: of the doubled numbers and the largest valid one, repeat by repeat."""
    done = {(o.point.repeat, o.point.num_envs_per_rank) for o in outcomes}
    best = largest_valid(outcomes)
    keep = {*ladder(study), best}
    valid = {
        o.point.num_envs_per_rank: o.point
        for o in outcomes
        if o.verdict == "valid" and o.point.repeat == 0 and o.point.num_envs_per_rank in keep
    }
    points = [valid[count] for count in sorted(valid)]
    for repeat in range(1, study.repeats or 1):
        for place in range(len(points)):
            point = points[(repeat + place) % len(points)]
            if (repeat, point.num_envs_per_rank) not in done:
                yield replace(point, repeat=repeat, why=f"repeat {repeat + 1}")


def sizes_of(case: Case, study: Study) -> Sizes:
    """Return the buffer sizes that a case of a sweep raises beyond the study's own overrides."""
    own = len(study.overrides or ())
    start = prefix(case.engine_version)
    pairs = (text.removeprefix(start).partition("=") for text in case.overrides[own:])
    return tuple((setting, int(size)) for setting, _, size in pairs)
