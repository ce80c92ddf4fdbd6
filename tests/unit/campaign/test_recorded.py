"""Alerts on records of real campaigns (tests/data/campaigns, its README says how they were made)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from paceline.analysis import campaign as campaigns
from paceline.analysis.alerts import Now, alerts, loss_diverging

RECORDS = Path(__file__).resolve().parents[2] / "data" / "campaigns"
GOOD = ("cartpole_rsl_rl_interrupted", "cartpole_rl_games_interrupted")


@pytest.mark.parametrize("name", GOOD)
def test_interrupted_campaigns_that_learn_are_quiet_and_whole(name: str) -> None:
    joined = campaigns.read(RECORDS / name)
    assert joined.goal == "iterations" and joined.gaps() == []
    assert list(joined.iteration) == list(range(150)) and len(joined.starts) > 3
    assert np.nanmean(joined.reward[-10:]) > 4.5  # of about 5
    assert alerts(joined, Now()) == []


@pytest.mark.parametrize("trainer", ["rsl_rl", "rl_games"])
def test_a_walker_goes_on_learning_after_kills_and_time_limits(trainer: str) -> None:
    joined = campaigns.read(RECORDS / f"ant_{trainer}_interrupted")
    assert joined.goal == "iterations" and joined.gaps() == []
    assert list(joined.iteration) == list(range(90)) and len(joined.starts) >= 3
    assert joined.lost_iterations in (6, 7)  # a kill loses what came after the newest checkpoint, and nothing else
    assert np.nanmax(joined.reward[60:]) > np.nanmax(joined.reward[:45]) + 1.0
    assert alerts(joined, Now()) == []


SOON = {"after_iterations": 20, "flat_reward_iterations": 20}
"""Limits for runs of some forty iterations."""


def test_alerts_tell_a_bad_run_from_a_good_one_of_the_same_task() -> None:
    """Same task, seed and limits; only the learning rate differs (1e-8, fixed, against the task's own)."""
    bad, good = (campaigns.read(RECORDS / f"cartpole_rsl_rl_{name}") for name in ("flat", "steady"))
    assert bad.case.seed == good.case.seed and bad.case.num_envs == good.case.num_envs
    for joined in (bad, good):
        assert joined.done > 40
        joined.campaign.alerts.update(SOON)
    assert alerts(good, Now()) == []
    fired = {alert.rule: alert.reason for alert in alerts(bad, Now())}
    assert set(fired) == {"flat_reward", "learning_rate_floor"}
    assert "has not risen over 20 iterations" in fired["flat_reward"]
    assert "at 1e-08 for 20 iterations" in fired["learning_rate_floor"]


def at(joined: campaigns.Joined, done: int) -> campaigns.Joined:
    """The campaign as it was after so many iterations, as far as its losses go."""
    return dataclasses.replace(joined, losses={name: values[:done] for name, values in joined.losses.items()})


def test_a_real_divergence_is_told_while_it_lasts_and_no_good_run_looks_like_one() -> None:
    """Learning rate 0.02, fixed, gradients not clipped: the value loss leaps from 0.07 to 150,000 at iteration 21."""
    bad = campaigns.read(RECORDS / "cartpole_rsl_rl_diverging")
    limits = bad.campaign.alerts
    told = {done: loss_diverging(at(bad, done), Now(), limits) for done in range(1, 131)}
    first = min(done for done, reason in told.items() if reason)
    assert 30 < first <= 42
    assert told[first] == "the value loss is 51.8, 740 times the 0.07 that it was"
    assert all(told[done] for done in range(first, 71))
    for name in (*GOOD, "cartpole_rsl_rl_steady", "ant_rsl_rl_interrupted", "ant_rl_games_interrupted"):
        good = campaigns.read(RECORDS / name)
        assert not any(loss_diverging(at(good, n), Now(), limits) for n in range(1, len(good.iteration) + 1)), name


@pytest.mark.parametrize("name", GOOD)
def test_the_same_limits_are_quiet_on_interrupted_good_runs(name: str) -> None:
    joined = campaigns.read(RECORDS / name)
    joined.campaign.alerts.update(SOON | {"short_episode_steps": 30})
    assert alerts(joined, Now()) == []
