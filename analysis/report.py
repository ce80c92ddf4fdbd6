"""The report of a study: one HTML page, Markdown, CSV and JSON, all from the same numbers."""

from __future__ import annotations

import io
import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paceline.analysis import tables
from paceline.analysis.checks import RULES, check_table
from paceline.analysis.finding import Finding
from paceline.analysis.lawtable import LAW_COLUMNS, LAWS, law_rows, shown_laws
from paceline.analysis.learning import Target
from paceline.analysis.load import Loaded, load_study
from paceline.analysis.provenance import provenance
from paceline.analysis.rank_phases import COLUMNS as PHASE_COLUMNS
from paceline.analysis.rank_phases import rank_phases
from paceline.analysis.reportfiles import csv_text, screen_table, write_files
from paceline.analysis.runrows import RUN_COLUMNS, label, missing_rows, plain, run_rows
from paceline.analysis.scaling import scaling_table, study_target
from paceline.analysis.study_table import study_table
from paceline.analysis.summary import RunArrays, run_arrays, summarise
from paceline.analysis.tuning import VariantResult, tuning_results, tuning_verdict, variants
from paceline.analysis.tuning_report import tuning_files, tuning_table
from paceline.analysis.units import known
from paceline.analysis.usage import price, usage
from paceline.analysis.verdict import Verdict, checked, verdict
from paceline.bench.rundir import StudyDir

if TYPE_CHECKING:
    import pandas as pd
    from rich.text import Text

REPORT_SCHEMA = "paceline.report/1"


class Analysis:
    """Everything that was computed about one study. ``data`` is what ``paceline report --format json`` prints.

    Args:
        loaded: The study.
        reward: Reward that counts as reached, for the time to reward; chosen from the curves if not given.
    """

    def __init__(self, loaded: Loaded, reward: float | None = None) -> None:
        self.loaded = loaded
        self.arrays: dict[int, RunArrays] = run_arrays(loaded)
        self.summaries: pd.DataFrame = summarise(loaded, self.arrays)
        self.scaling: pd.DataFrame = scaling_table(loaded, self.summaries, self.arrays, reward)
        self.target: Target = study_target(loaded, self.summaries, self.arrays, reward)
        self.rows: list[dict[str, Any]] = [plain(row) for row in self.scaling.to_dict("records")]
        self.runs: list[dict[str, Any]] = run_rows(loaded, self.summaries)
        self.phases: list[dict[str, int | float]] = rank_phases(loaded, self.summaries, self.arrays)
        self.missing: list[dict[str, Any]] = missing_rows(loaded)
        self.device: str = _device(loaded)
        self.findings: list[Finding] = check_table(study_table(loaded, self.arrays, self.summaries))
        self.laws: list[dict[str, Any]] = [plain(row) for row in _laws(loaded, self.rows, self.runs)]
        cost, self._no_cost = price(loaded)
        self.usage: dict[str, Any] = usage(loaded, cost)
        drawn = {label(run) for run in self.runs if run["counts"] and not run["flags"]}
        self.tuning: list[VariantResult] = tuning_results(loaded, self.arrays)
        found = verdict(loaded.kind, self.device, self.rows, len(loaded.runs))
        if variants(loaded.study):
            found = tuning_verdict(self.tuning, found.world_size)
        self.verdict: Verdict = checked(found, self.findings, drawn, len(RULES))
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
            "findings": [finding.to_json() for finding in self.findings],
            "scaling": self.rows,
            "phases": self.phases,
            "laws": self.laws,
            "tuning": [result.row() for result in self.tuning],
            "reward_target": self.target.to_json(),
            "usage": self.usage,
            "runs": [*self.runs, *self.missing],
            "notes": self.notes,
            "provenance": {key: value for key, value in self.provenance.items() if key not in ("study", "scripts")},
        }


def report_data(study_dir: str | Path) -> dict[str, Any]:
    """Return the content of report.json without writing anything; RecordError if it is no study folder."""
    return Analysis(load_study(study_dir)).data


