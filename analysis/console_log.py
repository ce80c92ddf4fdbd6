"""What console logs of both libraries share: reading them, the simulator's complaints, and the table they become."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from paceline.analysis.plain_csv import declared_mode
from paceline.analysis.table import RATES, Floats, Mode, Table

# The simulator goes on after these, with contacts missing: the rate looks fine and is wrong.
DROPPED_CONTACTS = re.compile(
    r"(?:Patch|Contact) buffer overflow detected, please increase its size to at least \d+"
    r"|Px[Gg]p?u?DynamicsMemoryConfig::collisionStackSize buffer overflow detected"
    r"(?:, please increase its size to at least \d+)?"
    r"|needs? to increase (?:the )?Px[Gg]p?u?DynamicsMemoryConfig::\w+(?: parameter)? to \d+"
    r" ?, otherwise,? the simulation will miss"
    r"|Number of Newton contacts \(\d+\) exceeded MJWarp limit \(\d+\)"
    r"|Scene state is corrupted"
)
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def log_table(
    text: str,
    source: str,
    library: str,
    columns: Mapping[str, Sequence[float]],
    places: Sequence[int],
    mode: Mode | None,
) -> Table:
    """Return the table of one run's log, one row per iteration.

    Args:
        text: The whole log.
        source: File, for messages.
        library: ``rl_games`` or ``rsl_rl``.
        columns: Values per iteration; all of one length.
        places: Where in the text each iteration was printed.
        mode: Declared scaling mode.
    """
    count = len(places)
    complaints = [""] * count
    complaint = DROPPED_CONTACTS.search(text)
    if complaint is not None and count:
        # The message belongs to the iteration that was under way when it came.
        complaints[min(int(np.searchsorted(places, complaint.start())), count - 1)] = complaint.group(0)
    declared, by = declared_mode((), source, mode)
    return Table(
        source=source,
        rows=tuple(range(1, count + 1)),
        numbers={name: _column(name, values) for name, values in columns.items() if len(values) == count},
        texts={
            "library": (library,) * count,
            "remark": tuple(complaints),
            "physics_valid": tuple("no" if text else "" for text in complaints),
        },
        declared_mode=declared,
        declared_by=by,
        scope="rank0",
        kind="log",
    )


def _column(name: str, values: Sequence[float]) -> Floats:
    """Return a column; a printed rate or time of 0 is what rounding left of one, hence not known."""
    out = np.asarray(values, dtype=np.float64)
    return np.where(out > 0, out, np.nan) if name.endswith(("_fps", "_time_s")) or name in RATES else out
