"""Evaluation: the matrix of checkpoints, tasks, variants and seeds as cells, and the folder in which they are played.

Standard library only: it also runs on a GPU host that has the jobs' Python and nothing else.

    <evaluation folder>/
        evaluation.json                  what was asked for (`paceline.evaluation/1`)
        cells/<cell_id>.json             one cell
        cells/<cell_id>.jsonl            its episodes
        logs/<cell_id>-<try>.log         what its process printed
        schedule.jsonl                   when which cell ran where, and why one was run again
        one-by-one/                      the same cells played one after another, if that was asked for; likewise
        report.md report.json report.csv
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paceline.bench import checkpoint as checkpoints
from paceline.bench import jsontext
from paceline.bench.campaignfile import CampaignDir
from paceline.bench.checkpointcontents import read_contents
from paceline.bench.errors import LaunchError, RecordError
from paceline.bench.record import Case
from paceline.bench.rundir import read_json, write_json

EVALUATION_SCHEMA = "paceline.evaluation/1"
ONE_BY_ONE = "one-by-one"
"""Folder in an evaluation folder where the same cells are played one after another."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """A checkpoint that is evaluated."""

    label: str
    path: str
    sha256: str
    trainer: str
    next_iteration: int
    campaign: str | None
    """Folder of the campaign that it comes from, None if from none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One checkpoint in one task under one variant with one seed."""

    checkpoint: str
    label: str
    sha256: str
    trainer: str
    task: str
    variant: str
    seed: int
    episodes: int
    num_envs: int
    device: str
    physics: str
    overrides: tuple[str, ...]
    threads: int = 1

    @property
    def cell_id(self) -> str:
        """Content hash, 12 hexadecimal digits; the path of the checkpoint is no part of it, its content is."""
        content = {name: value for name, value in asdict(self).items() if name not in ("checkpoint", "label")}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """Return how the cell is called in tables."""
        variant = f" {self.variant}" if self.variant else ""
        return f"{self.label} in {self.task}{variant}, seed {self.seed}"

    def to_json(self) -> dict[str, Any]:
        """Return the content of its file."""
        return {"schema": EVALUATION_SCHEMA, "cell_id": self.cell_id, **asdict(self), "overrides": list(self.overrides)}


class EvaluationDir:
    """An evaluation folder."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @property
    def evaluation_json(self) -> Path:
        """What was asked for."""
        return self.path / "evaluation.json"

    @property
    def schedule_jsonl(self) -> Path:
        """When which cell ran where."""
        return self.path / "schedule.jsonl"

    def cell_json(self, cell: Cell) -> Path:
        """File of one cell."""
        return self.path / "cells" / f"{cell.cell_id}.json"

    def record(self, cell: Cell) -> Path:
        """Episodes of one cell."""
        return self.path / "cells" / f"{cell.cell_id}.jsonl"

    def log(self, cell: Cell, attempt: int) -> Path:
        """Output of one try at a cell."""
        return self.path / "logs" / f"{cell.cell_id}-{attempt}.log"

    def create(self, cells: Sequence[Cell], asked: Mapping[str, Any]) -> None:
        """Write the folder; LaunchError if it holds something else, or cannot be written. Cells may be added."""
        if not self.evaluation_json.exists() and self.path.exists() and any(self.path.iterdir()):
            raise LaunchError(f"{self.path}: not an evaluation folder and not empty; choose another with --folder")
        try:
            for name in ("cells", "logs"):
                (self.path / name).mkdir(parents=True, exist_ok=True)
            for cell in cells:
                write_json(self.cell_json(cell), cell.to_json())
            ids = [cell.cell_id for cell in cells]
            write_json(self.evaluation_json, {"schema": EVALUATION_SCHEMA, **asked, "cells": ids})
        except OSError as error:
            raise LaunchError(f"{self.path}: cannot write the evaluation folder ({error.strerror})") from error

    def outcome(self, cell: Cell) -> dict[str, Any]:
        """Return how far a cell is: ``episodes`` and, when it has ended, the keys of its end line."""
        try:
            lines = self.record(cell).read_bytes().split(b"\n")[:-1]
        except OSError:
            return {"episodes": 0}
        try:
            last = jsontext.loads(lines[-1]) if lines else {}
        except ValueError:
            last = {}
        if isinstance(last, dict) and last.get("type") == "end":
            return last
        return {"episodes": max(0, len(lines) - 1)}


