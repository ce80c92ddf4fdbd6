"""GPU comparison: which GPU types a Slurm site has, and the cases that measure the same on each of them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from paceline.bench.cluster import Cluster
from paceline.bench.errors import ClusterError, LaunchError
from paceline.bench.plan import SEED_STRIDE, shared_values, warmup_case
from paceline.bench.record import Case
from paceline.bench.study import GpuGroup, Study

_COLUMNS = "%N|%P|%G|%f|%T"
_GPU_GRES = re.compile(r"gpu(?::(?P<type>[A-Za-z][\w.-]*))?:(?P<count>\d+)")
_UNUSABLE = ("down", "drain", "fail", "maint", "error", "unknown", "inval", "power", "reserved", "future")
# Features by which sites without typed GRES name the GPUs of a node.
_GPU_FEATURE = re.compile(
    r"(?i)^(?:nvidia[-_]?)?(?:tesla[-_]?)?(?:[abhlvtp]\d{1,4}[a-z]?\w*|gh200\w*|rtx\w*|gtx\w*|titan\w*)$"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuNode:
    """One node with GPUs, as ``sinfo`` describes it."""

    node: str
    partitions: tuple[str, ...]
    gpu_type: str | None
    """GRES type, None where the site gives its GPUs none."""
    gpus: int
    features: tuple[str, ...]
    in_default: bool = False
    """Whether the site's default partition has it."""


def discover(cluster: Cluster) -> list[GpuNode]:
    """Return the nodes with GPUs that the site has and that are up, by name.

    Raises:
        LaunchError: There is no Slurm here.
        ClusterError: Slurm does not answer, or has no such node.
    """
    command = ["sinfo", "--noheader", "--Node", f"--format={_COLUMNS}"]
    if cluster.partition:
        command.append(f"--partition={cluster.partition}")
    try:
        answer = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60)
    except FileNotFoundError as error:
        raise LaunchError("sinfo is not on PATH: GPU types are discovered on a Slurm login node") from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError("sinfo did not answer within 60 s") from error
    if answer.returncode:
        raise ClusterError(f"sinfo: {(answer.stderr.strip() or 'no message').splitlines()[0]}")
    nodes = parse(answer.stdout)
    if not nodes:
        where = f" in partition {cluster.partition}" if cluster.partition else ""
        raise ClusterError(f"cluster {cluster.name!r}: sinfo shows no usable node with GPUs{where}")
    return nodes


def parse(text: str) -> list[GpuNode]:
    """Return the usable nodes with GPUs in the answer of ``sinfo``, one for each GPU type that they have."""
    found: dict[tuple[str, str | None], GpuNode] = {}
    for line in text.splitlines():
        node, partition, gres, features, state = (line.split("|") + [""] * 5)[:5]
        if any(word in state.lower() for word in _UNUSABLE):
            continue
        for match in _GPU_GRES.finditer(gres):
            key = (node.strip(), match["type"])
            before = found.get(key)
            here, default = partition.strip().rstrip("*"), partition.strip().endswith("*")
            if before is not None:
                partitions = tuple(dict.fromkeys((*before.partitions, here)))
                found[key] = replace(before, partitions=partitions, in_default=before.in_default or default)
                continue
            found[key] = GpuNode(
                node=key[0],
                partitions=(here,),
                gpu_type=match["type"],
                gpus=int(match["count"]),
                features=tuple(f for f in features.split(",") if f and f != "(null)"),
                in_default=default,
            )
    return sorted(found.values(), key=lambda each: (each.node, each.gpu_type or ""))


def groups(
    nodes: Sequence[GpuNode],
    cluster: Cluster,
    types: Sequence[str] = (),
    constraints: Sequence[str] = (),
    node_lists: Sequence[str] = (),
    per_node: bool = False,
) -> tuple[GpuGroup, ...]:
    """Return what to compare.

    Args:
        nodes: What the site has.
        cluster: Its profile.
        types: GRES types; all that there are if neither these nor the next two are given.
        constraints: Node features, one side of the comparison each.
        node_lists: Nodes, one side each.
        per_node: Each node of the types is a side of its own: finds slow nodes.

    Raises:
        ClusterError: Something that is named does not exist; the message says what does.
    """
    made: list[GpuGroup] = []
    for feature in constraints:
        own = [node for node in nodes if feature in node.features]
        if not own:
            raise ClusterError(f"no usable node with GPUs has feature {feature!r} ({_have(nodes)})")
        made.append(_group(feature, own, cluster, constraint=feature))
    for names in node_lists:
        own = [node for node in nodes if node.node in names.split(",")]
        if not own:
            raise ClusterError(f"no usable node with GPUs is called {names} ({_have(nodes)})")
        made.append(_group(names, own, cluster, gpu_type=own[0].gpu_type, nodelist=names))
    known = list(dict.fromkeys(node.gpu_type for node in nodes))
    for name in types:
        if name not in known:
            raise ClusterError(f"no usable node has GPUs of type {name!r} ({_have(nodes)})")
    wanted: Iterable[str | None] = types or (known if not made else ())
    for gpu_type in wanted:
        own = [node for node in nodes if node.gpu_type == gpu_type]
        if per_node:
            made += [_group(n.node, [n], cluster, gpu_type=gpu_type, nodelist=n.node) for n in own]
        elif gpu_type is not None:
            made.append(_group(gpu_type, own, cluster, gpu_type=gpu_type))
        else:
            made += _by_feature(own, cluster)
    return tuple(made)


