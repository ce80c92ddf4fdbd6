"""Reads a study folder into three tables: runs, iterations and samples.

What cannot be read never disappears: a damaged run is a row of ``runs`` with status ``unreadable`` and the reason. Only
a folder that is no study folder at all raises.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from paceline.analysis.counting import mark_counting
from paceline.analysis.runrecords import load_iterations
from paceline.analysis.sampletable import SampleTable
from paceline.bench.errors import RecordError
from paceline.bench.record import CASE_SCHEMA, STUDY_SCHEMA, Case, Result, require_schema
from paceline.bench.rundir import RunDir, StudyDir, read_json

if TYPE_CHECKING:
    import pandas as pd


# What case.json says about a run, in the runs table under the same names.
CASE_COLUMNS = (
    *("kind", "task", "trainer", "world_size", "num_nodes", "num_envs", "num_envs_per_rank", "repeat", "seed"),
    *("iterations", "warmup_iterations", "sync_every", "horizon", "num_minibatches", "num_epochs", "global_batch"),
    *("minibatch_size_per_rank", "optimizer_steps_per_iteration", "device", "engine", "engine_version", "physics"),
    *("gpu_type", "image", "threads_per_rank", "levers"),
)

_MANY_ROWS = 1_000_000
_WRONG_TYPES = (TypeError, ValueError, AttributeError, KeyError)  # values of a file that are not what they should be


@dataclass(slots=True)
class Loaded:
    """A study folder as tables.

    ``runs`` has one row per attempt (index: ``run``, counted from 0): what was asked for, ``status`` (``completed``,
    ``failed``, ``interrupted``, ``unfinished`` without a sentinel, ``unreadable``), ``cause``, ``message``, and
    ``counts``: whether the attempt is the newest completed one of a case that belongs to the study's curve. If not,
    ``left_out`` is ``foreign`` (no case of this study, or a warm-up run), ``status`` or ``older``, and ``why_not`` says
    it in words. ``iterations`` has one row per run, rank and iteration (``run``, ``rank``, then the record's columns),
    sorted by run and rank. ``samples`` has one row per run, second and device (sampletable.py says which columns).
    """

    path: Path
    study: dict[str, Any]
    cluster: dict[str, Any]
    snapshot: dict[str, Any]
    runs: pd.DataFrame
    iterations: pd.DataFrame
    samples: pd.DataFrame
    headers: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    """Per run: the headers of its rank records, by rank."""
    sample_headers: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    """Per run: the headers of its samplers, by node."""
    extras: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Per run: ``extra`` of its result."""
    warnings: list[str] = field(default_factory=list)
    """What was left out on reading, one sentence each."""

    @property
    def kind(self) -> str:
        """``strong`` or ``weak``."""
        return str(self.study.get("kind", "strong"))


def load_study(path: str | Path) -> Loaded:
    """Return everything that a study folder holds; RecordError if it is not a study folder."""
    # What is read stays. Looking through it for garbage, again and again as it grows, is time lost.
    enabled = gc.isenabled()
    gc.disable()
    try:
        loaded = _load(path)
    finally:
        if enabled:
            gc.enable()
    if len(loaded.iterations) >= _MANY_ROWS:
        gc.freeze()  # nor do later collections, the last one at exit among them, look through all that is there by now
    return loaded


def _load(path: str | Path) -> Loaded:
    import pandas as pd

    folder = StudyDir(path)
    if not folder.path.is_dir():
        raise RecordError(f"{folder.path}: no such study folder")
    study = _read_yaml(folder.study_yaml)
    if not study:
        raise RecordError(
            f"{folder.study_yaml}: no study there; a study folder holds the study.yaml that `paceline run` wrote"
        )
    require_schema(study, STUDY_SCHEMA, str(folder.study_yaml))
    cluster = _read_yaml(folder.cluster_yaml)
    snapshot = read_json(folder.snapshot_json) if folder.snapshot_json.is_file() else {}

    run_dirs = list(folder.all_runs())
    rows = [_run_row(run) for run in run_dirs]
    loaded = Loaded(folder.path, study, cluster, snapshot, pd.DataFrame(), pd.DataFrame(), pd.DataFrame())
    for number, row in enumerate(rows):
        loaded.extras[number] = row.pop("extra")
    samples = SampleTable(run_dirs)
    loaded.iterations, loaded.headers, warnings = load_iterations(run_dirs, rows, samples.read)
    loaded.samples, loaded.sample_headers = samples.table(), samples.headers
    loaded.warnings += warnings + samples.warnings
    mark_counting(study, rows)
    here = f"{folder.path}/"  # reports travel: paths in them start at the study folder
    for row in rows:
        row["message"] = str(row["message"]).replace(here, "") if row.get("message") else None
    loaded.warnings = [warning.replace(here, "") for warning in loaded.warnings]
    columns = ["case_id", "attempt", *CASE_COLUMNS, "status", "cause", "message", "counts", "left_out", "why_not"]
    columns += ["start_unix_s", "end_unix_s", "wall_s", "job_id", "nodes", "launcher", "path"]
    loaded.runs = pd.DataFrame(rows, columns=columns, index=pd.RangeIndex(len(rows), name="run"), dtype=object)
    return loaded


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: cannot be read ({error})") from error
    try:
        data = yaml.safe_load(text)  # libyaml's loader is quicker, and overflows its stack on a file nested too deeply
    except yaml.YAMLError as error:
        raise RecordError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    except RecursionError as error:
        raise RecordError(f"{path}: nested too deeply") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise RecordError(f"{path}: expected a mapping of keys")
    return data


def _run_row(run: RunDir) -> dict[str, Any]:
    """Return what case.json, launch.json and result.json say about one attempt."""
    row: dict[str, Any] = {"case_id": run.case_id, "attempt": run.attempt, "path": str(run.path), "extra": {}}
    problems = []
    try:
        row |= _case_values(read_json(run.case_json), str(run.case_json))
    except FileNotFoundError:
        problems.append(f"{run.case_json}: missing")
    except RecordError as error:
        problems.append(str(error))
    except _WRONG_TYPES as error:
        problems.append(f"{run.case_json}: not a valid case: {error}")
    try:
        launch = read_json(run.launch_json)
        row |= {"launcher": launch.get("launcher"), "job_id": launch.get("job_id")}
    except (FileNotFoundError, RecordError):
        pass  # only says who started the run
    try:
        result = Result.from_json(read_json(run.result_json), str(run.result_json))
        extra = dict(result.extra)
        row |= {"status": result.status, "cause": result.cause, "message": result.message}
        row |= {"start_unix_s": result.start_unix_s, "end_unix_s": result.end_unix_s, "nodes": " ".join(result.nodes)}
        row |= {"wall_s": result.end_unix_s - result.start_unix_s, "job_id": result.job_id or row.get("job_id")}
        row["extra"] = extra
        row["ranks_expected"] = result.ranks_expected
    except FileNotFoundError:
        row |= {"status": "unfinished", "cause": "no_result"}
        row["message"] = "no result.json: not started yet, still running, or killed before it could say how it ended"
    except RecordError as error:
        problems.append(str(error))
    except _WRONG_TYPES as error:
        problems.append(f"{run.result_json}: not a valid result: {error}")
    if problems:
        row |= {"status": "unreadable", "cause": "record", "message": "; ".join(problems)}
    return row


def _case_values(data: dict[str, Any], where: str) -> dict[str, Any]:
    require_schema(data, CASE_SCHEMA, where)
    case = Case.from_json(data, where)
    return {name: getattr(case, name) for name in CASE_COLUMNS}
