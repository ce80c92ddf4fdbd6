"""The joined record of a campaign: all its starts as one training, without lost or doubled iterations.

A start that resumes at iteration k makes void what earlier starts had recorded from k on: that work was lost with the
state that was never saved. `Joined` holds what is left, in order, and says how much was lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from paceline.bench import jsontext
from paceline.bench.campaignfile import Campaign, CampaignDir, runs_in_order, training_jsonl
from paceline.bench.record import Case
from paceline.bench.rundir import read_json

Floats = npt.NDArray[np.float64]

_COLUMNS = ("iteration", "sync", "warmup", "start_s", "iteration_time_s", "reward", "episode_length")
_TAIL_BYTES = 65536
_TRAINED = ("learning_rate", "terrain_level", "disk_free_bytes", "t_unix_s")


@dataclass(slots=True)
class StartRecord:
    """What rank 0 of one start has recorded so far."""

    folder: Path
    header: dict[str, Any]
    rows: list[list[float]] = field(default_factory=list)
    """Per iteration: the columns of `_COLUMNS`."""
    end: dict[str, Any] | None = None
    trained: dict[int, dict[str, Any]] = field(default_factory=dict)
    """By iteration: what the trainer said (training.jsonl)."""
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def start_iteration(self) -> int:
        """Iteration that it resumed at."""
        return int(self.header.get("start_iteration", 0))

    @property
    def origin_unix_s(self) -> float:
        """When rank 0 began."""
        return float(self.header["clock_origin_unix_s"])

    @property
    def trained_s(self) -> float:
        """How long rank 0 has run, as far as recorded."""
        if self.end is not None:
            return float(self.end.get("end_s") or 0.0)
        return self.rows[-1][3] + self.rows[-1][4] if self.rows else 0.0


@dataclass(slots=True)
class Joined:
    """A campaign's record: one value per iteration in each array, nan where nothing was said."""

    campaign: Campaign
    case: Case
    starts: list[StartRecord]
    iteration: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    """Index of the start that an iteration was trained by."""
    start_s: Floats
    """When an iteration began, since that start's own beginning."""
    iteration_time_s: Floats
    undisturbed: npt.NDArray[np.bool_]
    """Iterations whose time counts for throughput."""
    reward: Floats
    episode_length: Floats
    learning_rate: Floats
    terrain_level: Floats
    disk_free_bytes: Floats
    t_unix_s: Floats
    losses: dict[str, Floats]
    not_finite: dict[int, list[str]]
    """By iteration: the numbers that were not finite."""
    lost_iterations: int
    """Iterations that were trained and then lost with a crash."""
    events: list[dict[str, Any]]
    """Checkpoints written, failed and removed, and stops, in order."""

    @property
    def done(self) -> int:
        """Iterations done."""
        return int(self.iteration[-1]) + 1 if len(self.iteration) else self._resumed_at()

    @property
    def fps(self) -> Floats:
        """Environment steps of all ranks per second of each iteration, nan where a measurement disturbed it."""
        with np.errstate(divide="ignore", invalid="ignore"):
            rate = self.case.global_batch / self.iteration_time_s
        return np.where(self.undisturbed, rate, np.nan)

    @property
    def trained_s(self) -> float:
        """Seconds trained, all starts together, start-up included."""
        return sum(start.trained_s for start in self.starts)

    @property
    def goal(self) -> str | None:
        """The goal that was reached, None while the campaign goes on."""
        end = self.starts[-1].end if self.starts else None
        return str(end["goal"]) if end is not None and end.get("goal") else None

    def gaps(self) -> list[int]:
        """Return the iterations that are missing or doubled, which there must be none of."""
        expected = np.arange(len(self.iteration)) + (self.iteration[0] if len(self.iteration) else 0)
        return [int(n) for n in self.iteration[self.iteration != expected]]

    def checkpoints(self) -> list[dict[str, Any]]:
        """Return the events of checkpoints that were written, oldest first."""
        return [event for event in self.events if event.get("event") == "checkpoint"]

    def _resumed_at(self) -> int:
        return self.starts[-1].start_iteration if self.starts else 0


