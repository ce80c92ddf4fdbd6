"""A study folder with what is planned in it, and what its jobs run with."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from paceline.bench import cluster as cluster_module
from paceline.bench import environment
from paceline.bench import study as study_module
from paceline.bench.cluster import Cluster, load_cluster
from paceline.bench.errors import LaunchError
from paceline.bench.plan import Plan, make_plan
from paceline.bench.record import Case
from paceline.bench.resolve import SITE_LIMITS
from paceline.bench.rundir import StudyDir
from paceline.bench.status import CaseStatus, study_status
from paceline.bench.study import Study, load_study

EXTENDABLE = frozenset(
    {"limit_envs", "resolution_pct", "sweep_time_min", "repeats", "world_sizes", "name", "time_limit_min", "tuning"}
)
"""Fields of a study that may change in a folder that already holds runs: they add cases or leave them as they are."""


@dataclass(frozen=True, kw_only=True)
class JobSide:
    """What jobs run with, as seen on the compute node."""

    python: str
    asset_root: str | None


@dataclass(frozen=True, kw_only=True)
class OpenStudy:
    """A study folder with what is planned in it."""

    directory: StudyDir
    study: Study
    cluster: Cluster
    plan: Plan

    @property
    def cases(self) -> tuple[Case, ...]:
        """All cases in the order in which they start, the warm-up first."""
        return self.plan.all_cases

    def status(self) -> list[CaseStatus]:
        """Return the state of every case; asks the scheduler at most once."""
        return study_status(self.directory, self.cases)


def create(folder: Path, study: Study, cluster: Cluster) -> OpenStudy:
    """Make or reopen a study folder for a resolved study and return it.

    Raises:
        LaunchError: the folder holds another study, or cannot be written.
    """
    directory = StudyDir(folder.absolute())
    if directory.study_yaml.exists():
        _require_same_study(directory, study)
    elif directory.path.exists() and any(directory.path.iterdir()):
        raise LaunchError(f"{folder}: not a study folder and not empty; choose another with --folder")
    opened = OpenStudy(directory=directory, study=study, cluster=cluster, plan=_plan(directory, study, cluster))
    try:
        directory.runs.mkdir(parents=True, exist_ok=True)
        directory.cluster_yaml.write_text(cluster_module.to_yaml(cluster), encoding="utf-8")
        directory.study_yaml.write_text(
            study_module.to_yaml(study), encoding="utf-8"
        )  # last: it makes the folder a study folder
    except OSError as error:
        raise LaunchError(f"{folder}: cannot write the study folder ({error.strerror})") from error
    return opened


def open_study(folder: Path) -> OpenStudy:
    """Return the study that a folder holds; LaunchError if it holds none, StudyError if its files are not readable."""
    directory = StudyDir(folder.absolute())
    if not directory.study_yaml.exists():
        raise LaunchError(f"{folder}: not a study folder (it has no study.yaml)")
    cluster = load_cluster(directory.cluster_yaml)
    study = load_study(directory.study_yaml, {})
    return OpenStudy(directory=directory, study=study, cluster=cluster, plan=_plan(directory, study, cluster))


def _plan(directory: StudyDir, study: Study, cluster: Cluster) -> Plan:
    """Return what is planned in a folder; the cases of a sweep follow from the results that are there."""
    if study.kind == "sweep":
        from paceline.bench.sweepledger import Ledger

        return Ledger(directory, study, cluster).plan()
    return make_plan(study, cluster)


def _require_same_study(directory: StudyDir, study: Study) -> None:
    before = load_study(directory.study_yaml, {}).model_dump()
    after = study.model_dump()
    for key in after:
        if key not in (*EXTENDABLE, *SITE_LIMITS) and before.get(key) != after[key]:
            raise LaunchError(
                f"{directory.path}: holds another study ({key} is {before.get(key)!r} there and {after[key]!r} here); "
                "choose another folder with --folder"
            )


def planned_python(cluster: Cluster) -> str:
    """Return the Python that jobs of a site run with: the profile's, or the one of Paceline's own environment.

    ``auto`` with an image: each job asks its image, since only the node may be able to run it.
    """
    if cluster.python != "auto" or cluster.runtime.kind != "none":
        return cluster.python
    return str(environment.environment_python())


def job_side(cluster: Cluster, say: Callable[[str], None]) -> JobSide:
    """Return what jobs run with, after making what is Paceline's to make: the Isaac Lab environment and the assets.

    Nothing is made where the profile names a Python or an image. ``say`` gets lines of progress.

    Raises:
        LaunchError: the environment cannot be made; the message says what is missing.
    """
    own = cluster.python == "auto" and cluster.runtime.kind == "none"
    python = str(environment.ensure(say).python) if own else planned_python(cluster)
    if cluster.asset_root != "auto":
        return JobSide(python=python, asset_root=cluster.asset_root)
    root = environment.ensure_assets(Path(python), say) if own else None
    return JobSide(python=python, asset_root=str(root) if root else None)


def default_folder(study: Study, cluster: Cluster) -> Path:
    """Return where a study's folder goes when none is named: below the profile's results folder, named by content."""
    size = f"{study.num_envs}envs" if study.kind == "strong" else f"{study.num_envs_per_rank}envs-per-rank"
    if study.kind == "sweep":
        size = f"from{study.start_envs}envs"
    return Path(cluster.results).expanduser() / f"{study.name}-{study.task}-{study.trainer}-{size}-{cluster.name}"


def find_folder(name: str) -> Path:
    """Return the study or campaign folder that a command names, by path or by its name below ./outputs.

    Raises:
        LaunchError: There is none; the message names the nearest.
    """
    path = Path(name)
    if path.exists():
        return path
    outputs = Path("outputs")
    known = sorted(p.parent.name for p in [*outputs.glob("*/study.yaml"), *outputs.glob("*/campaign.json")])
    if name in known:
        return outputs / name
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.3)
    hint = f"; did you mean outputs/{near[0]}?" if near else "; `paceline run` makes one"
    raise LaunchError(f"{name}: no such study folder{hint}")
