"""Where the time of a profiled run goes: the analysis of one capture, and the comparison of two.

``analyse`` reads a capture (nsys SQLite or Parquet export, Kineto JSON), projects GPU work onto NVTX ranges and
returns a Trace: plain tables in seconds and bytes, ready for JSON, CSV and the report. Times come from a profiled run:
never mix them with throughput.
"""

from __future__ import annotations

import lzma
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paceline.analysis import diagnosis, gaps, helperthreads, kineto, nsys, timeline, trace_rows
from paceline.analysis.capture import Capture
from paceline.analysis.projection import Projection, engine, project
from paceline.bench.errors import TraceError

if TYPE_CHECKING:
    import pandas as pd

TRACE_SCHEMA = "paceline.trace/1"
_MAX_GAPS = 20
_SMALL_BYTES = 40 * 2**20


@dataclass(slots=True)
class Trace:
    """What a capture says. Times in seconds; one row per process, as ranges of different ranks are never added up."""

    source: str
    """Path of the capture."""
    ranges: list[dict[str, Any]]
    """One row per process and range name, in time order of first appearance; docs/trace.md explains the keys."""
    kernels: list[dict[str, Any]]
    """Kernels (and graph launches) by process and innermost shown range, most time first."""
    gaps: list[dict[str, Any]]
    """Longest times without GPU work, longest first."""
    api: list[dict[str, Any]]
    """CUDA calls by process, most time first."""
    processes: list[dict[str, Any]]
    """Per process: totals, and what lies outside all ranges."""
    graph_trace: str
    """``graph``, ``node`` or ``none``."""
    graph_nodes: list[dict[str, Any]]
    """Node-level graphs: kernel time by the range that was open when the graph was captured."""
    warnings: list[str]
    diagnosis: str
    details: dict[str, Any]
    timeline: dict[str, Any] | None = field(default=None, repr=False)
    """What the picture of one iteration shows, see timeline.py."""

    def to_json(self) -> dict[str, Any]:
        """Return the trace as JSON values (``paceline.trace/1``), without the picture's data."""
        names = ("ranges", "kernels", "gaps", "graph_trace", "warnings", "diagnosis")
        more = ("api", "processes", "graph_nodes", "details", "source")
        result: dict[str, Any] = {"schema": TRACE_SCHEMA}
        result |= {name: getattr(self, name) for name in (*names, *more)}
        return result

    def frame(self, table: str) -> pd.DataFrame:
        """Return ``ranges``, ``kernels``, ``gaps``, ``api`` or ``processes`` as a data frame, one column per key."""
        import pandas as pd

        rows = getattr(self, table)
        flat = [
            {
                **{k: v for k, v in row.items() if not isinstance(v, dict)},
                **{f"{k}_{inner}": x for k, v in row.items() if isinstance(v, dict) for inner, x in v.items()},
            }
            for row in rows
        ]
        return pd.DataFrame(flat)


def load(path: str | os.PathLike[str], fast: bool | None = None) -> Capture:
    """Return the capture in a file or folder, whatever its format; TraceError if it is none."""
    path = Path(path)
    if not path.exists():
        raise TraceError(f"{path}: no such file or folder")
    if path.suffix == ".xz":
        with unpacked(path) as plain:
            try:
                return load(plain, fast)
            except TraceError as error:
                raise TraceError(str(error).replace(str(plain), str(path))) from error
    if path.is_file() and (path.suffix == ".json" or path.name.endswith(".json.gz")):
        return kineto.load(path)
    return nsys.load(path, fast=fast is not False)


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """Unpack an .xz file into a temporary one, which lasts as long as the context; TraceError if it is damaged."""
    with tempfile.TemporaryDirectory(prefix="paceline-trace-") as folder:
        plain = Path(folder) / path.stem
        try:
            with lzma.open(path) as source, plain.open("wb") as target:
                shutil.copyfileobj(source, target, 2**20)
        except (OSError, EOFError, lzma.LZMAError) as error:
            why = getattr(error, "strerror", None) or error
            raise TraceError(f"{path}: cannot be unpacked ({why})") from error
        yield plain


def _worth_compiling(path: Path) -> bool:
    """Return whether a capture is so large that loading numba pays."""
    limit = _SMALL_BYTES // 8 if path.suffix == ".xz" else _SMALL_BYTES
    return path.is_file() and path.stat().st_size > limit


