"""Cluster: what one site is like, from a profile file that the site's user writes once.

A profile is trusted as a job script would be: its ``setup`` lines are shell code of its owner. Study files are not
trusted that way and cannot hold any.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from paceline.bench import yamlfile
from paceline.bench.errors import ClusterError
from paceline.bench.filemodel import FileModel, Line, Text, nearest, validate
from paceline.bench.shell import check_directive, check_environment
from pydantic import AfterValidator, Field, field_validator, model_validator

CLUSTER_SCHEMA: Final = "paceline.cluster/1"

Directive = Annotated[str, AfterValidator(check_directive)]
"""Text that goes into an #SBATCH line."""

Lines = Annotated[tuple[Line, ...], Field(strict=False)]
Positive = Annotated[int, Field(ge=1)]
MailType = Literal["NONE", "BEGIN", "END", "FAIL", "REQUEUE", "ALL", "INVALID_DEPEND", "STAGE_OUT", "TIME_LIMIT",
                   "TIME_LIMIT_90", "TIME_LIMIT_80", "TIME_LIMIT_50", "ARRAY_TASKS"]  # fmt: skip


def _bind(value: str) -> str:
    """Check one bind: SOURCE or SOURCE:TARGET or SOURCE:TARGET:ro."""
    parts = value.split(":")
    if "," in value or not 1 <= len(parts) <= 3 or not all(p.startswith("/") for p in parts[:2]):
        raise ValueError(f"{value!r}: write /source, /source:/target or /source:/target:ro, without commas")
    if len(parts) == 3 and parts[2] not in ("ro", "rw"):
        raise ValueError(f"{value!r}: the last part must be ro or rw")
    return value


class Runtime(FileModel):
    """How jobs get their Python: from the node itself, or from a container image."""

    kind: Literal["none", "apptainer", "docker", "pyxis"] = "none"
    """none: a Python on the node. Otherwise the container runtime of the site."""
    image: Line | None = None
    """Image: a .sif file or sandbox folder for apptainer, a name for docker, a .sqsh file or name for pyxis."""
    binds: Annotated[tuple[Annotated[Line, AfterValidator(_bind)], ...], Field(strict=False)] = ()
    """Further folders to show inside, as /source, /source:/target or /source:/target:ro."""
    options: Lines = ()
    """Further options of the runtime, one word each, such as --writable-tmpfs."""
    accept_eula: bool = False
    """Set to true if you accept NVIDIA's Omniverse licence agreement; only then do jobs say so to Isaac Sim."""

    @model_validator(mode="after")
    def _check_image(self) -> Runtime:
        if self.kind != "none" and not self.image:
            raise ValueError(f"image is missing; kind {self.kind} needs one")
        if self.kind == "none" and (self.image or self.binds or self.options):
            raise ValueError("image, binds and options need a kind other than none")
        if self.image is not None and self.image.startswith("-"):
            raise ValueError("image must not begin with a hyphen")
        return self


