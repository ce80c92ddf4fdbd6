"""Makes Nsight Systems exports with known content, from a handful of rows to tens of millions.

``Rows`` is a list of ranges, calls and GPU operations that a test writes down; ``write`` stores it as an SQLite export
with the tables and columns of a given schema. ``synthetic`` fills a file with a made-up training run of any size and
number of processes.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

MACHINE = 1 << 48
_ACTIVITY = "CUPTI_ACTIVITY_KIND_"
RUNTIME, KERNEL, MEMCPY = f"{_ACTIVITY}RUNTIME", f"{_ACTIVITY}KERNEL", f"{_ACTIVITY}MEMCPY"
MEMSET, GRAPH = f"{_ACTIVITY}MEMSET", f"{_ACTIVITY}GRAPH_TRACE"
_DDL = {
    "StringIds": "id INTEGER NOT NULL PRIMARY KEY, value TEXT NOT NULL",
    "NVTX_EVENTS": "start INTEGER NOT NULL, end INTEGER, eventType INTEGER NOT NULL, rangeId INTEGER, "
    "category INTEGER, "
    "color INTEGER, text TEXT, globalTid INTEGER, endGlobalTid INTEGER, textId INTEGER, domainId INTEGER, "
    "uint64Value INTEGER, int64Value INTEGER, doubleValue REAL, uint32Value INTEGER, int32Value INTEGER, "
    "floatValue REAL, jsonTextId INTEGER, jsonText TEXT",
    RUNTIME: "start INTEGER NOT NULL, end INTEGER NOT NULL, eventClass INTEGER NOT NULL, globalTid INTEGER, "
    "correlationId INTEGER, nameId INTEGER NOT NULL, returnValue INTEGER NOT NULL, callchainId INTEGER",
    KERNEL: "start INTEGER NOT NULL, end INTEGER NOT NULL, deviceId INTEGER NOT NULL, contextId INTEGER NOT NULL, "
    "greenContextId INTEGER, streamId INTEGER NOT NULL, correlationId INTEGER, globalPid INTEGER, "
    "demangledName INTEGER NOT NULL, shortName INTEGER NOT NULL, mangledName INTEGER, launchType INTEGER, "
    "cacheConfig INTEGER, registersPerThread INTEGER NOT NULL, gridX INTEGER NOT NULL, gridY INTEGER NOT NULL, "
    "gridZ INTEGER NOT NULL, blockX INTEGER NOT NULL, blockY INTEGER NOT NULL, blockZ INTEGER NOT NULL, "
    "staticSharedMemory INTEGER NOT NULL, dynamicSharedMemory INTEGER NOT NULL, localMemoryPerThread INTEGER NOT NULL, "
    "localMemoryTotal INTEGER NOT NULL, gridId INTEGER NOT NULL, sharedMemoryExecuted INTEGER, graphNodeId INTEGER, "
    "sharedMemoryLimitConfig INTEGER",
    MEMCPY: "start INTEGER NOT NULL, end INTEGER NOT NULL, deviceId INTEGER NOT NULL, contextId INTEGER NOT NULL, "
    "streamId INTEGER NOT NULL, correlationId INTEGER, globalPid INTEGER, bytes INTEGER NOT NULL, "
    "copyKind INTEGER NOT NULL, graphNodeId INTEGER",
    MEMSET: "start INTEGER NOT NULL, end INTEGER NOT NULL, deviceId INTEGER NOT NULL, contextId INTEGER NOT NULL, "
    "streamId INTEGER NOT NULL, correlationId INTEGER, globalPid INTEGER, value INTEGER NOT NULL, "
    "bytes INTEGER NOT NULL, graphNodeId INTEGER",
    GRAPH: "start INTEGER NOT NULL, end INTEGER NOT NULL, deviceId INTEGER NOT NULL, contextId INTEGER NOT NULL, "
    "streamId INTEGER NOT NULL, correlationId INTEGER, globalPid INTEGER, graphId INTEGER NOT NULL, "
    "graphExecId INTEGER NOT NULL",
    "CUDA_GRAPH_NODE_EVENTS": "start INTEGER NOT NULL, end INTEGER NOT NULL, eventClass INTEGER NOT NULL, "
    "globalTid INTEGER, nameId INTEGER NOT NULL, graphNodeId INTEGER NOT NULL, originalGraphNodeId INTEGER",
    "META_DATA_EXPORT": "name TEXT NOT NULL, value TEXT",
}
_KIND_TABLES = {"kernel": KERNEL, "memcpy": MEMCPY, "memset": MEMSET, "graph": GRAPH}


def thread_key(pid: int, tid: int) -> int:
    """Return nsys's globalTid."""
    return MACHINE | pid << 24 | tid


