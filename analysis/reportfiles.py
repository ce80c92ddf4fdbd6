"""What the reports of sweeps, GPU comparisons and budgets share: templates, files, CSV, text for a terminal."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paceline.analysis.tables import Table
from paceline.analysis.units import known, show
from paceline.bench.errors import RecordError
from paceline.bench.rundir import follow_umask

if TYPE_CHECKING:
    from jinja2 import Environment
    from rich.table import Table as RichTable


def environment() -> Environment:
    """Return the template environment: what goes into HTML is escaped."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    made = Environment(
        loader=FunctionLoader(read_template),
        undefined=StrictUndefined,
        autoescape=lambda name: bool(name and ".html" in name),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["show"] = show
    made.tests["known"] = known
    return made


def read_template(name: str) -> str:
    """Return the text of a file in templates/."""
    return files("paceline.analysis").joinpath("templates", name).read_text(encoding="utf-8")


def for_script(data: Any) -> str:
    """Return JSON that can stand inside a <script> element, whatever text it holds."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, default=str)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def csv_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return rows as CSV with the given columns; what is not known is an empty cell."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(columns), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: row.get(key) if known(row.get(key)) else None for key in columns} for row in rows)
    return stream.getvalue()


def write_files(folder: Path, texts: Mapping[str, str]) -> None:
    """Write files so that a reader sees each whole, old or new; RecordError where that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            _write(folder / name, text)
    except OSError as error:
        raise RecordError(f"{folder}: the report cannot be written ({error.strerror})") from error


def _write(path: Path, text: str) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as stream:
            stream.write(text)
        follow_umask(temporary)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def screen_table(source: Table, without: Sequence[str] = (), title: str | None = None) -> RichTable:
    """Return a table for a terminal: intervals on lines of their own, columns whose key is in ``without`` left out."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    kept = [column for column in source.columns if column.key not in without]
    shown = RichTable(box=box.SIMPLE, pad_edge=False, title=title, title_justify="left", title_style="")
    for column in kept:
        shown.add_column(column.title, justify="right" if column.numeric else "left", no_wrap=column.numeric)
    for row in source.rows:
        cells = []
        for column in kept:
            bounds = column.interval(row)
            cells.append(Text(column.text(row) + (f"\n{bounds}" if bounds else "")))
        shown.add_row(*cells)
    return shown


def terminal(headline: str, details: Sequence[str], tables: Sequence[Table], notes: Sequence[str]) -> str:
    """Return tables and sentences as text for a terminal: no markup, no colours; on a wide enough one nothing wraps."""
    from rich.console import Console
    from rich.text import Text

    stream = io.StringIO()
    console = Console(file=stream, width=max(shutil.get_terminal_size((140, 24)).columns, 100))
    console.print(Text(headline), soft_wrap=True)
    for line in details:
        console.print(Text(line), soft_wrap=True)
    for table in tables:
        console.print(screen_table(table, title=table.title))
    for line in notes:
        console.print(Text(line), soft_wrap=True)
    return stream.getvalue()
