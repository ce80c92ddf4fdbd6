"""Reads Kineto traces: the JSON (or .json.gz) that torch.profiler writes, one file per rank.

Event categories used: ``kernel``, ``gpu_memcpy``, ``gpu_memset`` (GPU work), ``cuda_runtime``, ``cuda_driver`` (calls)
and ``user_annotation`` (ranges, from torch.profiler.record_function or NVTX emulation). ``args.correlation`` links
work to calls. Times are microseconds, possibly with a fraction. A kernel replayed from a CUDA graph carries the
correlation of its graph launch.
"""

from __future__ import annotations

import gzip
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from paceline.analysis import memory
from paceline.analysis.capture import (
    COPY_KINDS,
    KERNEL,
    MEMCPY,
    MEMSET,
    PUSH_POP,
    Calls,
    Capture,
    Copies,
    Operations,
    Process,
    Ranges,
    Thread,
)
from paceline.bench import jsontext
from paceline.bench.errors import TraceError

_GPU = {"kernel": KERNEL, "gpu_memcpy": MEMCPY, "gpu_memset": MEMSET}
_CALLS = ("cuda_runtime", "cuda_driver")
_DIRECTION = re.compile(r"\b(HtoD|DtoH|DtoD|PtoP)\b")
_BYTES_PER_FILE_BYTE = 9  # json.loads makes Python objects
_DOMAIN_PREFIX = "paceline:"


def load(path: str | os.PathLike[str]) -> Capture:
    """Return the capture in a Kineto trace; TraceError if the file is not one."""
    path = Path(path)
    data = _parse(path)
    events = data.get("traceEvents") if isinstance(data, dict) else data
    if not isinstance(events, list):
        raise TraceError(f"{path}: not a Kineto trace: it has no list traceEvents")
    builder = _Builder()
    for event in events:
        if isinstance(event, dict) and event.get("ph") == "X":
            builder.add(event)
    if not builder.ranges and not builder.operations and not builder.calls:
        raise TraceError(
            f"{path}: the trace has no GPU work, CUDA calls or annotations; profile with activities CPU and CUDA"
        )
    return builder.capture(data if isinstance(data, dict) else {})


def _parse(path: Path) -> Any:
    try:
        compressed = path.suffix == ".gz"
        memory.require_bytes(path, path.stat().st_size * _BYTES_PER_FILE_BYTE * (10 if compressed else 1))
        with gzip.open(path, "rb") if compressed else open(path, "rb") as stream:
            return jsontext.loads(stream.read().decode("utf-8", "backslashreplace"))
    except (OSError, EOFError) as error:
        raise TraceError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    except ValueError as error:
        raise TraceError(f"{path}: not valid JSON ({error}); a trace that was cut off cannot be read") from error


