"""Columns of a table as arrays, from SQLite files and from folders of Parquet files.

A reader is asked for columns by kind:

    time   int64, NULL becomes NO_TIME
    int    int32 (int64 if a value needs it), NULL becomes -1
    key    int32 codes into a list of the distinct int64 values, NULL becomes code -1
    text   int32 codes into a list of the distinct texts, NULL becomes code -1

Codes keep large columns small: ten million thread identifiers are ten million int32 and a list of eight. Text that is
not UTF-8 is kept apart by backslash escapes. This module uses the standard library's sqlite3 and is the reference for
sqlitepages.py, which is many times faster.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from paceline.analysis.capture import NO_TIME
from paceline.bench.errors import TraceError

KINDS = ("time", "int", "key", "text")
_CHUNK_ROWS = 200_000


@dataclass(slots=True)
class Column:
    """One column: its values or codes, and for ``key`` and ``text`` the distinct values the codes point to."""

    values: Any
    distinct: list[Any] = field(default_factory=list)


class TableSource(Protocol):
    """A file or folder of tables."""

    path: Path

    def tables(self) -> Mapping[str, list[str]]:
        """Return the column names of every table."""

    def rows(self, table: str) -> int:
        """Return an upper bound of the number of rows of a table, without reading it all."""

    def read(self, table: str, columns: Mapping[str, str]) -> dict[str, Column]:
        """Return columns (name to kind) of all rows of a table; TraceError if the file is damaged."""

    def records(self, table: str) -> list[dict[str, Any]]:
        """Return all rows of a small table, text as str."""


def decode(value: Any) -> Any:
    """Return bytes as text, keeping bytes that are not UTF-8 apart as backslash escapes; other values as they are."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


class SqliteSource:
    """A SQLite file, read through the standard library."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        check_sqlite(self.path)
        with self._guard(), closing(self.connect()) as connection:
            names = [
                decode(row[0]) for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            ]
            self._tables = {
                name: [decode(row[1]) for row in connection.execute(f"PRAGMA table_info({quoted(name)})")]
                for name in names
            }

    def connect(self) -> sqlite3.Connection:
        """Return a read-only connection that gives text as bytes."""
        # immutable: the file is not locked and no -wal or -shm file is made beside it, so read-only folders work.
        wal = Path(f"{self.path}-wal")
        mode = "ro" if wal.exists() and wal.stat().st_size else "ro&immutable=1"
        name = str(self.path.resolve()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
        connection = sqlite3.connect(f"file:{name}?mode={mode}", uri=True, check_same_thread=False)
        connection.text_factory = bytes
        return connection

    def tables(self) -> Mapping[str, list[str]]:
        """Return the column names of every table."""
        return self._tables

    def rows(self, table: str) -> int:
        """Return the largest row number of a table."""
        with self._guard(), closing(self.connect()) as connection:
            return int(connection.execute(f"SELECT max(rowid) FROM {quoted(table)}").fetchone()[0] or 0)

    def read(self, table: str, columns: Mapping[str, str]) -> dict[str, Column]:
        """Return columns of all rows of a table in row order."""
        names = list(columns)
        query = f"SELECT {', '.join(map(quoted, names))} FROM {quoted(table)}"
        collectors = [Collector(columns[name]) for name in names]
        with self._guard(), closing(self.connect()) as connection:
            cursor = connection.execute(query)
            while rows := cursor.fetchmany(_CHUNK_ROWS):
                for collector, values in zip(collectors, zip(*rows, strict=True), strict=True):
                    collector.add(values)
        return {name: collector.column() for name, collector in zip(names, collectors, strict=True)}

    def records(self, table: str) -> list[dict[str, Any]]:
        """Return all rows of a small table."""
        names = self._tables[table]
        with self._guard(), closing(self.connect()) as connection:
            rows = connection.execute(f"SELECT {', '.join(map(quoted, names))} FROM {quoted(table)}")
            return [dict(zip(names, map(decode, row), strict=True)) for row in rows]

    def _guard(self) -> _SqliteErrors:
        return _SqliteErrors(self.path)


class _SqliteErrors:
    """Turns sqlite3's errors into TraceError with the file's name."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sqlite3.Error):
            raise TraceError(f"{self.path}: damaged SQLite file ({error}); export the report again") from error


class Collector:
    """Gathers one column chunk by chunk."""

    def __init__(self, kind: str) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind of column {kind!r}: one of {', '.join(KINDS)}")
        self.kind = kind
        self.parts: list[Any] = []
        self.codes: dict[Any, int] = {}

    def add(self, values: Any) -> None:
        """Add a chunk of Python values (None for NULL)."""
        if self.kind in ("time", "int"):
            null = NO_TIME if self.kind == "time" else -1
            part = np.fromiter((null if v is None else int(v) for v in values), np.int64, len(values))
            self.parts.append(part if self.kind == "time" else narrow(part))
            return
        codes = self.codes
        self.parts.append(
            np.fromiter((-1 if v is None else codes.setdefault(v, len(codes)) for v in values), np.int32, len(values))
        )

    def column(self) -> Column:
        """Return the column."""
        kind = np.int64 if self.kind == "time" else np.int32
        values = np.concatenate(self.parts) if self.parts else np.empty(0, kind)
        return Column(values, [decode(value) for value in self.codes])


