"""What a profile window switches on and off. Scope: rank.

There are three recorders:

CudaProfilerApi   nsys with --capture-range=cudaProfilerApi records from start to stop; the report is closed before
                  a simulator that may hang or crash at exit
NoRecorder        nsys without a GPU has no such switch: it records all along, and the window opens the ranges
TorchProfiler     torch.profiler; writes a Kineto trace when it is stopped
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Protocol


class Recorder(Protocol):
    """A profiler that can be started and stopped once."""

    def start(self) -> None:
        """Begin to record."""

    def stop(self) -> None:
        """Stop recording, and keep what was recorded."""


class CudaProfilerApi:
    """Starts and stops what listens to cudaProfilerStart and cudaProfilerStop, device completed."""

    def start(self) -> None:
        """Begin: what was launched before stays outside."""
        self._profiler().start()

    def stop(self) -> None:
        """End: what was launched has run."""
        self._profiler().stop()

    def _profiler(self) -> Any:
        import torch

        torch.cuda.synchronize()
        return torch.cuda.profiler


class NoRecorder:
    """Records nothing by itself."""

    def start(self) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""


class TorchProfiler:
    """Records with torch.profiler and writes a Kineto trace (gzipped JSON)."""

    def __init__(self, output: Path, rank: int, world_size: int, cuda: bool) -> None:
        self._output = output
        self._facts = {"rank": rank, "world_size": world_size}
        self._cuda = cuda
        self._profile: Any = None

    def start(self) -> None:
        """Begin to record CPU operators, annotations and, on a GPU, all CUDA work."""
        import torch

        activities = [torch.profiler.ProfilerActivity.CPU]
        if self._cuda:
            torch.cuda.synchronize()
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self._profile = torch.profiler.profile(activities=activities)
        self._profile.start()
        self._profile.add_metadata_json("paceline", json.dumps(self._facts))

    def stop(self) -> None:
        """Stop and write the trace; a trace that cannot be written is told, and the training goes on."""
        if self._cuda:
            import torch

            torch.cuda.synchronize()
        self._profile.stop()
        partial = self._output.with_name(f".{self._output.name}.json.gz")
        try:
            self._output.parent.mkdir(parents=True, exist_ok=True)
            self._profile.export_chrome_trace(str(partial))
            partial.replace(self._output)
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            print(f"paceline: {self._output}: the trace cannot be written ({error})", file=sys.stderr, flush=True)
        self._profile = None
