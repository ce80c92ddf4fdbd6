"""Makes study folders with known truth, in the formats of docs/formats.md.

The model: on N ranks an undisturbed iteration takes T(N) = T1 * (s + (1 - s) / N) (strong scaling, Amdahl) or T1 * (1 +
g * log2 N) (weak scaling). On top of it: a job-level factor (the noise between repeats), autocorrelated noise between
iterations, warm-up that decays, a straggling rank that the others wait for, and sync iterations that take a little
longer. ``Truth`` holds what an analysis must find.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from paceline.bench.record import (
    ITERATION_COLUMNS,
    LAUNCH_SCHEMA,
    Case,
    Result,
)
from paceline.bench.rundir import RunDir, StudyDir, write_json

from tests.synthetic_records import rank_header, samples_text

ORIGIN_UNIX_S = 1_760_000_000.0
SHARES = {"physics": 0.52, "inference": 0.08, "update": 0.25, "other": 0.15}  # of the parallel work


@dataclass(kw_only=True)
class Recipe:
    """What to simulate."""

    kind: str = "strong"
    task: str = "Isaac-Ant-Direct"
    physics: str = "newton_mjwarp"
    trainer: str = "rsl_rl"
    device: str = "cuda"
    world_sizes: Sequence[int] = (1, 2, 4, 8)
    repeats: int = 3
    num_envs: int = 16384  # of all ranks (strong), of one rank (weak)
    horizon: int = 32
    num_minibatches: int = 4
    num_epochs: int = 5
    iterations: int = 60
    warmup_iterations: int = 10
    sync_every: int = 5
    base_time_s: float = 0.8  # T1
    serial_fraction: float = 0.06
    weak_growth: float = 0.05
    job_noise: float = 0.01  # standard deviation of log time between jobs
    iteration_noise: float = 0.02
    correlation: float = 0.6
    straggler: float = 0.03  # how much longer the slowest rank works
    sync_cost: float = 0.03
    true_warmup: int = 8  # iterations over which the first ones decay to the steady state
    seed: int = 0
    samples: bool = True
    gpu_name: str = "NVIDIA H100 80GB HBM3"
    levers: tuple[tuple[str, str], ...] = ()
    study: dict[str, Any] = field(default_factory=dict)  # further keys of study.yaml


@dataclass(frozen=True)
class Truth:
    """What is true of a simulated study, per world size: undisturbed seconds per iteration, and what follows."""

    iteration_time_s: dict[int, float]
    total_fps: dict[int, float]

    @property
    def speedup(self) -> dict[int, float]:
        first = self.total_fps[min(self.total_fps)]
        return {n: fps / first for n, fps in self.total_fps.items()}

    @property
    def efficiency(self) -> dict[int, float]:
        first = min(self.total_fps)
        return {n: s * first / n for n, s in self.speedup.items()}


def true_time_s(recipe: Recipe, world_size: int) -> float:
    if recipe.kind == "strong":
        return recipe.base_time_s * (recipe.serial_fraction + (1.0 - recipe.serial_fraction) / world_size)
    return recipe.base_time_s * (1.0 + recipe.weak_growth * math.log2(world_size))


def case_of(recipe: Recipe, world_size: int, repeat: int, kind: str | None = None) -> Case:
    return Case(
        kind=kind or recipe.kind,  # type: ignore[arg-type]
        task=recipe.task,
        physics=recipe.physics,
        trainer=recipe.trainer,  # type: ignore[arg-type]
        world_size=world_size,
        num_envs=recipe.num_envs * (world_size if recipe.kind == "weak" else 1),
        horizon=recipe.horizon,
        num_minibatches=recipe.num_minibatches,
        num_epochs=recipe.num_epochs,
        iterations=recipe.iterations,
        warmup_iterations=recipe.warmup_iterations,
        sync_every=recipe.sync_every,
        repeat=repeat,
        seed=42 + 1000 * repeat,
        device=recipe.device,  # type: ignore[arg-type]
        levers=recipe.levers,
    )


def truth_of(recipe: Recipe) -> Truth:
    times = {n: true_time_s(recipe, n) for n in recipe.world_sizes}
    return Truth(times, {n: case_of(recipe, n, 0).global_batch / t for n, t in times.items()})


def write_study(folder: Path, recipe: Recipe) -> Truth:
    """Write a whole study, one completed attempt per case, and return what is true of it."""
    rng = np.random.default_rng(recipe.seed)
    write_study_yaml(folder, recipe)
    start = ORIGIN_UNIX_S
    write_run(StudyDir(folder).run(case_of(recipe, 1, 0, "warmup").case_id, 1), recipe, 1, 0, rng, start, kind="warmup")
    for repeat in range(recipe.repeats):
        for world_size in recipe.world_sizes:
            start += 120.0
            case = case_of(recipe, world_size, repeat)
            write_run(StudyDir(folder).run(case.case_id, 1), recipe, world_size, repeat, rng, start)
    return truth_of(recipe)


def write_study_yaml(folder: Path, recipe: Recipe) -> None:
    import yaml

    envs = "num_envs" if recipe.kind == "strong" else "num_envs_per_rank"
    study = {
        "schema": "paceline.study/1",
        "name": f"{recipe.kind}_scaling",
        "kind": recipe.kind,
        "task": recipe.task,
        "trainer": recipe.trainer,
        "world_sizes": list(recipe.world_sizes),
        envs: recipe.num_envs,
        "repeats": recipe.repeats,
        "iterations": recipe.iterations,
        "warmup_iterations": recipe.warmup_iterations,
        "device": recipe.device,
    }
    code = StudyDir(folder).code
    code.mkdir(parents=True, exist_ok=True)
    snapshot = {
        "schema": "paceline.snapshot/1",
        "sha256": "5f" * 32,
        "git_commit": "0123456789abcdef",
        "git_dirty": False,
    }
    write_json(StudyDir(folder).snapshot_json, snapshot)
    StudyDir(folder).study_yaml.write_text(yaml.safe_dump(study | recipe.study, sort_keys=False))
    cluster = {"schema": "paceline.cluster/1", "name": "local", "launcher": "local"}
    StudyDir(folder).cluster_yaml.write_text(yaml.safe_dump(cluster, sort_keys=False))


def write_run(
    run: RunDir,
    recipe: Recipe,
    world_size: int,
    repeat: int,
    rng: np.random.Generator,
    start_unix_s: float = ORIGIN_UNIX_S,
    *,
    kind: str | None = None,
    factor: float = 1.0,
    throttle: bool = False,
    foreign: bool = False,
    extra: dict[str, Any] | None = None,
) -> None:
    """Write one completed attempt. ``factor`` multiplies its times (a slow node)."""
    case = case_of(recipe, world_size, repeat, kind)
    run.path.mkdir(parents=True)
    write_json(run.case_json, case.to_json())
    run.job_sh.write_text("#!/bin/bash\nset -euo pipefail\ntorchrun --standalone -m paceline.bench.worker\n")
    launch = {"schema": LAUNCH_SCHEMA, "launcher": "local", "job_id": None, "pid": 1, "hostname": "node1"}
    write_json(run.launch_json, launch | {"submitted_unix_s": start_unix_s - 2.0})
    job = math.exp(rng.normal(0.0, recipe.job_noise)) * factor
    table = iteration_tables(recipe, case, rng, job)
    for rank in range(world_size):
        run.rank_jsonl(rank).write_text(rank_text(case, run.attempt, rank, table[rank], start_unix_s + 5.0, recipe))
    duration = 5.0 + float(table[:, -1, 3].max() + table[:, -1, 4].max())
    if recipe.samples:
        text = samples_text(
            recipe.gpu_name, case, run.attempt, duration, start_unix_s, rng, throttle=throttle, foreign=foreign
        )
        run.samples_jsonl("node1").write_text(text)
    run.train_log.write_text("Learning iteration 0/60\n")
    result = Result(
        case_id=case.case_id,
        attempt=run.attempt,
        status="completed",
        cause=None,
        message=None,
        exit_code=0,
        ranks_expected=world_size,
        ranks_completed=tuple(range(world_size)),
        start_unix_s=start_unix_s,
        end_unix_s=start_unix_s + duration + 3.0,
        nodes=("node1",),
        extra=extra or {},
    )
    write_json(run.result_json, result.to_json())


def write_failure(run: RunDir, case: Case, cause: str, message: str, status: str = "failed") -> None:
    """Write an attempt that ended without a number."""
    run.path.mkdir(parents=True)
    write_json(run.case_json, case.to_json())
    result = Result(
        case_id=case.case_id,
        attempt=run.attempt,
        status=status,  # type: ignore[arg-type]
        cause=cause,
        message=message,
        exit_code=1,
        ranks_expected=case.world_size,
        ranks_completed=(),
        start_unix_s=ORIGIN_UNIX_S,
        end_unix_s=ORIGIN_UNIX_S + 30.0,
    )
    write_json(run.result_json, result.to_json())


def iteration_tables(recipe: Recipe, case: Case, rng: np.random.Generator, job: float = 1.0) -> np.ndarray:
    """Return one row of ITERATION_COLUMNS per rank and iteration, shape (world_size, iterations, columns)."""
    size, count = case.world_size, case.iterations
    noise = np.empty(count)
    value = rng.normal(0.0, recipe.iteration_noise)
    step = recipe.iteration_noise * math.sqrt(1.0 - recipe.correlation**2)
    for i in range(count):
        noise[i] = value
        value = recipe.correlation * value + rng.normal(0.0, step)
    # exp(noise) has mean exp(sigma^2 / 2): divided out, so that total frames / total time tends to the truth
    total = true_time_s(recipe, size) * job * np.exp(noise - recipe.iteration_noise**2 / 2)
    index = np.arange(count)
    if recipe.true_warmup:
        total = total * (1.0 + 1.5 * np.exp(-index / (recipe.true_warmup / 4.0)) * (index < recipe.true_warmup))
    warmup = index < case.warmup_iterations
    sync = (~warmup) & (case.sync_every > 0) & ((index - case.warmup_iterations) % max(case.sync_every, 1) == 0)
    total = np.where(sync, total * (1.0 + recipe.sync_cost), total)

    # Work of each rank; the others wait in the collectives of the update for the slowest one.
    work = total * (0.93 if size > 1 else 1.0)
    slow = np.ones((size, 1))
    if size > 1:
        slow[: size - 1] = 1.0 / (1.0 + recipe.straggler)
    busy = work * slow * np.where(slow == 1.0, 1.0, np.exp(rng.normal(0.0, 0.004, (size, count)).clip(-0.01, 0.01)))
    communication = total - busy if size > 1 else np.zeros((size, count))
    columns = {
        "iteration": index,
        "sync": sync,
        "warmup": warmup,
        "start_s": np.concatenate([[0.0], np.cumsum(total)[:-1]]),
        "iteration_time_s": np.broadcast_to(total, (size, count)),
        "physics_time_s": busy * SHARES["physics"],
        "inference_time_s": busy * SHARES["inference"],
        "update_time_s": busy * SHARES["update"] + communication,
        "communication_time_s": communication,
        "env_step_time_s": busy * (SHARES["physics"] + SHARES["other"]),
        "collection_time_s": total - (busy * SHARES["update"] + communication),
        "collectives": np.full(count, 2 * case.optimizer_steps_per_iteration if size > 1 else 0),
        "optimizer_steps": np.full(count, case.optimizer_steps_per_iteration),
        "frames": np.full(count, case.num_envs_per_rank * case.horizon),
        "reported_iteration_time_s": np.broadcast_to(total * 0.999, (size, count)),
        "reward": np.where(index < 2, np.nan, 90.0 * (1.0 - np.exp(-index / 25.0)) + rng.normal(0.0, 1.5, count)),
        "episode_length": np.where(index < 2, np.nan, 500.0),
        "memory_allocated_bytes": np.full(count, 2.4e9 if case.device == "cuda" else np.nan),
        "memory_used_bytes": np.full(count, 6.1e9),
    }
    table = np.empty((size, count, len(ITERATION_COLUMNS)))
    for position, name in enumerate(ITERATION_COLUMNS):
        table[:, :, position] = columns.get(name, np.nan)
    return table


_WHOLE = {"iteration", "sync", "warmup", "collectives", "optimizer_steps", "frames"} | {
    "memory_allocated_bytes",
    "memory_used_bytes",
}


def row_lines(table: np.ndarray) -> str:
    """Return the iteration rows of one rank, one JSON array a line."""
    whole = [name in _WHOLE for name in ITERATION_COLUMNS]
    lines = []
    for values in table.tolist():
        cells = [None if v != v else int(v) if w else round(v, 7) for v, w in zip(values, whole, strict=True)]
        lines.append(json.dumps(cells))
    return "\n".join(lines) + "\n"


def rank_text(case: Case, attempt: int, rank: int, table: np.ndarray, origin: float, recipe: Recipe) -> str:
    """Return the whole record of one rank."""
    header = rank_header(case, attempt, rank, origin, recipe.gpu_name)
    end_s = float(table[-1, 3] + table[-1, 4])
    end = {"type": "end", "status": "completed", "iterations": len(table), "end_s": round(end_s, 6), "error": None}
    return json.dumps(header) + "\n" + row_lines(table) + json.dumps(end) + "\n"
