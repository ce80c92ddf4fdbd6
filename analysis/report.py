"""The report of a study: one HTML page, Markdown, CSV and JSON, all from the same numbers."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paceline.analysis import tables
from paceline.analysis.load import Loaded, load_study
from paceline.analysis.provenance import provenance
from paceline.analysis.scaling import planned_sizes, scaling_table
from paceline.analysis.summary import RunArrays, run_arrays, summarise
from paceline.analysis.units import known
from paceline.analysis.verdict import Verdict, verdict
from paceline.bench.errors import RecordError
from paceline.bench.rundir import StudyDir

if TYPE_CHECKING:
    import pandas as pd
    from rich.text import Text

REPORT_SCHEMA = "paceline.report/1"


class Analysis:
    """Everything that was computed about one study. ``data`` is what ``paceline report --format json`` prints."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self.arrays: dict[int, RunArrays] = run_arrays(loaded)
        self.summaries: pd.DataFrame = summarise(loaded, self.arrays)
        self.scaling: pd.DataFrame = scaling_table(loaded, self.summaries, self.arrays)
        self.rows: list[dict[str, Any]] = [_plain(row) for row in self.scaling.to_dict("records")]
        self.runs: list[dict[str, Any]] = _run_rows(loaded, self.summaries)
        self.missing: list[dict[str, Any]] = _missing(loaded)
        self.device: str = _device(loaded)
        self.verdict: Verdict = verdict(loaded.kind, self.device, self.rows, len(loaded.runs))
        self.provenance: dict[str, Any] = provenance(loaded)
        self.notes: list[str] = _notes(self)

    @property
    def data(self) -> dict[str, Any]:
        """The content of report.json: JSON-able, numbers in full precision, null where not known."""
        shown = self.verdict
        return {
            "schema": REPORT_SCHEMA,
            "study": self.loaded.study,
            "kind": self.loaded.kind,
            "device": self.device,
            "verdict": {"tone": shown.tone, "headline": shown.headline, "details": list(shown.details)},
            "scaling": self.rows,
            "runs": [*self.runs, *self.missing],
            "notes": self.notes,
            "provenance": {key: value for key, value in self.provenance.items() if key not in ("study", "scripts")},
        }


def report_data(study_dir: str | Path) -> dict[str, Any]:
    """Return the content of report.json without writing anything; RecordError if it is no study folder."""
    return Analysis(load_study(study_dir)).data


def write_report(study_dir: Path) -> Path:
    """Write report/{index.html,report.md,scaling.csv,runs.csv,report.json} and return the path of index.html.

    Raises:
        RecordError: The folder is no study folder, or the report cannot be written there.
    """
    return write_analysis(Analysis(load_study(study_dir)))


