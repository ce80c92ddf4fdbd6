"""What an evaluation says: success, reward and episode length with intervals, and which checkpoint is best, if any.

Every environment of a cell plays the same number of episodes from the beginning, so episodes are a fair sample.
Intervals are 95 %: Wilson's for success, Student's t for means. Checkpoints are compared within the same task, variant
and seed; two whose difference may be chance are a tie.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from paceline.analysis.stats import holm, t_quantile
from paceline.bench import jsontext
from paceline.bench.errors import RecordError
from paceline.bench.rundir import read_json

EVALUATION_SCHEMA = "paceline.evaluation/1"
ONE_BY_ONE = "one-by-one"
"""Folder in an evaluation folder where the same cells were played one after another (`paceline evaluate`)."""
MEASURES = ("reward", "success", "length")
_Z = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Value:
    """A figure with its 95 % interval; nan where it is not known."""

    value: float
    low: float
    high: float


@dataclass(slots=True)
class CellResult:
    """One cell as recorded."""

    cell: dict[str, Any]
    status: str
    error: str | None
    reward: np.ndarray[Any, np.dtype[np.float64]]
    length: np.ndarray[Any, np.dtype[np.float64]]
    success: np.ndarray[Any, np.dtype[np.float64]]
    end: dict[str, Any]

    @property
    def stratum(self) -> tuple[str, str, int]:
        """What cells of different checkpoints must share to be compared."""
        return str(self.cell["task"]), str(self.cell["variant"]), int(self.cell["seed"])

    def measure(self, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return one measure of every episode."""
        values = {"reward": self.reward, "success": self.success, "length": self.length}[name]
        finite: np.ndarray[Any, np.dtype[np.float64]] = values[np.isfinite(values)]
        return finite


@dataclass(frozen=True, slots=True)
class Ranking:
    """Which checkpoint is best by one measure."""

    measure: str
    order: tuple[str, ...]
    """Labels, best first, by the mean over strata that all share."""
    ties: tuple[str, ...]
    """Those that may be as good as the first: the difference is not significant at 5 % (Holm)."""
    p_values: dict[str, float]
    """Against the first, by label, corrected for their number."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What packing gained."""

    wall_s: float
    """Time in which at least one process ran."""
    one_by_one_s: float
    """The same cells one after another: measured if that was done in this folder, else estimated."""
    measured_cells: int
    """Cells of which one_by_one_s is a measurement; the others are estimated."""
    cells: int
    most_at_once: int

    @property
    def speedup(self) -> float:
        """How many times as fast as one by one."""
        return self.one_by_one_s / self.wall_s if self.wall_s > 0 else math.nan

    @property
    def measured(self) -> bool:
        """Whether all of one_by_one_s is a measurement."""
        return self.measured_cells == self.cells


def load(folder: Path) -> list[CellResult]:
    """Return the cells of an evaluation folder in the order in which they were asked for; RecordError if it is none."""
    try:
        asked = read_json(folder / "evaluation.json")
    except FileNotFoundError:
        raise RecordError(f"{folder}: not an evaluation folder (it has no evaluation.json)") from None
    if asked.get("schema") != EVALUATION_SCHEMA:
        raise RecordError(f"{folder / 'evaluation.json'}: schema is {asked.get('schema')!r}")
    return [_cell(folder, str(cell_id)) for cell_id in asked["cells"]]


def _cell(folder: Path, cell_id: str) -> CellResult:
    cell = read_json(folder / "cells" / f"{cell_id}.json")
    rows, end = [], {}
    try:
        lines = (folder / "cells" / f"{cell_id}.jsonl").read_bytes().split(b"\n")[:-1]
    except OSError:
        lines = []
    for line in lines:
        value = _parse(line)
        if "episode" in value:
            rows.append(value)
        elif value.get("type") == "end":
            end = value
    columns = {
        name: np.array([_number(row.get(name)) for row in rows], dtype=np.float64)
        for name in ("reward", "length", "success")
    }
    status = str(end.get("status", "missing" if not lines else "unfinished"))
    return CellResult(cell=cell, status=status, error=end.get("error"), end=end, **columns)


