"""Study: one scaling question, as a file states it and as it is resolved for one site.

A study file states what matters and leaves the rest open; `resolve` (bench/resolve.py) fills in everything else. The
resolved study is written to the study folder: it says what ran without needing this program.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from paceline.bench import yamlfile
from paceline.bench.cluster import Directive
from paceline.bench.errors import StudyError
from paceline.bench.filemodel import FileModel, Line, Text, nearest, validate
from paceline.bench.record import STUDY_SCHEMA
from paceline.bench.redaction import is_secret_name, looks_secret
from paceline.bench.resolve import resolve
from paceline.bench.shell import check_environment
from paceline.bench.tuning import Levers, VariantName
from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

__all__ = ["STUDY_SCHEMA", "Study", "StudyValues", "load_study", "parse_study", "resolve", "shipped", "to_yaml"]

Trainer = Literal["rsl_rl", "rl_games"]


def _world_sizes(value: Any) -> Any:
    """Return world sizes as a sorted tuple, or ``auto``."""
    if value == "auto" or value is None:
        return value
    items = list(value) if isinstance(value, list | tuple) else [value]
    if not items:
        raise ValueError("is an empty list; state world sizes such as [1, 2, 4], or auto")
    for item in items:
        if not isinstance(item, int) or isinstance(item, bool):
            raise ValueError(f"{item!r} is not a whole number; state world sizes such as [1, 2, 4], or auto")
        if not 1 <= item <= 1000:
            raise ValueError(f"a world size must lie in 1..1000, not {item}")
    if len(set(items)) < len(items):
        raise ValueError(f"{next(i for i in items if items.count(i) > 1)} is stated twice")
    return tuple(sorted(items))


WorldSizes = Annotated[
    tuple[int, ...] | Literal["auto"],
    BeforeValidator(_world_sizes),
    WithJsonSchema(
        {"anyOf": [{"const": "auto"}, {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 1000}}]}
    ),
]
Lines = Annotated[tuple[Line, ...], Field(strict=False)]
Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]


class GpuGroup(FileModel):
    """One side of a GPU comparison, and how jobs get there. What is left out is the cluster profile's."""

    name: Line
    """How the report calls it."""
    gpu_type: Directive | None = None
    """GPU type to ask for."""
    constraint: Directive | None = None
    """Node features."""
    nodelist: Directive | None = None
    """Nodes."""
    partition: Directive | None = None
    """Partition."""
    gpus_per_node: Annotated[int, Field(ge=1)] | None = None
    """GPUs of one of its nodes."""

    @property
    def placement(self) -> tuple[tuple[str, str], ...]:
        """Keys of the profile that its jobs state otherwise, sorted (`Case.placement`)."""
        keys = ("constraint", "nodelist", "partition")
        return tuple((key, getattr(self, key)) for key in keys if getattr(self, key))


