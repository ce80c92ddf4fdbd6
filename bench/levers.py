"""Puts a case's levers into effect in one rank, and reads back that they are. Scope: rank. Job side.

    apply      before torch is imported: environment, allocators, cores. May start the process anew (malloc)
    train      when training starts: the garbage collector
    effective  what is so now, for the header of the record; a lever that is not in effect fails the run (check)

The levers and what they mean stand in bench/tuning.py and docs/tuning.md. Only the standard library is imported here.
"""

from __future__ import annotations

import ctypes.util
import gc
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paceline.bench import affinity, garbage
from paceline.bench.errors import LaunchError
from paceline.bench.record import Case

_PRELOADED = "PACELINE_PRELOADED"  # set in the process that was started anew
_LIBRARIES = {
    "jemalloc": ("libjemalloc.so.2", "libjemalloc.so"),
    "tcmalloc": ("libtcmalloc_minimal.so.4", "libtcmalloc.so.4", "libtcmalloc_minimal.so", "libtcmalloc.so"),
}
_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib")
_ALLOCATORS = {"expandable_segments": "expandable_segments:True", "cuda_malloc_async": "backend:cudaMallocAsync"}
_ALLOCATOR_VARIABLE = "PYTORCH_CUDA_ALLOC_CONF"  # every torch reads it; where the newer name is set too, it wins
_RARE = (70_000, 100, 100)  # gc.set_threshold; Python starts with (700, 10, 10)


@dataclass
class Applied:
    """What was done for the levers of a rank."""

    asked: dict[str, str] = field(default_factory=dict)
    share: affinity.Share | None = None
    library: str | None = None
    """Path of the host allocator."""
    frozen_before: int = 0
    """Objects that were out of the garbage collector's sight before the lever."""


def apply(case: Case, local_rank: int) -> Applied:
    """Put the levers of a case into effect that must be there before torch is imported.

    Raises:
        LaunchError: A lever cannot be had on this machine.
    """
    applied = Applied(asked=dict(case.levers))
    malloc = applied.asked.get("malloc")
    if malloc is not None:
        applied.library = _preload(malloc)
    for name, value in applied.asked.items():
        if name.startswith("environment."):
            os.environ[name.removeprefix("environment.")] = value
    allocator = applied.asked.get("cuda_allocator")
    if allocator is not None:
        before = os.environ.get(_ALLOCATOR_VARIABLE)
        os.environ[_ALLOCATOR_VARIABLE] = ",".join(filter(None, (before, _ALLOCATORS[allocator])))
    mode = applied.asked.get("cpu_affinity")
    if mode is not None:
        count = case.local_world_size
        nodes = affinity.gpu_numa_nodes(count) if case.device == "cuda" else [None] * count
        allowed = frozenset(os.sched_getaffinity(0))
        applied.share = affinity.share(mode, local_rank, allowed, affinity.read_topology(), nodes)
        try:
            os.sched_setaffinity(0, applied.share.cores)
        except OSError as error:
            raise LaunchError(f"lever cpu_affinity={mode}: cores cannot be set ({error.strerror})") from error
    return applied


def train(applied: Applied) -> None:
    """Set the garbage collector for the training that starts now: Python's own, or as the lever says."""
    garbage.running()
    mode = applied.asked.get("gc")
    if mode is None:
        return
    applied.frozen_before = gc.get_freeze_count()
    gc.freeze()
    if mode == "rare":
        gc.set_threshold(*_RARE)
    elif mode == "per_iteration":
        gc.disable()


def collects_in_iteration(applied: Applied) -> bool:
    """Return whether one collection belongs into each iteration, inside its time."""
    return applied.asked.get("gc") == "per_iteration"