def _by_feature(nodes: Sequence[GpuNode], cluster: Cluster) -> list[GpuGroup]:
    """Return the groups of nodes whose GPUs have no type: by features that look like the name of a GPU."""
    features = list(dict.fromkeys(f for node in nodes for f in node.features if _GPU_FEATURE.match(f)))
    if not features:
        return [_group("gpu", nodes, cluster)]
    return [_group(f, [n for n in nodes if f in n.features], cluster, constraint=f) for f in features]


def _group(
    name: str,
    nodes: Sequence[GpuNode],
    cluster: Cluster,
    gpu_type: str | None = None,
    constraint: str | None = None,
    nodelist: str | None = None,
) -> GpuGroup:
    partition = None
    if cluster.partition is None and nodes and not all(node.in_default for node in nodes):
        # Jobs without a partition go to the default one, which does not have these nodes: name one that has all.
        common = [name for name in nodes[0].partitions if all(name in node.partitions for node in nodes)]
        partition = (common or list(nodes[0].partitions))[0]
    both = f"({cluster.constraint})&{constraint}" if cluster.constraint and constraint else constraint
    return GpuGroup(
        name=name,
        gpu_type=gpu_type,
        constraint=both,
        nodelist=nodelist,
        partition=partition,
        gpus_per_node=min((node.gpus for node in nodes), default=1),
    )


def _have(nodes: Sequence[GpuNode]) -> str:
    types = ", ".join(sorted({node.gpu_type for node in nodes if node.gpu_type})) or "none"
    features = ", ".join(sorted({feature for node in nodes for feature in node.features})) or "none"
    names = ", ".join(sorted({node.node for node in nodes}))
    return f"types: {types}; features: {features}; nodes: {names}"


def here(cluster: Cluster) -> tuple[GpuGroup, ...]:
    """Return the one side of a comparison that this machine is; the other comes from the records of another host."""
    return (GpuGroup(name=cluster.name),)


def cases(study: Study, cluster: Cluster) -> list[Case]:
    """Return the warm-ups, one for each kind of node, and the cases: repeats outermost, sides in rotated order."""
    if not study.groups:
        raise ClusterError(
            f"study {study.name!r}: groups is missing; `paceline compare-gpus` finds out what to compare"
        )
    assert isinstance(study.world_sizes, tuple)
    warmups = [_placed(warmup_case(study, cluster), group, cluster, study) for group in study.groups]
    points = [(group, size) for group in study.groups for size in study.world_sizes]
    count = len(points)
    measured = [
        _case(study, cluster, *points[(repeat + place) % count], repeat)
        for repeat in range(study.repeats or 1)
        for place in range(count)
    ]
    return [*dict.fromkeys(warmups), *measured]


def _case(study: Study, cluster: Cluster, group: GpuGroup, world_size: int, repeat: int) -> Case:
    values = shared_values(study, cluster) | {
        "kind": "gpus",
        "world_size": world_size,
        "num_envs": (study.num_envs_per_rank or 0) * world_size,
        "num_nodes": study.nodes_of(world_size),
        "iterations": study.iterations,
        "warmup_iterations": study.warmup_iterations,
        "sync_every": study.sync_every,
        "repeat": repeat,
        "seed": (study.seed or 0) + SEED_STRIDE * repeat,
    }
    return _placed(Case(**values), group, cluster, study)


def _placed(case: Case, group: GpuGroup, cluster: Cluster, study: Study) -> Case:
    """Return a case on the nodes of a group. A group that names features or nodes takes whatever GPUs they have."""
    if study.device != "cuda" or cluster.scheduler != "slurm":
        return replace(case, placement=group.placement if cluster.scheduler == "slurm" else ())
    own = group.gpu_type if group.gpu_type or group.constraint else cluster.gpu_type
    return replace(case, gpu_type=own, placement=group.placement)
