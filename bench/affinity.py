"""Which cores a rank keeps to: its share of the job's cores, near its GPU where the machine says what is near.

Scope: rank, but every rank of a node computes the shares of all of them, from what all see alike. Cores that the
process may not use (a cpuset, taskset, Slurm's binding) are never given out. Linux.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_SYSTEM = Path("/sys/devices/system")
_PCI = Path("/sys/bus/pci/devices")


@dataclass(frozen=True)
class Topology:
    """What shares a core, and what lies on a NUMA node."""

    siblings: Mapping[int, frozenset[int]] = field(default_factory=dict)
    """Logical core -> logical cores of the same physical core; one that is missing stands alone."""
    nodes: Mapping[int, frozenset[int]] = field(default_factory=dict)
    """NUMA node -> its logical cores."""


@dataclass(frozen=True)
class Share:
    """Cores of one rank."""

    cores: frozenset[int]
    how: str
    """``numa`` or ``split``: what was done, which is ``split`` where the machine does not tell what is near a GPU."""
    gpu_numa_node: int | None = None


def cpu_list(text: str) -> frozenset[int]:
    """Return the numbers in a list as the kernel writes it, such as ``0-3,8,10-11``."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def read_topology(system: Path = _SYSTEM) -> Topology:
    """Return what the kernel tells about cores and NUMA nodes; what it does not tell is left out."""
    siblings, nodes = {}, {}
    for path in system.glob("cpu/cpu[0-9]*/topology/thread_siblings_list"):
        siblings[int(path.parts[-3].removeprefix("cpu"))] = _read_list(path)
    for path in system.glob("node/node[0-9]*/cpulist"):
        nodes[int(path.parts[-2].removeprefix("node"))] = _read_list(path)
    return Topology(
        {core: found for core, found in siblings.items() if found},
        {node: found for node, found in nodes.items() if found},
    )


def _read_list(path: Path) -> frozenset[int]:
    try:
        return cpu_list(path.read_text())
    except (OSError, ValueError):
        return frozenset()


def numa_node_of(pci_bus_id: str, devices: Path = _PCI) -> int | None:
    """Return the NUMA node of a PCI device (``00000000:17:00.0``), None if the machine has none or does not say."""
    domain, _, rest = pci_bus_id.lower().partition(":")
    try:
        node = int((devices / f"{domain[-4:]}:{rest}" / "numa_node").read_text())
    except (OSError, ValueError):
        return None
    return node if node >= 0 else None


def gpu_numa_nodes(count: int) -> list[int | None]:
    """Return the NUMA node of the GPU of each local rank, by local rank; None where it is not known."""
    from paceline.profiling.nvml import open_nvml

    nvml = open_nvml()
    if nvml is None:
        return [None] * count
    ids = [nvml.pci_bus_id(gpu) for gpu in nvml.of_job(os.environ.get("CUDA_VISIBLE_DEVICES"), count)]
    found = [numa_node_of(bus) if bus else None for bus in ids]
    return found + [None] * (count - len(found))


def share(
    mode: str,
    local_rank: int,
    allowed: frozenset[int],
    topology: Topology,
    gpu_nodes: Sequence[int | None],
) -> Share:
    """Return the cores of a rank.

    Args:
        mode: ``numa``: the allowed cores of its GPU's NUMA node, divided among the ranks whose GPUs are there;
            ``split``: all allowed cores, divided among all ranks of the node.
        local_rank: The rank on this node.
        allowed: Cores that the job may use on this node.
        topology: Of this node.
        gpu_nodes: NUMA node of each local rank's GPU, None where not known.

    One NUMA node that is not known, or has no allowed core, makes ``split`` of ``numa`` for all ranks of the node.
    """
    node = gpu_nodes[local_rank]
    near = [allowed & topology.nodes.get(-1 if n is None else n, frozenset()) for n in gpu_nodes]
    if mode == "numa" and all(near):
        peers = [rank for rank, other in enumerate(gpu_nodes) if other == node]
        return Share(divide(near[local_rank], topology, len(peers), peers.index(local_rank)), "numa", node)
    return Share(divide(allowed, topology, len(gpu_nodes), local_rank), "split", node)


def divide(cores: frozenset[int], topology: Topology, parts: int, index: int) -> frozenset[int]:
    """Return one of ``parts`` shares of the cores: whole physical cores, neighbours together, at least one."""
    physical = sorted({frozenset(topology.siblings.get(core, {core})) & cores for core in cores}, key=min)
    if len(physical) < parts:  # more ranks than cores: some share one
        return physical[index % len(physical)]
    first, last = (len(physical) * edge // parts for edge in (index, index + 1))
    return frozenset().union(*physical[first:last])
