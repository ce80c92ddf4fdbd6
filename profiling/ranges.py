"""NVTX ranges in the domain ``paceline``, for Nsight Systems.

    iteration (payload: its number)
        rollout
            env_step
                physics
            inference
        update
            minibatch
            communication

Every run has them, for whatever nsys it is under; PACELINE_NVTX=0 switches them off, then nothing is called at all.
Without PyPI's nvtx they are made by torch, on GPUs only. PyPI nvtx 0.2.11 is the release to use: with 0.2.17, Nsight
Systems 2023.4 and 2024.2 record the domain but none of its ranges. Push/pop ranges belong to the thread that pushes:
all of these are pushed by the trainer's main thread.
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


class PlainRanges:
    """The same through torch.cuda.nvtx, which knows no domains: for images without PyPI's nvtx. Scope: rank."""

    def __init__(self) -> None:
        import torch

        self._nvtx = torch.cuda.nvtx
        self.pop = self._nvtx.range_pop
        self.mark = self._nvtx.mark

    def push(self, name: str, payload: int | None = None) -> None:
        """Open a range inside the one that is open now."""
        self._nvtx.range_push(name)


class AnnotatedRanges:
    """The same as annotations of torch.profiler (``paceline:iteration``). Scope: rank."""

    def __init__(self) -> None:
        import torch

        self._annotation = torch.profiler.record_function
        self._open: list[Any] = []

    def push(self, name: str, payload: int | None = None) -> None:
        """Open a range inside the one that is open now."""
        annotation = self._annotation(f"{DOMAIN}:{name}")
        annotation.__enter__()
        self._open.append(annotation)

    def pop(self) -> None:
        """Close the innermost open range."""
        self._open.pop().__exit__(None, None, None)

    def mark(self, message: str) -> None:
        """Do nothing: a Kineto trace is of one rank, and says which."""


class WindowRanges:
    """Ranges that exist only while ``on``: those of a profile window. Scope: rank."""

    def __init__(self, ranges: AnyRanges) -> None:
        self._ranges = ranges
        self.on = False

    def push(self, name: str, payload: int | None = None) -> None:
        """Open a range inside the one that is open now, if the window is open."""
        if self.on:
            self._ranges.push(name, payload)

    def pop(self) -> None:
        """Close the innermost open range."""
        if self.on:
            self._ranges.pop()

    def mark(self, message: str) -> None:
        """Set a mark, if the window is open."""
        if self.on:
            self._ranges.mark(message)


AnyRanges = Ranges | PlainRanges | AnnotatedRanges | WindowRanges


def nvtx_ranges(wanted: bool | None = None, cuda: bool = False) -> Ranges | PlainRanges | None:
    """Return the ranges, None if they are not wanted or nothing is installed to make them with.

    Args:
        wanted: None asks the variable PACELINE_NVTX (0: no, 1: yes, and say so if there can be none; unset: yes).
        cuda: Without PyPI's nvtx, use torch.cuda.nvtx.
    """
    said = os.environ.get("PACELINE_NVTX", "")
    if not (said != "0" if wanted is None else wanted):
        return None
    try:
        import nvtx
    except ImportError:
        if cuda:
            return PlainRanges()
        if wanted or said:
            print("paceline: NVTX ranges need the Python package nvtx, which is not installed", file=sys.stderr)
        return None
    return Ranges(nvtx)
