"""What the samplers of a study saw, as one table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from paceline.analysis.readroom import ReadRoom
from paceline.analysis.samplefile import VALUES, Row, clock_origin, read_samples
from paceline.bench.errors import RecordError
from paceline.bench.rundir import RunDir

if TYPE_CHECKING:
    import pandas as pd

_BUDGET_BYTES = 8 * 1024 * 1024

SAMPLE_COLUMNS = ("source", "name", "t_s", *dict.fromkeys(key for keys in VALUES.values() for key in keys), "throttle")

Headers = dict[int, list[dict[str, Any]]]


def load_samples(run_dirs: list[RunDir]) -> tuple[pd.DataFrame, Headers, list[str]]:
    """Return the samples of all runs (of very large studies, every so-manieth uneventful second), headers, warnings.

    The table has one row per run, second and device: ``run``, ``SAMPLE_COLUMNS`` (samplefile.py says what a row is; NaN
    for what its source does not say) and ``unix_s``.
    """
    headers: Headers = {}
    warnings: list[str] = []
    files = [(number, path) for number, run in enumerate(run_dirs) for path in run.samples_files()]
    size = sum(path.stat().st_size for _, path in files)
    keep_every = -(-size // _BUDGET_BYTES) or 1
    runs: list[int] = []
    origins: list[float] = []
    lengths: list[int] = []
    rows: list[Row] = []
    room = ReadRoom()
    for number, path in files:
        try:
            record = read_samples(path, keep_every, room)
        except RecordError as error:
            warnings.append(str(error))
            continue
        if record.bad_lines > 1:  # one cut line is how every killed sampler ends
            warnings.append(f"{path}: {record.bad_lines} lines could not be read")
        headers.setdefault(number, []).append(record.header)
        rows += record.rows
        runs.append(number)
        origins.append(clock_origin(record.header))
        lengths.append(len(record.rows))
    if keep_every > 1:
        warnings.append(
            f"the samples are large ({size / 1e6:.0f} MB): read every {keep_every} s where nothing notable happened"
        )
    table = _table(rows, np.repeat(np.array(runs, dtype=np.int32), lengths))
    table["unix_s"] = table["t_s"] + np.repeat(np.array(origins, dtype=np.float64), lengths)
    return table, headers, warnings


def _table(rows: list[Row], runs: npt.NDArray[np.int32]) -> pd.DataFrame:
    import pandas as pd

    count = len(rows)
    sources = np.array([row[0] for row in rows], dtype=object)
    columns: dict[str, Any] = {"run": runs}
    columns |= {name: np.full(count, np.nan) for name in SAMPLE_COLUMNS}
    columns["source"] = sources
    columns["name"] = np.array([row[1] for row in rows], dtype=object)
    columns["t_s"] = np.array([row[2] for row in rows], dtype=np.float64)
    columns["throttle"] = np.array([row[3] for row in rows], dtype=object)
    for source, keys in VALUES.items():
        own = np.flatnonzero(sources == source)
        values = _numbers([row[4] for row in rows if row[0] == source], len(keys))
        for position, key in enumerate(keys):
            columns[key][own] = values[:, position]
    return pd.DataFrame(columns, copy=False)


def _numbers(rows: list[tuple[Any, ...]], width: int) -> npt.NDArray[np.float64]:
    """Return rows as floats, NaN for null and for what is no number."""
    try:
        values = np.array(rows, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        values = np.array([[_number(value) for value in row] for row in rows], dtype=np.float64)
    return values.reshape(len(rows), width)


def _number(value: Any) -> float:
    try:
        return float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:  # a whole number of hundreds of digits
        return math.nan
