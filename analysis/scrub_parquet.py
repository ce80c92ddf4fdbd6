"""Scrubbing of Parquet exports; scrub.py says what is kept."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from paceline.analysis.redact import Redactor
from paceline.analysis.tablesource import TableSource


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
        # A plain schema: the metadata of the original can hold anything.
        pyarrow.parquet.write_table(table.replace_schema_metadata(None), output / f"{name}.parquet")
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