def effective(applied: Applied, options: Mapping[str, str | None]) -> dict[str, Any]:
    """Return what is in effect now, read back from the kernel, the interpreter, torch and the trainer.

    Args:
        applied: What ``apply`` returned.
        options: The trainer's own options (``Trainer.options``).
    """
    import torch

    facts: dict[str, Any] = {
        "cores": sorted(os.sched_getaffinity(0)),
        "gpu_numa_node": applied.share.gpu_numa_node if applied.share else None,
        "affinity": applied.share.how if applied.share else None,
        "gc": {"enabled": gc.isenabled(), "threshold": list(gc.get_threshold()), "frozen": gc.get_freeze_count()},
        "malloc": loaded_library(applied.library) if applied.library else None,
        "threads": torch.get_num_threads(),
        "options": dict(options),
        "environment": {
            name: os.environ.get(name)
            for name in (key.removeprefix("environment.") for key in applied.asked if key.startswith("environment."))
        },
    }
    if "cuda_allocator" in applied.asked:
        facts["cuda_allocator"] = _cuda_allocator()
    return facts


def check(applied: Applied, facts: Mapping[str, Any]) -> None:
    """Raise LaunchError naming every lever that is asked for and not in effect."""
    wrong = [
        f"{name}={value} is not in effect (found {found})"
        for name, value in applied.asked.items()
        if (found := _contradiction(name, value, applied, facts)) is not None
    ]
    if wrong:
        raise LaunchError(f"levers: {'; '.join(wrong)}")


def _contradiction(name: str, value: str, applied: Applied, facts: Mapping[str, Any]) -> str | None:
    """Return what was found in the place of a lever, None if it is in effect."""
    collector = facts["gc"]
    if name.startswith("environment."):
        found = facts["environment"].get(name.removeprefix("environment."))
        return None if found == value else repr(found)
    if name == "cpu_affinity":
        fine = applied.share is not None and facts["cores"] == sorted(applied.share.cores)
        return None if fine else f"cores {facts['cores']}"
    if name == "malloc":
        return None if facts["malloc"] else "no such library in the process"
    if name == "gc":
        thresholds = list(_RARE) if value == "rare" else None
        fine = collector["frozen"] > applied.frozen_before and collector["enabled"] == (value != "per_iteration")
        fine = fine and (thresholds is None or collector["threshold"][:2] == thresholds[:2])
        return None if fine else str(collector)
    if name == "threads_per_rank":
        return None if str(facts["threads"]) == value else f"{facts['threads']} threads"
    if name == "cuda_allocator":
        return None if facts["cuda_allocator"] == value else str(facts["cuda_allocator"])
    found = facts["options"].get(name)
    return None if found == value else str(found)


def _cuda_allocator() -> str | None:
    """Return torch's present allocator of device memory as the lever calls it, ``native`` for the stock one."""
    import torch

    backend = torch.cuda.get_allocator_backend()
    if backend != "native":
        return "cuda_malloc_async" if backend == "cudaMallocAsync" else str(backend)
    settings = torch.cuda.memory._snapshot()["allocator_settings"]
    return "expandable_segments" if settings.get("expandable_segments") else "native"


def _preload(name: str) -> str:
    """Return the path of a host allocator that this process has loaded; starts the process anew to load it first."""
    library = find_library(name)
    if library is None:
        raise LaunchError(f"lever malloc={name}: no such library on this node (install it, or state its path)")
    if loaded_library(library):
        return library
    if os.environ.get(_PRELOADED) == library:
        raise LaunchError(f"lever malloc={name}: {library} was preloaded and is not in the process")
    os.environ[_PRELOADED] = library
    os.environ["LD_PRELOAD"] = " ".join(filter(None, (library, os.environ.get("LD_PRELOAD"))))
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def find_library(name: str) -> str | None:
    """Return the path of a library: of a known allocator by its name, or a path as it is; None if it does not exist."""
    if "/" in name:
        return name if os.path.isfile(name) else None
    for file in _LIBRARIES.get(name, (name,)):
        for folder in _FOLDERS:
            if os.path.isfile(f"{folder}/{file}"):
                return f"{folder}/{file}"
    return ctypes.util.find_library(name)


def loaded_library(path: str) -> str | None:
    """Return the path if this process has mapped that library, else None. The dynamic linker may resolve links."""
    names = {os.path.basename(path), os.path.basename(os.path.realpath(path))}
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return None
    mapped = {os.path.basename(line.split()[-1]) for line in maps.splitlines() if "/" in line}
    return path if names & mapped else None
