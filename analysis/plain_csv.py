"""Any CSV file with a header row -> Table: somebody's results, a spreadsheet's export, Paceline's own scaling.csv.

One clear RecordError for what cannot be read: no file, empty, binary, another encoding, another delimiter, ragged rows,
no column that is known, negative or non-finite numbers, files too large to be a table of results.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from paceline.analysis import columns
from paceline.analysis.table import RANK0_LIBRARIES, RATES, Mode, Scope, Table
from paceline.bench.errors import RecordError

MAX_BYTES = 64 * 2**20
# How Paceline's own report/scaling.csv begins: all ranks, undisturbed iterations after warm-up.
OWN_COLUMNS = ("world_size", "num_nodes", "num_envs", "num_envs_per_rank", "repeats", "total_fps", "total_fps_low")
_SIZES = ("global_batch", "horizon", "minibatch_size_per_rank", "num_minibatches", "num_epochs")
_POSITIVE = {*RATES, *_SIZES, "world_size", "num_nodes", "num_envs", "num_envs_per_rank", "iteration_time_s"}
_WHOLE = {"world_size", "num_nodes", "num_envs", "num_envs_per_rank"}


def read_text(path: Path) -> str:
    """Return the text of a file; RecordError if it is missing, too large, binary or not UTF-8."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise RecordError(f"{path}: {size / 2**20:,.0f} MiB is too large for a table of results (limit 64 MiB)")
        data = path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror}") from error
    if not data.strip():
        raise RecordError(f"{path}: the file is empty")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise RecordError(f"{path}: encoded as UTF-16; UTF-8 is expected")
    if b"\0" in data:
        raise RecordError(f"{path}: a binary file, not a table of text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RecordError(f"{path}: line {line} is not UTF-8 (byte 0x{data[error.start]:02x})") from error


def read_csv(path: Path, mode: Mode | None = None) -> Table:
    """Return the table in a CSV file with a header row.

    Args:
        path: The file.
        mode: Scaling mode that the caller declares; otherwise a column such as ``mode`` or ``kind``, or the words
            strong or weak in the file name, declare it.
    """
    return parse_csv(read_text(path), str(path), mode)


def parse_csv(text: str, source: str, mode: Mode | None = None) -> Table:
    """Return the table in CSV text; ``source`` names it in messages."""
    lines = [line for line in text.splitlines(keepends=True) if not line.startswith("#")]
    try:
        cells = [
            row
            for row in csv.reader(io.StringIO("".join(lines), newline=""), strict=True)
            if any(c.strip() for c in row)
        ]
    except csv.Error as error:
        raise RecordError(f"{source}: not valid CSV: {error}") from error
    if not cells:
        raise RecordError(f"{source}: the file is empty")
    header, body = [cell.strip() for cell in cells[0]], cells[1:]
    if len(header) == 1:
        for delimiter, name in ((";", "';'"), ("\t", "tabs"), ("|", "'|'")):
            if delimiter in header[0]:
                raise RecordError(f"{source}: columns are separated by {name}; commas are expected")
    if not body:
        raise RecordError(f"{source}: a header row but no data rows")
    for number, row in enumerate(body, 1):
        if len(row) != len(header):
            raise RecordError(f"{source}: data row {number} has {len(row)} cells, the header has {len(header)}")

    numbers, texts, written, headers = {}, {}, {}, {}
    for position, title in enumerate(header):
        column = [row[position].strip() for row in body]
        known = columns.identify(title, columns.looks_numeric(column))
        if known is None or known[0] in headers:
            continue
        name, factor = known
        headers[name] = title
        if name in columns.TEXT_ALIASES:
            texts[name] = tuple(column)
            continue
        values = [
            columns.parse_number(cell, f"{source}: data row {i}, column {title!r}", positive=name in _POSITIVE)
            for i, cell in enumerate(column, 1)
        ]
        for i, value in enumerate(values, 1):
            if value is not None and name in _WHOLE and value != int(value):
                raise RecordError(f"{source}: data row {i}, column {title!r}: {column[i - 1]!r} is not a whole number")
        numbers[name] = np.array([np.nan if value is None else value * factor for value in values])
        written[name] = tuple(column)
    if not any(name in numbers for name in (*RATES, "iteration_time_s")):
        raise RecordError(
            f"{source}: no column of a rate or time is known (columns: {', '.join(header[:12])}); "
            "expected one such as total_fps, fps_step, throughput or iteration_time_s"
        )
    if (
        not any(name in numbers for name in ("world_size", "num_envs", "num_envs_per_rank", "iteration", "speedup"))
        and "gpu" not in texts
    ):
        raise RecordError(
            f"{source}: no column says what varies (columns: {', '.join(header[:12])}); "
            "expected one such as world_size, num_gpus, num_envs or iteration"
        )
    declared, by = declared_mode(texts.get("mode", ()), source, mode)
    own = tuple(header[: len(OWN_COLUMNS)]) == OWN_COLUMNS
    return Table(
        source=source,
        rows=tuple(range(1, len(body) + 1)),
        numbers=numbers,
        texts=texts,
        written=written,
        headers=headers,
        declared_mode=declared,
        declared_by=by,
        scope="all" if own else _scope(texts, numbers.keys()),
        kind="study" if own else "table",
    )


def declared_mode(column: tuple[str, ...], source: str, given: Mode | None) -> tuple[Mode | None, str]:
    """Return the scaling mode that somebody declared, and where: command line, column, or file name."""
    if given is not None:
        return given, "the command line"
    stated = {word for cell in column for word in re.findall(r"strong|weak", cell.lower())}
    named = {word for word in re.findall(r"strong|weak", Path(source).name.lower())}
    for words, by in ((stated, "its column"), (named, "the file name")):
        if words == {"strong"}:
            return "strong", by
        if words == {"weak"}:
            return "weak", by
        if words:
            return None, ""
    return None, ""


def _scope(texts: Mapping[str, tuple[str, ...]], number_names: Collection[str]) -> Scope:
    """Return whose times the rows hold: all ranks if a column says so, rank 0 for numbers out of a library's log."""
    stated = " ".join(texts.get("scope", ())).lower()
    if "rank" in number_names or "all" in stated:
        return "all"
    if "rank0" in re.sub(r"[\s_-]", "", stated):
        return "rank0"
    libraries = {re.sub(r"[\s-]", "_", cell.lower()) for cell in texts.get("library", ())}
    if libraries & set(RANK0_LIBRARIES) or "fps_step_inference" in number_names:
        return "rank0"
    return "unknown"
