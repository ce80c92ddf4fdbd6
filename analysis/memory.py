"""Refuses a capture that would not fit into memory, before the system kills the process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from paceline.bench.errors import TraceError

# Peak bytes per row while loading and projecting, from the benchmark (docs/trace.md), rounded up.
_BYTES_PER_ROW = {"NVTX_EVENTS": 130, "CUPTI_ACTIVITY_KIND_RUNTIME": 50}
_BYTES_PER_OPERATION = 90
_WITHOUT_NUMBA = 3
"""numpy's steps keep more intermediate arrays: how many times as much."""
_BASE_BYTES = 300 * 2**20


def available_bytes() -> int | None:
    """Return the memory this process may still take: free memory of the machine, less if its control group allows less.

    None where the system does not tell (other than Linux).
    """
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        free = next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
    pairs = (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    )
    return max(min([free, *filter(None, (_group_free_bytes(limit, usage) for limit, usage in pairs))]), 0)


def _group_free_bytes(limit: str, usage: str) -> int | None:
    """Return what a control group leaves, None if there is none or it has no limit ("max")."""
    try:
        return int(Path(limit).read_text(encoding="ascii")) - int(Path(usage).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def needed_bytes(rows: Mapping[str, int], compiled: bool = True) -> int:
    """Return the memory that loading and projecting tables with so many rows takes at its peak."""
    total = 0
    for name, count in rows.items():
        base = name.partition("_V")[0]
        total += count * _BYTES_PER_ROW.get(base, _BYTES_PER_OPERATION)
    return _BASE_BYTES + (total if compiled else _WITHOUT_NUMBA * total)


def require(path: Path, rows: Mapping[str, int], compiled: bool = True) -> None:
    """Raise TraceError, naming the memory needed, if tables with so many rows do not fit."""
    require_bytes(path, needed_bytes(rows, compiled), f"{sum(rows.values()):,} rows need")


def require_bytes(path: Path, needed: int, what: str = "this capture needs") -> None:
    """Raise TraceError, naming the memory needed, if less is free."""
    free = available_bytes()
    if free is not None and needed > free:
        raise TraceError(
            f"{path}: {what} about {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free; "
            "export a shorter time (nsys export --times) or use a larger machine"
        )
