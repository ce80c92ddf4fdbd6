"""What is written about a run: the Case that was asked for, and the records that each rank leaves.

A leaf module (standard library only): the job side writes these files inside an image that has nothing of ours
installed, the analysis reads them later on any machine. docs/formats.md describes every file and field.

Schema versions are strings such as ``paceline.rank/1``. A reader refuses a major version it does not know.
History:
    paceline.case/1, paceline.rank/1, paceline.samples/1, paceline.result/1, paceline.launch/1  first version
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from paceline.bench.errors import RecordError

STUDY_SCHEMA: Final = "paceline.study/1"
CASE_SCHEMA = "paceline.case/1"
RANK_SCHEMA = "paceline.rank/1"
SAMPLES_SCHEMA = "paceline.samples/1"
RESULT_SCHEMA = "paceline.result/1"
LAUNCH_SCHEMA = "paceline.launch/1"
PROFILER_SCHEMA = "paceline.profiler/1"

Kind = Literal["strong", "weak", "sweep", "gpus", "warmup", "profile", "training"]
Trainer = Literal["rsl_rl", "rl_games"]
Device = Literal["cuda", "cpu"]

# Columns of the iteration rows in rank-NNNN.jsonl, in order. New columns are appended, none is ever renamed.
# Times are seconds on this rank's monotonic clock; *_time_s are inclusive durations (profiling/phases.py draws them).
ITERATION_COLUMNS = (
    "iteration",  # 0-based
    "sync",  # 1: device-complete phase times, not for throughput; 0: undisturbed, for throughput only
    "warmup",  # 1: inside the study's warm-up, kept but left out of statistics
    "start_s",  # start of the iteration, since the header's clock_origin_unix_s
    "iteration_time_s",  # first action to end of the update (Isaac Lab's collection + learning)
    "collection_time_s",  # roll-out part of it
    "env_step_time_s",
    "physics_time_s",
    "inference_time_s",
    "update_time_s",  # update part, communication included
    "communication_time_s",  # collectives inside the update, waiting included
    "collectives",  # number of collective calls inside the update
    "frames",  # environment steps of this rank: num_envs_per_rank * horizon
    "reward",  # mean episode reward the trainer reports, null if no episode ended yet
    "episode_length",  # mean episode length in steps, null likewise
    "memory_allocated_bytes",  # peak device memory of torch's allocator in this iteration; null on CPU
    "memory_used_bytes",  # device memory in use on this rank's GPU, all processes; resident set size on CPU
    "optimizer_steps",  # optimiser steps counted inside the iteration (of the busiest optimiser)
    "reported_iteration_time_s",  # the trainer's own collection + learning time, to check iteration_time_s against
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One resolved point of a study and one repeat: everything that decides what runs. Immutable.

    ``num_envs`` counts the environments of all ranks; strong scaling keeps it, the number of minibatches and the
    number of epochs fixed while ``world_size`` grows.
    """

    kind: Kind
    task: str
    trainer: Trainer
    world_size: int
    num_envs: int
    horizon: int
    """Environment steps per environment and iteration (rl_games horizon_length, rsl_rl num_steps_per_env)."""
    num_minibatches: int
    """Minibatches per epoch, the same on every rank."""
    num_epochs: int
    iterations: int
    """Iterations of the run, warm-up included."""
    warmup_iterations: int
    """Leading iterations that are recorded but marked as warm-up."""
    repeat: int
    """0-based; repeats are separate jobs."""
    seed: int
    """Base seed of the run; rank r uses seed + r."""
    device: Device
    num_nodes: int = 1
    sync_every: int = 5
    """Every sync_every-th iteration after warm-up measures device-complete phase times; 0 = none."""
    threads_per_rank: int = 1
    """CPU threads that each rank's libraries may use, the same for all world sizes."""
    engine: str = "isaaclab"
    engine_version: str = "3.0"
    physics: str = "newton_mjwarp"
    """Isaac Lab physics preset (``physics=...``)."""
    gpu_type: str | None = None
    """GRES type asked for, None for any."""
    image: str | None = None
    """Container image the run uses, None for the jobs environment on the host."""
    overrides: tuple[str, ...] = ()
    """Further Isaac Lab (Hydra) overrides, passed as they are."""
    environment: tuple[tuple[str, str], ...] = ()
    """Environment variables of the trainer, sorted by name."""
    placement: tuple[tuple[str, str], ...] = ()
    """Keys of the cluster profile that this case states otherwise, sorted: constraint, nodelist, partition ..."""
    cool_to_c: float | None = None
    """Before the training starts, the job waits until its GPUs are no warmer than this; None: no temperature."""
    cool_s: float = 0.0
    """Longest wait for that temperature; without one, the wait."""
    profile_window: str | None = None
    """Of a profiled run (kind profile): its recorded iterations as first:last, counted from 0, last excluded."""
    graph_trace: str | None = None
    """Likewise: how nsys records CUDA graphs, ``graph`` or ``node``."""
    profiler: str | None = None
    """Likewise: ``auto``, ``nsys`` or ``torch`` (torch.profiler)."""
    levers: tuple[tuple[str, str], ...] = ()
    """Settings of the launcher that leave the learning problem as it is (docs/tuning.md), as lever_pairs gives them."""

    def __post_init__(self) -> None:
        for name in ("world_size", "num_envs", "horizon", "num_minibatches", "num_epochs", "iterations", "num_nodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_envs % self.world_size:
            raise ValueError(f"num_envs {self.num_envs} does not divide by world_size {self.world_size}")
        if self.world_size % self.num_nodes:
            raise ValueError(f"world_size {self.world_size} does not divide by num_nodes {self.num_nodes}")
        if (self.num_envs_per_rank * self.horizon) % self.num_minibatches:
            raise ValueError(
                f"batch per rank {self.num_envs_per_rank * self.horizon} does not divide by "
                f"num_minibatches {self.num_minibatches}"
            )
        if not 0 <= self.warmup_iterations < self.iterations:
            raise ValueError(f"warmup_iterations must lie in 0..{self.iterations - 1}, got {self.warmup_iterations}")

    @property
    def local_world_size(self) -> int:
        """Ranks per node."""
        return self.world_size // self.num_nodes

    @property
    def num_envs_per_rank(self) -> int:
        """Environments that each rank simulates (what Isaac Lab calls --num_envs)."""
        return self.num_envs // self.world_size

    @property
    def global_batch(self) -> int:
        """Frames of all ranks per iteration."""
        return self.num_envs * self.horizon

    @property
    def minibatch_size_per_rank(self) -> int:
        """Samples of one rank in one minibatch."""
        return self.num_envs_per_rank * self.horizon // self.num_minibatches

    @property
    def optimizer_steps_per_iteration(self) -> int:
        """Optimiser steps per iteration: minibatches times epochs."""
        return self.num_minibatches * self.num_epochs

    @property
    def case_id(self) -> str:
        """Content hash, 12 hexadecimal digits. A field at its default leaves the hash as it was without the field."""
        changed = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.default is dataclasses.MISSING or getattr(self, f.name) != f.default
        }
        return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """Return the content of case.json: the fields, and what follows from them, under the schema name."""
        derived = (
            "local_world_size",
            "num_envs_per_rank",
            "global_batch",
            "minibatch_size_per_rank",
            "optimizer_steps_per_iteration",
        )
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        fields["overrides"] = list(self.overrides)
        fields["environment"] = dict(self.environment)
        fields["placement"] = dict(self.placement)
        fields["levers"] = dict(self.levers)
        derived_values = {name: getattr(self, name) for name in derived}
        return {"schema": CASE_SCHEMA, "case_id": self.case_id, **fields, "derived": derived_values}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str = "case.json") -> Case:
        """Return the Case that case.json describes; RecordError if it is of another schema or was edited."""
        require_schema(data, CASE_SCHEMA, where)
        names = {f.name for f in dataclasses.fields(cls)}
        values = {name: data[name] for name in names if name in data}
        if "overrides" in values:
            values["overrides"] = tuple(values["overrides"])
        if "placement" in values:
            values["placement"] = tuple(sorted(values["placement"].items()))
        for name in ("environment", "levers"):
            if name in values:
                values[name] = tuple(sorted(values[name].items()))
        try:
            case = cls(**values)
        except (TypeError, ValueError) as error:
            raise RecordError(f"{where}: not a valid case: {error}") from error
        if data.get("case_id") != case.case_id:
            raise RecordError(f"{where}: case_id {data.get('case_id')} does not match its content ({case.case_id})")
        return case


