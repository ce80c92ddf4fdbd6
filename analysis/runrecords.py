"""The iterations of a study: the records of its ranks, each held against what its run should have left."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from paceline.analysis.iterationcolumns import IterationColumns
from paceline.analysis.rankfile import RankFile, read_runs
from paceline.bench.errors import RecordError
from paceline.bench.rundir import RunDir

if TYPE_CHECKING:
    import pandas as pd

_NEVER_NULL = ("iteration", "sync", "warmup")
_ROWS_AT_ONCE = 8_000_000  # whatever the cases promise

Headers = dict[int, list[dict[str, Any]]]


def load_iterations(
    run_dirs: list[RunDir], rows: list[dict[str, Any]], meanwhile: Callable[[int], None]
) -> tuple[pd.DataFrame, Headers, list[str]]:
    """Return the iterations of all runs, the headers of their rank records, and warnings.

    Args:
        run_dirs: The runs.
        rows: What is known about each. A run whose records do not bear out its result becomes ``unreadable`` there.
        meanwhile: Called once for each run, with its number, while the records of others are read.
    """
    import pandas as pd

    headers: Headers = {}
    warnings: list[str] = []
    expected = sum(int(row.get("iterations") or 0) * int(row.get("world_size") or 0) for row in rows)
    table = IterationColumns(min(expected, _ROWS_AT_ONCE))
    number = 0
    for batch in read_runs([run.rank_files() for run in run_dirs], table):
        kept: list[tuple[int, RankFile]] = []
        for found in batch:
            good = [record for record in found if isinstance(record, RankFile)]
            good.sort(key=lambda record: int(record.header["rank"]))
            problem = _problem(rows[number], found, good)
            if problem and rows[number].get("status") == "completed":
                rows[number] |= {"status": "unreadable", "cause": "record", "message": problem}
            elif problem:
                warnings.append(problem)
            headers[number] = [record.header for record in good]
            meanwhile(number)
            kept += [(number, record) for record in good if record.num_rows]
            number += 1
        table.extend(kept)
    return pd.DataFrame(table.columns(), copy=False), headers, warnings


def _problem(row: dict[str, Any], found: list[RankFile | RecordError], good: list[RankFile]) -> str | None:
    """Return why the rank records of a run cannot be used (those go from ``good``), None if they can."""
    problems = [str(record) for record in found if isinstance(record, RecordError)]
    for record in list(good):
        unusable = _unusable(record)
        if unusable:
            problems.append(f"{record.path}: {unusable}")
            good.remove(record)
        elif record.end is None or record.end.get("status") != "completed":
            problems.append(
                f"{record.path}: " + ("cut short, " * record.truncated) + "no end record of a completed rank"
            )
        elif row.get("iterations") is not None and record.num_rows != row["iterations"]:
            problems.append(f"{record.path}: {record.num_rows} iterations, the case asked for {row['iterations']}")
    expected = row.get("world_size")
    ranks = sorted(int(record.header["rank"]) for record in good)
    if not problems and expected is not None and ranks != list(range(int(expected))):
        problems.append(f"{row['path']}: records of {len(ranks)} of {expected} ranks")
    if row.get("status") != "completed":
        problems = [str(record) for record in found if isinstance(record, RecordError)]
    return "; ".join(problems) or None


def _unusable(record: RankFile) -> str | None:
    """Return what is wrong with the columns that say which iteration a row is, None if nothing is."""
    missing = [name for name in _NEVER_NULL if name not in record.columns]
    if missing:
        return f"column {missing[0]} is missing"
    if record.rows is None or not record.num_rows:  # what is in the table already has been looked at
        return None
    values = record.rows.T[[record.columns.index(name) for name in _NEVER_NULL]]
    low, high = values.min(axis=1).tolist(), values.max(axis=1).tolist()  # NaN carries over
    if not all(map(math.isfinite, low + high)):
        return "null in iteration, sync or warmup"
    if min(low) < 0 or high[0] >= 2**31 or max(high[1:]) > 1:
        return "iteration, sync or warmup hold numbers that they cannot have"
    return None