def narrow(values: Any) -> Any:
    """Return an int64 array as int32 if all of its values fit."""
    if values.size and (values.max() > 2**31 - 1 or values.min() < -(2**31)):
        return values
    return values.astype(np.int32)


def quoted(name: str) -> str:
    """Return an SQL identifier in quotes."""
    return '"' + name.replace('"', '""') + '"'


def check_sqlite(path: Path) -> None:
    """Raise TraceError unless the file is a whole SQLite database, judged by its header and size."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as stream:
            header = stream.read(100)
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror})") from error
    if size == 0:
        raise TraceError(f"{path}: empty file")
    if not header.startswith(b"SQLite format 3\0") or len(header) < 100:
        raise TraceError(
            f"{path}: not an SQLite file; give an nsys export (.sqlite or _pqtdir) or a Kineto trace (.json)"
        )
    page_bytes = int.from_bytes(header[16:18], "big")
    expected = int.from_bytes(header[28:32], "big") * (65536 if page_bytes == 1 else page_bytes)
    if size < expected:
        raise TraceError(f"{path}: truncated: {size:,} of {expected:,} bytes; export the report again")


class ParquetSource:
    """A folder with one Parquet file per table (``nsys export --type parquetdir``)."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise TraceError(
                f"{path}: reading Parquet needs pyarrow: pip install 'paceline[parquet]', or export with --type sqlite"
            ) from error
        self._parquet = pyarrow.parquet
        self.path = Path(path)
        try:
            self._files = {file.stem: file for file in sorted(self.path.glob("*.parquet"))}
        except OSError as error:
            raise TraceError(f"{path}: cannot be read ({error.strerror})") from error
        self._tables = {
            name: self._open(file, lambda f: list(f.schema_arrow.names)) for name, file in self._files.items()
        }

    def _open(self, file: Path, use: Callable[[Any], Any]) -> Any:
        import pyarrow

        try:
            with self._parquet.ParquetFile(file) as opened:
                return use(opened)
        except (OSError, pyarrow.ArrowException) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise TraceError(f"{file}: cannot be read ({reason})") from error

    def tables(self) -> Mapping[str, list[str]]:
        """Return the column names of every table."""
        return self._tables

    def rows(self, table: str) -> int:
        """Return the number of rows of a table."""
        return int(self._open(self._files[table], lambda f: f.metadata.num_rows))

    def read(self, table: str, columns: Mapping[str, str]) -> dict[str, Column]:
        """Return columns of all rows of a table in row order."""
        collectors = {name: _ArrowCollector(kind) for name, kind in columns.items()}

        def collect(file: Any) -> None:
            for batch in file.iter_batches(columns=list(columns), batch_size=1 << 20):
                for name, collector in collectors.items():
                    collector.add(batch.column(name))

        self._open(self._files[table], collect)
        return {name: collector.column() for name, collector in collectors.items()}

    def records(self, table: str) -> list[dict[str, Any]]:
        """Return all rows of a small table."""
        rows: list[dict[str, Any]] = self._open(self._files[table], lambda f: f.read().to_pylist())
        return rows


class _ArrowCollector:
    """Gathers one column from Arrow arrays."""

    def __init__(self, kind: str) -> None:
        self.collector = Collector(kind)

    def add(self, array: Any) -> None:
        """Add an Arrow array."""
        import pyarrow

        kind, collector = self.collector.kind, self.collector
        if kind in ("time", "int"):
            values = array.cast(pyarrow.int64(), safe=False)
            filled = values.fill_null(NO_TIME if kind == "time" else -1).to_numpy(zero_copy_only=False)
            collector.parts.append(filled if kind == "time" else narrow(filled))
            return
        encoded = array if pyarrow.types.is_dictionary(array.type) else array.dictionary_encode()
        codes = collector.codes
        lookup = np.array(
            [-1 if v is None else codes.setdefault(v, len(codes)) for v in encoded.dictionary.to_pylist()] + [-1],
            np.int32,
        )
        indices = encoded.indices.fill_null(len(lookup) - 1).to_numpy(zero_copy_only=False)
        collector.parts.append(lookup[indices])

    def column(self) -> Column:
        """Return the column."""
        return self.collector.column()


def iter_matching(tables: Mapping[str, list[str]], name: str) -> Iterator[str]:
    """Yield the tables called ``name`` or ``name_V<number>`` (later versions of a table)."""
    for table in tables:
        base, _, version = table.rpartition("_V")
        if table == name or (base == name and version.isdigit()):
            yield table