class CampaignReader:
    """Reads a campaign again and again while it runs: only what was added since the last time."""

    def __init__(self, folder: Path) -> None:
        self.folder = CampaignDir(folder)
        self._starts: dict[Path, StartRecord] = {}
        self._offsets: dict[Path, int] = {}

    def read(self) -> Joined:
        """Return the campaign as it is now; RecordError if the folder holds none."""
        campaign = self.folder.read()
        path = self.folder.path / "case.json"
        case = Case.from_json(read_json(path), str(path))
        starts = [self._update(run) for run in runs_in_order(self.folder.path)]
        return _join(campaign, case, [start for start in starts if start is not None])

    def _update(self, run: Path) -> StartRecord | None:
        start = self._starts.get(run)
        for line in self._lines(run / "rank-0000.jsonl"):
            if isinstance(line, dict) and line.get("type") == "header":
                start = self._starts[run] = StartRecord(run, line)
            elif isinstance(line, dict) and line.get("type") == "end" and start is not None:
                start.end = line
            elif isinstance(line, list) and start is not None:
                values = dict(zip(start.header["columns"], line, strict=False))
                start.rows.append([_number(values.get(name)) for name in _COLUMNS])
        if start is not None:
            for line in self._lines(training_jsonl(run)):
                if isinstance(line, dict) and "iteration" in line:
                    start.trained[int(line["iteration"])] = line
                elif isinstance(line, dict) and ("event" in line or line.get("type") == "header"):
                    start.events.append(line)
        return start

    def _lines(self, path: Path) -> Iterator[Any]:
        """Yield the values of the whole lines that were added to a file."""
        try:
            with open(path, "rb") as stream:
                stream.seek(self._offsets.get(path, 0))
                data = stream.read()
        except OSError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._offsets[path] = self._offsets.get(path, 0) + len(whole)
        yield from map(_parse, whole.splitlines())


def read(folder: Path) -> Joined:
    """Return the joined record of a campaign folder; RecordError if it holds none."""
    return CampaignReader(folder).read()


def newest_sample(path: Path) -> dict[str, Any]:
    """Return the newest whole sample of a node's sampler, empty if there is none."""
    try:
        with open(path, "rb") as stream:
            stream.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            lines = stream.read().splitlines(keepends=True)
    except OSError:
        return {}
    whole = [value for line in lines[-2:] if line.endswith(b"\n") and isinstance(value := _parse(line), dict)]
    return whole[-1] if whole else {}


def _join(campaign: Campaign, case: Case, starts: list[StartRecord]) -> Joined:
    kept: list[tuple[int, list[float]]] = []
    lost = 0
    limit = np.inf
    for index in range(len(starts) - 1, -1, -1):
        valid = [(index, row) for row in starts[index].rows if row[0] < limit]
        lost += len(starts[index].rows) - len(valid)
        kept = valid + kept
        if starts[index].rows:
            limit = min(limit, starts[index].start_iteration)
    rows = np.array([row for _, row in kept], dtype=np.float64).reshape(len(kept), len(_COLUMNS))
    trained = [starts[index].trained.get(int(row[0]), {}) for index, row in kept]
    names = sorted({name for values in trained for name in values.get("losses", {})})
    columns = {name: _column(trained, name) for name in _TRAINED}
    return Joined(
        campaign=campaign,
        case=case,
        starts=starts,
        iteration=rows[:, 0].astype(np.int64),
        start=np.array([index for index, _ in kept], dtype=np.int64),
        start_s=rows[:, 3],
        iteration_time_s=rows[:, 4],
        undisturbed=(rows[:, 1] == 0) & (rows[:, 2] == 0),
        reward=rows[:, 5],
        episode_length=rows[:, 6],
        losses={name: _column([values.get("losses", {}) for values in trained], name) for name in names},
        not_finite={
            int(row[0]): list(values["not_finite"])
            for (_, row), values in zip(kept, trained, strict=True)
            if values.get("not_finite")
        },
        lost_iterations=lost,
        events=[event for start in starts for event in start.events],
        **columns,
    )


def _column(values: list[dict[str, Any]], name: str) -> Floats:
    return np.array([_number(value.get(name)) for value in values], dtype=np.float64)


def _parse(line: bytes) -> Any:
    try:
        return jsontext.loads(line)
    except ValueError:
        return None


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
