"""Buffers of a physics engine that were too small, and memory that ended, as a run's log tells it.

An engine that overflows goes on with contacts missing: the run completes, its throughput looks fine and is wrong. Each
text names the buffer and, nearly always, the size it needs. Texts: PhysX 5 (isaac-sim/IsaacLab issues 176, 931, 941,
981, 1199, 1389, 2528; ManiSkill 911; the messages in the libraries of ovphysx 0.6.4), Newton's collision pipeline and
mujoco_warp (their sources). Standard library only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

_LINE_LIMIT = 4000


@dataclass(frozen=True, kw_only=True, slots=True)
class Overflow:
    """One buffer that was too small in a run."""

    buffer: str
    """As the log calls it: ``collisionStackSize``, ``nconmax`` ..."""
    setting: str | None
    """Name of the setting in Isaac Lab's physics configuration, None if there is none."""
    needed: int | None
    """Largest size that a message asks for, None if none names one. Newton's ``nconmax`` is per environment."""
    count: int
    """Messages about this buffer."""
    first: str
    """The first of them."""


# Buffer as the log calls it -> setting below env.sim.physics (Isaac Lab 3) or env.sim.physx (2.3).
_SETTINGS = {
    "patch": "gpu_max_rigid_patch_count",
    "contact": "gpu_max_rigid_contact_count",
    "collisionstacksize": "gpu_collision_stack_size",
    "totalaggregatepairscapacity": "gpu_total_aggregate_pairs_capacity",
    "foundlostpairscapacity": "gpu_found_lost_pairs_capacity",
    "foundlostaggregatepairscapacity": "gpu_found_lost_aggregate_pairs_capacity",
    "maxrigidcontactcount": "gpu_max_rigid_contact_count",
    "maxrigidpatchcount": "gpu_max_rigid_patch_count",
    "heapcapacity": "gpu_heap_capacity",
    "tempbuffercapacity": "gpu_temp_buffer_capacity",
    "maxparticlecontacts": "gpu_max_particle_contacts",
    "maxdeformablevolumecontacts": "gpu_max_soft_body_contacts",
    "nconmax": "solver_cfg.nconmax",
    "njmax": "solver_cfg.njmax",
    "newton triangle pair": "collision_cfg.max_triangle_pairs",
    "newton contact": "collision_cfg.rigid_contact_max",
    "newton contact reduction hashtable": "collision_cfg.max_triangle_pairs",
}
_CONFIG = r"Px[Gg]p?u?DynamicsMemoryConfig::"
_TEXTS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?P<buffer>Patch|Contact) buffer overflow detected, please increase its size to at least (?P<needed>\d+)",
        r"(?P<buffer>Patch|Contact|Force|Friction patch) buffer overflow detected, please increase its size in the",
        _CONFIG + r"(?P<buffer>\w+) buffer overflow detected, please increase its size to at least (?P<needed>\d+)",
        r"buffer overflow detected, please increase " + _CONFIG + r"(?P<buffer>\w+) to at least (?P<needed>\d+)",
        r"needs? to increase (?:the )?" + _CONFIG + r"(?P<buffer>\w+)(?: parameter| buffers)? to (?P<needed>\d+)",
        r"Reached limit set by PxSceneDesc::(?P<buffer>maxNbContactDataBlocks) - ran out of buffer space",
        r"Number of Newton contacts \((?P<total>\d+)\) exceeded MJWarp limit \(\d+\)\. Increase (?P<buffer>nconmax)",
        r"(?:broad|narrow)phase overflow - please increase (?P<buffer>nconmax) to (?P<needed>\d+)",
        r"nefc overflow - please increase (?P<buffer>njmax) to (?P<needed>\d+)",
        r"overflow - please increase (?P<buffer>\w+) to (?P<needed>\d+)",
        r"Warning: (?P<newton>[\w-]+(?: [\w-]+)*?)(?: shape)? buffer overflowed (?P<needed>\d+) > \d+\.",
        r"Warning: (?P<newton>Contact reduction hashtable) insert failures \d+",
    )
)
# Newton sizes this table by max_triangle_pairs, whose quarter it holds (newton 1.6, contact_reduction_global.py). What
# is told when it is full is how many entries found no place, but its size is in other warnings: twice that is needed.
_TABLE = "Newton contact reduction hashtable"
_TABLE_SIZE = re.compile(r"Contact reduction hashtable fill ratio exceeded \d+% \(\d+ / (\d+)\)")
_TRIANGLE_PAIRS_PER_ENTRY = 4
_OUT_OF_MEMORY = re.compile(
    r"PxgCudaDeviceMemoryAllocator fail to allocate memory|OutOfMemoryError|CUDA out of memory"
    r"|CUDA error(?: \d+)?: (?:out of memory|cudaErrorMemoryAllocation)|cudaErrorMemoryAllocation - out of memory"
    r"|Failed to allocate \d+ bytes on device 'cuda|Out of GPU memory allocating resource|ERROR_OUT_OF_DEVICE_MEMORY"
    r"|CUBLAS_STATUS_ALLOC_FAILED|Unable to create PxCudaContextManager|Failed to get primary context of requested CUDA"
)
_INTERESTING = re.compile(
    rb"overflow|hashtable|DynamicsMemoryConfig|exceeded MJWarp|emory|MEMORY|ALLOC|allocate|primary context"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LogFindings:
    """What a log says about buffers and memory."""

    overflows: tuple[Overflow, ...]
    out_of_memory: str | None
    """First line that says that device memory ended, None if none does."""


def read_log(path: Path, num_envs_per_rank: int) -> LogFindings:
    """Return what the log of a run says; nothing if there is no log. Reads line by line: such logs can be large."""
    try:
        with path.open("rb") as stream:
            lines = (line[:_LINE_LIMIT] for line in stream if _INTERESTING.search(line[:_LINE_LIMIT]))
            return scan((line.decode("utf-8", errors="replace") for line in lines), num_envs_per_rank)
    except OSError:
        return LogFindings(overflows=(), out_of_memory=None)


def scan(lines: Iterable[str], num_envs_per_rank: int) -> LogFindings:
    """Return what the lines of a log say; see ``scan_counted``."""
    return scan_counted(((line, 1) for line in lines), num_envs_per_rank)


def scan_counted(lines: Iterable[tuple[str, int]], num_envs_per_rank: int) -> LogFindings:
    """Return what the lines of a log say.

    Args:
        lines: Lines of the log, and how often each occurs.
        num_envs_per_rank: Environments of one simulator: Newton counts some contacts over all of them.
    """
    found: dict[str, Overflow] = {}
    memory: str | None = None
    table = 0
    for line, count in lines:
        if size := _TABLE_SIZE.search(line):
            table = max(table, int(size[1]))
            continue
        if memory is None and _OUT_OF_MEMORY.search(line):
            memory = " ".join(line.split())[:300]
        match = next(filter(None, (text.search(line) for text in _TEXTS)), None)
        if match is None:
            continue
        values = match.groupdict()
        buffer = values.get("buffer") or f"Newton {values['newton'].lower()}"
        needed = _needed(values, num_envs_per_rank)
        before = found.get(buffer)
        found[buffer] = Overflow(
            buffer=buffer,
            setting=_SETTINGS.get(buffer.lower()),
            needed=max(needed or 0, (before.needed or 0) if before else 0) or None,
            count=before.count + count if before else count,
            first=before.first if before else " ".join(line.split())[:300],
        )
    if table and _TABLE in found:
        found[_TABLE] = replace(found[_TABLE], needed=2 * _TRIANGLE_PAIRS_PER_ENTRY * table)
    return LogFindings(overflows=tuple(found.values()), out_of_memory=memory)


def _needed(values: Mapping[str, str | None], num_envs_per_rank: int) -> int | None:
    """Return the size that a message asks for, None if it names none."""
    if needed := values.get("needed"):
        return int(needed)
    if total := values.get("total"):  # Newton counts the contacts of all environments, its setting those of one
        return math.ceil(int(total) / num_envs_per_rank)
    return None


def override(setting: str, size: int, engine_version: str) -> str:
    """Return the Isaac Lab override that gives a physics setting a size."""
    return f"{prefix(engine_version)}{setting}={size}"


def prefix(engine_version: str) -> str:
    """Return where the physics settings lie in the configuration of an Isaac Lab version."""
    return "env.sim.physx." if engine_version.startswith("2.") else "env.sim.physics."
