"""Alerts on records of real campaigns (tests/data/campaigns, its README says how they were made)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from paceline.analysis import campaign as campaigns
from paceline.analysis.alerts import Now, alerts

RECORDS = Path(__file__).resolve().parents[2] / "data" / "campaigns"
GOOD = ("cartpole_rsl_rl_interrupted", "cartpole_rl_games_interrupted")


@pytest.mark.parametrize("name", GOOD)
def test_interrupted_campaigns_that_learn_are_quiet_and_whole(name: str) -> None:
    joined = campaigns.read(RECORDS / name)
    assert joined.goal == "iterations" and joined.gaps() == []
    assert list(joined.iteration) == list(range(150)) and len(joined.starts) > 3
    assert np.nanmean(joined.reward[-10:]) > 4.5  # of about 5
    assert alerts(joined, Now()) == []
