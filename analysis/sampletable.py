"""What the samplers of a study saw, as one table."""

from __future__ import annotations

import math
from collections.abc import Sequence
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


class SampleTable:
    """The samples of a study, run by run; of very large studies, every so-manieth uneventful second.

    ``headers`` are those of the samplers, per run, by node. ``warnings`` says what was left out.
    """

    def __init__(self, run_dirs: Sequence[RunDir]) -> None:
        self.headers: dict[int, list[dict[str, Any]]] = {}
        self.warnings: list[str] = []
        self._files = [run.samples_files() for run in run_dirs]
        self._size = sum(path.stat().st_size for paths in self._files for path in paths)
        self._keep_every = -(-self._size // _BUDGET_BYTES) or 1
        self._runs: list[int] = []
        self._origins: list[float] = []
        self._lengths: list[int] = []
        self._rows: list[Row] = []
        self._room = ReadRoom()

    def read(self, number: int) -> None:
        """Append the samples of a run, which is its place in ``run_dirs``."""
        for path in self._files[number]:
            try:
                record = read_samples(path, self._keep_every, self._room)
            except RecordError as error:
                self.warnings.append(str(error))
                continue
            if record.bad_lines > 1:  # one cut line is how every killed sampler ends
                self.warnings.append(f"{path}: {record.bad_lines} lines could not be read")
            self.headers.setdefault(number, []).append(record.header)
            self._rows += record.rows
            self._runs.append(number)
            self._origins.append(clock_origin(record.header))
            self._lengths.append(len(record.rows))

    def table(self) -> pd.DataFrame:
        """Return what was read, one row per run, second and device.

        The columns: ``run``, ``SAMPLE_COLUMNS`` (samplefile.py says what a row is; NaN for what its source does not
        say) and ``unix_s``.
        """
        if self._keep_every > 1:
            self.warnings.append(
                f"the samples are large ({self._size / 1e6:.0f} MB): "
                f"read every {self._keep_every} s where nothing notable happened"
            )
        table = _table(self._rows, np.repeat(np.array(self._runs, dtype=np.int32), self._lengths))
        table["unix_s"] = table["t_s"] + np.repeat(np.array(self._origins, dtype=np.float64), self._lengths)
        return table


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