class StudyValues(FileModel):
    """The values of a study that may depend on the device."""

    task: Line | None = None
    """Isaac Lab task id, such as Isaac-Ant-Direct."""
    trainer: Trainer | None = None
    """RL library (default rsl_rl)."""
    world_sizes: WorldSizes | None = None
    """Numbers of ranks to measure, one GPU (or CPU process) each; auto (default): 1, 2, 4, ... up to what is there."""
    num_envs: Positive | None = None
    """Strong scaling: environments of all ranks together. Each rank gets num_envs / world_size."""
    num_envs_per_rank: Positive | None = None
    """Weak scaling and GPU comparison: environments of each rank (what Isaac Lab calls --num_envs)."""
    start_envs: Positive | None = None
    """Sweep: environments of each rank at the first point; they double from point to point (default 1024)."""
    limit_envs: Positive | None = None
    """Sweep: environments of each rank at which it stops if nothing else does (default 1048576)."""
    resolution_pct: Annotated[float, Field(gt=0, le=100)] | None = None
    """Sweep: the largest valid number of environments is looked for until it is known to so many % (default 5)."""
    sweep_time_min: Positive | None = None
    """Sweep: once all runs together have taken so many minutes, no further one starts (default: no such limit)."""
    cool_to_c: Annotated[float, Field(gt=0, lt=150)] | None = None
    """Before each run, wait until the GPUs are no warmer than this, in degrees Celsius."""
    cool_s: Annotated[float, Field(ge=0, le=3600)] | None = None
    """Longest wait for cool_to_c; without cool_to_c, the wait before each run (default 0: none)."""
    repeats: Positive | None = None
    """Separate jobs per world size, in interleaved order; intervals come from them (default 3)."""
    iterations: Positive | None = None
    """Training iterations of each run, warm-up included (default 60)."""
    warmup_iterations: NotNegative | None = None
    """Leading iterations that are kept but left out of statistics (default: a quarter of the iterations)."""
    sync_every: NotNegative | None = None
    """Every so-manyth iteration measures phase times with a synchronised device and does not count for throughput;
    0 = none (default 5)."""
    seed: NotNegative | None = None
    """Base seed (default 42). Repeat k uses seed + 1000 k, rank r of it adds r."""
    horizon: Positive | None = None
    """Environment steps per iteration (default: the task's own)."""
    num_minibatches: Positive | None = None
    """Minibatches per epoch, the same at every world size (default: what Isaac Lab would use at the global size)."""
    num_epochs: Positive | None = None
    """Passes over each batch (default: the task's own)."""
    physics: Line | None = None
    """Isaac Lab physics preset (default newton_mjwarp)."""
    num_nodes: Positive | None = None
    """Nodes of the largest world size (default 1); smaller ones use as few nodes as hold them, at most as full."""
    threads_per_rank: Positive | None = None
    """CPU threads that each rank's libraries may use, the same at every world size (default 1)."""
    overrides: Lines | None = None
    """Further Isaac Lab (Hydra) overrides, such as env.decimation=2."""
    environment: dict[str, Text] | None = None
    """Environment variables of the training processes."""
    max_attempts: Positive | None = None
    """Most attempts at one case that are made without being asked (default: the cluster profile's)."""
    stall_s: NotNegative | None = None
    """Seconds without progress after which a rank counts as hung (default: the cluster profile's)."""
    exit_grace_s: NotNegative | None = None
    """Seconds that processes may live on after the last result is written (default: the cluster profile's)."""
    time_limit_min: Positive | None = None
    """Time limit of each job, in minutes (default: the cluster profile's)."""
    levers: Levers | None = None
    """Settings of the launcher that leave the learning problem as it is, in every run of the study."""
    tuning: dict[VariantName, Levers] | None = None
    """Variants by name, each a set of levers that is measured against the study's own, interleaved with it."""

    @field_validator("environment")
    @classmethod
    def _check_environment(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        return value if value is None else check_environment(value)

    @field_validator("overrides")
    @classmethod
    def _check_overrides(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for number, text in enumerate(value or (), 1):
            if looks_secret(text) or is_secret_name(text.partition("=")[0].rpartition(".")[2]):
                raise ValueError(
                    f"number {number} holds a credential, which would stand in records; set it as a variable of the "
                    "shell that starts paceline instead: jobs inherit it"
                )
        return value

    def stated(self) -> dict[str, Any]:
        """Return the values that are stated, by name."""
        return {name: value for name in StudyValues.model_fields if (value := getattr(self, name)) is not None}


_SWEEP_KEYS = ("start_envs", "limit_envs", "resolution_pct", "sweep_time_min")
# Kind -> the key that states its size, and the keys that have no meaning for it.
_SIZE_KEYS = {
    "strong": ("num_envs", ("num_envs_per_rank", *_SWEEP_KEYS)),
    "weak": ("num_envs_per_rank", ("num_envs", *_SWEEP_KEYS)),
    "gpus": ("num_envs_per_rank", ("num_envs", *_SWEEP_KEYS)),
    "sweep": ("start_envs and limit_envs", ("num_envs", "num_envs_per_rank")),
}
_KIND_WORDS = {"strong": "strong scaling", "weak": "weak scaling", "gpus": "a GPU comparison", "sweep": "a sweep"}


class Study(StudyValues):
    """A study file. `resolve` gives one with every value stated."""

    schema_: Annotated[Literal["paceline.study/1"], Field(alias="schema")] = STUDY_SCHEMA
    """Version of this file format."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """Name of the study: letters, digits, dot, hyphen and underscore."""
    kind: Literal["strong", "weak", "sweep", "gpus"]
    """strong: the whole problem stays fixed (num_envs). weak: each rank's part stays fixed (num_envs_per_rank).
    sweep: more and more environments on the same GPUs (start_envs, limit_envs). gpus: the same on each GPU type."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """Where ranks run; auto: on GPUs if there are any."""
    groups: Annotated[tuple[GpuGroup, ...], Field(strict=False)] | None = None
    """GPU comparison: what is compared. `paceline compare-gpus` asks Slurm for it."""
    on_cpu: StudyValues | None = None
    """Values for CPU runs, where neither the file nor --set states them otherwise."""
    on_gpu: StudyValues | None = None
    """Values for GPU runs, likewise."""

    @model_validator(mode="after")
    def _check_kind(self) -> Study:
        right, wrong = _SIZE_KEYS[self.kind]
        for block, values in (("", self), ("on_cpu.", self.on_cpu), ("on_gpu.", self.on_gpu)):
            for key in wrong:
                if values is not None and getattr(values, key) is not None:
                    raise ValueError(f"{block}{key}: {_KIND_WORDS[self.kind]} is stated by {right}")
        if self.groups is not None and self.kind != "gpus":
            raise ValueError("groups: has a meaning for kind: gpus only")
        return self

    @property
    def is_resolved(self) -> bool:
        """Whether every value that planning needs is stated."""
        return self.device != "auto" and isinstance(self.world_sizes, tuple) and self.time_limit_min is not None

    def nodes_of(self, world_size: int) -> int:
        """Return the number of nodes that a world size runs on. Only for a resolved study."""
        assert isinstance(self.world_sizes, tuple) and self.num_nodes
        ranks_per_node = max(self.world_sizes) // self.num_nodes
        return -(-world_size // ranks_per_node)


# ------------------------------------------------------------------------------------------------------ files


def shipped() -> dict[str, Path]:
    """Return the studies that come with Paceline, by name."""
    folder = Path(str(resources.files("paceline.bench").joinpath("studies")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_study(source: str | Path, settings: Mapping[str, str] | None = None) -> Study:
    """Return the study in a file, with ``--set`` settings applied.

    Args:
        source: Path of a study file, or the name of a shipped study (``strong_scaling``).
        settings: Values by key as text (``{"world_sizes": "1,2,4"}``); they win over the file and its device blocks.

    Raises:
        StudyError: The file or a setting is not valid; one line per problem.
    """
    path = Path(source)
    if not path.is_file() and str(source) in shipped():
        path = shipped()[str(source)]
    if not path.exists():
        near = nearest(str(source), shipped())
        raise StudyError(f"study {str(source)!r}: no such file{near} (shipped studies: {', '.join(shipped())})")
    return parse_study(yamlfile.read(path, StudyError), settings or {})


def parse_study(document: yamlfile.Document, settings: Mapping[str, str]) -> Study:
    """Return the study that a parsed file and settings describe; StudyError if they are not valid."""
    yamlfile.require_schema(document, STUDY_SCHEMA, StudyError)
    data = dict(document.data)
    for key, text in settings.items():
        first, _, name = key.partition(".")
        value = _setting(key, text)
        if first == "environment" and name:
            data["environment"] = {**(data.get("environment") or {}), name: text}
        elif first in ("on_cpu", "on_gpu", "groups", "schema") or name:
            raise StudyError(f"--set {key}: cannot be set; a setting wins over on_cpu and on_gpu as it is")
        else:
            data[key] = value

    def origin(path: yamlfile.KeyPath) -> str | None:
        return f"--set {path[0]}" if path and path[0] in settings else None

    return validate(Study, yamlfile.Document(data, document.lines, document.where), StudyError, origin)


def _setting(key: str, text: str) -> Any:
    """Return the value of one ``--set KEY=VALUE``."""
    if not text.strip():
        raise StudyError(f"--set {key}: the value is empty")
    if key in ("task", "trainer", "kind", "name", "device", "physics"):
        return text  # these are text even where they look like numbers
    try:
        value = yamlfile.parse_value(text)
        if key == "world_sizes" and isinstance(value, str) and value != "auto":
            value = [yamlfile.parse_value(item) for item in value.split(",")]
    except ValueError as error:
        raise StudyError(f"--set {key}: {text!r} {error}") from error
    return [value] if key == "overrides" and isinstance(value, str) else value


def to_yaml(study: Study) -> str:
    """Return the text of a study file that loads as an equal study."""
    data = study.model_dump(mode="json", by_alias=True, exclude_none=True)
    order = ("schema", "name", "kind", "device", "groups", *StudyValues.model_fields, "on_cpu", "on_gpu")
    return yamlfile.dump({key: data[key] for key in order if key in data})
