"""From a study as a file states it to a study with every value stated, for one site.

A value comes from the first of these that states it: ``--set``, the file's own keys, the file's block for the device
(``on_cpu``, ``on_gpu``), the task's stock configuration, the defaults below. Pure: what the site has is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paceline.bench import problem, tasks, tuning
from paceline.bench.cluster import Cluster
from paceline.bench.errors import StudyError

if TYPE_CHECKING:
    from paceline.bench.study import Study

SITE_LIMITS = ("time_limit_min", "max_attempts", "stall_s", "exit_grace_s")
"""Keys of a study that are the cluster profile's where the study leaves them open."""

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
    "cool_s": 0,
}
SWEEP_DEFAULTS: Mapping[str, Any] = {
    "world_sizes": (1,),
    "repeats": 1,
    "start_envs": 1024,
    "limit_envs": 2**20,
    "resolution_pct": 5.0,
}


def resolve(study: Study, cluster: Cluster, devices: int | None = None) -> Study:
    """Return the study with every value stated, for one site.

    Args:
        study: As loaded, or resolved before (then it comes back as it is, if the site allows it).
        cluster: The site.
        devices: GPUs visible on this machine (local scheduler); None on Slurm, where the profile says.

    Raises:
        StudyError: What the study asks for does not exist or does not divide; the message names what does.
    """
    try:
        return study.model_copy(update=_values(study, cluster, devices))
    except StudyError as error:
        raise StudyError(f"study {study.name!r}: {error}") from error


def _values(study: Study, cluster: Cluster, devices: int | None) -> dict[str, Any]:
    """Return all values of the resolved study; StudyError without the study's name."""
    gpus_per_node = (devices or 0) if cluster.scheduler == "local" else (cluster.gpus_per_node or 0)
    device = study.device if study.device != "auto" else ("cuda" if gpus_per_node else "cpu")
    if device == "cuda" and not gpus_per_node:
        place = "on this machine" if cluster.scheduler == "local" else f"in cluster profile {cluster.name!r}"
        raise StudyError(f"device: cuda, but there is no GPU {place}; state device: cpu or auto")
    block = study.on_gpu if device == "cuda" else study.on_cpu
    values: dict[str, Any] = {**DEFAULTS, **{name: getattr(cluster, name) for name in SITE_LIMITS}}
    values |= SWEEP_DEFAULTS if study.kind == "sweep" else {}
    values |= (block.stated() if block else {}) | study.stated()
    if values.get("task") is None:
        raise StudyError("task is missing; state an Isaac Lab task id such as Isaac-Cartpole-Direct")
    values |= {"device": device, "on_cpu": None, "on_gpu": None}
    values.setdefault("warmup_iterations", values["iterations"] // 4)
    if values["warmup_iterations"] >= values["iterations"]:
        raise StudyError(
            f"warmup_iterations {values['warmup_iterations']} must be less than iterations {values['iterations']}"
        )
    if study.kind == "gpus" and study.groups and cluster.scheduler == "slurm" and device == "cuda":
        # What all groups have: the curve of one must not be longer than that of the next.
        gpus_per_node = min(group.gpus_per_node or gpus_per_node for group in study.groups)
    values["world_sizes"] = _sizes_and_nodes(values, cluster, gpus_per_node if device == "cuda" else None)
    if study.kind == "sweep":
        _check_sweep(values)
    agent = _agent(values)
    values["horizon"] = values.get("horizon") or agent.horizon
    values["num_epochs"] = values.get("num_epochs") or agent.num_epochs
    values["num_minibatches"] = _minibatches(study.kind, values, agent)
    tuning.check_study(study.kind, values)
    return values


def _check_sweep(values: Mapping[str, Any]) -> None:
    sizes = values["world_sizes"]
    if len(sizes) > 1:
        listed = ", ".join(map(str, sizes))
        raise StudyError(f"world_sizes {listed}: a sweep runs at one world size; the environments are what changes")
    if values["limit_envs"] < values["start_envs"]:
        raise StudyError(f"limit_envs {values['limit_envs']} is less than start_envs {values['start_envs']}")


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
    horizon, epochs, minibatches = (values.get(key) for key in ("horizon", "num_epochs", "num_minibatches"))
    custom = None
    if horizon and epochs and minibatches:
        custom = tasks.AgentDefaults(horizon=horizon, num_epochs=epochs, num_minibatches=minibatches)
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


_NEEDED_BY = {"gpus": "a GPU comparison"}


def _minibatches(kind: str, values: Mapping[str, Any], agent: tasks.AgentDefaults) -> int:
    """Return the minibatches per epoch, having checked that every world size divides evenly."""
    key = {"strong": "num_envs", "sweep": "start_envs"}.get(kind, "num_envs_per_rank")
    envs: int | None = values.get(key)
    if envs is None:
        raise StudyError(f"{key} is missing; {_NEEDED_BY.get(kind, f'{kind} scaling')} needs it")
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
