"""Checks that a run had its GPUs and its processor cores to itself.

F-FOREIGN, F-BUSY.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from paceline.analysis.finding import Finding
from paceline.analysis.hostsamples import OTHERS_PCT
from paceline.analysis.table import Table, at_size, count


def foreign(table: Table) -> Iterator[Finding]:
    """F-FOREIGN: another process used a GPU of the run."""
    others = table.number("foreign_processes")
    for i in np.flatnonzero(np.nan_to_num(others) > 0):
        yield Finding(
            id="F-FOREIGN",
            severity="error",
            rows=(table.rows[i],),
            message=(
                f"{count(others[i])} process(es) of others on a GPU of the run{at_size(table, int(i))}: "
                "its rate is shared"
            ),
            advice="Ask for whole GPUs (or an exclusive node) and repeat the run.",
        )


def busy(table: Table) -> Iterator[Finding]:
    """F-BUSY: other programs used the processor cores of the run, whose ranks launch all work from one core each."""
    others = table.number("other_cpu_pct")
    found = np.flatnonzero(np.nan_to_num(others) >= OTHERS_PCT).tolist()
    if not found:
        return
    low, high = f"{others[found].min():.0f}", f"{others[found].max():.0f}"
    share = low if low == high else f"{low} to {high}"
    where = at_size(table, found[0]) if len(found) == 1 else f" in {len(found)} runs"
    yield Finding(
        id="F-BUSY",
        severity="warn",
        rows=tuple(table.rows[i] for i in found),
        message=(
            f"other programs kept {share} % of the job's processor cores busy{where}: ranks may have waited for a core"
        ),
        advice="Ask for an exclusive node, or stop the other programs, and run again.",
    )
