"""Makes an nsys export fit to be shared: only what the analysis needs is copied, and its text is redacted.

nsys keeps the whole environment of the profiled program, its command line, everything it printed, the process and
thread names of the whole node, host and user names, paths. A copy that leaves things out cannot promise to have found
them all; this one takes in only what is listed here: numbers of the activity tables, and names of kernels, calls and
ranges, without what redact.py finds. A number column is copied only where it holds a number. The copy can be analysed
by Paceline and by ``nsys stats``.

Reports (.nsys-rep, .qdstrm) cannot be scrubbed: their format is NVIDIA's own. Export first, and share the scrubbed
export only.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paceline.analysis import scrub_parquet
from paceline.analysis.nsys import open_source
from paceline.analysis.redact import MASK, Redactor
from paceline.analysis.tablesource import SqliteSource, TableSource, decode, quoted
from paceline.bench import jsontext
from paceline.bench.errors import TraceError

TEXT, HASH = "text", "hash"
KEPT: dict[str, dict[str, str]] = {
    "NVTX_EVENTS": {"text": TEXT},
    "CUDA_GRAPH_EVENTS": {},
    "CUDA_GRAPH_NODE_EVENTS": {},
    "PROFILER_OVERHEAD": {},
    "PROCESSES": {},
    "ANALYSIS_DETAILS": {},
    "TARGET_INFO_SESSION_START_TIME": {},
    "TARGET_INFO_GPU": {"name": TEXT, "chipName": TEXT, "uuid": HASH},
    "TARGET_INFO_CUDA_DEVICE": {"uuid": HASH},
    "TARGET_INFO_CUDA_CONTEXT_INFO": {},
    "TARGET_INFO_CUDA_STREAM": {},
    "GPU_METRICS": {},
    "TARGET_INFO_GPU_METRICS": {"metricName": TEXT},
    "ENUM_NSYS_EVENT_TYPE": {"name": TEXT, "label": TEXT},
    "ENUM_NSYS_EVENT_CLASS": {"name": TEXT, "label": TEXT},
    "ENUM_CUDA_MEMCPY_OPER": {"name": TEXT, "label": TEXT},
    "ENUM_CUDA_MEM_KIND": {"name": TEXT, "label": TEXT},
    "ENUM_CUPTI_SYNC_TYPE": {"name": TEXT, "label": TEXT},
    "ENUM_CUPTI_STREAM_TYPE": {"name": TEXT, "label": TEXT},
    "ENUM_CUDA_KERNEL_LAUNCH_TYPE": {"name": TEXT, "label": TEXT},
}
"""Tables that are copied, with the text columns that are; all CUPTI_ACTIVITY_KIND_* tables are copied as numbers."""
_OWN_NAMES = frozenset(
    ("paceline", "iteration", "rollout", "env_step", "physics", "inference", "update", "minibatch", "communication")
)
"""Domain and ranges of Paceline's runs: no secrets, also where a variable (a job's name, say) holds the same word."""
_ACTIVITY = re.compile(r"CUPTI_ACTIVITY_KIND_[A-Z_]+(_V\d+)?")
STRING_COLUMNS = ("textId", "nameId", "demangledName", "shortName", "mangledName")
"""Columns that refer to StringIds; only the strings they name are copied."""
ROWS: dict[str, tuple[str, str]] = {
    "META_DATA_EXPORT": (r"EXPORT_PRODUCT_(NAME|VERSION|DATE)|EXPORT_SCHEMA_VERSION(_[A-Z]+)?", r"[\w .]{0,40}"),
    "META_DATA_CAPTURE": (r"CAPTURE_EVENT_TYPE|PROCESS_\d+:CUDA_GRAPH_TRACE_OPTIONS:MODE", r"[A-Za-z]{0,20}"),
}
"""Tables of name and value: the names that are copied, and what their values may look like."""
_DIAGNOSTICS = re.compile(
    r"Number of [A-Z]+ events (collected|produced):\s*[\d.,]+( CUPTI buffers: \d+\.)?"
    r"|Installed CUDA driver version \([\d.]+\) is not supported by this build of Nsight Systems\."
    r" CUDA trace will be collected using libraries for driver version [\d.]+"
    r"|\d+ (CUPTI|NVTX|CUDA) (events|records) (were )?dropped\.?"
    r"|Profiling has (started|stopped)\."
)


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """What a scrub did."""

    path: Path
    kept: list[str]
    """Tables in the copy."""
    dropped: list[str]
    """Tables that were left out."""
    redacted: int
    """Distinct texts in which something was replaced."""


def scrub(path: str | os.PathLike[str], output: str | os.PathLike[str]) -> Scrubbed:
    """Write a copy of an nsys export that is fit to be shared; the original is not touched.

    Args:
        path: SQLite export, or folder of Parquet files.
        output: What to make; it must not exist. A name without suffix makes a folder of Parquet files, also from an
            SQLite export: a fraction of the size, and needs pyarrow.

    Raises:
        TraceError: The input cannot be scrubbed (a report, a foreign file, damaged), the output exists, or there is no
        room for it.
            Nothing is left behind then.
    """
    path, output = Path(path), Path(output)
    if path.suffix in (".nsys-rep", ".qdstrm", ".qdrep"):
        raise TraceError(
            f"{path}: a report cannot be scrubbed (it holds the environment, output and process list in NVIDIA's own "
            f"format); run: nsys export --type sqlite {path.name}, scrub the export, and share only that"
        )
    if output.exists():
        raise TraceError(f"{output}: exists; name a new file")
    if not output.parent.is_dir():
        raise TraceError(f"{output.parent}: no such folder")
    source = open_source(path, fast=False)
    if "StringIds" not in source.tables():
        raise TraceError(f"{path}: not an nsys export: it has no table StringIds")
    redactor = Redactor(*secrets_of(source))
    try:
        if isinstance(source, SqliteSource) and output.suffix:
            kept = _copy_sqlite(source, output, redactor)
        elif isinstance(source, SqliteSource):
            kept = _copy_as_parquet(source, output, redactor)
        else:
            kept = scrub_parquet.copy(source, output, redactor)
        _verify(output, redactor.secrets)
    except BaseException as error:
        _remove(output)
        if isinstance(error, (OSError, sqlite3.Error)):
            reason = getattr(error, "strerror", None) or str(error)
            raise TraceError(f"{output}: cannot be written ({reason})") from error
        raise
    return Scrubbed(output, kept, sorted(set(source.tables()) - set(kept)), redactor.count)


def secrets_of(source: TableSource) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the environment (name, value) and the command line that an export holds."""
    environment: list[tuple[str, str]] = []
    arguments: list[str] = []
    tables = source.tables()
    for row in source.records("META_DATA_CAPTURE") if "META_DATA_CAPTURE" in tables else []:
        name, value = str(row.get("name") or ""), str(row.get("value") or "")
        if "ENVIRONMENT" in name:
            key, _, content = value.partition("=")
            environment.append((key, content))
        elif re.search(r"ARGUMENT|COMMAND|WORKING_DIR|DISPLAY_NAME", name):
            arguments.append(value)
    export = source.records("META_DATA_EXPORT") if "META_DATA_EXPORT" in tables else []
    environment += [
        ("USER", str(row["value"] or "")) for row in export if row["name"] in ("EXPORT_HOST", "EXPORT_USER")
    ]
    for row in source.records("TARGET_INFO_SYSTEM_ENV") if "TARGET_INFO_SYSTEM_ENV" in tables else []:
        name, value = str(row.get("name") or ""), str(row.get("value") or "")
        if name == "DeviceEnvironment":
            environment += _variables(value)
        elif name in ("Hostname", "HostName"):
            environment.append(("HOSTNAME", value))
    known = [(name, value) for name, value in environment if MASK not in value and value not in _OWN_NAMES]
    return known, [value for value in arguments if MASK not in value and value not in _OWN_NAMES]


