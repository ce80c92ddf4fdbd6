"""Which start decides whether a goal of a campaign is reached."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from paceline.bench.campaign import Start
from paceline.bench.campaigndriver import completed
from paceline.bench.rundir import RunDir

NOTHING_LEFT = ("interrupted", "signal", 34, 0)  # queued behind the last one, cancelled when it had just begun


@pytest.fixture
def campaign(tmp_path: Path) -> Any:
    stated = tmp_path / "campaign.json"
    stated.write_text("{}")
    os.utime(stated, (1000, 1000))
    return SimpleNamespace(folder=SimpleNamespace(campaign_json=stated), case=SimpleNamespace(case_id="abc"))


def starts(folder: Path, *told: tuple[Any, str | None, int | None, int]) -> list[Start]:
    """Starts as (state, cause, start_iteration, iterations_done)."""
    found = []
    for attempt, (state, cause, begin, done) in enumerate(told, start=1):
        run = RunDir(folder / "runs" / "abc" / f"attempt-{attempt}")
        run.path.mkdir(parents=True)
        run.result_json.write_text("{}")
        found.append(
            Start(
                run=run,
                state=state,
                cause=cause,
                message=None,
                job_id=None,
                start_iteration=begin,
                iterations_done=done,
            )
        )
    return found


TRAINED = ("completed", None, 17, 34)


def test_a_start_that_found_nothing_left_takes_nothing_back(campaign: Any, tmp_path: Path) -> None:
    assert completed(campaign, starts(tmp_path, ("failed", "killed", 0, 18), TRAINED, NOTHING_LEFT))


def test_a_cancelled_start_that_never_began_takes_nothing_back(campaign: Any, tmp_path: Path) -> None:
    assert completed(campaign, starts(tmp_path, TRAINED, ("failed", "cancelled", None, 0)))


def test_a_start_that_trained_on_and_failed_is_what_counts(campaign: Any, tmp_path: Path) -> None:
    assert not completed(campaign, starts(tmp_path, TRAINED, ("failed", "error", 34, 40)))


def test_goals_that_were_stated_since_are_not_reached(campaign: Any, tmp_path: Path) -> None:
    found = starts(tmp_path, TRAINED, NOTHING_LEFT)
    later = found[0].run.result_json.stat().st_mtime + 10
    os.utime(campaign.folder.campaign_json, (later, later))
    assert not completed(campaign, found)
    campaign.case.case_id = "another"  # the goal was extended: another case
    os.utime(campaign.folder.campaign_json, (1000, 1000))
    assert not completed(campaign, found)
