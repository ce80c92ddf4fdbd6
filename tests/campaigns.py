"""Writes campaign folders with made-up records, for tests of what reads them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from paceline.bench.campaignfile import SEGMENT_SCHEMA, TRAINING_SCHEMA, Campaign
from paceline.bench.record import ITERATION_COLUMNS, RANK_SCHEMA, Case

ORIGIN_UNIX_S = 1_760_000_000.0

Values = Callable[[int], dict[str, Any]]
"""What the trainer says about an iteration: reward, episode_length, iteration_time_s, learning_rate, losses ..."""


def case(**changes: Any) -> Case:
    """Return a case of a campaign."""
    values: dict[str, Any] = {
        "kind": "training",
        "task": "Isaac-Velocity-Rough-AnymalD",
        "trainer": "rsl_rl",
        "world_size": 1,
        "num_envs": 4096,
        "horizon": 24,
        "num_minibatches": 4,
        "num_epochs": 5,
        "iterations": 5000,
        "warmup_iterations": 5,
        "repeat": 0,
        "seed": 42,
        "device": "cuda",
    }
    return Case(**{**values, **changes})


def good(iteration: int) -> dict[str, Any]:
    """A run that learns: rising reward and terrain level, steady losses, small noise."""
    wave = ((iteration * 7919) % 101) / 101 - 0.5
    learnt = 1.0 - 2.0 ** (-iteration / 1500)
    return {
        "reward": 20 * learnt + wave,
        "episode_length": 100 + 800 * learnt + 10 * wave,
        "iteration_time_s": 2.0 + 0.1 * wave,
        "learning_rate": 3e-4 * (1.0 + 0.5 * wave),
        "terrain_level": max(0.5, 7 * learnt),
        "losses": {"value": 0.02 * (1.5 + wave), "surrogate": -0.01 * (1.5 + wave), "entropy": 10 - 5 * learnt},
        "disk_free_bytes": 10**12,
    }


def write_campaign(folder: Path, a_case: Case | None = None, **goals: Any) -> Campaign:
    """Write campaign.json and case.json."""
    a_case = a_case or case()
    campaign = Campaign(name="test", **{"iterations": a_case.iterations, **goals})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "case.json").write_text(json.dumps(a_case.to_json()))
    (folder / "campaign.json").write_text(json.dumps(campaign.to_json()))
    return campaign


def write_start(
    folder: Path,
    attempt: int,
    iterations: Sequence[int],
    values: Values = good,
    *,
    a_case: Case | None = None,
    end: dict[str, Any] | None = None,
    save_every: int = 50,
    origin_unix_s: float | None = None,
    start_up_s: float = 30.0,
) -> Path:
    """Write the records of one start that did ``iterations``, and return its folder."""
    a_case = a_case or case()
    run = folder / "runs" / a_case.case_id / f"attempt-{attempt}"
    run.mkdir(parents=True)
    origin = ORIGIN_UNIX_S + 1e5 * attempt if origin_unix_s is None else origin_unix_s
    header = {"type": "header", "schema": RANK_SCHEMA, "case_id": a_case.case_id, "attempt": attempt, "rank": 0}
    header |= {"clock_origin_unix_s": origin, "start_iteration": iterations[0] if iterations else 0}
    rank, trained = [{**header, "columns": list(ITERATION_COLUMNS)}], []
    lines: list[Any] = list(rank)
    clock = start_up_s
    start = iterations[0] if iterations else 0
    trained.append({"type": "header", "schema": TRAINING_SCHEMA, "start_iteration": start, "resumed_from": None})
    for number, iteration in enumerate(iterations):
        said = values(iteration)
        seconds = said.pop("iteration_time_s")
        row: dict[str, Any] = dict.fromkeys(ITERATION_COLUMNS)
        row |= {"iteration": iteration, "sync": 0, "warmup": int(number < a_case.warmup_iterations), "start_s": clock}
        row |= {"iteration_time_s": seconds, "reward": said.get("reward"), "episode_length": said.get("episode_length")}
        lines.append([row[name] for name in ITERATION_COLUMNS])
        clock += seconds
        trained.append({"iteration": iteration, "t_unix_s": origin + clock, **said})
        if iteration % save_every == 0:
            event = {"event": "checkpoint", "t_unix_s": origin + clock, "file": f"model_{iteration}.pt"}
            trained.append({**event, "next_iteration": iteration + 1, "size_bytes": 1000, "duration_s": 0.01})
    if end is not None:
        lines.append({"type": "end", "iterations": len(iterations), "end_s": clock, "error": None, **end})
    (run / "rank-0000.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "training.jsonl").write_text("".join(json.dumps(line) + "\n" for line in trained))
    (run / "segment.json").write_text(json.dumps({"schema": SEGMENT_SCHEMA, "start_iteration": start}))
    return run


def changed(values: Values, **changes: Callable[[int], Any]) -> Values:
    """Return values with some of them replaced by functions of the iteration."""
    return lambda iteration: {**values(iteration), **{name: change(iteration) for name, change in changes.items()}}
