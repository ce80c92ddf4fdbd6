"""CUDA calls and GPU work of an nsys export."""

from __future__ import annotations

from typing import Any

import numpy as np
from paceline.analysis.capture import (
    COPY_KINDS,
    GRAPH,
    KERNEL,
    MEMCPY,
    MEMSET,
    NO_TIME,
    Calls,
    Copies,
    GraphNodes,
    Operations,
)
from paceline.analysis.nsys_keys import Keys
from paceline.analysis.tablesource import iter_matching

RUNTIME = "CUPTI_ACTIVITY_KIND_RUNTIME"
OPERATIONS = {
    "CUPTI_ACTIVITY_KIND_KERNEL": KERNEL,
    "CUPTI_ACTIVITY_KIND_MEMCPY": MEMCPY,
    "CUPTI_ACTIVITY_KIND_MEMSET": MEMSET,
    "CUPTI_ACTIVITY_KIND_GRAPH_TRACE": GRAPH,
}
_COPY_DIRECTIONS = {1: "h2d", 2: "d2h", 8: "d2d", 10: "p2p", 11: "h2d", 12: "d2h", 13: "d2d"}


def calls(keys: Keys) -> Calls:
    """Return runtime and driver calls; names are identifiers of StringIds."""
    parts = []
    wanted = {"start": "time", "end": "time", "globalTid": "key", "correlationId": "int", "nameId": "int"}
    for table in iter_matching(keys.tables, RUNTIME):
        columns = keys.columns(table, wanted, ("start", "end", "globalTid", "correlationId"))
        thread = keys.threads(columns.pop("globalTid"))
        name = columns["nameId"].values if "nameId" in columns else np.full(len(thread), -1, np.int32)
        start, end = columns["start"].values, columns["end"].values
        correlation = columns["correlationId"].values
        if (thread < 0).any():
            keep = thread >= 0
            keys.warnings.append(f"{int((~keep).sum()):,} CUDA calls name no thread and are left out")
            start, end, thread = start[keep], end[keep], thread[keep]
            correlation, name = correlation[keep], name[keep]
        parts.append((start, end, thread, correlation, name))
    if not parts:
        empty = np.empty(0, np.int32)
        return Calls(np.empty(0, np.int64), np.empty(0, np.int64), empty, empty, empty)
    return Calls(*(_joined(column) for column in zip(*parts, strict=True)))


def operations(keys: Keys) -> tuple[Operations, Copies]:
    """Return GPU work and the details of copies; names are identifiers of StringIds."""
    parts: list[tuple[Any, ...]] = []
    copies: list[tuple[Any, ...]] = []
    nodes: list[Any] = []
    before = 0
    wanted = {"start": "time", "end": "time", "deviceId": "int", "streamId": "int", "correlationId": "int"}
    wanted |= {"globalPid": "key"}
    for base, kind in OPERATIONS.items():
        for table in iter_matching(keys.tables, base):
            extra = {KERNEL: {"demangledName": "int"}, MEMCPY: {"bytes": "time", "copyKind": "int"}}.get(kind, {})
            extra = extra | ({"graphNodeId": "time"} if kind != GRAPH else {})
            columns = keys.columns(table, wanted | extra, ("start", "end", "correlationId", "globalPid"))
            rows = len(columns["start"].values)
            unknown = np.full(rows, -1, np.int32)
            fields = [columns["start"].values, columns["end"].values]
            fields.append(keys.codes_of(columns["globalPid"], keys.process_of))
            further = ("deviceId", "streamId", "correlationId", "demangledName")
            fields += [columns[name].values if name in columns else unknown for name in further]
            keep = _usable(keys, kind, fields[0], fields[1], fields[2])
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
    work = Operations(*(_joined(column) for column in zip(*parts, strict=True)))
    if any(node is not None for node in nodes):
        sizes = [len(part[0]) for part in parts]
        work.graph_node = np.concatenate(
            [np.zeros(n, np.int64) if node is None else node for node, n in zip(nodes, sizes, strict=True)]
        )
        work.in_graph = work.graph_node != 0
    small = np.empty(0, np.int32)
    copied = [(small, np.empty(0, np.int64), small), *copies]
    return work, Copies(*(np.concatenate(column) for column in zip(*copied, strict=True)))


def _usable(keys: Keys, kind: int, start: Any, end: Any, process: Any) -> Any:
    """Return a mask of the rows that can be used, None if all can."""
    unstamped = (start == 0) & (end == 0)
    foreign = process < 0
    if unstamped.any():
        what = "CUDA graph launches" if kind == GRAPH else "GPU operations"
        keys.warnings.append(f"{int(unstamped.sum()):,} {what} have no time stamps and are left out")
    if foreign.any():
        keys.warnings.append(f"{int(foreign.sum()):,} GPU operations name no process and are left out")
    bad = unstamped | foreign
    return ~bad if bad.any() else None


def graph_nodes(keys: Keys) -> GraphNodes | None:
    """Return where graph nodes were created, None if the export does not say."""
    table = "CUDA_GRAPH_NODE_EVENTS"
    if table not in keys.tables:
        table = "CUDA_GRAPH_EVENTS"  # schema 3.7 has the node columns here
    wanted = {"start": "time", "globalTid": "key", "graphNodeId": "time", "originalGraphNodeId": "time"}
    if any(name not in keys.tables.get(table, ()) for name in wanted):
        return None
    columns = keys.source.read(table, wanted)
    original = columns["originalGraphNodeId"].values
    return GraphNodes(
        columns["start"].values,
        keys.threads(columns["globalTid"]),
        columns["graphNodeId"].values,
        np.where(original == NO_TIME, 0, original),
    )


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
