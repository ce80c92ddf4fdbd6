"""NVTX ranges in the domain ``paceline``, for Nsight Systems.

    iteration (payload: its number)
        rollout
            env_step
                physics
            inference
        update
            minibatch
            communication

Switched on by PACELINE_NVTX=1, and only if PyPI's nvtx is installed; otherwise nothing is called at all. PyPI nvtx
0.2.11 is the release to use: with 0.2.17, Nsight Systems 2023.4 and 2024.2 record the domain but none of its ranges.
Push/pop ranges belong to the thread that pushes: all of these are pushed by the trainer's main thread.
"""

from __future__ import annotations

import os
import sys
from typing import Any

DOMAIN = "paceline"
# Names that nvtx knows itself; for others it would need matplotlib.
_COLORS = {
    "iteration": "white",
    "rollout": "green",
    "env_step": "cyan",
    "physics": "blue",
    "inference": "purple",
    "update": "orange",
    "minibatch": "yellow",
    "communication": "red",
}


class Ranges:
    """Pushes and pops ranges of the domain on the calling thread. Scope: rank."""

    def __init__(self, nvtx: Any) -> None:
        self._nvtx = nvtx
        # Annotations made beforehand: a pair of calls takes 0.2 us, with push_range and pop_range 0.6 us.
        ranges = {name: nvtx.annotate(name, color=color, domain=DOMAIN) for name, color in _COLORS.items()}
        self._enter = {name: annotation.__enter__ for name, annotation in ranges.items()}
        self._exit = ranges["iteration"].__exit__  # closes the innermost range of the domain, whatever its name

    def push(self, name: str, payload: int | None = None) -> None:
        """Open a range inside the one that is open now."""
        if payload is None:
            self._enter[name]()
        else:
            self._nvtx.push_range(name, _COLORS[name], DOMAIN, None, payload)

    def pop(self) -> None:
        """Close the innermost open range."""
        self._exit()

    def mark(self, message: str) -> None:
        """Set a mark, for facts such as the rank of this process."""
        self._nvtx.mark(message, "white", DOMAIN)


def nvtx_ranges() -> Ranges | None:
    """Return the ranges if PACELINE_NVTX=1 asks for them and PyPI's nvtx is importable, else None."""
    if os.environ.get("PACELINE_NVTX") != "1":
        return None
    try:
        import nvtx
    except ImportError:
        print("paceline: PACELINE_NVTX=1, but the Python package nvtx is not installed: no ranges", file=sys.stderr)
        return None
    return Ranges(nvtx)