@dataclass
class Range:
    start: int
    end: int | None
    name: str | bytes
    pid: int = 1
    tid: int = 1
    domain: int = 0
    style: str = "push_pop"
    end_tid: int | None = None


@dataclass
class Call:
    start: int
    end: int
    correlation: int
    pid: int = 1
    tid: int = 1
    name: str = "cudaLaunchKernel_v7000"


@dataclass
class Operation:
    start: int
    end: int
    correlation: int
    pid: int = 1
    device: int = 0
    stream: int = 7
    kind: str = "kernel"
    name: str = "step"
    bytes: int = 0
    copy_kind: int = 1
    node: int | None = None


@dataclass
class Node:
    """Creation of a CUDA graph node."""

    time: int
    node: int
    original: int | None = None
    pid: int = 1
    tid: int = 1


@dataclass
class Rows:
    ranges: list[Range] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    marks: list[tuple[int, str, int]] = field(default_factory=list)
    """(time, text, pid)."""
    domains: dict[int, str] = field(default_factory=lambda: {0: "", 1: "paceline", 2: "other"})


class _Strings:
    def __init__(self) -> None:
        self.ids: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        return self.ids.setdefault(text, len(self.ids) + 10)


def write(
    path: Path,
    rows: Rows,
    *,
    registered: bool = False,
    suffix: str = "",
    shuffle: int | None = None,
    lazy: bool = True,
    page_bytes: int = 4096,
) -> Path:
    """Write rows as an SQLite export and return its path.

    Args:
        path: File to make.
        rows: What it holds.
        registered: Store range names as registered strings (textId) rather than inline.
        suffix: Appended to the names of the CUPTI tables (``_V3``).
        shuffle: Seed to shuffle the rows with; None keeps their order.
        lazy: Leave tables without rows out.
        page_bytes: SQLite page size.
    """
    strings = _Strings()
    tables: dict[str, list[tuple[Any, ...]]] = {name: [] for name in _DDL}
    for pid in sorted({r.pid for r in rows.ranges} | {pid for _, _, pid in rows.marks}):
        for number, name in rows.domains.items():
            if number:
                tables["NVTX_EVENTS"].append(_nvtx(0, None, 75, name, thread_key(pid, 1), None, None, number))
    for time, message, pid in rows.marks:
        tables["NVTX_EVENTS"].append(_nvtx(time, None, 34, message, thread_key(pid, 1), None, None, 1))
    for r in rows.ranges:
        end_thread = None if r.end_tid is None else thread_key(r.pid, r.end_tid)
        inline = not registered or isinstance(r.name, bytes)
        text: str | bytes | None = r.name if inline else None
        text_id = None if inline else strings(str(r.name))
        kind = 59 if r.style == "push_pop" else 60
        tables["NVTX_EVENTS"].append(
            _nvtx(r.start, r.end, kind, text, thread_key(r.pid, r.tid), end_thread, text_id, r.domain)
        )
    for c in rows.calls:
        tables[RUNTIME].append((c.start, c.end, 0, thread_key(c.pid, c.tid), c.correlation, strings(c.name), 0, None))
    for o in rows.operations:
        tables[_KIND_TABLES[o.kind]].append(_operation(o, strings))
    for n in rows.nodes:
        tables["CUDA_GRAPH_NODE_EVENTS"].append(
            (n.time, n.time, 94, thread_key(n.pid, n.tid), strings("node"), n.node, n.original)
        )
    tables["StringIds"] = [(number, text) for text, number in strings.ids.items()]
    tables["META_DATA_EXPORT"] = [("EXPORT_SCHEMA_VERSION", "3.11.1"), ("EXPORT_PRODUCT_VERSION", "2024.2.3.38")]
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA page_size = {page_bytes}")
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        for name, content in tables.items():
            if lazy and not content:
                continue
            if shuffle is not None:
                random.Random(shuffle).shuffle(content)
            table = name + (suffix if name.startswith("CUPTI") else "")
            _create(connection, table, _DDL[name])
            _insert(connection, table, content)
        connection.commit()
    return path


def _nvtx(
    start: int, end: int | None, kind: int, text: Any, thread: int, end_thread: Any, text_id: Any, domain: int
) -> Any:
    if isinstance(text, bytes):
        text = _NotUtf8(text)
    return (start, end, kind, None, None, None, text, thread, end_thread, text_id, domain, *[None] * 8)


class _NotUtf8(bytes):
    """Bytes that are stored as SQL text."""


