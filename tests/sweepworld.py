"""A simulated GPU on which environment sweeps run: its knee, memory, buffers and heat are known.

A run writes what a real one writes (case, record, samples, log, sentinel); the sweep under test chooses the runs.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from paceline.bench.cluster import Cluster
from paceline.bench.record import ITERATION_COLUMNS, LAUNCH_SCHEMA, SAMPLES_SCHEMA, Case, Result
from paceline.bench.rundir import RunDir, StudyDir, write_json
from paceline.bench.study import Study, resolve, to_yaml
from paceline.bench.sweep import Stop, case_of
from paceline.bench.sweepledger import Entry, Ledger

from tests.synthetic import row_lines
from tests.synthetic_records import rank_header

CLUSTER = Cluster(name="here", scheduler="local")
ORIGIN_UNIX_S = 1_760_000_000.0


@dataclass
class World:
    """One simulated GPU. Step time is a + b n; memory m0 + m n; a buffer needs c n."""

    fixed_step_s: float = 0.010
    step_per_env_s: float = 2.0e-6  # knee at 3 a / b = 15,000 environments
    fixed_bytes: float = 3e9
    bytes_per_env: float = 400e3
    total_bytes: int = 85_520_809_984
    stack_per_env: float | None = None
    """Bytes of PhysX's collision stack that an environment needs; its default is 2**26."""
    hot_from: int | None = None
    """Environments from which the GPU gets too hot and slows down by a quarter."""
    noise: float = 0.0
    seed: int = 0
    fails_once_at: int | None = None
    log_of_memory: str = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
    ran: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)

    @property
    def knee_envs(self) -> float:
        return 3.0 * self.fixed_step_s / self.step_per_env_s

    @property
    def max_envs(self) -> int:
        """Environments that fit."""
        return int((self.total_bytes - self.fixed_bytes) / self.bytes_per_env)

    def stack_needed(self, envs: int) -> int:
        return math.ceil((self.stack_per_env or 0.0) * envs)

    def fps(self, envs: int) -> float:
        return envs / (self.fixed_step_s + self.step_per_env_s * envs)

    def run(self, run: RunDir, case: Case) -> None:
        """Do what a job does: write the run folder, the sentinel last."""
        envs = case.num_envs_per_rank
        self.ran.append(f"{envs}")
        run.path.mkdir(parents=True)
        write_json(run.case_json, case.to_json())
        write_json(run.launch_json, {"schema": LAUNCH_SCHEMA, "launcher": "local", "job_id": "1", "pid": 1})
        sizes = dict(text.rpartition(".")[2].split("=") for text in case.overrides)
        stack = int(sizes.get("gpu_collision_stack_size", 2**26))
        log = ["[INFO]: Completed setting up the environment..."]
        if self.fails_once_at == envs:
            self.fails_once_at = None
            log.append("RuntimeError: the node went away")
            return self._end(run, case, log, "failed", "error", log[-1], 0.0)
        if envs > self.max_envs:
            log.append(self.log_of_memory)
            return self._end(run, case, log, "failed", "oom_device", self.log_of_memory, 0.0)
        missing = self.stack_per_env is not None and self.stack_needed(envs) > stack
        if missing:
            text = (
                "PxGpuDynamicsMemoryConfig::collisionStackSize buffer overflow detected, please increase its size to "
            )
            log += [f"[Error] {text}at least {self.stack_needed(envs)} in the scene desc! Contacts dropped."] * 3
        step = envs / self.fps(envs) * math.exp(self._rng.normal(0.0, self.noise))
        hot = self.hot_from is not None and envs >= self.hot_from
        step *= (1 / 0.75 if hot else 1.0) * (0.55 if missing else 1.0)  # fewer contacts are less work
        seconds = self._record(run, case, step * case.horizon, hot)
        return self._end(run, case, log, "completed", None, None, seconds)

    def _record(self, run: RunDir, case: Case, iteration_s: float, hot: bool) -> float:
        count, envs = case.iterations, case.num_envs_per_rank
        index = np.arange(count)
        warmup = index < case.warmup_iterations
        sync = ~warmup & (case.sync_every > 0) & ((index - case.warmup_iterations) % max(case.sync_every, 1) == 0)
        used = self.fixed_bytes + self.bytes_per_env * envs
        columns = {
            "iteration": index,
            "sync": sync,
            "warmup": warmup,
            "start_s": index * iteration_s,
            "iteration_time_s": np.full(count, iteration_s),
            "collection_time_s": np.full(count, 0.7 * iteration_s),
            "env_step_time_s": np.full(count, 0.6 * iteration_s),
            "physics_time_s": np.full(count, 0.5 * iteration_s),
            "inference_time_s": np.full(count, 0.1 * iteration_s),
            "update_time_s": np.full(count, 0.3 * iteration_s),
            "communication_time_s": np.zeros(count),
            "collectives": np.zeros(count),
            "optimizer_steps": np.full(count, case.optimizer_steps_per_iteration),
            "frames": np.full(count, envs * case.horizon),
            "memory_allocated_bytes": np.full(count, round(0.6 * used)),
            "memory_used_bytes": np.full(count, round(used)),
        }
        table = np.stack(
            [np.asarray(columns.get(name, np.full(count, np.nan)), float) for name in ITERATION_COLUMNS], 1
        )
        header = rank_header(case, run.attempt, 0, ORIGIN_UNIX_S, "NVIDIA H100 80GB HBM3")
        end = {"type": "end", "status": "completed", "iterations": count, "end_s": count * iteration_s, "error": None}
        run.rank_jsonl(0).write_text(f"{json.dumps(header)}\n{row_lines(table)}{json.dumps(end)}\n")
        seconds = max(count * iteration_s, 12.0)
        self._samples(run, case, seconds, hot)
        return seconds

    def _samples(self, run: RunDir, case: Case, seconds: float, hot: bool) -> None:
        envs = case.num_envs_per_rank
        busy = self.step_per_env_s * envs / (self.fixed_step_s + self.step_per_env_s * envs)
        power = 120.0 + 400.0 * busy
        header: dict[str, Any] = {"type": "header", "schema": SAMPLES_SCHEMA, "node": "node1", "hostname": "node1"}
        header |= {"interval_s": 1.0, "clock_origin_unix_s": ORIGIN_UNIX_S, "case_id": case.case_id, "attempt": 1}
        lines = [json.dumps(header | {"gpus": [], "logical_cores": 8, "ram_total_bytes": 64_000_000_000})]
        for t in np.linspace(0.0, seconds, 12).tolist():
            gpu = {
                "uuid": "GPU-0000",
                "util_pct": 100 * busy,
                "memory_used_bytes": 5e9,
                "temperature_c": 45 + 30 * busy,
            }
            gpu |= {"power_w": power, "energy_j": power * t, "sm_clock_mhz": 1410 if hot else 1980}
            gpu |= {"memory_clock_mhz": 2619, "throttle": ["sw_thermal_slowdown"] if hot else ["sw_power_cap"]}
            gpu |= {"processes": 1, "foreign_processes": 0}
            rank = {"rank": 0, "cpu_pct": 100.0, "threads": 40, "rss_bytes": 5e9}
            node = {"cpu_pct": [100.0, 5.0], "load_1m": 1.0, "ram_used_bytes": 2e10, "ranks": [rank]}
            lines.append(json.dumps({"t_s": t, "gpus": [gpu], **node}))
        run.samples_jsonl("node1").write_text("\n".join(lines) + "\n")

    def _end(
        self, run: RunDir, case: Case, log: list[str], status: str, cause: str | None, why: str | None, seconds: float
    ) -> None:
        run.train_log.write_text("\n".join(log) + "\n")
        result = Result(
            case_id=case.case_id,
            attempt=run.attempt,
            status=status,  # type: ignore[arg-type]
            cause=cause,
            message=why,
            exit_code=0 if status == "completed" else 1,
            ranks_expected=1,
            ranks_completed=(0,) if status == "completed" else (),
            start_unix_s=ORIGIN_UNIX_S,
            end_unix_s=ORIGIN_UNIX_S + seconds,
        )
        write_json(run.result_json, result.to_json())