def analyse(
    path: str | os.PathLike[str], ranges: Sequence[str] | None = None, fast: bool | None = None, picture: bool = True
) -> Trace:
    """Return the analysis of a capture.

    Args:
        path: nsys export (.sqlite, folder of .parquet) or Kineto trace (.json, .json.gz).
        ranges: Names of ranges to show, as ``name`` or ``domain:name``; None shows Paceline's, or in a capture without
        them those
            with the most GPU time, 40 at most. Every name must exist.
        fast: Use compiled code: True insists, False never, None if it is installed and the file is large.
        picture: Also collect what the picture of one iteration needs.

    Raises:
        TraceError: The capture cannot be read, or a range does not exist.
    """
    if fast is None and not _worth_compiling(Path(path)):
        fast = False
    capture = load(path, fast)
    capture.details["helper_calls"] = helperthreads.adopt(capture)
    projection = project(capture, engine(fast))
    return from_capture(capture, projection, str(path), ranges, picture)


def from_capture(
    capture: Capture, projection: Projection, source: str, ranges: Sequence[str] | None = None, picture: bool = True
) -> Trace:
    """Return the Trace of a capture and its projection."""
    warnings = list(capture.warnings)
    shown = trace_rows.shown(capture, projection, ranges, warnings)
    if projection.backwards:
        warnings.append(
            f"{projection.backwards:,} records end before they start (clock went backwards): counted as empty"
        )
    rows = trace_rows.range_rows(capture, projection, shown)
    trace_rows.warn_of_start_up(capture, projection, shown, warnings)
    processes = trace_rows.process_rows(capture, projection, warnings)
    kernels = trace_rows.kernel_rows(capture, projection, shown)
    trace = Trace(
        source=source,
        ranges=rows,
        kernels=kernels,
        gaps=gaps.longest(capture, projection, _MAX_GAPS),
        api=trace_rows.api_rows(capture, projection),
        processes=processes,
        graph_trace=capture.graph_trace,
        graph_nodes=trace_rows.graph_node_rows(capture, projection, warnings),
        warnings=warnings,
        diagnosis="",
        details=capture.details
        | {
            "span_s": (capture.span_ns[1] - capture.span_ns[0]) / 1e9,
            "num_ranges": len(capture.ranges),
            "num_calls": len(capture.calls),
            "num_operations": len(capture.operations),
            "launch_delay": gaps.launches_in_flight(capture, projection),
        },
    )
    trace.diagnosis = diagnosis.sentence(trace)
    if picture:
        trace.timeline = timeline.one_iteration(capture, projection)
    return trace


def compare(a: Trace, b: Trace) -> list[dict[str, Any]]:
    """Return the ranges of two traces side by side, per name: per instance, on the rank that the diagnosis is about.

    Keys: ``name``, ``domain``, ``style``; for each of ``wall_s``, ``gpu_busy_s``, ``gpu_idle_s``, ``nccl_s``,
    ``launches`` the values
    ``<key>_a`` and ``<key>_b`` per instance, and ``<key>_ratio`` (None if a is 0 or either trace lacks the range).
    """
    keys = ("wall_s", "gpu_busy_s", "gpu_idle_s", "nccl_s", "launches")
    sides = [representative(trace) for trace in (a, b)]
    rows = []
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        row: dict[str, Any] = {"name": name[1], "domain": name[0], "style": name[2]}
        for key in keys:
            values = [side[name][key] / side[name]["instances"] if name in side else None for side in sides]
            row[f"{key}_a"], row[f"{key}_b"] = values
            row[f"{key}_ratio"] = values[1] / values[0] if values[0] and values[1] is not None else None
        rows.append(row)
    return rows


def representative(trace: Trace) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Return one row per range, by (domain, name, style): of the rank that the diagnosis is about.

    Ranges that this rank does not have are those of the rank on which an instance takes longest. Paceline's own domain
    counts as none: ranges made by torch have none.
    """
    chosen = {id(row) for row in diagnosis.deciding(trace)}
    best: dict[tuple[str, str, str], tuple[tuple[bool, float], dict[str, Any]]] = {}
    for row in trace.ranges:
        name = ("" if row["domain"] == trace_rows.DOMAIN else row["domain"], row["name"], row["style"])
        rank = (id(row) in chosen, row["wall_s"] / row["instances"])
        if name not in best or rank > best[name][0]:
            best[name] = (rank, row)
    return {name: row for name, (_, row) in best.items()}