def lever_pairs(levers: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return a block of levers as a file states it, as sorted pairs of text; variables are ``environment.<name>``."""
    pairs: dict[str, str] = {}
    for name, value in levers.items():
        if name == "environment":
            pairs |= {f"environment.{variable}": str(text) for variable, text in (value or {}).items()}
        elif value is not None:
            pairs[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return tuple(sorted(pairs.items()))


RunStatus = Literal["completed", "failed", "interrupted"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The sentinel of a run (result.json), written last. Without it, no number of the run counts. Scope: job."""

    case_id: str
    attempt: int
    status: RunStatus
    cause: str | None
    """Failure class (``oom_device``, ``time_limit``, ``error`` ...), None if completed."""
    message: str | None
    """One line for a person: what went wrong, None if completed."""
    exit_code: int | None
    """Exit code of the trainer's launcher; informative only, never decides the status."""
    ranks_expected: int
    ranks_completed: tuple[int, ...]
    start_unix_s: float
    end_unix_s: float
    nodes: tuple[str, ...] = ()
    job_id: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the content of result.json."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {
            "schema": RESULT_SCHEMA,
            **values,
            "ranks_completed": list(self.ranks_completed),
            "nodes": list(self.nodes),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str = "result.json") -> Result:
        """Return the Result that result.json holds; RecordError if it cannot be one."""
        require_schema(data, RESULT_SCHEMA, where)
        names = {f.name for f in dataclasses.fields(cls)}
        values = {name: data[name] for name in names if name in data}
        for name in ("ranks_completed", "nodes"):
            values[name] = tuple(values.get(name, ()))
        try:
            return cls(**values)
        except TypeError as error:
            raise RecordError(f"{where}: not a valid result: {error}") from error


def require_schema(data: Any, schema: str, where: str) -> None:
    """Raise RecordError unless ``data`` is an object that names the given schema and major version."""
    found = data.get("schema") if isinstance(data, Mapping) else None
    if found != schema:
        raise RecordError(f"{where}: schema is {found!r}, this version of Paceline reads {schema!r}")
