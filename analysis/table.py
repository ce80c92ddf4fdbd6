"""A table of results in Paceline's terms: the one shape that checks, laws and comparison work on.

Readers make it from a CSV file (plain_csv), from a study folder (study_table) or from what other tools wrote (ingest).
Numeric columns carry the names and units of the records (`total_fps`, `iteration_time_s`, `num_envs_per_rank`): rates
in frames/s of all ranks, times in seconds, and the empty cell is NaN. Text columns hold '' where nothing is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Mode = Literal["strong", "weak"]
Scope = Literal["rank0", "all", "unknown"]

RATES = ("fps_step", "fps_step_inference", "collection_fps", "total_fps")
"""Rates in frames/s over all ranks: env.step only, with policy inference, whole roll-out, whole iteration."""

RATE_WORDS = {
    "fps_step": "step",
    "fps_step_inference": "step+inference",
    "collection_fps": "collection",
    "total_fps": "total",
}
RANK0_LIBRARIES = ("rl_games", "rsl_rl", "skrl", "sb3")
"""Libraries whose logs hold the times of global rank 0 only."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of results with named columns. All arrays and tuples have one entry per row."""

    source: str
    """File or folder, for messages."""
    rows: tuple[int | str, ...]
    numbers: Mapping[str, Floats] = field(default_factory=dict)
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    written: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The numeric cells as they stand in the file: how many digits somebody wrote."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Name in the file of each column, for messages."""
    declared_mode: Mode | None = None
    declared_by: str = ""
    """Where the mode was declared: a column, the file name, the command line, the study."""
    scope: Scope = "unknown"
    """Whose times these are."""
    kind: Literal["table", "study", "log"] = "table"
    """A table somebody wrote, records that Paceline made, or a log or bundle of another tool."""

    def __len__(self) -> int:
        return len(self.rows)

    def has(self, *names: str) -> bool:
        """Return whether every named column exists and holds at least one value."""
        for name in names:
            if name in self.numbers:
                if not np.isfinite(self.numbers[name]).any():
                    return False
            elif not any(self.texts.get(name, ())):
                return False
        return True

    def number(self, name: str) -> Floats:
        """Return a numeric column; all NaN if the table has none of that name."""
        found = self.numbers.get(name)
        return np.full(len(self.rows), np.nan) if found is None else found

    def text(self, name: str) -> tuple[str, ...]:
        """Return a text column; all '' if the table has none of that name."""
        return self.texts.get(name, ("",) * len(self.rows))

    def header(self, name: str) -> str:
        """Return what the file calls a column."""
        return self.headers.get(name, name)

    def labels(self, positions: Sequence[int]) -> tuple[int | str, ...]:
        """Return the row labels at the given positions (0-based), in order, each once."""
        return tuple(self.rows[i] for i in sorted(set(positions)))

    def world_sizes(self) -> Floats:
        """Return the world size of every row; 1 where the table has no such column."""
        n = self.number("world_size")
        return np.where(np.isfinite(n), n, 1.0) if "world_size" not in self.numbers else n

    def envs_per_rank(self) -> Floats:
        """Return environments per rank: as stated, else num_envs / world_size; NaN where neither is known."""
        stated = self.number("num_envs_per_rank")
        with np.errstate(invalid="ignore"):
            return np.where(np.isfinite(stated), stated, self.number("num_envs") / self.world_sizes())


def at_size(table: Table, i: int) -> str:
    """Return `` at N=4`` for a row of world size 4, nothing where the table has no world sizes."""
    return f" at N={count(table.world_sizes()[i])}" if "world_size" in table.numbers else ""


def count(value: float) -> str:
    """Return a count or rate for a message: 1024, 524,288 or 0.862."""
    if not np.isfinite(value):
        return "?"
    if value == round(value) and abs(value) < 1e15:
        return f"{int(value):,}" if abs(value) >= 10000 else str(int(value))
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def series_of(values: Sequence[float], separator: str = " / ", limit: int = 8) -> str:
    """Return numbers for a message, at most ``limit`` of them."""
    shown = [count(v) for v in values[:limit]]
    return separator.join(shown) + (" ..." if len(values) > limit else "")


def trailing_zeros(value: float) -> int:
    """Return how many zeros a whole number ends in; 0 for 0 and for fractions."""
    if value == 0 or value != round(value):
        return 0
    zeros, whole = 0, round(abs(value))
    while whole % 10 == 0:
        whole //= 10
        zeros += 1
    return zeros
