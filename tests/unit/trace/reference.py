"""The projection as slow and as obvious as it can be: sets of nanoseconds, no sorting tricks. Only for small times."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from tests.tracegen import Call, Operation, Range, Rows

COPY_NAMES = {1: "h2d", 2: "d2h", 8: "d2d", 10: "p2p"}


def project(rows: Rows) -> dict[tuple[int, str, str, str], dict[str, Any]]:
    """Return per (pid, domain, name, style) what the projection should say, in ns."""
    last = max(
        [r.end for r in rows.ranges if r.end is not None]
        + [r.start for r in rows.ranges]
        + [c.end for c in rows.calls]
        + [o.end for o in rows.operations if not (o.start == o.end == 0)],
        default=0,
    )
    operations = [o for o in rows.operations if not (o.start == o.end == 0)]
    cause = [_cause(rows, o) for o in operations]
    own = _own_times(rows)
    groups: dict[tuple[int, str, str, str], list[Range]] = defaultdict(list)
    for r in rows.ranges:
        name = r.name.decode("utf-8", "backslashreplace") if isinstance(r.name, bytes) else r.name
        groups[r.pid, rows.domains[r.domain], name, r.style].append(r)

    result = {}
    for key, members in groups.items():
        calls = {i for i, call in enumerate(rows.calls) if any(contains(r, call, last) for r in members)}
        mine = [i for i, c in enumerate(cause) if c in calls]
        work = [operations[i] for i in mine]
        nccl = ticks([o for o in work if o.kind == "kernel" and o.name.startswith("nccl")])
        compute = ticks(
            [
                o
                for o in operations
                if o.pid == key[0] and o.kind in ("kernel", "graph") and not o.name.startswith("nccl")
            ]
        )
        everything = {t for _, t in ticks([o for o in operations if o.pid == key[0]])}
        windows: dict[int, set[int]] = defaultdict(set)
        for r in members:
            windows[r.tid] |= set(range(r.start, max(end_of(r, last), r.start)))
        copied = dict.fromkeys(("h2d", "d2h", "d2d", "p2p", "other"), 0)
        for o in work:
            if o.kind == "memcpy":
                copied[COPY_NAMES.get(o.copy_kind, "other")] += o.bytes
        result[key] = {
            "instances": len(members),
            "wall": sum(len(w) for w in windows.values()),
            "operations": len(work),
            "sum": sum(max(o.end - o.start, 0) for o in work),
            "busy": len(ticks(work)),
            "span": sum(_hull([o for i, o in enumerate(operations) if _in(r, rows, cause[i], last)]) for r in members),
            "launches": len({cause[i] for i in mine if operations[i].kind in ("kernel", "graph")}),
            "kernels": sum(o.kind == "kernel" for o in work),
            "active": sum(len(w & everything) for w in windows.values()),
            "nccl": len({t for _, t in nccl}),
            "nccl_exposed": len({t for _, t in nccl} - {t for _, t in compute}),
            "api": sum(own[i] for i in calls),
            "copied": copied,
            "unclosed": sum(r.end is None for r in members),
        }
    return result


def end_of(r: Range, last: int) -> int:
    return last if r.end is None else r.end


def contains(r: Range, call: Call, last: int) -> bool:
    same_thread = r.tid == call.tid or (r.end_tid is not None and r.end_tid != r.tid)
    end = max(end_of(r, last), r.start)
    return r.pid == call.pid and same_thread and r.start <= call.start < end and max(call.end, call.start) <= end


def ticks(operations: list[Operation]) -> set[tuple[int, int]]:
    """Return (device, nanosecond) pairs in which one of the operations runs."""
    return {(o.device, t) for o in operations for t in range(o.start, o.end)}


def _in(r: Range, rows: Rows, call: int | None, last: int) -> bool:
    return call is not None and contains(r, rows.calls[call], last)


def _hull(operations: list[Operation]) -> int:
    if not operations:
        return 0
    return max(max(o.end, o.start) for o in operations) - min(o.start for o in operations)


def _cause(rows: Rows, o: Operation) -> int | None:
    """Return the call of an operation: same process and id; of several the latest start, earliest end, first row."""
    found = [i for i, c in enumerate(rows.calls) if (c.pid, c.correlation) == (o.pid, o.correlation)]
    return min(
        found, key=lambda i: (-rows.calls[i].start, max(rows.calls[i].end, rows.calls[i].start), i), default=None
    )


def _own_times(rows: Rows) -> list[int]:
    """Return the nanoseconds of every call that no call of its thread before it in (start, row) order covers."""
    covered: dict[tuple[int, int], set[int]] = defaultdict(set)
    own = [0] * len(rows.calls)
    for i in sorted(range(len(rows.calls)), key=lambda i: (rows.calls[i].start, i)):
        call = rows.calls[i]
        time = set(range(call.start, call.end))
        own[i] = len(time - covered[call.pid, call.tid])
        covered[call.pid, call.tid] |= time
    return own