def _variables(text: str) -> list[tuple[str, str]]:
    """Return the variables in nsys's text of a process environment: JSON, or NAME=value lines."""
    try:
        data = jsontext.loads(text)
    except ValueError:
        data = None
    if isinstance(data, Mapping):
        return [(str(key), str(value)) for key, value in data.items()]
    lines: Iterable[Any] = data if isinstance(data, list) else re.split(r"[\n\0]", text)
    return [(key, value) for key, _, value in (str(line).partition("=") for line in lines)]


def is_kept(table: str) -> bool:
    """Return whether rows of a table are copied by column."""
    return table in KEPT or _ACTIVITY.fullmatch(table) is not None


def hashed(text: str) -> str:
    """Return a stand-in for an identifier of a device: the same for the same device, and no way back."""
    return "scrubbed-" + hashlib.sha256(text.encode()).hexdigest()[:16]


def diagnostic(text: str) -> bool:
    """Return whether a message of nsys is one of those known to hold nothing but numbers."""
    return _DIAGNOSTICS.fullmatch(text.strip()) is not None


def _copy_sqlite(source: SqliteSource, output: Path, redactor: Redactor) -> list[str]:
    """Copy what is allowed and return the names of the tables."""
    kept = []
    with closing(sqlite3.connect(f"file:{_uri(output)}?mode=rwc", uri=True)) as connection:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("ATTACH ? AS source", (f"file:{_uri(source.path)}?mode=ro",))
        connection.create_function(
            "redacted", 1, lambda v: None if v is None else redactor(_text(v)), deterministic=True
        )
        connection.create_function("hashed", 1, lambda v: None if v is None else hashed(_text(v)), deterministic=True)
        connection.create_function("harmless", 1, lambda v: int(v is not None and diagnostic(_text(v))))
        for table, columns in source.tables().items():
            if is_kept(table):
                _create(connection, source, table)
                texts = KEPT.get(table, {})
                chosen = ", ".join(_expression(name, texts.get(name)) for name in columns)
                connection.execute(f"INSERT INTO main.{quoted(table)} SELECT {chosen} FROM source.{quoted(table)}")
                kept.append(table)
            elif table in ROWS:
                names, values = ROWS[table]
                rows = [
                    (row["name"], redactor(str(row["value"] or "")))
                    for row in source.records(table)
                    if re.fullmatch(names, str(row["name"])) and re.fullmatch(values, str(row["value"] or ""))
                ]
                connection.execute(f"CREATE TABLE main.{quoted(table)} (name TEXT, value TEXT)")
                connection.executemany(f"INSERT INTO main.{quoted(table)} VALUES (?, ?)", rows)
                kept.append(table)
        if "DIAGNOSTIC_EVENT" in source.tables():
            columns = source.tables()["DIAGNOSTIC_EVENT"]
            _create(connection, source, "DIAGNOSTIC_EVENT")
            chosen = ", ".join(_expression(name, TEXT if name == "text" else None) for name in columns)
            connection.execute(
                f"INSERT INTO main.DIAGNOSTIC_EVENT SELECT {chosen} FROM source.DIAGNOSTIC_EVENT "
                "WHERE harmless(CAST(text AS BLOB))"
            )
            kept.append("DIAGNOSTIC_EVENT")
        _copy_strings(connection, source, kept)
        connection.commit()
    return [*kept, "StringIds"]