def sweep_study(**changes: Any) -> Study:
    values: dict[str, Any] = {"name": "sweep", "kind": "sweep", "task": "Isaac-Ant-Direct", "start_envs": 1024}
    values |= {"limit_envs": 2**18, "iterations": 30, "warmup_iterations": 10, "physics": "ovphysx"}
    return resolve(Study.model_validate(values | changes), CLUSTER, 1)


def play(folder: Path, study: Study, world: World, most: int = 100) -> tuple[list[Entry], Stop | None]:
    """Run a sweep in a folder on a simulated GPU; at most so many runs (None in the place of the end, then)."""
    directory = StudyDir(folder)
    folder.mkdir(parents=True, exist_ok=True)
    directory.study_yaml.write_text(to_yaml(study))
    ledger = Ledger(directory, study, CLUSTER)
    for _ in range(most):
        entries, following = ledger.replay(again=True)
        ledger.write(entries, following if isinstance(following, Stop) else None)
        if isinstance(following, Stop):
            return entries, following
        case = case_of(study, CLUSTER, following)
        ledger.retried.add(case.case_id)
        world.run(directory.run(case.case_id, len(directory.attempts(case.case_id)) + 1), case)
    entries, _ = ledger.replay()
    return entries, None


def fresh(world: World) -> World:
    """Return the same GPU on which nothing ran."""
    return replace(world, ran=[])
