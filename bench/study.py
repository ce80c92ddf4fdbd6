"""Study: one scaling question, as a file states it and as it is resolved for one site.

A study file states what matters and leaves the rest open; `resolve` fills in everything else from, in this order:
the ``--set`` settings, the file's own keys, the file's block for the device (``on_cpu``, ``on_gpu``), and the defaults
below. The resolved study is written to the study folder: it says what ran without needing this program.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from paceline.bench import problem, tasks, yamlfile
from paceline.bench.cluster import Cluster
from paceline.bench.errors import StudyError
from paceline.bench.shell import check_environment
from paceline.bench.yamlfile import FileModel, Line, Text

STUDY_SCHEMA = "paceline.study/1"

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


class StudyValues(FileModel):
    """The values of a study that may depend on the device."""

    task: Line | None = None
    """Isaac Lab task id, such as Isaac-Ant-Direct."""
    trainer: Trainer | None = None
    """RL library (default rsl_rl)."""
    world_sizes: WorldSizes | None = None
    """Numbers of ranks to measure, one GPU (or CPU process) each; auto (the default): 1, 2, 4, 8, ... up to what is there."""
    num_envs: Positive | None = None
    """Strong scaling: environments of all ranks together. Each rank gets num_envs / world_size."""
    num_envs_per_rank: Positive | None = None
    """Weak scaling: environments of each rank (what Isaac Lab calls --num_envs)."""
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
    """Nodes of the largest world size; smaller ones use as few nodes as hold them at the same ranks per node (default 1)."""
    threads_per_rank: Positive | None = None
    """CPU threads that each rank's libraries may use, the same at every world size (default 1)."""
    overrides: Lines | None = None
    """Further Isaac Lab (Hydra) overrides, such as env.decimation=2."""
    environment: dict[str, Text] | None = None
    """Environment variables of the training processes."""
    time_limit_min: Positive | None = None
    """Time limit of each job, in minutes (default: the cluster profile's)."""

    @field_validator("environment")
    @classmethod
    def _check_environment(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        return value if value is None else check_environment(value)


class Study(StudyValues):
    """A study file. `resolve` gives one with every value stated."""

    schema_: Annotated[Literal["paceline.study/1"], Field(alias="schema")] = STUDY_SCHEMA
    """Version of this file format."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """Name of the study: letters, digits, dot, hyphen and underscore."""
    kind: Literal["strong", "weak"]
    """strong: the whole problem stays fixed (num_envs). weak: each rank's part stays fixed (num_envs_per_rank)."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """Where ranks run; auto: on GPUs if there are any."""
    on_cpu: StudyValues | None = None
    """Values for CPU runs, where neither the file nor --set states them otherwise."""
    on_gpu: StudyValues | None = None
    """Values for GPU runs, likewise."""

    @model_validator(mode="after")
    def _check_kind(self) -> Study:
        wrong, right = ("num_envs_per_rank", "num_envs") if self.kind == "strong" else ("num_envs", "num_envs_per_rank")
        for block, values in (("", self), ("on_cpu.", self.on_cpu), ("on_gpu.", self.on_gpu)):
            if values is not None and getattr(values, wrong) is not None:
                raise ValueError(f"{block}{wrong}: {self.kind} scaling is stated by {right}")
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


DEFAULTS: Mapping[str, Any] = {
    "trainer": "rsl_rl",
    "world_sizes": "auto",
    "repeats": 3,
    "iterations": 60,
    "sync_every": 5,
    "seed": 42,
    "physics": "newton_mjwarp",
    "num_nodes": 1,
    "threads_per_rank": 1,
    "overrides": (),
    "environment": {},
}


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
        near = yamlfile.nearest(str(source), shipped())
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
        elif first in ("on_cpu", "on_gpu", "schema") or name:
            raise StudyError(f"--set {key}: cannot be set; a setting wins over on_cpu and on_gpu as it is")
        else:
            data[key] = value

    def origin(path: yamlfile.Path_) -> str | None:
        return f"--set {path[0]}" if path and path[0] in settings else None

    return yamlfile.validate(Study, yamlfile.Document(data, document.lines, document.where), StudyError, origin)


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
    order = ("schema", "name", "kind", "device", *StudyValues.model_fields, "on_cpu", "on_gpu")
    return yamlfile.dump({key: data[key] for key in order if key in data})


# --------------------------------------------------------------------------------------------------- resolving


def resolve(study: Study, cluster: Cluster, devices: int | None = None) -> Study:
    """Return the study with every value stated, for one site.

    Args:
        study: As loaded, or resolved before (then it comes back as it is, if the site allows it).
        cluster: The site.
        devices: GPUs visible on this machine (local scheduler); None on Slurm, where the profile says.

    Raises:
        StudyError: What the study asks for does not exist or does not divide; the message names what does.
    """
    gpus_per_node = (devices or 0) if cluster.scheduler == "local" else (cluster.gpus_per_node or 0)
    device = study.device if study.device != "auto" else ("cuda" if gpus_per_node else "cpu")
    if device == "cuda" and not gpus_per_node:
        place = "on this machine" if cluster.scheduler == "local" else f"in cluster profile {cluster.name!r}"
        raise StudyError(f"device: cuda, but there is no GPU {place}; state device: cpu or auto")
    block = study.on_gpu if device == "cuda" else study.on_cpu
    values: dict[str, Any] = {**DEFAULTS, "time_limit_min": cluster.time_limit_min}
    for layer in (block, study):
        if layer is not None:
            values |= {k: v for k in StudyValues.model_fields if (v := getattr(layer, k)) is not None}
    if values.get("task") is None:
        raise StudyError("task is missing; state an Isaac Lab task id such as Isaac-Cartpole-Direct")
    values |= {"device": device, "on_cpu": None, "on_gpu": None}
    values.setdefault("warmup_iterations", values["iterations"] // 4)
    if values["warmup_iterations"] >= values["iterations"]:
        raise StudyError(
            f"warmup_iterations {values['warmup_iterations']} must be less than iterations {values['iterations']}"
        )
    values["world_sizes"] = _sizes_and_nodes(values, cluster, gpus_per_node if device == "cuda" else None)
    agent = _agent(values)
    values["horizon"] = values.get("horizon") or agent.horizon
    values["num_epochs"] = values.get("num_epochs") or agent.num_epochs
    values["num_minibatches"] = _minibatches(study.kind, values, agent)
    return study.model_copy(update=values)


def _sizes_and_nodes(values: Mapping[str, Any], cluster: Cluster, gpus_per_node: int | None) -> tuple[int, ...]:
    """Return the world sizes, checked against what a node has. ``gpus_per_node`` is None for CPU ranks."""
    nodes: int = values["num_nodes"]
    if cluster.scheduler == "local" and nodes > 1:
        raise StudyError(f"num_nodes {nodes}: scheduler: local has one node; use a cluster profile with Slurm")
    if cluster.max_nodes is not None and nodes > cluster.max_nodes:
        raise StudyError(f"num_nodes {nodes}: cluster profile {cluster.name!r} allows max_nodes {cluster.max_nodes}")
    sizes = values["world_sizes"]
    if sizes == "auto":
        largest = nodes * (gpus_per_node or 2)
        sizes = tuple(2**k for k in range(largest.bit_length()))
    assert isinstance(sizes, tuple)
    if max(sizes) % nodes:
        raise StudyError(f"world size {max(sizes)} does not divide over num_nodes {nodes}")
    ranks_per_node = max(sizes) // nodes
    if gpus_per_node is not None and ranks_per_node > gpus_per_node:
        place = "this machine has" if cluster.scheduler == "local" else f"a node of {cluster.name!r} has"
        more = "" if cluster.scheduler == "local" else f"; state num_nodes: {-(-max(sizes) // gpus_per_node)} or more"
        raise StudyError(
            f"world size {max(sizes)} needs {ranks_per_node} GPUs on a node, {place} {gpus_per_node}{more}"
        )
    for size in sizes:
        if size % -(-size // ranks_per_node):
            raise StudyError(
                f"world size {size} does not divide over {-(-size // ranks_per_node)} nodes of {ranks_per_node} ranks"
            )
    return sizes


def _agent(values: Mapping[str, Any]) -> tasks.AgentDefaults:
    """Return the stock agent; if the study states all of it, the task may be one that Isaac Lab does not ship."""
    name, trainer, physics = values["task"], values["trainer"], values["physics"]
    stated = [values.get(key) for key in ("horizon", "num_minibatches", "num_epochs")]
    custom = (
        tasks.AgentDefaults(horizon=stated[0], num_minibatches=stated[1], num_epochs=stated[2]) if all(stated) else None
    )
    task = tasks.lookup(name)
    if task is None:
        if custom:
            return custom
        near = tasks.nearest(name)
        raise StudyError(
            f"task {name!r}: not in Isaac Lab {tasks.isaaclab_version()}"
            + (f"; nearest: {', '.join(near)}" if near else "")
            + ". A task of your own needs horizon, num_minibatches and num_epochs stated in the study"
        )
    if physics not in task.physics:
        have = ", ".join(task.physics) if task.physics else "none: it needs Isaac Sim"
        raise StudyError(f"physics {physics!r}: task {name} has no such preset (it has {have})")
    agent = custom or task.agent(trainer, physics)
    if agent is None:
        raise StudyError(
            f"trainer {trainer}: task {name} has no stock configuration for it (it has {', '.join(task.trainers)})"
        )
    return agent


def _minibatches(kind: str, values: Mapping[str, Any], agent: tasks.AgentDefaults) -> int:
    """Return the minibatches per epoch, having checked that every world size divides evenly."""
    key = "num_envs" if kind == "strong" else "num_envs_per_rank"
    envs: int | None = values.get(key)
    if envs is None:
        raise StudyError(f"{key} is missing; {kind} scaling needs it")
    horizon: int = values["horizon"]
    sizes: tuple[int, ...] = values["world_sizes"] if kind == "strong" else (1,)
    stated: int | None = values.get("num_minibatches") or agent.num_minibatches
    size = agent.minibatch_size
    if stated is not None:
        step: int | None = problem.strong_step(sizes, horizon, stated)
        what = f"{stated} minibatches of horizon {horizon}"
    else:
        assert size is not None
        step = problem.strong_step_of_size(sizes, horizon, size)
        what = f"{values['trainer']}'s minibatch_size {size} at horizon {horizon}"
    if step is None:
        bad = next(w for w in sizes if size is not None and size % w)
        raise StudyError(
            f"world size {bad}: {what} does not divide by it at any num_envs; state num_minibatches in the study"
        )
    if envs % step:
        near = " and ".join(str(n) for n in problem.nearest_multiples(envs, step))
        ranks = f" over {', '.join(map(str, sizes))} ranks" if kind == "strong" else ""
        raise StudyError(f"{key} {envs} does not divide evenly{ranks} with {what}; the nearest that do: {near}")
    return stated if stated is not None else envs * horizon // (size or 1)
