"""Reads Nsight Systems exports. Only this module and nsys_*.py know nsys's tables, columns and identifiers.

Checked with exports of nsys 2023.4 (schema 3.7) and 2024.2 (3.11), SQLite and Parquet. Tables exist only if they have
rows, so any may be missing; new columns and tables are ignored. Facts that matter (Nsight Systems user guide, "SQLite
schema reference"):

    globalTid  = machine bits | pid << 24 | tid;  globalPid = globalTid with the low 24 bits cleared
    NVTX_EVENTS: eventType 34 mark, 59/70 push/pop, 60/71 start/end, 75 domain; text inline, or textId -> StringIds
    correlationId repeats across processes: it means something only together with the process
    CUPTI_ACTIVITY_KIND_GRAPH_TRACE: one row per graph launch, and no kernels; start = end = 0 means "no time stamp"
    row order means nothing (release notes of 2025.6)
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from paceline.analysis import compiled, memory, nsys_operations, nsys_ranges, sqlitepages
from paceline.analysis.capture import GRAPH, Calls, Capture, Operations, Process, Ranges, Thread
from paceline.analysis.nsys_keys import LOW_BITS, Keys
from paceline.analysis.tablesource import ParquetSource, SqliteSource, TableSource, iter_matching
from paceline.bench.errors import TraceError

_VERSION_SUFFIX = re.compile(r"_v\d{4,}(_ptsz|_ptds)?$")
_CHUNK_ROWS = 1 << 16
_LOSS = re.compile(r"dropped|lost|incomplete|not supported|unsupported|exceeded|may be missing", re.IGNORECASE)


def open_source(path: str | os.PathLike[str], fast: bool = True) -> TableSource:
    """Return a reader for an nsys export: a SQLite file or a folder of Parquet files.

    Args:
        path: The export.
        fast: Read SQLite pages with compiled code where numba is installed.
    """
    path = Path(path)
    if path.suffix in (".nsys-rep", ".qdstrm", ".qdrep"):
        raise TraceError(f"{path}: a report, not an export; first run: nsys export --type sqlite {path.name}")
    if path.is_dir():
        return ParquetSource(path)
    if fast and compiled.available():
        return sqlitepages.PageSource(path)
    return SqliteSource(path)


def load(path: str | os.PathLike[str], fast: bool = True) -> Capture:
    """Return the capture in an nsys export; TraceError if it cannot be read or holds neither CUDA nor NVTX rows."""
    source = open_source(path, fast)
    return _Loader(source).capture()


class _Loader:
    """Builds a Capture from tables."""

    def __init__(self, source: TableSource) -> None:
        self.source = source
        self.tables = source.tables()
        self.keys = Keys(source)
        self.warnings = self.keys.warnings

    def capture(self) -> Capture:
        """Return the capture."""
        self._check()
        strings = self._strings()
        ranges, labels, ranks = nsys_ranges.read(self.keys, strings)
        calls = nsys_operations.calls(self.keys)
        operations, copies = nsys_operations.operations(self.keys)
        span = _span(ranges, calls, operations)
        ranges.end[ranges.unclosed] = span[1]
        names, calls.name, operations.name = _compact_names(strings, calls.name, operations.name)
        nodes = nsys_operations.graph_nodes(self.keys)
        self._diagnostics()
        graph_trace = self._graph_trace(operations, names, calls)
        return Capture(
            source="nsys",
            processes=self._processes(ranks, operations),
            threads=[Thread(key, self.keys.process_of[key & ~LOW_BITS], key & LOW_BITS) for key in self.keys.thread_of],
            labels=labels,
            names=names,
            ranges=ranges,
            calls=calls,
            operations=operations,
            copies=copies,
            graph_nodes=nodes,
            span_ns=span,
            graph_trace=graph_trace,
            warnings=self.warnings,
            details=self._details(),
        )

    def _check(self) -> None:
        cuda = [*iter_matching(self.tables, nsys_operations.RUNTIME)]
        for name in nsys_operations.OPERATIONS:
            cuda += iter_matching(self.tables, name)
        nvtx = [*iter_matching(self.tables, "NVTX_EVENTS")]
        if not cuda and not nvtx:
            if "StringIds" not in self.tables and "META_DATA_EXPORT" not in self.tables:
                raise TraceError(f"{self.source.path}: not an nsys export: it has no table StringIds")
            raise TraceError(
                f"{self.source.path}: the export has neither CUDA nor NVTX rows; profile with --trace=cuda,nvtx"
            )
        if not nvtx:
            self.warnings.append("no NVTX ranges in the capture: everything is counted as outside ranges")
        if not any("KERNEL" in name or "GRAPH_TRACE" in name for name in cuda):
            self.warnings.append("no GPU work in the capture: profile with --trace=cuda,nvtx on a machine with a GPU")
        rows = {name: self.source.rows(name) for name in [*cuda, *nvtx]}
        memory.require(self.source.path, rows, compiled=compiled.available())

    def _strings(self) -> dict[int, str]:
        if "StringIds" not in self.tables:
            return {}
        return {row["id"]: row["value"] or "" for row in self.source.records("StringIds")}

    def _graph_trace(self, operations: Operations, names: list[str], calls: Calls) -> str:
        if np.any(operations.kind == GRAPH):
            return "graph"
        if operations.in_graph is not None:
            return "node"
        launches = [i for i, name in enumerate(names) if name.startswith(("cudaGraphLaunch", "cuGraphLaunch"))]
        count = int(np.count_nonzero(np.isin(calls.name, launches))) if launches else 0
        if count:
            self.warnings.append(
                f"{count:,} CUDA graph launches have no GPU rows: their GPU time is missing; "
                "profile with --cuda-graph-trace=graph"
            )
        return "none"

    def _processes(self, ranks: dict[int, int], operations: Operations) -> list[Process]:
        named: dict[int, str] = {}
        for row in self.source.records("PROCESSES") if "PROCESSES" in self.tables else []:
            if row.get("globalPid") is not None:
                named[row["globalPid"]] = row.get("name") or ""
        inferred = (
            {}
            if ranks
            else infer_ranks({i: (key >> 24) & LOW_BITS for key, i in self.keys.process_of.items()}, operations)
        )
        if inferred:
            self.warnings.append("ranks are inferred from the order of devices and process ids: no mark names them")
        return [
            Process(
                key,
                (key >> 24) & LOW_BITS,
                named.get(key, ""),
                ranks.get(index, inferred.get(index)),
                index in inferred,
            )
            for key, index in self.keys.process_of.items()
        ]

    def _diagnostics(self) -> None:
        """Turn what nsys says about lost data into warnings."""
        if "DIAGNOSTIC_EVENT" not in self.tables:
            return
        for row in self.source.records("DIAGNOSTIC_EVENT"):
            text = str(row.get("text") or "")
            if re.search(
                r"dropped|lost|incomplete|not supported|unsupported|exceeded|may be missing", text, re.IGNORECASE
            ):
                message = f"nsys: {' '.join(text.split())}"
                if message not in self.warnings:
                    self.warnings.append(message)

    def _details(self) -> dict[str, Any]:
        details: dict[str, Any] = {}
        export = {row["name"]: row["value"] for row in self._records("META_DATA_EXPORT")}
        details["profiler"] = f"Nsight Systems {export.get('EXPORT_PRODUCT_VERSION', '(unknown version)')}"
        details["schema"] = export.get("EXPORT_SCHEMA_VERSION")
        details["gpus"] = [row.get("name") for row in self._records("TARGET_INFO_GPU")]
        for row in self._records("TARGET_INFO_SESSION_START_TIME"):
            details["start_unix_s"] = int(row["utcEpochNs"]) / 1e9
        return details

    def _records(self, table: str) -> list[dict[str, Any]]:
        return self.source.records(table) if table in self.tables else []


def infer_ranks(pids: dict[int, int], operations: Operations) -> dict[int, int]:
    """Return ranks for the processes (index to process id) that used a GPU, by (first device, process id)."""
    devices: dict[int, int] = {}
    if len(operations):
        pairs = np.unique(operations.process.astype(np.int64) * 2**32 + operations.device.astype(np.int64) + 1)
        for pair in pairs.tolist():
            devices.setdefault(pair >> 32, (pair & 0xFFFFFFFF) - 1)
    order = sorted(devices, key=lambda process: (devices[process], pids.get(process, 0)))
    return {process: rank for rank, process in enumerate(order)}


def _compact_names(strings: dict[int, str], *columns: Any) -> tuple[Any, ...]:
    """Return the list of names that the columns use, and the columns as indices into it."""
    highest = max([int(column.max(initial=-1)) for column in columns], default=-1)
    used = np.zeros(highest + 2, bool)
    for column in columns:
        used[column] = True
    used[-1] = False  # index -1: no name
    identifiers = np.flatnonzero(used)
    table = np.full(highest + 2, -1, np.int32)
    codes: dict[str, int] = {}
    for identifier in identifiers.tolist():
        name = _VERSION_SUFFIX.sub("", strings.get(identifier, f"name {identifier}"))
        table[identifier] = codes.setdefault(name, len(codes))
    return (list(codes), *(_looked_up(table, column) for column in columns))


def _looked_up(table: Any, column: Any) -> Any:
    """Return ``table[column]``, in the column's own memory if it has room: new memory costs more than the look-up."""
    if column.dtype != table.dtype or not column.flags.writeable:
        return table[column]
    for low in range(0, len(column), _CHUNK_ROWS):
        part = column[low : low + _CHUNK_ROWS]
        part[:] = table[part]
    return column


def _span(ranges: Ranges, calls: Calls, operations: Operations) -> tuple[int, int]:
    starts = [int(part.start.min()) for part in (ranges, calls, operations) if len(part)]
    ends = [int(part.end.max()) for part in (ranges, calls, operations) if len(part)]
    if len(ranges):
        ends.append(int(ranges.start.max()))
    return (min(starts), max(ends)) if starts else (0, 0)