def find_policies(sources: Sequence[str], best: int) -> list[Policy]:
    """Return the checkpoints that sources name: files, or campaign folders (their newest and ``best`` best ones).

    Raises:
        LaunchError: One is missing, damaged, foreign, or a folder without checkpoints.
    """
    policies: dict[str, Policy] = {}
    for source in sources:
        path = Path(source).absolute()
        found = _of_campaign(path, best) if path.is_dir() else [path]
        for checkpoint in found:
            policy = _policy(checkpoint, several=len(sources) > 1)
            policies.setdefault(policy.sha256, policy)
    labels: dict[str, int] = {}
    unique = []
    for policy in policies.values():
        labels[policy.label] = labels.get(policy.label, 0) + 1
        number = labels[policy.label]
        values = asdict(policy) | ({"label": f"{policy.label} ({number})"} if number > 1 else {})
        unique.append(Policy(**values))
    return unique


def settings_of(policy: Policy) -> tuple[str, str, tuple[str, ...]] | None:
    """Return (task, physics, overrides) of the campaign that a checkpoint comes from, None if it comes from none."""
    if policy.campaign is None:
        return None
    path = Path(policy.campaign) / "case.json"
    case = Case.from_json(read_json(path), str(path))
    return case.task, case.physics, case.overrides


def variant(text: str) -> tuple[str, tuple[str, ...]]:
    """Return name and overrides of ``NAME: KEY=VALUE KEY=VALUE``; LaunchError if it is not of that form."""
    name, separator, rest = text.partition(":")
    overrides = tuple(rest.split())
    if not separator or not re.fullmatch(r"[A-Za-z0-9._-]+", name.strip()) or not overrides:
        raise LaunchError(f"--variant {text!r}: expected NAME: KEY=VALUE ..., such as 'long: env.episode_length_s=40'")
    for override in overrides:
        if not re.match(r"(env|agent)\.[\w.]+=", override):
            raise LaunchError(f"--variant {name}: {override!r} is no setting of env or agent (env.KEY=VALUE)")
    return name.strip(), overrides


def _of_campaign(folder: Path, best: int) -> list[Path]:
    campaign = CampaignDir(folder)
    found = [c for c in checkpoints.find(folder) if checkpoints.why_incomplete(c.path) is None]
    if not found:
        what = "no whole checkpoint in it" if campaign.exists() or folder.is_dir() else "no such folder"
        raise LaunchError(f"{folder}: {what}")
    ranked = sorted((c for c in found if c.reward is not None), key=lambda c: c.reward or 0.0, reverse=True)
    chosen = {c.next_iteration: c.path for c in reversed([found[0], *ranked])}
    wanted = dict.fromkeys([found[0].next_iteration, *(c.next_iteration for c in ranked)])
    return [chosen[number] for number in list(wanted)[: 1 + best]]


def _policy(path: Path, several: bool) -> Policy:
    reason = checkpoints.why_incomplete(path)
    if reason is not None:
        raise LaunchError(f"checkpoint {path}: {reason}")
    try:
        contents = read_contents(path)
    except RecordError as error:
        raise LaunchError(str(error)) from error
    campaign = next((parent for parent in path.parents if CampaignDir(parent).exists()), None)
    label = path.stem if len(path.stem) <= 32 else f"iteration-{contents.next_iteration}"
    if several and campaign is not None:
        label = f"{campaign.name}/{label}"
    return Policy(
        label=label,
        path=str(path),
        sha256=checkpoints.sha256(path),
        trainer=contents.trainer,
        next_iteration=contents.next_iteration,
        campaign=str(campaign) if campaign else None,
    )