def _operation(o: Operation, strings: _Strings) -> tuple[Any, ...]:
    place = (o.start, o.end, o.device, 1)
    owner = MACHINE | o.pid << 24
    if o.kind == "kernel":
        full, short = strings(f"void {o.name}<float>()" if o.name == "step" else o.name), strings(o.name)
        return (*place, 0, o.stream, o.correlation, owner, full, short, None, *[1] * 15, o.node, 0)
    if o.kind == "memcpy":
        return (*place, o.stream, o.correlation, owner, o.bytes, o.copy_kind, o.node)
    if o.kind == "memset":
        return (*place, o.stream, o.correlation, owner, 0, o.bytes, o.node)
    return (*place, o.stream, o.correlation, owner, 2, 4)


def _create(connection: sqlite3.Connection, table: str, columns: str) -> None:
    connection.execute(f'CREATE TABLE "{table}" ({columns})')


def _insert(connection: sqlite3.Connection, table: str, content: Sequence[tuple[Any, ...]]) -> None:
    if not content:
        return
    marks = ["?"] * len(content[0])
    plain = [row for row in content if not any(isinstance(value, _NotUtf8) for value in row)]
    if len(plain) == len(content):
        connection.executemany(f'INSERT INTO "{table}" VALUES ({", ".join(marks)})', content)
        return
    for row in content:
        marks = ["CAST(? AS TEXT)" if isinstance(value, _NotUtf8) else "?" for value in row]
        values = [bytes(value) if isinstance(value, _NotUtf8) else value for value in row]
        connection.execute(f'INSERT INTO "{table}" VALUES ({", ".join(marks)})', values)