def write_analysis(analysis: Analysis) -> Path:
    """Write the report of a study that is analysed already and return the path of index.html."""
    from paceline.analysis.page import html, markdown

    folder = StudyDir(analysis.loaded.path).report
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    files = {
        "scaling.csv": _csv(analysis.rows, list(analysis.scaling.columns)),
        "runs.csv": _csv([*analysis.runs, *analysis.missing], RUN_COLUMNS),
        "report.json": json.dumps(analysis.data, indent=1, allow_nan=False, default=str) + "\n",
        "report.md": markdown(analysis, made),
        "index.html": html(analysis, made),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            _write(folder / name, text)
    except OSError as error:
        raise RecordError(f"{folder}: the report cannot be written ({error.strerror})") from error
    return folder / "index.html"


RUN_COLUMNS = [
    *("world_size", "repeat", "attempt", "kind", "status", "cause", "message", "counts", "why_not", "flags", "note"),
    *("total_fps", "collection_fps", "iteration_time_s", "iteration_median_s", "iteration_p95_s"),
    *("step_fps", "step_inference_fps", "sync_iteration_s", "rank_spread_pct", "slowest_rank", "iterations_measured"),
    *(
        "power_w",
        "gpu_util_pct",
        "throttled_share",
        "final_reward",
        "wall_s",
        "start_unix_s",
        "job_id",
        "nodes",
        "case_id",
    ),
]


def _run_rows(loaded: Loaded, summaries: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one dict per attempt: what was asked for, what became of it, and its numbers if it has any."""
    numbers = {int(str(run)): _plain(row) for run, row in summaries.to_dict("index").items()}
    rows = []
    for run, asked in loaded.runs.to_dict("index").items():
        row = {str(key): value for key, value in asked.items()} | numbers.get(int(str(run)), {})
        flags = row.get("flags") or []
        reasons = [*flags, row.get("warmup_note") if row.get("counts") else None]
        if row["status"] != "completed":
            reasons.insert(0, f"{row.get('cause') or 'cause unknown'}: {row.get('message') or 'no message'}")
        elif not row["counts"]:
            reasons.insert(0, row["why_not"])
        row["flags"] = "; ".join(flags) or None
        row["note"] = "; ".join(reason for reason in reasons if reason) or None
        rows.append(_plain({key: row.get(key) for key in RUN_COLUMNS}))
    return sorted(rows, key=lambda row: (row["world_size"] or 0, _first(row["repeat"]), row["attempt"] or 0))


def _first(value: Any) -> int:
    return -1 if value is None else int(value)


def _missing(loaded: Loaded) -> list[dict[str, Any]]:
    """Return one row for each planned repeat that has no run at all."""
    repeats = loaded.study.get("repeats")
    if not isinstance(repeats, int):
        return []
    own = loaded.runs[loaded.runs["kind"].isin(("strong", "weak"))]
    have = {(int(size), int(repeat)) for size, repeat in zip(own["world_size"], own["repeat"], strict=True)}
    empty = dict.fromkeys(RUN_COLUMNS)
    note = "planned, no run in the folder"
    return [
        {
            **empty,
            "world_size": size,
            "repeat": repeat,
            "kind": loaded.kind,
            "status": "missing",
            "note": note,
            "counts": False,
        }
        for size in planned_sizes(loaded.study)
        for repeat in range(min(repeats, 1000))
        if (size, repeat) not in have
    ]


def _device(loaded: Loaded) -> str:
    devices = [device for device in loaded.runs["device"] if device]
    return str(devices[0]) if devices else str(loaded.study.get("device") or "cuda")


def _notes(analysis: Analysis) -> list[str]:
    """Return what a reader must know before believing a number, one sentence each."""
    notes = list(analysis.provenance["differences"])
    for run in analysis.runs:
        where = f"World size {run['world_size']}, repeat {run['repeat']}"
        if run["counts"] and run["flags"]:
            notes.append(f"{where}: {run['flags']}. Drawn hollow, left out of the curve.")
        elif run["counts"] and run["note"]:
            notes.append(f"{where}: {run['note']}.")
    single = [row["world_size"] for row in analysis.rows if row["repeats"] == 1]
    if single:
        sizes = ", ".join(map(str, single))
        notes.append(f"n=1, no interval at world size {sizes}: differences there may be noise.")
    return [*notes, *analysis.loaded.warnings]


def _plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a row with Python numbers, None in place of what is not known."""
    out: dict[str, Any] = {}
    for key, value in row.items():
        item = value.item() if hasattr(value, "item") else value
        out[str(key)] = item if known(item) else None
    return out


def _csv(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(columns), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _write(path: Path, text: str) -> None:
    """Write a file so that a reader sees the whole old or the whole new one."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as stream:
            stream.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def terminal_table(source: Analysis | Loaded, width: int | None = None) -> Text:
    """Return the scaling table, the verdict and the notes as text for a terminal: no markup, no colours, no wrapping.

    Args:
        source: The analysis, or a loaded study (which is analysed first).
        width: Columns; those of the terminal if not given.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    analysis = Analysis(source) if isinstance(source, Loaded) else source
    columns = tables.scaling(analysis.rows, analysis.loaded.kind, analysis.device).columns
    kept = [column for column in columns if column.key not in ("num_envs_per_rank", "global_batch")]
    table = Table(box=box.SIMPLE, pad_edge=False)
    for column in kept:
        table.add_column(column.title, justify="right" if column.numeric else "left", no_wrap=column.numeric)
    for row in analysis.rows:
        cells = []
        for column in kept:
            bounds = column.interval(row)
            cells.append(Text(column.text(row) + (f"\n{bounds}" if bounds else "")))
        table.add_row(*cells)
    stream = io.StringIO()
    console = Console(file=stream, width=width or max(shutil.get_terminal_size((120, 24)).columns, 100))
    console.print(table)
    console.print(
        Text("95 % intervals over repeats (second lines).")
        if any(known(r["speedup_low"]) for r in analysis.rows)
        else ""
    )
    for line in (analysis.verdict.headline, *analysis.verdict.details, *analysis.notes):
        console.print(Text(line), soft_wrap=True)
    return Text(stream.getvalue().rstrip(), no_wrap=True, overflow="ignore")
