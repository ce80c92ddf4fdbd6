"""The window of iterations that a profiler records. Scope: rank.

Start-up, kernel compilation and the simulator's shutdown stay out of the capture. Iterations are counted from 0, the
last is excluded. Runs of `paceline profile` have their window in case.json; any other run gets one, for an nsys with
``--capture-range=cudaProfilerApi``, by PACELINE_PROFILE_WINDOW=first:last.
"""

from __future__ import annotations

from collections.abc import Callable

from paceline.bench.errors import LaunchError
from paceline.profiling.recorders import CudaProfilerApi, Recorder


class ProfileWindow:
    """Starts a recorder before iteration ``first`` and stops it before iteration ``last``.

    One nsys records all ranks of a node, from the first rank that starts it to the first that stops it. So all ranks
    meet at both edges, and no rank's iteration is cut.
    """

    def __init__(
        self,
        first: int,
        last: int,
        recorder: Recorder | None = None,
        meet: Callable[[], None] = lambda: None,
        opened: Callable[[bool], None] = lambda is_open: None,
    ) -> None:
        self.first = first
        self.last = last
        self.open = False
        self._recorder = recorder or CudaProfilerApi()
        self._meet = meet
        """Returns when all ranks have called it."""
        self._opened = opened
        """Called with True after the window was opened, and with False before it is closed."""

    @classmethod
    def from_text(
        cls,
        text: str | None,
        recorder: Recorder | None = None,
        meet: Callable[[], None] = lambda: None,
        opened: Callable[[bool], None] = lambda is_open: None,
    ) -> ProfileWindow | None:
        """Return the window that ``"first:last"`` asks for, None for no text; LaunchError for anything else."""
        if not text:
            return None
        first, separator, last = text.partition(":")
        if not separator or not first.isdigit() or not last.isdigit() or int(first) >= int(last):
            raise LaunchError(f"profile window {text!r}: must be first:last, iterations counted from 0")
        return cls(int(first), int(last), recorder, meet, opened)

    def before(self, iteration: int) -> None:
        """Open or close the window, if it starts or ends with this iteration. Runs between iterations."""
        if self.first <= iteration < self.last and not self.open:
            self._meet()
            self._recorder.start()
            self.open = True
            self._opened(True)
            self._meet()
        elif iteration >= self.last and self.open:
            self._meet()
            self.close()

    def close(self) -> None:
        """Close the window if it is open, as when a training ends inside it: before the simulator shuts down."""
        if self.open:
            self.open = False
            self._opened(False)
            self._recorder.stop()