def _copy_as_parquet(source: SqliteSource, output: Path, redactor: Redactor) -> list[str]:
    """Copy what is allowed into a folder of Parquet files, and return the names of the tables."""
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise TraceError(f"{output}: writing Parquet needs pyarrow; name a file .sqlite instead") from error
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".scrub-") as folder:
        plain = Path(folder) / "copy.sqlite"
        kept = _copy_sqlite(source, plain, redactor)
        _verify(plain, redactor.secrets)  # compressed text cannot be searched
        scrub_parquet.from_sqlite(plain, output)
    return kept


def _create(connection: sqlite3.Connection, source: SqliteSource, table: str) -> None:
    """Make an empty table with the columns of the original, without its comments and constraints."""
    rows = connection.execute(f"PRAGMA source.table_info({quoted(table)})").fetchall()
    key = {name: " PRIMARY KEY" if is_key else "" for _, name, _, _, _, is_key in rows}
    columns = ", ".join(
        f"{quoted(name)} {kind if kind in ('INTEGER', 'REAL', 'TEXT') else ''}{key[name]}" for _, name, kind, *_ in rows
    )
    connection.execute(f"CREATE TABLE main.{quoted(table)} ({columns})")


def _expression(column: str, how: str | None) -> str:
    """Return the SQL that copies a column: text as allowed, else numbers only."""
    name = quoted(column)
    if how == TEXT:
        return f"redacted(CAST({name} AS BLOB))"
    if how == HASH:
        return f"hashed(CAST({name} AS BLOB))"
    return f"CASE WHEN typeof({name}) IN ('integer', 'real') THEN {name} END"


def _copy_strings(connection: sqlite3.Connection, source: SqliteSource, kept: Iterable[str]) -> None:
    """Copy the strings that copied rows refer to."""
    uses = [
        f"SELECT {quoted(column)} FROM main.{quoted(table)}"
        for table in kept
        for column in source.tables()[table]
        if column in STRING_COLUMNS
    ]
    connection.execute("CREATE TABLE main.StringIds (id INTEGER NOT NULL PRIMARY KEY, value TEXT NOT NULL)")
    if uses:
        connection.execute(
            "INSERT INTO main.StringIds SELECT id, redacted(CAST(value AS BLOB)) FROM source.StringIds "
            f"WHERE id IN ({' UNION '.join(uses)})"
        )


def _text(value: Any) -> str:
    return str(decode(value))


def _uri(path: Path) -> str:
    return str(path.resolve()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _verify(output: Path, secrets: Iterable[str]) -> None:
    """Raise TraceError if a known secret is anywhere in the bytes of the copy."""
    needles = [secret.encode() for secret in secrets]
    files = [output] if output.is_file() else sorted(output.iterdir())
    for file in files:
        with open(file, "rb") as stream:
            tail = b""
            while block := stream.read(1 << 24):
                text = tail + block
                if any(needle in text for needle in needles):
                    raise TraceError(f"{output}: a value of the profiled environment is still in the copy: not written")
                tail = text[-4096:]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
        Path(f"{path}-journal").unlink(missing_ok=True)
