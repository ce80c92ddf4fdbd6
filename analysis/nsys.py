"""Reads Nsight Systems exports. Only this module knows nsys's tables, columns and identifiers.

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
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from paceline.analysis import memory
from paceline.analysis.capture import (
    COPY_KINDS,
    GRAPH,
    KERNEL,
    MEMCPY,
    MEMSET,
    NO_TIME,
    PUSH_POP,
    START_END,
    Calls,
    Capture,
    Copies,
    GraphNodes,
    Operations,
    Process,
    Ranges,
    Thread,
)
from paceline.analysis.tablesource import Column, ParquetSource, SqliteSource, TableSource, iter_matching
from paceline.bench.errors import TraceError

_RUNTIME = "CUPTI_ACTIVITY_KIND_RUNTIME"
_OPERATIONS = {
    "CUPTI_ACTIVITY_KIND_KERNEL": KERNEL,
    "CUPTI_ACTIVITY_KIND_MEMCPY": MEMCPY,
    "CUPTI_ACTIVITY_KIND_MEMSET": MEMSET,
    "CUPTI_ACTIVITY_KIND_GRAPH_TRACE": GRAPH,
}
_STYLES = {59: PUSH_POP, 70: PUSH_POP, 60: START_END, 71: START_END}
_MARK, _DOMAIN = 34, 75
_COPY_DIRECTIONS = {1: "h2d", 2: "d2h", 8: "d2d", 10: "p2p", 11: "h2d", 12: "d2h", 13: "d2d"}
_RANK = re.compile(r"\brank=(\d{1,6})\b")
_VERSION_SUFFIX = re.compile(r"_v\d{4,}(_ptsz|_ptds)?$")
_LOSS = re.compile(r"dropped|lost|incomplete|not supported|unsupported|exceeded|may be missing", re.IGNORECASE)
_LOW_BITS = 0xFFFFFF


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
    if fast:
        from paceline.analysis import sqlitepages

        if sqlitepages.available():
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
        self.warnings: list[str] = []
        self.process_of: dict[int, int] = {}
        self.thread_of: dict[int, int] = {}

    def capture(self) -> Capture:
        """Return the capture."""
        self._check()
        strings = self._strings()
        events = self._nvtx(strings)
        calls = self._calls()
        operations, copies = self._operations()
        span = _span(events["ranges"], calls, operations)
        ranges: Ranges = events["ranges"]
        ranges.end[ranges.unclosed] = span[1]
        names, calls.name, operations.name = _compact_names(strings, calls.name, operations.name)
        nodes = self._graph_nodes()
        self._diagnostics()
        graph_trace = self._graph_trace(operations, names, calls)
        return Capture(
            source="nsys",
            processes=self._processes(events["ranks"], operations),
            threads=[Thread(key, self.process_of[key & ~_LOW_BITS], key & _LOW_BITS) for key in self.thread_of],
            labels=events["labels"],
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
        cuda = [*iter_matching(self.tables, _RUNTIME)]
        for name in _OPERATIONS:
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
        memory.require(self.source.path, {name: self.source.rows(name) for name in [*cuda, *nvtx]})

    def _columns(self, table: str, wanted: dict[str, str], required: Iterable[str]) -> dict[str, Column]:
        """Read those of the wanted columns that the table has."""
        present = self.tables[table]
        missing = [name for name in required if name not in present]
        if missing:
            raise TraceError(
                f"{self.source.path}: table {table} lacks column {', '.join(missing)}: unknown nsys schema"
            )
        return self.source.read(table, {name: kind for name, kind in wanted.items() if name in present})

    def _strings(self) -> dict[int, str]:
        if "StringIds" not in self.tables:
            return {}
        return {row["id"]: row["value"] or "" for row in self.source.records("StringIds")}

    def _codes_of(self, column: Column, lookup: dict[int, int]) -> Any:
        """Return indices into ``lookup`` (which grows) for a key column; NULL stays -1."""
        table = np.array([lookup.setdefault(int(key), len(lookup)) for key in column.distinct] + [-1], np.int32)
        return table[column.values]

    def _threads(self, column: Column) -> Any:
        for key in column.distinct:
            self.process_of.setdefault(int(key) & ~_LOW_BITS, len(self.process_of))
        return self._codes_of(column, self.thread_of)

    def _nvtx(self, strings: dict[int, str]) -> dict[str, Any]:
        parts: list[Ranges] = []
        labels: dict[tuple[str, str], int] = {}
        ranks: dict[int, int] = {}
        wanted = {"start": "time", "end": "time", "eventType": "key", "globalTid": "key", "endGlobalTid": "key"}
        wanted |= {"text": "text", "textId": "int", "domainId": "key"}
        for table in iter_matching(self.tables, "NVTX_EVENTS"):
            columns = self._columns(table, wanted, ("start", "end", "eventType", "globalTid"))
            parts.append(self._ranges(columns, strings, labels, ranks))
        if not parts:
            parts = [_no_ranges()]
        joined = {name: np.concatenate([getattr(p, name) for p in parts]) for name in Ranges.__dataclass_fields__}
        return {"ranges": Ranges(**joined), "labels": list(labels), "ranks": ranks}

    def _ranges(
        self,
        columns: dict[str, Column],
        strings: dict[int, str],
        labels: dict[tuple[str, str], int],
        ranks: dict[int, int],
    ) -> Ranges:
        rows = len(columns["start"].values)
        none = Column(np.full(rows, -1, np.int32))
        thread = self._threads(columns["globalTid"])
        end_thread = self._threads(columns.get("endGlobalTid", none))
        kinds = columns["eventType"]
        text, text_id = columns.get("text", none), columns.get("textId", none).values
        domain = columns.get("domainId", Column(np.zeros(rows, np.int32), [0]))
        threads = list(self.thread_of)

        def string(row: Any) -> str:
            code = text.values[row]
            return str(text.distinct[code]) if code >= 0 else strings.get(int(text_id[row]), "")

        def process(row: Any) -> int:
            return self.process_of[threads[thread[row]] & ~_LOW_BITS] if thread[row] >= 0 else -1

        of_kind = {int(kind): code for code, kind in enumerate(kinds.distinct)}
        domains: dict[tuple[int, int], str] = {}
        for row in np.flatnonzero(kinds.values == of_kind.get(_DOMAIN, -2)):
            domains[process(row), int(domain.distinct[domain.values[row]])] = string(row)
        for row in np.flatnonzero(kinds.values == of_kind.get(_MARK, -2)):
            if match := _RANK.search(string(row)):
                ranks.setdefault(process(row), int(match.group(1)))

        style_of = np.array([_STYLES.get(int(kind), -1) for kind in kinds.distinct] + [-1], np.int8)
        style = style_of[kinds.values]
        keep = style >= 0
        orphans = int(np.count_nonzero(keep & (thread < 0)))
        if orphans:
            self.warnings.append(f"{orphans:,} NVTX ranges name no thread and are left out")
            keep &= thread >= 0
        if not keep.all():
            style, thread, end_thread, text_id = style[keep], thread[keep], end_thread[keep], text_id[keep]
        start, end = columns["start"].values, columns["end"].values
        start, end = (start, end.copy()) if keep.all() else (start[keep], end[keep])
        process_of_thread = np.array([self.process_of[key & ~_LOW_BITS] for key in threads] or [0], np.int32)
        label = _labels(
            process_of_thread[thread] if len(thread) else thread,
            Column(domain.values[keep], domain.distinct),
            Column(text.values[keep], text.distinct),
            text_id,
            domains,
            strings,
            labels,
        )
        unclosed = end == NO_TIME
        if unclosed.any():
            self.warnings.append(f"{int(unclosed.sum()):,} ranges were never closed: they end with the capture")
        end_thread = np.where(end_thread < 0, thread, end_thread)
        return Ranges(start, end, thread, end_thread, label, style, unclosed)

    def _calls(self) -> Calls:
        parts = []
        wanted = {"start": "time", "end": "time", "globalTid": "key", "correlationId": "int", "nameId": "int"}
        for table in iter_matching(self.tables, _RUNTIME):
            columns = self._columns(table, wanted, ("start", "end", "globalTid", "correlationId"))
            thread = self._threads(columns.pop("globalTid"))
            name = columns["nameId"].values if "nameId" in columns else np.full(len(thread), -1, np.int32)
            start, end = columns["start"].values, columns["end"].values
            correlation = columns["correlationId"].values
            if (thread < 0).any():
                keep = thread >= 0
                self.warnings.append(f"{int((~keep).sum()):,} CUDA calls name no thread and are left out")
                start, end, thread = start[keep], end[keep], thread[keep]
                correlation, name = correlation[keep], name[keep]
            parts.append((start, end, thread, correlation, name))
        if not parts:
            empty = np.empty(0, np.int32)
            return Calls(np.empty(0, np.int64), np.empty(0, np.int64), empty, empty, empty)
        return Calls(*(_joined(column) for column in zip(*parts, strict=True)))

    def _operations(self) -> tuple[Operations, Copies]:
        parts: list[tuple[Any, ...]] = []
        copies: list[tuple[Any, ...]] = []
        nodes: list[Any] = []
        before = 0
        wanted = {"start": "time", "end": "time", "deviceId": "int", "streamId": "int", "correlationId": "int"}
        wanted |= {"globalPid": "key"}
        for base, kind in _OPERATIONS.items():
            for table in iter_matching(self.tables, base):
                extra = {KERNEL: {"demangledName": "int"}, MEMCPY: {"bytes": "time", "copyKind": "int"}}.get(kind, {})
                extra = extra | ({"graphNodeId": "time"} if kind != GRAPH else {})
                columns = self._columns(table, wanted | extra, ("start", "end", "correlationId", "globalPid"))
                rows = len(columns["start"].values)
                unknown = np.full(rows, -1, np.int32)
                fields = [columns["start"].values, columns["end"].values]
                fields.append(self._codes_of(columns["globalPid"], self.process_of))
                further = ("deviceId", "streamId", "correlationId", "demangledName")
                fields += [columns[name].values if name in columns else unknown for name in further]
                keep = self._usable(kind, fields[0], fields[1], fields[2])
                if keep is not None:
                    fields = [field[keep] for field in fields]
                start, end, process, device, stream, correlation, name_id = fields
                parts.append(
                    (start, end, process, device, stream, correlation, np.full(len(start), kind, np.int8), name_id)
                )
                node = columns["graphNodeId"].values if "graphNodeId" in columns else None
                nodes.append(_graph_node(node, keep, len(start)))
                if kind == MEMCPY:
                    size = columns["bytes"].values if "bytes" in columns else np.zeros(rows, np.int64)
                    direction = columns["copyKind"].values if "copyKind" in columns else unknown
                    if keep is not None:
                        size, direction = size[keep], direction[keep]
                    copies.append((np.arange(before, before + len(start)), np.maximum(size, 0), _directions(direction)))
                before += len(start)
        if not parts:
            time, small = np.empty(0, np.int64), np.empty(0, np.int32)
            return Operations(time, time, small, small, small, small, small, small), Copies(small, time, small)
        operations = Operations(*(_joined(column) for column in zip(*parts, strict=True)))
        if any(node is not None for node in nodes):
            sizes = [len(part[0]) for part in parts]
            operations.graph_node = np.concatenate(
                [np.zeros(n, np.int64) if node is None else node for node, n in zip(nodes, sizes, strict=True)]
            )
            operations.in_graph = operations.graph_node != 0
        small = np.empty(0, np.int32)
        copied = [(small, np.empty(0, np.int64), small), *copies]
        return operations, Copies(*(np.concatenate(column) for column in zip(*copied, strict=True)))

    def _usable(self, kind: int, start: Any, end: Any, process: Any) -> Any:
        """Return a mask of the rows that can be used, None if all can."""
        unstamped = (start == 0) & (end == 0)
        foreign = process < 0
        if unstamped.any():
            what = "CUDA graph launches" if kind == GRAPH else "GPU operations"
            self.warnings.append(f"{int(unstamped.sum()):,} {what} have no time stamps and are left out")
        if foreign.any():
            self.warnings.append(f"{int(foreign.sum()):,} GPU operations name no process and are left out")
        bad = unstamped | foreign
        return ~bad if bad.any() else None

    def _graph_nodes(self) -> GraphNodes | None:
        table = "CUDA_GRAPH_NODE_EVENTS"
        if table not in self.tables:
            table = "CUDA_GRAPH_EVENTS"  # schema 3.7 has the node columns here
        wanted = {"start": "time", "globalTid": "key", "graphNodeId": "time", "originalGraphNodeId": "time"}
        if any(name not in self.tables.get(table, ()) for name in wanted):
            return None
        columns = self.source.read(table, wanted)
        original = columns["originalGraphNodeId"].values
        return GraphNodes(
            columns["start"].values,
            self._threads(columns["globalTid"]),
            columns["graphNodeId"].values,
            np.where(original == NO_TIME, 0, original),
        )

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
            {} if ranks else infer_ranks({i: (key >> 24) & _LOW_BITS for key, i in self.process_of.items()}, operations)
        )
        if inferred:
            self.warnings.append("ranks are inferred from the order of devices and process ids: no mark names them")
        return [
            Process(
                key,
                (key >> 24) & _LOW_BITS,
                named.get(key, ""),
                ranks.get(index, inferred.get(index)),
                index in inferred,
            )
            for key, index in self.process_of.items()
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


def _labels(
    process: Any,
    domain: Column,
    text: Column,
    text_id: Any,
    domains: dict[tuple[int, int], str],
    strings: dict[int, str],
    labels: dict[tuple[str, str], int],
) -> Any:
    """Return for every range an index into ``labels`` (which grows): distinct (domain name, text)."""
    if not len(process):
        return np.empty(0, np.int32)
    # A text is either inline (code) or registered (identifier): one number line for both, one for all combinations.
    registered = int(text_id.max(initial=-1)) + 1
    words = np.where(text.values >= 0, text.values.astype(np.int64) + registered, text_id)
    width = registered + len(text.distinct) + 1
    num_domains = len(domain.distinct) + 1
    place = process.astype(np.int64) * num_domains + (domain.values + 1)
    combined = place * width + (words + 1)
    size = (int(place.max()) + 1) * width
    if size <= max(4 * len(combined), 1 << 24):
        used = np.zeros(size, bool)
        used[combined] = True
        distinct = np.flatnonzero(used)
        codes = np.empty(size, np.int32)
        codes[distinct] = np.arange(len(distinct))
        inverse = codes[combined]
    else:
        distinct, inverse = np.unique(combined, return_inverse=True)
    table = np.empty(len(distinct), np.int32)
    for index, value in enumerate(distinct.tolist()):
        where, word = divmod(value, width)
        owner, domain_code = divmod(where, num_domains)
        word -= 1
        name = str(text.distinct[word - registered]) if word >= registered else strings.get(word, "")
        number = int(domain.distinct[domain_code - 1]) if domain_code else 0
        label = (domains.get((owner, number), "" if number == 0 else f"domain {number}"), name)
        table[index] = labels.setdefault(label, len(labels))
    return table[inverse]


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
    return (list(codes), *(table[column] for column in columns))


def _graph_node(node: Any, keep: Any, rows: int) -> Any:
    if node is None:
        return None
    node = node if keep is None else node[keep]
    return np.where(node == NO_TIME, 0, node) if np.any((node != NO_TIME) & (node != 0)) else None


def _directions(kinds: Any) -> Any:
    other = COPY_KINDS.index("other")
    result = np.full(len(kinds), other, np.int32)
    for number, name in _COPY_DIRECTIONS.items():
        result[kinds == number] = COPY_KINDS.index(name)
    return result


def _joined(parts: tuple[Any, ...]) -> Any:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _span(ranges: Ranges, calls: Calls, operations: Operations) -> tuple[int, int]:
    starts = [int(part.start.min()) for part in (ranges, calls, operations) if len(part)]
    ends = [int(part.end.max()) for part in (ranges, calls, operations) if len(part)]
    if len(ranges):
        ends.append(int(ranges.start.max()))
    return (min(starts), max(ends)) if starts else (0, 0)


def _no_ranges() -> Ranges:
    time, small = np.empty(0, np.int64), np.empty(0, np.int32)
    return Ranges(time, time.copy(), small, small, small, small, np.empty(0, bool))
