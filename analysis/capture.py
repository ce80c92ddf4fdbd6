"""A profiler's capture as arrays: what every reader (nsys, Kineto) returns and the projection works on.

    processes   threads            who
    ranges                         NVTX ranges on host threads (names given by people)
    calls                          CUDA runtime and driver calls on host threads
    operations                     what ran on the GPU: kernels, copies, memory sets, whole CUDA graphs

A call and an operation belong together when process *and* correlation id agree; the id alone repeats in every process.
Times are int64 nanoseconds on one clock. Rows are in no particular order. Scope: one capture, all its processes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ints = NDArray[np.int64] | NDArray[np.int32] | NDArray[np.int16] | NDArray[np.int8]

NO_TIME = -(2**63)
"""Stands for SQL NULL in a time column."""

PUSH_POP, START_END = 0, 1
"""Range styles: nested on a thread, or opened and closed anywhere."""

KERNEL, MEMCPY, MEMSET, GRAPH = 0, 1, 2, 3
"""Kinds of GPU operations. GRAPH is one whole launch of a CUDA graph, recorded without its kernels."""

COPY_KINDS = ("h2d", "d2h", "d2d", "p2p", "other")
"""Directions of copies: host and device, between devices (p2p), anything else."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process of the capture."""

    key: int
    """The profiler's own identifier, unique in the capture."""
    pid: int
    name: str = ""
    rank: int | None = None
    """Global rank, None if it is not known."""
    rank_is_inferred: bool = False
    """True if nothing in the capture names the rank and it follows from the order of devices and process ids."""


@dataclass(frozen=True, slots=True)
class Thread:
    """One host thread."""

    key: int
    process: int
    """Index into the capture's processes."""
    tid: int


@dataclass(slots=True)
class Ranges:
    """NVTX ranges, shape (n,) each."""

    start: Ints
    end: Ints
    """Never NO_TIME: an unclosed range ends with the capture."""
    thread: Ints
    end_thread: Ints
    """Thread that closed the range; equal to ``thread`` unless the range crossed threads."""
    label: Ints
    """Index into the capture's labels."""
    style: Ints
    unclosed: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.start)


@dataclass(slots=True)
class Calls:
    """CUDA runtime and driver calls, shape (n,) each."""

    start: Ints
    end: Ints
    thread: Ints
    correlation: Ints
    """-1: the call has none."""
    name: Ints
    """Index into the capture's names."""

    def __len__(self) -> int:
        return len(self.start)


@dataclass(slots=True)
class Operations:
    """GPU operations, shape (n,) each."""

    start: Ints
    end: Ints
    process: Ints
    device: Ints
    """Device number as the process sees it (after CUDA_VISIBLE_DEVICES)."""
    stream: Ints
    correlation: Ints
    kind: Ints
    name: Ints
    """Index into the capture's names; -1 for copies, sets and graphs."""
    in_graph: NDArray[np.bool_] | None = None
    """Which operations were replayed from a CUDA graph, each on its own (node-level trace); None: none was."""
    graph_node: Ints | None = None
    """Identifier of the graph node, 0 for none. Only present when some operation has one."""

    def __len__(self) -> int:
        return len(self.start)


@dataclass(slots=True)
class Copies:
    """Details of the operations that are copies, in the order in which they appear there. Shape (copies,) each."""

    operation: Ints
    """Index into the operations."""
    bytes: Ints
    direction: Ints
    """Index into COPY_KINDS."""


@dataclass(slots=True)
class GraphNodes:
    """Creation of CUDA graph nodes: links a replayed kernel to the range that was open when it was captured."""

    time: Ints
    thread: Ints
    node: Ints
    original: Ints
    """The node this one was cloned from, 0 for none."""


@dataclass(slots=True)
class Capture:
    """Everything the analysis takes from one profiler export."""

    source: str
    """``nsys`` or ``kineto``."""
    processes: list[Process]
    threads: list[Thread]
    labels: list[tuple[str, str]]
    """(domain, name) of ranges."""
    names: list[str]
    """Names of kernels and of CUDA calls."""
    ranges: Ranges
    calls: Calls
    operations: Operations
    copies: Copies
    graph_nodes: GraphNodes | None
    span_ns: tuple[int, int]
    """First and last time stamp of anything in the capture."""
    graph_trace: str
    """``graph``, ``node`` or ``none``: how CUDA graphs were recorded."""
    warnings: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    """Facts about the capture for the report: profiler version, GPUs, ..."""
