from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paceline.analysis import campaign as campaigns
from paceline.analysis.outlook import outlook
from paceline.bench.errors import RecordError

from tests.campaigns import case, changed, good, write_campaign, write_start


def test_lost_and_repeated_iterations_are_joined_away(tmp_path: Path) -> None:
    write_campaign(tmp_path)
    write_start(tmp_path, 1, range(0, 138))
    write_start(tmp_path, 2, range(101, 150), changed(good, reward=lambda k: 1000.0 + k))
    write_start(tmp_path, 3, range(150, 200))
    joined = campaigns.read(tmp_path)
    assert list(joined.iteration) == list(range(200)) and joined.gaps() == []
    assert joined.lost_iterations == 37
    assert joined.reward[100] < 1000 and joined.reward[101] == 1101.0 and joined.reward[149] == 1149.0
    assert joined.done == 200 and joined.goal is None


def test_a_start_that_recorded_nothing_voids_nothing(tmp_path: Path) -> None:
    write_campaign(tmp_path)
    write_start(tmp_path, 1, range(0, 60))
    write_start(tmp_path, 2, range(51, 51))
    assert campaigns.read(tmp_path).done == 60


def test_rewinding_twice(tmp_path: Path) -> None:
    write_campaign(tmp_path)
    write_start(tmp_path, 1, range(0, 100))
    write_start(tmp_path, 2, range(20, 50))
    write_start(tmp_path, 3, range(40, 45))
    joined = campaigns.read(tmp_path)
    assert list(joined.iteration) == list(range(45))
    assert joined.lost_iterations == 80 + 10


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 40)), min_size=1, max_size=6))
def test_any_history_joins_without_gaps(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[int, int]]
) -> None:
    """Whatever starts resumed wherever they could: every iteration is there once, and rows are kept or lost."""
    folder = tmp_path_factory.mktemp("campaign")
    write_campaign(folder)
    reached = total = 0
    for attempt, (back, length) in enumerate(history, start=1):
        start = max(0, reached - back) if attempt > 1 else 0
        write_start(folder, attempt, range(start, start + length))
        reached = start + length
        total += length
    joined = campaigns.read(folder)
    assert list(joined.iteration) == list(range(reached))
    assert joined.lost_iterations == total - reached


def test_reading_on_sees_only_whole_lines_and_what_was_added(tmp_path: Path) -> None:
    write_campaign(tmp_path)
    run = write_start(tmp_path, 1, range(0, 30))
    record = run / "rank-0000.jsonl"
    text = record.read_bytes()
    cut = text.rindex(b"\n", 0, len(text) - 5) + 20
    record.write_bytes(text[:cut])
    reader = campaigns.CampaignReader(tmp_path)
    assert reader.read().done == 29
    record.write_bytes(text)
    assert reader.read().done == 30
    assert len(reader.read().starts[0].rows) == 30


def test_throughput_leaves_out_warm_up(tmp_path: Path) -> None:
    write_campaign(tmp_path)
    write_start(tmp_path, 1, range(0, 20), changed(good, iteration_time_s=lambda k: 50.0 if k < 5 else 2.0))
    fps = campaigns.read(tmp_path).fps
    assert np.isnan(fps[:5]).all() and np.allclose(fps[5:], case().global_batch / 2.0)


def test_outlook_knows_the_pace(tmp_path: Path) -> None:
    write_campaign(tmp_path)
    write_start(tmp_path, 1, range(0, 1000))
    ahead = outlook(campaigns.read(tmp_path))
    assert ahead is not None and ahead.iterations_left == 4000
    assert ahead.left_low_s <= 4000 * 2.0 <= ahead.left_high_s
    assert ahead.left_s == pytest.approx(8000, rel=0.01) and ahead.limited_by == "iterations"


def test_outlook_is_bounded_by_hours_and_counts_further_starts(tmp_path: Path) -> None:
    write_campaign(tmp_path, hours=1.0)
    write_start(tmp_path, 1, range(0, 500))
    ahead = outlook(campaigns.read(tmp_path))
    assert ahead is not None and ahead.limited_by == "hours"
    assert ahead.left_s == pytest.approx(3600 - (30 + 1000), abs=15)
    write_campaign(tmp_path)
    write_start(tmp_path, 2, range(500, 1000), start_up_s=100.0)
    later = outlook(campaigns.read(tmp_path))
    assert later is not None and later.left_s > 8000 + 5 * 60  # about eight more starts


def test_outlook_is_silent_before_there_is_a_pace(tmp_path: Path) -> None:
    write_campaign(tmp_path)
    assert outlook(campaigns.read(tmp_path)) is None
    write_start(tmp_path, 1, range(0, 10))
    assert outlook(campaigns.read(tmp_path)) is None


def test_a_folder_that_is_no_campaign(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="not a campaign folder"):
        campaigns.read(tmp_path)
    (tmp_path / "campaign.json").write_text('{"schema": "paceline.campaign/9"}')
    with pytest.raises(RecordError, match="schema"):
        campaigns.read(tmp_path)
