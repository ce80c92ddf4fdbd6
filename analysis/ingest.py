"""Reads results whatever wrote them.

    a folder   a study folder; Isaac Lab benchmark bundles; TensorBoard events of one run
    a file     a CSV table; a bundle (JSON); a TensorBoard event file; a console log of rl_games or rsl_rl

What other tools write holds the times of rank 0 only: load balance, serialisation and transfer cannot be computed from
it and are printed as "n/a (rank-0 timings)".
"""

from __future__ import annotations

from pathlib import Path

from paceline.analysis import isaaclab_bundle, plain_csv, rl_games_log, rsl_rl_log, tensorboard
from paceline.analysis.table import Mode, Table
from paceline.bench import jsontext
from paceline.bench.errors import RecordError
from paceline.bench.rundir import StudyDir


def read_any(path: Path, mode: Mode | None = None) -> Table:
    """Return the table in a file or folder; RecordError if nothing here can read it.

    Args:
        path: The file or folder.
        mode: Scaling mode that the caller declares for a source that does not.
    """
    if path.is_dir():
        return _read_folder(path, mode)
    if not path.exists():
        raise RecordError(f"{path}: no such file or folder")
    if not path.is_file():
        raise RecordError(f"{path}: neither a file nor a folder")
    if "tfevents" in path.name:
        return tensorboard.read_events([path], mode)
    text = plain_csv.read_text(path)
    if rl_games_log.is_log(text):
        return rl_games_log.parse(text, str(path), mode)
    if rsl_rl_log.is_log(text):
        return rsl_rl_log.parse(text, str(path), mode)
    if path.suffix == ".json" or text.lstrip()[:1] == "{":
        return isaaclab_bundle.read_bundles([path], mode)
    return plain_csv.parse_csv(text, str(path), mode)


def _read_folder(path: Path, mode: Mode | None) -> Table:
    study = StudyDir(path)
    if study.study_yaml.exists() or study.runs.is_dir():
        from paceline.analysis.study_table import read_study

        return read_study(path)
    bundles = [file for file in sorted(path.glob("*.json")) if _is_bundle(file)]
    if bundles:
        return isaaclab_bundle.read_bundles(bundles, mode)
    events = tensorboard.event_files(path)
    if len({file.parent for file in events}) > 1:
        raise RecordError(f"{path}: TensorBoard events of several runs; name the folder of one")
    if events:
        return tensorboard.read_events(events, mode)
    raise RecordError(f"{path}: no study (study.yaml), benchmark bundle (*.json) or TensorBoard events in this folder")


def _is_bundle(path: Path) -> bool:
    try:
        return isaaclab_bundle.is_bundle(jsontext.loads(plain_csv.read_text(path)))
    except (RecordError, ValueError):
        return False
