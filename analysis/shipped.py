"""What the tasks of Isaac Lab ship as rl_games configuration, to tell a changed table from a shipped one."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources


@dataclass(frozen=True, kw_only=True, slots=True)
class ShippedConfiguration:
    """Sizes in a task's agent configuration, per rank."""

    version: str
    """Isaac Lab version they were read in."""
    horizon: int
    minibatch_size: int | None
    num_epochs: int


def configuration(task: str, library: str) -> ShippedConfiguration | None:
    """Return what Isaac Lab ships for a task and library, None if unknown.

    Names match without the version suffix: Isaac-Ant-v0 of 2.x is Isaac-Ant of 3.x.
    """
    return _all().get((re.sub(r"-v\d+$", "", task.strip()), library.strip().lower()))


@cache
def _all() -> dict[tuple[str, str], ShippedConfiguration]:
    text = (resources.files("paceline.analysis") / "examples" / "shipped_configurations.csv").read_text(
        encoding="utf-8"
    )
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return {
        (row["task"], row["library"]): ShippedConfiguration(
            version=row["isaaclab_version"],
            horizon=int(row["horizon"]),
            minibatch_size=int(row["minibatch_size_per_rank"]) if row["minibatch_size_per_rank"] else None,
            num_epochs=int(row["num_epochs"]),
        )
        for row in rows
    }
