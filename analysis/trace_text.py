"""The trace analysis as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from paceline.analysis import trace_tables
from paceline.analysis.tables import Table
from paceline.analysis.trace import Trace

_MAX_NAME = 48
_ROWS = {"ranges": 60, "kernels": 10, "gaps": 5, "api": 5, "balance": 20, "traffic": 20, "graphs": 10}


def one(trace: Trace) -> str:
    """Return the diagnosis, the warnings and the main tables of a trace."""
    parts = [_sentence(trace.diagnosis), *[f"note: {warning}" for warning in trace.warnings]]
    tables = trace_tables.all_tables(trace)
    parts += ["\n" + aligned(table, _ROWS[table.name]) for table in tables.values()]
    return "\n".join(parts)


def both(a: Trace, b: Trace) -> str:
    """Return two traces side by side."""
    parts = [f"A {a.source}: {_sentence(a.diagnosis)}", f"B {b.source}: {_sentence(b.diagnosis)}"]
    parts += [f"note: {name}: {warning}" for name, trace in (("A", a), ("B", b)) for warning in trace.warnings]
    return "\n".join([*parts, "", aligned(trace_tables.comparison(a, b), 100)])


def aligned(table: Table, limit: int) -> str:
    """Return a table with aligned columns, at most ``limit`` rows of it, under its title."""
    head = [column.title for column in table.columns]
    cells = [[_short(column.text(row)) for column in table.columns] for row in table.rows[:limit]]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    numeric = [column.numeric for column in table.columns]
    lines = [table.title, *[_line(row, widths, numeric) for row in (head, *cells)]]
    if len(table.rows) > limit:
        lines.append(f"  and {len(table.rows) - limit:,} more (--format json or html)")
    return "\n".join(lines)


def _line(cells: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    padded = [
        cell.rjust(width) if right else cell.ljust(width)
        for cell, width, right in zip(cells, widths, numeric, strict=True)
    ]
    return ("  " + "  ".join(padded)).rstrip()


def _short(text: str) -> str:
    """Return a long name with its middle left out: templates differ at the end."""
    text = " ".join(text.split())
    return text if len(text) <= _MAX_NAME else f"{text[: _MAX_NAME - 13]}\u2026{text[-12:]}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