def mean(values: np.ndarray[Any, np.dtype[np.float64]]) -> Value:
    """Return a mean with Student's interval."""
    if not len(values):
        return Value(math.nan, math.nan, math.nan)
    middle = float(values.mean())
    if len(values) < 2:
        return Value(middle, math.nan, math.nan)
    half = t_quantile(len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return Value(middle, middle - half, middle + half)


def proportion(values: np.ndarray[Any, np.dtype[np.float64]]) -> Value:
    """Return a share with Wilson's interval; values between 0 and 1 count in part."""
    count = len(values)
    if not count:
        return Value(math.nan, math.nan, math.nan)
    share = float(values.mean())
    middle = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    return Value(share, max(0.0, middle - half), min(1.0, middle + half))


def ranking(cells: Sequence[CellResult], measure: str = "reward") -> Ranking | None:
    """Return the order of the checkpoints by a measure, with a tie test; None with fewer than two to compare.

    Only strata (task, variant, seed) that every checkpoint has completed count, each with the same weight. The
    difference to the first is tested with a normal approximation of the mean over strata, Holm-corrected.
    """
    by_label: dict[str, dict[tuple[str, str, int], np.ndarray[Any, np.dtype[np.float64]]]] = {}
    for cell in cells:
        if cell.status == "completed" and len(cell.measure(measure)) > 1:
            by_label.setdefault(str(cell.cell["label"]), {})[cell.stratum] = cell.measure(measure)
    if len(by_label) < 2:
        return None
    shared = set.intersection(*(set(strata) for strata in by_label.values()))
    if not shared:
        return None
    means = {label: float(np.mean([strata[s].mean() for s in shared])) for label, strata in by_label.items()}
    order = sorted(means, key=lambda label: means[label], reverse=True)
    first = by_label[order[0]]
    raw: dict[str, float] = {}
    for label in order[1:]:
        other = by_label[label]
        difference = means[order[0]] - means[label]
        variance = (
            sum(first[s].var(ddof=1) / len(first[s]) + other[s].var(ddof=1) / len(other[s]) for s in shared)
            / len(shared) ** 2
        )
        if variance > 0:
            raw[label] = math.erfc(difference / math.sqrt(variance) / math.sqrt(2))
        else:
            raw[label] = 1.0 if difference == 0 else 0.0
    corrected = dict(zip(raw, holm(list(raw.values())), strict=True))
    ties = tuple(label for label in order[1:] if corrected[label] > 0.05)
    return Ranking(measure, tuple(order), ties, corrected)


def speed(folder: Path, cells: Sequence[CellResult]) -> Speed | None:
    """Return what packing gained, from the schedule of the cells that completed; None if it is not known.

    One by one is measured where ``one-by-one/`` in the folder has played the same cells. A cell that it has not played
    counts as the mean of those that it has; without any, as what the cell that ran alone took, corrected by its steps:
    its start-up, and its time per environment step.
    """
    wanted = {str(cell.cell["cell_id"]): cell for cell in cells if cell.status == "completed"}
    tries = _tries(folder, wanted)
    done = {str(t["cell_id"]): t for t in tries if t.get("status") == "completed"}
    if len(done) < 2:
        return None
    spans = sorted((float(t["began_unix_s"]), float(t["ended_unix_s"])) for t in tries)
    wall = _covered(spans)
    most = max(sum(b <= begin < e for b, e in spans) for begin, _ in spans)
    if most == 1:
        return Speed(wall, wall, len(done), len(done), 1)
    alone = _tries(folder / ONE_BY_ONE, done)
    measured = {str(t["cell_id"]) for t in alone if t.get("status") == "completed"}
    if measured:
        took = _covered(sorted((float(t["began_unix_s"]), float(t["ended_unix_s"])) for t in alone))
        return Speed(wall, took * len(done) / len(measured), len(measured), len(done), most)
    first = min(done.values(), key=lambda t: float(t["began_unix_s"]))
    reference = wanted[str(first["cell_id"])].end
    span = float(first["ended_unix_s"]) - float(first["began_unix_s"])
    play, steps = float(reference.get("play_s") or 0.0), int(reference.get("steps") or 1)
    one_by_one = sum(span - play + play * int(wanted[name].end.get("steps") or steps) / steps for name in done)
    return Speed(wall, one_by_one, 0, len(done), most)


def _tries(folder: Path, wanted: Iterable[str]) -> list[dict[str, Any]]:
    """Return the tries at some cells that a folder's schedule has; none if there is no schedule."""
    try:
        lines = (folder / "schedule.jsonl").read_bytes().split(b"\n")[:-1]
    except OSError:
        return []
    names = set(wanted)
    return [value for value in map(_parse, lines) if "began_unix_s" in value and str(value.get("cell_id")) in names]


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """Return how much time sorted spans cover together: an evaluation may have been interrupted for days."""
    total, until = 0.0, -math.inf
    for begin, end in spans:
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def table(cells: Iterable[CellResult]) -> list[dict[str, Any]]:
    """Return one row per cell: what it is, its figures with intervals, and its status."""
    rows = []
    for cell in cells:
        row: dict[str, Any] = {
            key: cell.cell[key] for key in ("label", "task", "variant", "seed", "trainer", "num_envs")
        }
        row |= {"episodes": len(cell.reward), "status": cell.status, "error": cell.error}
        for name, value in (
            ("success", proportion(cell.measure("success"))),
            ("reward", mean(cell.measure("reward"))),
            ("length", mean(cell.measure("length"))),
        ):
            row |= {name: _none(value.value), f"{name}_low": _none(value.low), f"{name}_high": _none(value.high)}
        row |= {
            key: cell.end.get(key) for key in ("wall_s", "step_fps", "success_from", "device_memory_bytes", "rss_bytes")
        }
        rows.append(row)
    return rows


def _parse(line: bytes) -> dict[str, Any]:
    try:
        value = jsontext.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _none(value: float) -> float | None:
    return value if math.isfinite(value) else None