class _Builder:
    """Collects events."""

    def __init__(self) -> None:
        self.pids: dict[Any, int] = {}
        self.threads: dict[tuple[int, Any], int] = {}
        self.labels: dict[tuple[str, str], int] = {}
        self.names: dict[str, int] = {}
        self.ranges: list[tuple[int, int, int, int]] = []
        self.calls: list[tuple[int, int, int, int, int]] = []
        self.operations: list[tuple[int, ...]] = []
        self.copies: list[tuple[int, int, int]] = []
        self.in_graph: list[bool] = []

    def add(self, event: dict[str, Any]) -> None:
        """Add one complete event."""
        category = str(event.get("cat", "")).lower()
        arguments = event.get("args") or {}
        try:
            start = round(float(event["ts"]) * 1000)
            end = start + round(float(event.get("dur", 0)) * 1000)
            if category in _GPU:
                self._operation(_GPU[category], start, end, str(event["name"]), arguments)
            elif category in _CALLS:
                name = self.names.setdefault(str(event["name"]), len(self.names))
                self.calls.append((start, end, self._thread(event), int(arguments.get("correlation", -1)), name))
            elif category == "user_annotation":
                text = str(event["name"])
                own = text.startswith(_DOMAIN_PREFIX)
                label = ("paceline", text[len(_DOMAIN_PREFIX) :]) if own else ("", text)
                code = self.labels.setdefault(label, len(self.labels))
                self.ranges.append((start, end, self._thread(event), code))
        except (KeyError, TypeError, ValueError):
            return  # not an event this analysis can use

    def _thread(self, event: dict[str, Any]) -> int:
        process = self.pids.setdefault(event.get("pid"), len(self.pids))
        return self.threads.setdefault((process, event.get("tid")), len(self.threads))

    def _operation(self, kind: int, start: int, end: int, name: str, arguments: dict[str, Any]) -> None:
        code = self.names.setdefault(name, len(self.names)) if kind == KERNEL else -1
        if kind == MEMCPY:
            match = _DIRECTION.search(name)
            direction = match.group(1).lower().replace("to", "2") if match else "other"
            self.copies.append((len(self.operations), int(arguments.get("bytes", 0)), COPY_KINDS.index(direction)))
        device, stream = int(arguments.get("device", 0)), int(arguments.get("stream", 0))
        self.operations.append((start, end, 0, device, stream, int(arguments.get("correlation", -1)), kind, code))
        self.in_graph.append(bool(arguments.get("graph node id") or 0))

    def capture(self, data: dict[str, Any]) -> Capture:
        """Return the capture. A Kineto trace is of one process; its GPU work is that process's."""
        warnings: list[str] = []
        if len(self.pids) > 1:
            warnings.append(f"{len(self.pids)} host processes in one Kineto trace: GPU work is counted to the first")
        if not self.pids:
            self.pids[0] = 0
        info = data.get("paceline") or data.get("distributedInfo")  # torch tells the rank only of several
        rank = info.get("rank") if isinstance(info, dict) else None
        processes = [
            Process(index, int(pid) if isinstance(pid, int) else index, "", rank if index == 0 else None)
            for pid, index in self.pids.items()
        ]
        columns = _columns(self.operations, 8)
        columns[6] = columns[6].astype(np.int8)
        operations = Operations(*columns)
        if any(self.in_graph):
            operations.in_graph = np.array(self.in_graph)
        start, end, thread, label = _columns(self.ranges, 4)
        ranges = Ranges(
            start, end, thread, thread, label, np.full(len(start), PUSH_POP, np.int8), np.zeros(len(start), bool)
        )
        calls = Calls(*_columns(self.calls, 5))
        times = [part for part in (ranges, calls, operations) if len(part)]
        if not len(operations):
            warnings.append("no GPU work in the capture: profile with activities CPU and CUDA on a machine with a GPU")
        return Capture(
            source="kineto",
            processes=processes,
            threads=[
                Thread(index, p, tid if isinstance(tid, int) else index) for (p, tid), index in self.threads.items()
            ],
            labels=list(self.labels),
            names=list(self.names),
            ranges=ranges,
            calls=calls,
            operations=operations,
            copies=Copies(*_columns(self.copies, 3)),
            graph_nodes=None,
            span_ns=(min(int(p.start.min()) for p in times), max(int(p.end.max()) for p in times)),
            graph_trace="node" if any(self.in_graph) else "none",
            warnings=warnings,
            details={
                "profiler": "torch.profiler (Kineto)",
                "schema": data.get("schemaVersion"),
                "gpus": [device.get("name") for device in data.get("deviceProperties", []) if isinstance(device, dict)],
            },
        )


def _columns(rows: list[Any], count: int) -> list[Any]:
    """Return rows of integers as columns; the first two of more than three are int64, the rest int32 if they fit."""
    table = np.array(rows, np.int64).reshape(len(rows), count)
    return [np.ascontiguousarray(table[:, i]) if count == 3 or i < 2 else _small(table[:, i]) for i in range(count)]


def _small(values: Any) -> Any:
    fits = not len(values) or (values.max() < 2**31 and values.min() >= -(2**31))
    return values.astype(np.int32) if fits else np.ascontiguousarray(values)
