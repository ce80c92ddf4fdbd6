"""Records of real studies on four H200 go through the analysis as they came from the machine."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from paceline.analysis import load, summary
from paceline.analysis.stats import mser5

DATA = Path(__file__).resolve().parents[2] / "data" / "h200"


@pytest.fixture(scope="module", params=["strong_ant_rsl_rl", "strong_ant_rl_games", "weak_cartpole_rl_games"])
def summarised(request: pytest.FixtureRequest) -> tuple[load.Loaded, pd.DataFrame]:
    loaded = load.load_study(DATA / request.param)
    return loaded, summary.summarise(loaded, summary.run_arrays(loaded))


def test_every_run_has_its_rates_and_all_ranks(summarised: tuple[load.Loaded, pd.DataFrame]) -> None:
    loaded, summaries = summarised
    runs = loaded.runs[loaded.runs["kind"] != "warmup"]
    assert len(runs) == 9
    assert set(runs.index) <= set(summaries.index)
    assert sorted(runs["world_size"]) == [1, 1, 1, 2, 2, 2, 4, 4, 4]
    for run in runs.index:
        assert len(loaded.headers[run]) == runs.at[run, "world_size"]


def test_power_is_that_of_the_gpus_that_computed(summarised: tuple[load.Loaded, pd.DataFrame]) -> None:
    loaded, summaries = summarised
    measured = summaries.to_dict("index")
    for run, asked in loaded.runs.to_dict("index").items():
        if asked["kind"] == "warmup":
            continue
        sampled = loaded.samples[(loaded.samples["run"] == run) & (loaded.samples["source"] == "gpu")]
        computed = {header["device"]["uuid"] for header in loaded.headers[int(str(run))]}
        assert computed <= set(sampled["name"])
        # An idle H200 of this host draws 75 to 120 W, one that trains 150 to 300 W.
        assert 120 < float(measured[run]["power_w"]) / int(asked["world_size"]) < 320


def test_warm_up_of_every_run_is_found(summarised: tuple[load.Loaded, pd.DataFrame]) -> None:
    """The first iteration compiles and allocates, 5 to 30 times as slow. The rule finds it and never cuts half away."""
    loaded, summaries = summarised
    for run, block in summary.run_arrays(loaded).items():
        if loaded.runs.at[run, "kind"] == "warmup":
            continue
        times = block.time_s[~block.sync]
        state = mser5(times)
        assert state is not None and 5 <= state.cut <= len(times) / 2
        assert times[0] > 4.0 * times[state.cut :].mean()
    assert summaries["warmup_note"].isna().all()  # the studies left out enough
