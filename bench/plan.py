"""Plan: the cases of a study, in the order in which they should run, and what they ask the site for.

Pure: the same resolved study and profile give the same plan, without clock, disk or environment variables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from paceline.bench.cluster import Cluster
from paceline.bench.errors import StudyError
from paceline.bench.record import Case
from paceline.bench.study import Study
from paceline.bench.tuning import Lever, variants_of

WARMUP_ITERATIONS = 2

# Seeds of two repeats must not meet: rank r of a run uses the run's seed plus r, and world sizes end at 1000.
SEED_STRIDE = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What to run."""

    warmup: Case | None
    """Runs first, alone: fills the kernel caches. Its numbers are never compared with any other."""
    cases: tuple[Case, ...]
    """In order: repeats outermost, so that a drift of the machine meets all world sizes alike."""
    gpu_hours: float
    """GPU hours that all jobs together may use up to their time limits; 0 on CPU."""
    node_hours: float
    """Node hours, likewise."""

    @property
    def all_cases(self) -> tuple[Case, ...]:
        """All cases, the warm-up first."""
        return ((self.warmup,) if self.warmup else ()) + self.cases


def make_plan(study: Study, cluster: Cluster) -> Plan:
    """Return the plan of a resolved study.

    In repeat k the world sizes begin with another one (rotation), because the first job after a pause may find the
    machine in another state than the next. The variants of a tuning study follow one another at each world size, so
    that they meet the same hour, and rotate likewise.
    """
    if not study.is_resolved or not isinstance(study.world_sizes, tuple):
        raise StudyError(f"study {study.name!r} is not resolved for a site")
    if study.kind == "sweep":
        from paceline.bench.sweep import ladder_cases  # it builds its cases with what is here

        return _plan(study, cluster, warmup_case(study, cluster), ladder_cases(study, cluster))
    if study.kind == "gpus":
        from paceline.bench.gpus import cases as gpu_cases

        return _plan(study, cluster, None, gpu_cases(study, cluster))
    sizes = study.world_sizes
    variants = variants_of(study.levers, study.tuning)
    cases = [
        _case(study, cluster, sizes[(repeat + place) % len(sizes)], repeat, variants[(repeat + turn) % len(variants)])
        for repeat in range(study.repeats or 1)
        for place in range(len(sizes))
        for turn in range(len(variants))
    ]
    return _plan(study, cluster, warmup_case(study, cluster), cases)


def _plan(study: Study, cluster: Cluster, warmup: Case | None, cases: Sequence[Case]) -> Plan:
    hours = (study.time_limit_min or 0) / 60
    jobs = (*((warmup,) if warmup else ()), *cases)
    return Plan(
        warmup=warmup,
        cases=tuple(cases),
        gpu_hours=sum(hours * _gpus(case, cluster) for case in jobs),
        node_hours=sum(hours * case.num_nodes for case in jobs),
    )


def _case(study: Study, cluster: Cluster, world_size: int, repeat: int, levers: Lever) -> Case:
    num_envs = study.num_envs if study.kind == "strong" else (study.num_envs_per_rank or 0) * world_size
    values = shared_values(study, cluster) | {
        "kind": study.kind,
        "world_size": world_size,
        "num_envs": num_envs,
        "num_nodes": study.nodes_of(world_size),
        "iterations": study.iterations,
        "warmup_iterations": study.warmup_iterations,
        "sync_every": study.sync_every,
        "repeat": repeat,
        "seed": (study.seed or 0) + SEED_STRIDE * repeat,
        **_lever_values(study, levers),
    }
    return Case(**values)


def warmup_case(study: Study, cluster: Cluster) -> Case:
    """Return the warm-up: one rank with a rank's part of the largest world size, the smallest part there is."""
    assert isinstance(study.world_sizes, tuple)
    num_envs = study.num_envs_per_rank or study.start_envs or (study.num_envs or 0) // max(study.world_sizes)
    values = shared_values(study, cluster) | {
        "kind": "warmup",
        "world_size": 1,
        "num_envs": num_envs,
        "iterations": WARMUP_ITERATIONS,
        "warmup_iterations": WARMUP_ITERATIONS - 1,
        "sync_every": 0,
        "repeat": 0,
        "seed": study.seed,
        "cool_to_c": None,
        "cool_s": 0.0,
    }
    return Case(**values)


def shared_values(study: Study, cluster: Cluster) -> dict[str, Any]:
    """Return what all cases of a study share."""
    return {
        "task": study.task,
        "trainer": study.trainer,
        "horizon": study.horizon,
        "num_minibatches": study.num_minibatches,
        "num_epochs": study.num_epochs,
        "device": study.device,
        "physics": study.physics,
        "gpu_type": cluster.gpu_type if study.device == "cuda" else None,
        "image": cluster.runtime.image,
        "overrides": study.overrides or (),
        "environment": tuple(sorted((study.environment or {}).items())),
        "cool_to_c": study.cool_to_c,
        "cool_s": study.cool_s or 0.0,
        **_lever_values(study, study.levers.pairs() if study.levers else ()),
    }


def _lever_values(study: Study, levers: Lever) -> dict[str, Any]:
    threads = dict(levers).get("threads_per_rank")
    return {"levers": levers, "threads_per_rank": study.threads_per_rank if threads is None else int(threads)}


def _gpus(case: Case, cluster: Cluster) -> int:
    """Return the GPUs that a job keeps from others."""
    if case.device != "cuda":
        return 0
    if cluster.exclusive and cluster.gpus_per_node:
        return case.num_nodes * cluster.gpus_per_node
    return case.world_size
