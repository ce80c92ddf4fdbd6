"""Classes of failures: what each means, what to do about it, whether a run is repeated, and the texts that tell it.

The table is bench/failures.json; docs/faults.md shows it. A leaf module: standard library only.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

Retry = Literal["again", "elsewhere", "larger", "asked", "never"]
"""again: the same once more. elsewhere: not on the nodes of the failed attempt. larger: with the buffers that were too
small enlarged. asked: only when a person says so. never: not even then, unless with --all, for it would fail again."""

AUTOMATIC = frozenset({"again", "elsewhere", "larger"})
"""Policies under which `run` and `watch` start a next attempt by themselves."""

FROM_THE_CLUSTER = frozenset({"preempted", "node_failure", "cancelled", "dependency"})
"""Causes that are no fault of what was run: a campaign does not count starts that ended so against itself."""


@dataclass(frozen=True, slots=True)
class FailureClass:
    """One class of failures."""

    name: str
    """As ``cause`` in result.json says it."""
    family: str
    """What a person calls it: out of memory, hang, bug ..."""
    retry: Retry
    advice: str
    """One sentence."""


class FailureText(NamedTuple):
    """A text in a log that tells a class."""

    cause: str
    words: tuple[str, ...]
    """A matching line contains one of these: they are looked for first, in gigabytes if need be."""
    pattern: re.Pattern[str]
    """Does not begin with ``.*``: on a long line that would take time that grows with the square of its length."""


@functools.cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(Path(__file__).with_name("failures.json").read_bytes())
    return table


@functools.cache
def classes() -> dict[str, FailureClass]:
    """Return all classes by name."""
    return {row["name"]: FailureClass(**row) for row in _table()["classes"]}


@functools.cache
def texts() -> tuple[FailureText, ...]:
    """Return the texts, from root causes to mere consequences: the first that a log holds tells its class."""
    return _texts("texts")


@functools.cache
def last_lines() -> tuple[FailureText, ...]:
    """Return texts that mean a hang only where they are the last thing that a log says."""
    return _texts("last_lines")


def _texts(key: str) -> tuple[FailureText, ...]:
    return tuple(FailureText(row["cause"], tuple(row["words"]), re.compile(row["pattern"])) for row in _table()[key])


def failure_class(cause: str | None) -> FailureClass:
    """Return the class of a cause; that of ``unknown`` where the table has none."""
    return classes().get(cause or "unknown", classes()["unknown"])
