"""From what a profiler left in a run folder to a trace report: scrubs exports, analyses them, writes the pages.

What lies in the study folder afterwards:

<study folder>/profile/
    <case>/trace.html, *.csv, trace.json     the report of one case, such as 4-gpus-graph-15-18
    <case>/node-0.sqlite.xz                  scrubbed export of each node; a Kineto trace stays in the run folder
    <a>-vs-<b>/trace.html ...                two cases side by side
    profile.json                             what there is
"""

from __future__ import annotations

import lzma
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paceline.analysis import scrub, trace, trace_merge, trace_report
from paceline.bench.errors import RecordError, TraceError
from paceline.bench.rundir import RunDir, read_json, write_json

PROFILE_SCHEMA = "paceline.profile/1"
_XZ_PRESET = 6
_CHUNK_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class Profiled:
    """The trace of one profiled case."""

    label: str
    """How the case is called, such as ``4 GPUs, profiled``."""
    run: RunDir
    folder: Path
    page: Path
    trace: trace.Trace
    note: str | None
    """What a person should know about the profiler, one line: that torch.profiler filled in, and why."""
    captures: tuple[Path, ...]
    """Scrubbed exports, or Kineto traces."""


def make(run: RunDir, folder: Path, label: str, num_ranks: int) -> Profiled:
    """Write the trace report of a profiled run into a folder and return it.

    Exports of nsys are scrubbed into the folder first, compressed, and then removed from the run folder: they hold the
    environment of the job. Running this again analyses the scrubbed ones.

    Raises:
        TraceError: There is no capture, it cannot be read, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        raw = [path for path in run.captures() if path.suffix == ".sqlite"]
        for path in raw:
            _keep_scrubbed(path, folder / f"{path.stem.replace('nsys', 'node')}.sqlite.xz")
        kept = sorted(folder.glob("node-*.sqlite.xz")) or [p for p in run.captures() if p.suffix != ".sqlite"]
        if not kept:
            raise TraceError(f"{run.path}: no capture is left; remove {run.path.parent} to profile again")
        found = trace_merge.merge([trace.analyse(path) for path in kept], label)
        facts = _facts(run)
        _judge(found, num_ranks, on_gpu=bool(facts.get("cuda", True)))
        page = trace_report.write(found, folder)
    except OSError as error:
        raise TraceError(f"{folder}: the trace report cannot be written ({error.strerror or error})") from error
    note = facts.get("note")
    return Profiled(
        label=label, run=run, folder=folder, page=page, trace=found, note=note and str(note), captures=tuple(kept)
    )


def _keep_scrubbed(raw: Path, kept: Path) -> None:
    """Scrub an export, compress the copy, and remove the export."""
    copy, partial = kept.with_suffix(""), kept.with_name(f".{kept.name}")
    try:
        scrub.scrub(raw, copy)
        with copy.open("rb") as source, lzma.open(partial, "wb", preset=_XZ_PRESET) as target:
            shutil.copyfileobj(source, target, _CHUNK_BYTES)
        os.replace(partial, kept)
    finally:
        copy.unlink(missing_ok=True)
        partial.unlink(missing_ok=True)
    raw.unlink()


def _judge(found: trace.Trace, num_ranks: int, on_gpu: bool) -> None:
    """Say what is not in the trace: ranks, or GPU work where there is no GPU."""
    if not on_gpu:
        found.warnings[:] = [line for line in found.warnings if not line.startswith("no GPU work in the capture")]
        found.warnings.insert(0, "CPU ranks: the trace has the ranges of the host, and no CUDA")
    ranks = {row["rank"] for row in (*found.ranges, *found.processes) if row["rank"] is not None}
    if len(ranks) < num_ranks:
        found.warnings.insert(0, f"partial: {len(ranks)} of {num_ranks} ranks are in the trace")


def _facts(run: RunDir) -> dict[str, Any]:
    try:
        return read_json(run.profiler_json)
    except (OSError, RecordError):
        return {}


def side_by_side(a: Profiled, b: Profiled, folder: Path) -> Path:
    """Write the report of two cases side by side into a folder and return its page."""
    return trace_report.write([a.trace, b.trace], folder)


def write_index(folder: Path, made: Sequence[Profiled]) -> None:
    """Write profile.json: what was profiled, with which profiler, what limits it, and where its report lies."""
    cases = [
        {
            "label": one.label,
            "case_id": one.run.case_id,
            "attempt": one.run.attempt,
            "report": str(one.page.relative_to(folder)),
            "diagnosis": one.trace.diagnosis,
            "captures": [os.path.relpath(path, folder) for path in one.captures],
            **{key: _facts(one.run).get(key) for key in ("profiler", "nsys_version", "graph_trace", "window", "note")},
        }
        for one in made
    ]
    write_json(folder / "profile.json", {"schema": PROFILE_SCHEMA, "cases": cases})
