"""All studies below a folder, in an embedded database that the folders can rebuild at any time.

The database (SQLite) only saves reading every record again: a study is read anew when its study.yaml or one of its
results changed, and forgotten when its folder is gone. A damaged database is made again; where none can be written
(a read-only archive), it lives in memory.

    studies   one row per study folder
    points    one row per study and world size: the numbers of its scaling table
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from paceline.analysis.study_row import POINT_COLUMNS, STUDY_COLUMNS, study_row
from paceline.bench.errors import RecordError
from paceline.bench.rundir import StudyDir

DATABASE = "paceline-history.sqlite3"
_VERSION = 1
COLUMNS = {**STUDY_COLUMNS, **POINT_COLUMNS}
"""Columns of a row, with their SQL types."""
_OPERATORS = ("!=", "<=", ">=", "=", "<", ">", "~")


def history(folder: Path, filters: Sequence[str] = (), *, rebuild: bool = False) -> list[dict[str, Any]]:
    """Return one row per study and world size below a folder, oldest first; a study without points has one row.

    Args:
        folder: Where to look for study folders, at any depth.
        filters: Conditions such as ``task=Isaac-Ant``, ``world_size>=4``, ``gpu~H100`` (contains); all must hold.
        rebuild: Read every study again.

    RecordError if the folder does not exist or a filter cannot be understood.
    """
    if not folder.is_dir():
        raise RecordError(f"{folder}: no such folder")
    conditions = [_condition(text) for text in filters]
    database = folder / DATABASE
    if rebuild:
        database.unlink(missing_ok=True)
    try:
        return _query(folder, database, conditions)
    except sqlite3.DatabaseError:
        # Damaged, of another version, or not writable: what it held can be read from the folders.
        try:
            database.unlink(missing_ok=True)
            return _query(folder, database, conditions)
        except (OSError, sqlite3.DatabaseError):
            return _query(folder, Path(":memory:"), conditions)


def study_folders(folder: Path) -> Iterator[Path]:
    """Yield the study folders below a folder, itself included; they are not searched for further ones."""
    for path, names, _ in os.walk(folder):
        study = StudyDir(path)
        if study.study_yaml.is_file() and (study.runs.is_dir() or "runs" in names):
            names.clear()
            yield Path(path)
        else:
            names[:] = sorted(name for name in names if not name.startswith("."))


def _query(folder: Path, database: Path, conditions: list[tuple[str, Any]]) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(database, timeout=30.0)) as connection:
        connection.row_factory = sqlite3.Row
        _create(connection)
        _refresh(connection, folder)
        where = " AND ".join(sql for sql, _ in conditions) or "1"
        rows = connection.execute(
            f"SELECT * FROM studies LEFT JOIN points ON points.study = studies.path WHERE {where} "
            "ORDER BY started_unix_s, path, world_size",
            [value for _, value in conditions],
        ).fetchall()
        return [{name: row[name] for name in COLUMNS} for row in rows]


def _create(connection: sqlite3.Connection) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version not in (0, _VERSION):
        raise sqlite3.DatabaseError(f"version {version}")
    columns = ", ".join(f"{name} {kind}" for name, kind in STUDY_COLUMNS.items())
    connection.execute(f"CREATE TABLE IF NOT EXISTS studies ({columns}, fingerprint TEXT, PRIMARY KEY (path))")
    columns = ", ".join(f"{name} {kind}" for name, kind in POINT_COLUMNS.items())
    connection.execute(f"CREATE TABLE IF NOT EXISTS points (study TEXT, {columns}, PRIMARY KEY (study, world_size))")
    connection.execute(f"PRAGMA user_version = {_VERSION}")
    connection.commit()


def _refresh(connection: sqlite3.Connection, folder: Path) -> None:
    """Bring the database up to date with the folders, one transaction."""
    known = dict(connection.execute("SELECT path, fingerprint FROM studies").fetchall())
    found = {str(path.relative_to(folder)): path for path in study_folders(folder)}
    with connection:
        for name in known.keys() - found.keys():
            _forget(connection, name)
        for name, path in found.items():
            fingerprint = _fingerprint(StudyDir(path))
            if known.get(name) == fingerprint:
                continue
            _forget(connection, name)
            study, points = study_row(path)
            _insert(connection, "studies", {**study, "path": name, "fingerprint": fingerprint})
            for point in points:
                _insert(connection, "points", {**point, "study": name})


def _forget(connection: sqlite3.Connection, name: str) -> None:
    connection.execute("DELETE FROM points WHERE study = ?", (name,))
    connection.execute("DELETE FROM studies WHERE path = ?", (name,))


def _insert(connection: sqlite3.Connection, table: str, values: Mapping[str, Any]) -> None:
    names = ", ".join(values)
    marks = ", ".join("?" * len(values))
    connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(values.values()))


def _fingerprint(study: StudyDir) -> str:
    """Return what changes when the study does: times and sizes of study.yaml and of every result."""
    parts = []
    for path in [study.study_yaml, *(run.result_json for run in study.all_runs())]:
        try:
            found = path.stat()
        except OSError:
            continue
        parts.append((found.st_mtime_ns, found.st_size))
    return f"{len(parts)}:{hash(tuple(parts))}"


def _condition(text: str) -> tuple[str, Any]:
    """Return SQL and its value for a filter such as ``world_size>=4``."""
    for position in range(1, len(text)):
        operator = next((op for op in _OPERATORS if text.startswith(op, position)), None)
        if operator is None:
            continue
        name, value = text[:position].strip(), text[position + len(operator) :].strip()
        if name not in COLUMNS:
            raise RecordError(f"--filter {text}: no column {name!r}; columns: {', '.join(COLUMNS)}")
        if operator == "~":
            return f"instr(lower({name}), lower(?)) > 0", value
        if COLUMNS[name] != "TEXT":
            try:
                return f"{name} {operator} ?", float(value)
            except ValueError:
                raise RecordError(f"--filter {text}: {name} is a number, {value!r} is not") from None
        return f"{name} {operator} ?", value
    raise RecordError(f"--filter {text}: expected a column, one of {' '.join(_OPERATORS)}, and a value")
