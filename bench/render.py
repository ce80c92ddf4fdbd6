"""Render: a Case as the text of its job script. Pure, except for reading the template once.

Whatever a template prints is shell-quoted, without the template asking for it. Text that must not be quoted says why
by its filter: a comment, a checked #SBATCH line, a variable's name, a macro's result, or the site owner's own lines.
"""

from __future__ import annotations

import functools
import os
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paceline.bench import container
from paceline.bench.cluster import Cluster
from paceline.bench.errors import ClusterError, LaunchError
from paceline.bench.record import Case
from paceline.bench.rundir import StudyDir
from paceline.bench.shell import check_directive, check_environment, comment, quote
from paceline.profiling import nsys

if TYPE_CHECKING:
    import jinja2


class _Ready(str):
    """Text that is safe to print as it is."""


def _finalize(value: object) -> str:
    """Return what a template prints for a value: quoted, unless a filter has made it ready."""
    return value if isinstance(value, _Ready) else quote(value)


def _directive(value: str) -> _Ready:
    """Return an #SBATCH line; a line break in it would end the comment that it is to bash."""
    if not value.isprintable():
        raise ValueError(f"{value!r} cannot stand in an #SBATCH line")
    return _Ready(value)


def _variable(value: str) -> _Ready:
    """Return the name of a variable that a file sets."""
    return _Ready(next(iter(check_environment({value: ""}))))


def _variable_name(value: str) -> _Ready:
    """Return the name of any variable, the job script's own included."""
    if not value.isidentifier() or not value.isascii():
        raise ValueError(f"{value!r} is not a name of an environment variable")
    return _Ready(value)


@functools.cache
def template(name: str) -> jinja2.Template:
    """Return a template of slurm_templates, its output quoted for the shell."""
    import jinja2

    folder = str(resources.files("paceline.slurm_templates"))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        autoescape=False,  # shell, not HTML: _finalize quotes
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        comment=lambda value: _Ready(comment(value)),
        directive=_directive,
        variable=_variable,
        variable_name=_variable_name,
        as_is=_Ready,
        macro=_Ready,
    )
    return environment.get_template(name)


def render_job(
    case: Case,
    cluster: Cluster,
    study: StudyDir,
    attempt: int,
    python: str,
    asset_root: str | None,
    *,
    time_limit_min: int | None = None,
    only_check: bool = False,
) -> str:
    """Return the job script of one attempt at a case.

    Args:
        case: What to run.
        cluster: The site; decides the #SBATCH lines, the container and the set-up.
        study: The study folder; its path is made absolute.
        attempt: Number of the attempt, from 1.
        python: Python of the jobs, inside the image if the profile has one; ``auto``: the job finds it in its image.
        asset_root: Folder of Isaac Sim assets, None for NVIDIA's own server.
        time_limit_min: Time limit of the job (``Study.time_limit_min``), None for the profile's.
        only_check: Check the nodes and end before the training (`paceline doctor --on-node`).

    Raises:
        ClusterError: A path cannot be bound into the profile's container, or several nodes are asked for without Slurm.
        LaunchError: The study folder's path cannot be an import path.
    """
    cluster = cluster.model_copy(update=dict(case.placement))
    if case.num_nodes > 1 and cluster.scheduler != "slurm":
        raise ClusterError(f"cluster {cluster.name!r}: {case.num_nodes} nodes need scheduler: slurm")
    if case.kind == "profile" and (grace := getattr(cluster, "exit_grace_s", 0)):
        cluster = cluster.model_copy(update={"exit_grace_s": max(grace, 300)})  # nsys writes its report after the end
    folder = StudyDir(os.path.abspath(study.path))
    if ":" in str(folder.path):
        raise LaunchError(f"study folder {str(folder.path)!r}: has a colon, at which PYTHONPATH would be split")
    cache_dir = Path(cluster.cache_dir).expanduser() if cluster.cache_dir else None
    container.check_paths(cluster, (folder.path, asset_root, cache_dir))
    environment = tuple(sorted({**cluster.environment, **dict(case.environment)}.items()))
    values: dict[str, Any] = {
        "case": case,
        "cluster": cluster.model_copy(update={"cache_dir": str(cache_dir) if cache_dir else None}),
        "attempt": attempt,
        "python": python,
        "only_check": only_check,
        "limit_s": 60 * (time_limit_min or cluster.time_limit_min),
        "asset_root": asset_root,
        "run_dir": folder.run(case.case_id, attempt).path,
        "study_dir": folder.path,
        "code_dir": folder.code,
        "environment": environment,
        "binds": container.binds(cluster),
        "docker_variables": container.variables(environment),
        "nsys_options": nsys.profile_options(
            graph_trace=case.graph_trace if case.graph_trace == "node" else "graph",  # type: ignore[arg-type]
            cuda=case.device == "cuda",
            window=case.device == "cuda",  # without a GPU there is no such switch: the window opens the ranges
        ),
        "directives": directives(case, cluster, time_limit_min or cluster.time_limit_min),
    }
    return template("job.sh.j2").render(values)


def directives(case: Case, cluster: Cluster, time_limit_min: int) -> list[str]:
    """Return the sbatch flags of a job, in the order in which they stand in its header. None without Slurm."""
    if cluster.scheduler != "slurm":
        return []
    ranks = case.local_world_size
    flags: dict[str, object] = {
        "job-name": f"paceline-{case.case_id}",
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "reservation": cluster.reservation,
        "time": f"{time_limit_min // 60:02d}:{time_limit_min % 60:02d}:00",
        "nodes": case.num_nodes,
        "ntasks-per-node": 1,  # torchrun makes the ranks
        "cpus-per-task": ranks * case.threads_per_rank,
        "mem": f"{cluster.mem_gb}G" if cluster.mem_gb else None,
    }
    if case.device == "cuda":
        kind = f"{case.gpu_type}:" if case.gpu_type else ""
        if cluster.gpu_request == "gres":
            flags["gres"] = f"gpu:{kind}{ranks}"
        else:
            flags["gpus-per-node"] = f"{kind}{ranks}"
        flags["cpus-per-task"] = ranks * cluster.cpus_per_gpu if cluster.cpus_per_gpu else None
        if cluster.mem_per_gpu_gb:
            flags["mem"] = f"{ranks * cluster.mem_per_gpu_gb}G"
    flags |= {
        "constraint": cluster.constraint,
        "nodelist": cluster.nodelist,
        "exclude": cluster.exclude,
        "mail-user": cluster.mail_user,
        "mail-type": ",".join(cluster.mail_type) or None,
        "signal": f"B:USR1@{cluster.signal_s}",
        "output": "train.log",  # in the folder that sbatch is called from: the run folder
        "open-mode": "append",  # a requeued job keeps its log
    }
    lines = [f"--{name}={check_directive(str(value))}" for name, value in flags.items() if value is not None]
    lines.append("--requeue" if cluster.requeue else "--no-requeue")
    if cluster.exclusive:
        lines.append("--exclusive")
    return [*lines, *cluster.extra_sbatch]