def write_report(study_dir: Path) -> Path:
    """Write the files of report/ (index.html, report.md, report.json, CSV tables) and return the path of index.html.

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
        "scaling.csv": csv_text(analysis.rows, list(analysis.scaling.columns)),
        "runs.csv": csv_text([*analysis.runs, *analysis.missing], RUN_COLUMNS),
        "phases.csv": csv_text(analysis.phases, PHASE_COLUMNS),
        "laws.csv": csv_text(analysis.laws, LAW_COLUMNS),
        "findings.csv": csv_text([tables.finding_row(finding) for finding in analysis.findings], FINDING_COLUMNS),
        "report.json": json.dumps(analysis.data, indent=1, allow_nan=False, default=str) + "\n",
        "report.md": markdown(analysis, made),
        "index.html": html(analysis, made),
    }
    if analysis.tuning:
        files |= tuning_files(analysis.loaded, analysis.tuning, analysis.verdict, analysis.device)
    write_files(folder, files)
    return folder / "index.html"


FINDING_COLUMNS = ("severity", "id", "message", "advice", "rows")


def _laws(loaded: Loaded, rows: list[dict[str, Any]], runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the law table from the runs on the curve; empty for studies that are no scaling curve."""
    if loaded.kind not in LAWS:
        return []
    sizes = [row["world_size"] for row in rows if row["repeats"]]
    drawn = [run for run in runs if run["counts"] and not run["flags"] and known(run["total_fps"])]
    repeats = [[run["total_fps"] for run in drawn if run["world_size"] == size] for size in sizes]
    return shown_laws(law_rows("strong" if loaded.kind == "strong" else "weak", sizes, repeats))


def _device(loaded: Loaded) -> str:
    devices = [device for device in loaded.runs["device"] if device]
    return str(devices[0]) if devices else str(loaded.study.get("device") or "cuda")


def _notes(analysis: Analysis) -> list[str]:
    """Return what a reader must know before believing a number, one sentence each."""
    found = {finding.id for finding in analysis.findings}
    notes = [] if found & {"F-HW", "F-VERSION", "F-BATCH"} else list(analysis.provenance["differences"])
    for run in analysis.runs:
        where = f"World size {run['world_size']}, repeat {run['repeat']}"
        if run["counts"] and run["flags"]:
            notes.append(f"{where}: {run['flags']}. Drawn hollow, left out of the curve.")
        elif run["counts"] and run["note"]:
            notes.append(f"{where}: {run['note']}.")
    limited = {row["world_size"]: row["power_limited_pct"] for row in analysis.rows if row["power_limited_pct"]}
    if limited:
        shares = ", ".join(f"{share:.0f}\u202f% at world size {size}" for size, share in limited.items())
        notes.append(
            f"GPUs at their power limit (share of the samples: {shares}): the normal state of a GPU at work, so these "
            "runs count; another limit would give other numbers."
        )
    if analysis._no_cost:
        notes.append(analysis._no_cost)
    single = [row["world_size"] for row in analysis.rows if row["repeats"] == 1]
    if single:
        sizes = ", ".join(map(str, single))
        notes.append(f"n=1, no interval at world size {sizes}: differences there may be noise.")
    return [*notes, *analysis.loaded.warnings]


def terminal_table(source: Analysis | Loaded, width: int | None = None) -> Text:
    """Return the scaling table, the verdict and the notes as text for a terminal: no markup, no colours, no wrapping.

    Args:
        source: The analysis, or a loaded study (which is analysed first).
        width: Columns; those of the terminal if not given.
    """
    from rich.console import Console
    from rich.text import Text

    analysis = Analysis(source) if isinstance(source, Loaded) else source
    stream = io.StringIO()
    console = Console(file=stream, width=width or max(shutil.get_terminal_size((120, 24)).columns, 100))
    scaling = tables.scaling(analysis.rows, analysis.loaded.kind, analysis.device)
    console.print(screen_table(scaling, ("num_envs_per_rank", "global_batch")))
    if analysis.tuning:
        beside = ("baseline_total_fps", "reward_seed_noise")  # on page and in tuning.md
        console.print(screen_table(tuning_table(analysis.tuning, analysis.device), beside))
    console.print(
        Text("95 % intervals over repeats (second lines).")
        if any(known(r["speedup_low"]) for r in analysis.rows)
        else ""
    )
    for line in (analysis.verdict.headline, *analysis.verdict.details, *analysis.notes):
        console.print(Text(line), soft_wrap=True)
    return Text(stream.getvalue().rstrip(), no_wrap=True, overflow="ignore")
