"""Puts traces of one run together: one capture per node (nsys) or per rank (torch.profiler).

Ranges, kernels and gaps of different processes are never added up, so rows are put side by side as they are. Clocks of
different captures are not aligned: nothing here compares times of two captures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paceline.analysis import diagnosis
from paceline.analysis.trace import Trace
from paceline.bench.errors import TraceError

_TABLES = ("ranges", "kernels", "gaps", "api", "processes", "graph_nodes")


def merge(traces: Sequence[Trace], source: str) -> Trace:
    """Return one Trace of all processes.

    Args:
        traces: One per capture; the picture of the first is kept.
        source: What the whole is called.

    Two processes of different nodes may have the same id: those of later captures are then numbered on.
    """
    if not traces:
        raise TraceError(f"{source}: no capture")
    first = traces[0]
    if len(traces) == 1:
        first.source = source
        return first
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in _TABLES}
    taken: set[int] = set()
    for trace in traces:
        pids = {row["process"] for name in ("ranges", "processes", "api") for row in getattr(trace, name)}
        renamed = {}
        for pid in sorted(pids & taken):
            renamed[pid] = max(taken | pids) + 1
            taken.add(renamed[pid])
        taken |= pids - set(renamed)
        for name in _TABLES:
            rows[name] += [
                {**row, "process": renamed.get(row["process"], row["process"])} if "process" in row else row
                for row in getattr(trace, name)
            ]
    rows["gaps"].sort(key=lambda row: -float(row["duration_s"]))
    modes = {trace.graph_trace for trace in traces} - {"none"}
    details = dict(first.details)
    for key in ("num_ranges", "num_calls", "num_operations"):
        details[key] = sum(trace.details[key] for trace in traces)
    details["span_s"] = max(trace.details["span_s"] for trace in traces)
    details["gpus"] = _gpus(traces)
    merged = Trace(
        source=source,
        ranges=rows["ranges"],
        kernels=rows["kernels"],
        gaps=rows["gaps"][: max(len(trace.gaps) for trace in traces)],
        api=rows["api"],
        processes=rows["processes"],
        graph_trace=modes.pop() if len(modes) == 1 else ("node" if modes else "none"),
        graph_nodes=rows["graph_nodes"],
        warnings=list(dict.fromkeys(warning for trace in traces for warning in trace.warnings)),
        diagnosis="",
        details=details,
        timeline=next((trace.timeline for trace in traces if trace.timeline), None),
    )
    merged.diagnosis = diagnosis.sentence(merged)
    return merged


def _gpus(traces: Sequence[Trace]) -> list[Any]:
    """Return the GPUs of all nodes; Kineto traces of one node each list all of its GPUs."""
    if all(str(trace.details.get("profiler", "")).startswith("torch") for trace in traces):
        return list(traces[0].details.get("gpus", []))
    return [gpu for trace in traces for gpu in trace.details.get("gpus", [])]
