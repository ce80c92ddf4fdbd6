"""Scrubbing of Parquet exports; scrub.py says what is kept."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from paceline.analysis.redact import Redactor
from paceline.analysis.tablesource import TableSource, quoted

# Columns that grow from row to row: their differences take a third of the room.
_GROWING = frozenset({"start", "end", "correlationId", "gridId", "timestamp"})
# Who a row belongs to: in the order of each thread's or process's own time, neighbours differ least.
_OWNERS = ("globalTid", "globalPid")
_ROWS_AT_ONCE = 1 << 20


def write_table(table: Any, path: Path) -> None:
    """Write a pyarrow table small, under a plain schema: the metadata of the original can hold anything.

    Rows with a start are written by thread or process and start; their order means nothing.
    """
    import pyarrow as pa
    import pyarrow.parquet

    if "start" in table.column_names:
        owners = [name for name in _OWNERS if name in table.column_names]
        table = table.sort_by([(name, "ascending") for name in (*owners, "start")])
    growing = [field.name for field in table.schema if field.name in _GROWING and pa.types.is_integer(field.type)]
    pyarrow.parquet.write_table(
        table.replace_schema_metadata(None),
        path,
        compression="zstd",
        compression_level=15,
        use_dictionary=[field.name for field in table.schema if field.name not in growing],
        column_encoding=dict.fromkeys(growing, "DELTA_BINARY_PACKED") or None,
    )


def from_sqlite(path: Path, output: Path) -> None:
    """Write every table of an SQLite file as a Parquet file into a new folder; empty tables are left out."""
    import pyarrow as pa

    kinds = {"INTEGER": pa.int64(), "REAL": pa.float64()}
    output.mkdir()
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        connection.text_factory = lambda value: value.decode("utf-8", "backslashreplace")
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (name,) in tables:
            columns = connection.execute(f"PRAGMA table_info({quoted(name)})").fetchall()
            schema = pa.schema([(column, kinds.get(kind, pa.string())) for _, column, kind, *_ in columns])
            cursor = connection.execute(f"SELECT * FROM {quoted(name)}")
            parts = []
            while rows := cursor.fetchmany(_ROWS_AT_ONCE):
                cells = zip(*rows, strict=True)
                parts.append(pa.table([_array(c, f.type) for c, f in zip(cells, schema, strict=True)], schema=schema))
            if parts:
                write_table(pa.concat_tables(parts), output / f"{name}.parquet")


def _array(values: Sequence[Any], kind: Any) -> Any:
    """Return a column as Arrow array; SQLite lets any column hold text."""
    import pyarrow as pa

    if kind == pa.string():
        return pa.array([None if value is None else str(value) for value in values], kind)
    return pa.array(values, kind)


def copy(source: TableSource, output: Path, redactor: Redactor) -> list[str]:
    """Copy what is allowed into a new folder and return the names of the tables."""
    import pyarrow as pa
    import pyarrow.parquet
    from paceline.analysis.scrub import HASH, KEPT, ROWS, STRING_COLUMNS, TEXT, diagnostic, hashed, is_kept

    output.mkdir()
    kept, used = [], set()

    def texts(array: Any, change: Any) -> Any:
        return pa.array([None if v is None else change(v) for v in array.to_pylist()], pa.string())

    def write(name: str, table: Any) -> None:
        write_table(table, output / f"{name}.parquet")
        kept.append(name)

    for name in source.tables():
        file = source.path / f"{name}.parquet"
        if is_kept(name) or name == "DIAGNOSTIC_EVENT":
            table = pyarrow.parquet.read_table(file)
            allowed = {"text": TEXT} if name == "DIAGNOSTIC_EVENT" else KEPT.get(name, {})
            if name == "DIAGNOSTIC_EVENT":
                table = table.filter(pa.array([diagnostic(text or "") for text in table["text"].to_pylist()]))
            columns = {}
            for field in table.schema:
                column, how = table[field.name].combine_chunks(), allowed.get(field.name)
                if pa.types.is_integer(field.type) or pa.types.is_floating(field.type):
                    columns[field.name] = column
                    if field.name in STRING_COLUMNS:
                        used.update(column.unique().to_pylist())
                elif how == TEXT:
                    columns[field.name] = texts(column, redactor)
                elif how == HASH:
                    columns[field.name] = texts(column, hashed)
                else:
                    columns[field.name] = pa.nulls(len(table), pa.string())
            write(name, pa.table(columns))
        elif name in ROWS:
            names, values = ROWS[name]
            rows = [
                {"name": row["name"], "value": redactor(row["value"] or "")}
                for row in source.records(name)
                if re.fullmatch(names, row["name"]) and re.fullmatch(values, row["value"] or "")
            ]
            write(name, pa.Table.from_pylist(rows, pa.schema([("name", pa.string()), ("value", pa.string())])))
    strings = [
        {"id": row["id"], "value": redactor(row["value"] or "")}
        for row in source.records("StringIds")
        if row["id"] in used
    ]
    write("StringIds", pa.Table.from_pylist(strings, pa.schema([("id", pa.int64()), ("value", pa.string())])))
    return kept
