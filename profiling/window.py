"""The window of iterations that a profiler records: opened and closed through the CUDA profiler API. Scope: rank.

nsys with ``--capture-range=cudaProfilerApi`` records from start to stop only, so start-up, kernel compilation and the
simulator's shutdown stay out of the report. The window is set by PACELINE_PROFILE_WINDOW=first:last, iterations counted
from 0, ``last`` excluded.
"""

from __future__ import annotations

from typing import Any

from paceline.bench.errors import LaunchError


class ProfileWindow:
    """Starts the profiler before iteration ``first`` and stops it before iteration ``last``, device completed."""

    def __init__(self, first: int, last: int) -> None:
        self.first = first
        self.last = last
        self.open = False

    @classmethod
    def from_text(cls, text: str | None) -> ProfileWindow | None:
        """Return the window that ``"first:last"`` asks for, None for no text; LaunchError for anything else."""
        if not text:
            return None
        first, separator, last = text.partition(":")
        if not separator or not first.isdigit() or not last.isdigit() or int(first) >= int(last):
            raise LaunchError(f"PACELINE_PROFILE_WINDOW is {text!r}; it must be first:last, iterations counted from 0")
        return cls(int(first), int(last))

    def before(self, iteration: int) -> None:
        """Open or close the window, if it starts or ends with this iteration. Runs between iterations."""
        if self.first <= iteration < self.last and not self.open:
            self._profiler().start()
            self.open = True
        elif iteration >= self.last:
            self.close()

    def close(self) -> None:
        """Close the window if it is open, as after the last iteration of a run: before the simulator shuts down."""
        if self.open:
            self.open = False
            self._profiler().stop()

    def _profiler(self) -> Any:
        import torch

        torch.cuda.synchronize()  # what was launched belongs to the side of the edge on which it was launched
        return torch.cuda.profiler