def synthetic(
    path: Path,
    kernels: int,
    ranges: int,
    processes: int = 8,
    seed: int = 1,
    inline_names: bool = False,
    calls_per_kernel: float = 1.6,
    domain: str = "paceline",
) -> dict[str, int]:
    """Write a made-up training run and return how many rows each table got.

    Per process: iterations of a roll-out (env_step with physics, and inference) and an update with minibatches. Calls
    take 4 us, every launch causes one kernel a little later, further calls cause nothing. Correlation ids are the same
    numbers in every process. Rows of the processes are interleaved in time order, as nsys writes them.
    """
    if kernels < processes or ranges < processes:
        raise ValueError("at least one kernel and one range per process")
    # Large captures repeat a smaller one at later times: SQLite copies rows far faster than Python makes them.
    pieces = max(1, max(kernels, ranges) // 2_000_000)
    kernels, ranges = kernels // pieces, ranges // pieces
    names = ["iteration", "rollout", "env_step", "physics", "inference", "update", "minibatch"]
    kernel_names = [f"kernel_{i}" for i in range(200)]
    strings = [*names, *kernel_names, "cudaLaunchKernel_v7000", "cudaStreamIsCapturing_v10000"]
    per_process, per_range = kernels // processes, kernels / ranges
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        for name in ("StringIds", "NVTX_EVENTS", RUNTIME, KERNEL, "META_DATA_EXPORT"):
            _create(connection, name, _DDL[name])
        connection.executemany("INSERT INTO StringIds VALUES (?, ?)", list(enumerate(strings)))
        domains = [_nvtx(0, None, 75, domain, thread_key(pid, 1), None, None, 1) for pid in range(1, processes + 1)]
        marks = [
            _nvtx(0, None, 34, f"rank={pid - 1} world={processes}", thread_key(pid, 1), None, None, 1)
            for pid in range(1, processes + 1)
        ]
        _insert(connection, "NVTX_EVENTS", domains + marks)
        count_ranges = 0
        for chunk in _range_chunks(per_process, per_range, calls_per_kernel, processes, inline_names, names):
            _insert(connection, "NVTX_EVENTS", chunk)
            count_ranges += len(chunk)
        count_calls = count_kernels = 0
        rng = np.random.default_rng(seed)
        for low in range(0, per_process, 50_000):
            high = min(low + 50_000, per_process)
            calls, work = _launch_chunk(rng, low, high, calls_per_kernel, processes, len(names), len(strings))
            connection.executemany(f"INSERT INTO {RUNTIME} VALUES (?, ?, 0, ?, ?, ?, 0, NULL)", calls)
            ones = ", ".join("1" * 15)
            connection.executemany(
                f"INSERT INTO {KERNEL} VALUES (?, ?, 0, 1, NULL, 7, ?, ?, ?, ?, NULL, {ones}, NULL, 0)", work
            )
            count_calls += len(calls)
            count_kernels += len(work)
        _repeat(connection, pieces, per_process, calls_per_kernel)
        connection.commit()
    return {"kernels": pieces * count_kernels, "calls": pieces * count_calls, "ranges": pieces * count_ranges}


def _repeat(connection: sqlite3.Connection, pieces: int, per_process: int, calls_per_kernel: float) -> None:
    """Append ``pieces - 1`` copies of all ranges, calls and kernels, each later and with further correlation ids."""
    shifts = {"NVTX_EVENTS": ("start", "end"), RUNTIME: ("start", "end"), KERNEL: ("start", "end")}
    for table, times in shifts.items():
        columns = [name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")]
        (last,) = connection.execute(f"SELECT max(rowid) FROM {table}").fetchone()
        only = " AND eventType = 59" if table == "NVTX_EVENTS" else ""
        for piece in range(1, pieces):
            later, further = piece * (per_process * _slot_ns(calls_per_kernel) + 1_000_000), piece * 2 * per_process
            chosen = ", ".join(
                f"{name} + {later}" if name in times else f"{name} + {further}" if name == "correlationId" else name
                for name in columns
            )
            connection.execute(f"INSERT INTO {table} SELECT {chosen} FROM {table} WHERE rowid <= {last}{only}")


def _slot_ns(calls_per_kernel: float) -> int:
    """Time between launches: each is followed by its idle calls."""
    return int(10_000 * calls_per_kernel)


def _range_chunks(
    per_process: int, per_range: float, calls_per_kernel: float, processes: int, inline: bool, names: list[str]
) -> Iterator[list[tuple[Any, ...]]]:
    """Yield ranges so that there is one per ``per_range`` kernels: an iteration has 4 env steps and 16 minibatches."""
    slot = _slot_ns(calls_per_kernel)
    ranges_per_iteration = 1 + 1 + 4 * 3 + 1 + 16
    launches = max(per_range * ranges_per_iteration, 1.0)
    length = int(launches * slot)
    steps = max(length // 2 // 4, 8)
    iterations = int(per_process / launches)
    chunk: list[tuple[Any, ...]] = []

    def add(start: int, end: int, code: int, pid: int) -> None:
        text, text_id = (names[code], None) if inline else (None, code)
        chunk.append(_nvtx(start, max(end, start + 1), 59, text, thread_key(pid, 1), None, text_id, 1))

    for iteration in range(iterations):
        for pid in range(1, processes + 1):
            begin = 1000 + iteration * length
            half = begin + 4 * steps
            add(begin, begin + length - 2, 0, pid)
            add(begin, half, 1, pid)
            for step in range(4):
                first = begin + step * steps
                add(first, first + steps * 3 // 4, 2, pid)
                add(first + 1, first + steps // 2, 3, pid)
                add(first + steps * 3 // 4, first + steps, 4, pid)
            add(half, begin + length - 3, 5, pid)
            piece = max((begin + length - 3 - half) // 16, 1)
            for batch in range(16):
                add(half + batch * piece, half + (batch + 1) * piece, 6, pid)
        if len(chunk) > 200_000:
            yield chunk
            chunk = []
    yield chunk


def _launch_chunk(
    rng: np.random.Generator,
    low: int,
    high: int,
    calls_per_kernel: float,
    processes: int,
    first_kernel: int,
    num_strings: int,
) -> tuple[list[Any], list[Any]]:
    """Return calls and kernels ``low`` to ``high`` of every process, in time order."""
    slot, count = _slot_ns(calls_per_kernel), high - low
    number = np.repeat(np.arange(low, high), processes)
    pid = np.tile(np.arange(1, processes + 1), count)
    start = 2000 + number * slot + rng.integers(0, 500, count * processes)
    thread = MACHINE | pid << 24 | 1
    correlation = number * 2 + 1
    launch = np.stack([start, start + 4000, thread, correlation, np.full(len(pid), num_strings - 2)], axis=1)
    extra = rng.random(len(pid)) < calls_per_kernel - 1
    idle_start = start[extra] + 5000
    idle = np.stack(
        [idle_start, idle_start + 300, thread[extra], correlation[extra] + 1, np.full(extra.sum(), num_strings - 1)],
        axis=1,
    )
    calls = np.concatenate([launch, idle])
    calls = calls[np.argsort(calls[:, 0], kind="stable")]
    begin = start + 6000 + rng.integers(0, 3000, len(pid))
    name = first_kernel + rng.integers(0, 200, len(pid))
    work = np.stack(
        [begin, begin + rng.integers(1000, 9000, len(pid)), correlation, MACHINE | pid << 24, name, name], axis=1
    )
    work = work[np.argsort(work[:, 0], kind="stable")]
    return calls.tolist(), work.tolist()