class Prices(FileModel):
    """What GPU time costs, for the report. Nothing is charged by it."""

    gpu_hour: dict[Line, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Price of one GPU hour by GPU type."""
    currency: Line = "EUR"
    """Name of the currency."""


_SLURM_ONLY = (
    "partition", "account", "qos", "constraint", "gpu_type", "max_nodes", "cpus_per_gpu", "mem_gb", "mem_per_gpu_gb",
    "exclusive", "nodelist", "exclude", "reservation", "mail_user", "mail_type", "requeue", "placement", "max_jobs",
    "same_nodes", "extra_sbatch",
)  # fmt: skip


class Cluster(FileModel):
    """A cluster profile."""

    schema_: Annotated[Literal["paceline.cluster/1"], Field(alias="schema")] = CLUSTER_SCHEMA
    """Version of this file format."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """Name of the site: letters, digits, dot, hyphen and underscore."""
    scheduler: Literal["local", "slurm"]
    """slurm: submit jobs. local: run them here, one after the other."""

    partition: Directive | None = None
    """Slurm partition (sbatch --partition); the site's default if left out."""
    account: Directive | None = None
    """Account to charge."""
    qos: Directive | None = None
    """Quality of service."""
    constraint: Directive | None = None
    """Node features, such as a100|h100."""
    gpus_per_node: Annotated[int, Field(ge=0)] | None = None
    """GPUs of one node; 0 for nodes without. Needed for Slurm; found by itself on a local machine."""
    gpu_type: Directive | None = None
    """GPU type as `sinfo -o %G` names it, if the site has several; asked for as gpu:TYPE:N."""
    gpu_request: Literal["gpus-per-node", "gres"] = "gpus-per-node"
    """How the site wants GPUs asked for: --gpus-per-node=N (newer) or --gres=gpu:N."""
    max_nodes: Positive | None = None
    """Most nodes that a study may use for one job."""
    cpus_per_gpu: Positive | None = None
    """CPU cores to ask for with each GPU; left out: the site's default."""
    mem_gb: Positive | None = None
    """Memory of each node to ask for, in GB (2**30 bytes)."""
    mem_per_gpu_gb: Positive | None = None
    """Memory to ask for with each GPU, in GB, instead of mem_gb."""
    exclusive: bool = False
    """Ask for whole nodes, so that nobody else's job disturbs the measurement."""
    nodelist: Directive | None = None
    """Run on exactly these nodes, such as node3: Slurm gives a job all nodes named here, so name as many as it has."""
    exclude: Directive | None = None
    """Never run on these nodes."""
    reservation: Directive | None = None
    """Name of a reservation."""
    mail_user: Directive | None = None
    """Where Slurm sends mail."""
    mail_type: Annotated[tuple[MailType, ...], Field(strict=False)] = ()
    """When Slurm sends mail, such as [END, FAIL]."""
    signal_s: Positive = 120
    """Seconds before the time limit at which the job is told to wind up."""
    requeue: bool = False
    """Queue a job again when it is preempted, runs out of time or loses its node, up to max_attempts."""
    time_limit_min: Positive = 60
    """Time limit of a job in minutes, unless the study states one."""
    max_attempts: Positive = 3
    """Most attempts at one case that are made without being asked; 1: none is repeated."""
    stall_s: Annotated[int, Field(ge=0)] = 1800
    """Seconds without progress after which a rank counts as hung and its job is ended; once iterations are measured, a
    hundred times the longest of them if that is shorter (but at least 300). 0: never."""
    exit_grace_s: Annotated[int, Field(ge=0)] = 60
    """Seconds that processes may live on after all ranks have written their results; 0: for ever."""
    placement: Literal["separate", "one-allocation"] = "separate"
    """separate: a job for each run. one-allocation: all runs in one exclusive job, interleaved, on the same nodes."""
    max_jobs: Positive | None = None
    """Most jobs of a study that may run at once; 1: one after the other, in the planned order."""
    same_nodes: bool = False
    """Run all world sizes on the same nodes: those that Slurm would give the largest now."""
    extra_sbatch: Lines = ()
    """Further #SBATCH flags, such as --comment=benchmark."""

    modules: Lines = ()
    """Environment modules to load, such as apptainer/1.3."""
    setup: Annotated[tuple[Text, ...], Field(strict=False)] = ()
    """Shell lines that run at the start of each job. They are yours: they run as they are."""
    runtime: Runtime = Runtime()
    """Container, or none."""
    python: Line = "auto"
    """Python of the jobs (inside the image if there is one); auto: Paceline's own Isaac Lab environment."""
    asset_root: Line = "auto"
    """Folder with Isaac Sim assets; auto: Paceline makes the few that its shipped studies need."""
    cache_dir: Line | None = None
    """Folder for kernel caches, kept between jobs; left out: ~/.cache/paceline."""
    results: Line = "outputs"
    """Folder for study folders. On a cluster: one that all nodes see."""
    environment: dict[str, Text] = Field(default_factory=dict)
    """Environment variables of every job on this site, such as NCCL_SOCKET_IFNAME. A study's own win."""
    prices: Prices | None = None
    """What GPU time costs."""

    @field_validator("environment")
    @classmethod
    def _check_environment(cls, value: dict[str, str]) -> dict[str, str]:
        return check_environment(value)

    @field_validator("extra_sbatch")
    @classmethod
    def _check_extra(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for line in value:
            if not re.match(r"--[a-z]", line):
                raise ValueError(f"{line!r} must begin with --, such as --comment=benchmark")
            if re.match(r"--(output|error|chdir|wrap|array|job-name|signal|open-mode|nodes|ntasks)\b", line):
                raise ValueError(f"{line!r}: Paceline sets this flag itself")
        return value

    @model_validator(mode="after")
    def _check_together(self) -> Cluster:
        if self.scheduler == "slurm" and self.gpus_per_node is None:
            raise ValueError("gpus_per_node is missing; state the GPUs of one node (0 for nodes without)")
        if self.scheduler == "local":
            defaults = type(self).model_fields
            stated = [name for name in _SLURM_ONLY if getattr(self, name) != defaults[name].default]
            if stated:
                raise ValueError(f"{stated[0]}: has a meaning for scheduler: slurm only")
        if self.placement == "one-allocation" and (self.max_jobs or self.same_nodes):
            raise ValueError("max_jobs, same_nodes: placement one-allocation is one job on the same nodes already")
        if self.placement == "one-allocation" and self.requeue:
            raise ValueError(
                "requeue: an allocation of all runs is not queued again; `paceline run` completes the study"
            )
        if self.mem_gb is not None and self.mem_per_gpu_gb is not None:
            raise ValueError("mem_gb and mem_per_gpu_gb: state only one of them")
        if self.signal_s >= self.time_limit_min * 60:
            raise ValueError(
                f"signal_s {self.signal_s} must be shorter than the time limit of {self.time_limit_min} min"
            )
        return self


def shipped() -> dict[str, Path]:
    """Return the profiles that come with Paceline, by name."""
    folder = Path(str(resources.files("paceline.slurm_templates").joinpath("clusters")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_cluster(source: str | Path) -> Cluster:
    """Return the cluster profile in a file, or of a name.

    A name is looked for as ``./NAME.yaml``, ``./slurm_templates/clusters/NAME.yaml`` and among the shipped ones.

    Raises:
        ClusterError: There is no such profile, or it is not valid; one line per problem.
    """
    return parse_cluster(yamlfile.read(find(source), ClusterError))


def find(source: str | Path) -> Path:
    """Return the file of a profile; ClusterError with the nearest name if there is none."""
    path = Path(source)
    if path.is_file():
        return path
    here = {p.stem: p for folder in (Path("slurm_templates/clusters"), Path()) for p in sorted(folder.glob("*.yaml"))}
    known = shipped() | {name: p for name, p in here.items() if name == str(source) or p.parent != Path()}
    if str(source) in known:
        return known[str(source)]
    near = nearest(str(source), known)
    raise ClusterError(f"cluster {str(source)!r}: no such profile{near} (profiles: {', '.join(sorted(known))})")


def parse_cluster(document: yamlfile.Document) -> Cluster:
    """Return the profile that a parsed file describes; ClusterError if it is not valid."""
    yamlfile.require_schema(document, CLUSTER_SCHEMA, ClusterError)
    return validate(Cluster, document, ClusterError)


def to_yaml(cluster: Cluster) -> str:
    """Return the text of a profile that loads as an equal Cluster, every value stated."""
    data: dict[str, Any] = cluster.model_dump(mode="json", by_alias=True, exclude_none=True)
    return yamlfile.dump({"schema": data.pop("schema"), **data})
