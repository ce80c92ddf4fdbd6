"""What is different in a further attempt at a case (attempt.json): enlarged buffers, nodes left out, and why.

The case stays as it was planned; an attempt that had to change something says so here. A leaf module.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from paceline.bench.errors import RecordError
from paceline.bench.rundir import RunDir, read_json, write_json

ATTEMPT_SCHEMA = "paceline.attempt/1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """What an attempt changes."""

    overrides: tuple[str, ...] = ()
    """Isaac Lab (Hydra) overrides after those of the case."""
    exclude: tuple[str, ...] = ()
    """Nodes that Slurm must not use, each as Slurm names them."""
    after: int | None = None
    """Number of the attempt before, None for the first."""
    cause: str | None = None
    """Why that one did not count."""
    message: str | None = None


def write_attempt(run: RunDir, attempt: Attempt) -> None:
    """Write attempt.json."""
    write_json(run.attempt_json, {"schema": ATTEMPT_SCHEMA, **dataclasses.asdict(attempt)})


def read_attempt(run: RunDir) -> Attempt | None:
    """Return what an attempt changes; None if it changes nothing, or the file cannot be read."""
    try:
        data: dict[str, Any] = read_json(run.attempt_json)
        names = {each.name for each in dataclasses.fields(Attempt)}
        values = {name: data[name] for name in names & set(data)}
        for name in ("overrides", "exclude"):
            values[name] = tuple(map(str, values.get(name) or ()))
        return Attempt(**values)
    except (OSError, RecordError, TypeError):
        return None
