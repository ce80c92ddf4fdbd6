from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from paceline.analysis import campaign as campaigns
from paceline.analysis.alerts import DEFAULTS, RULES, Alert, Now, alerts
from paceline.bench.preset import Alerts

from tests.campaigns import Values, changed, good, write_campaign, write_start

QUIET = Now()


def fired(folder: Path, values: Values, iterations: int = 3000, now: Now = QUIET, **limits: Any) -> list[Alert]:
    """Return the alerts of a campaign of one start."""
    write_campaign(folder, alerts=limits, expected_fps=limits.pop("expected_fps", None))
    write_start(folder, 1, range(iterations), values)
    return alerts(campaigns.read(folder), now)


def rules(found: list[Alert]) -> list[str]:
    return [alert.rule for alert in found]


def test_a_good_run_is_quiet_at_every_age(tmp_path: Path) -> None:
    for iterations in (1, 10, 50, 150, 500, 1200, 3000):
        found = fired(tmp_path / str(iterations), good, iterations, short_episode_s=2, step_s=0.02)
        assert found == [], (iterations, found)


def test_flat_reward(tmp_path: Path) -> None:
    flat = changed(good, reward=lambda k: good(min(k, 300))["reward"])
    (found,) = fired(tmp_path, flat)
    assert found.rule == "flat_reward" and "has not risen over 1000 iterations" in found.reason


def test_falling_reward_is_flat_too(tmp_path: Path) -> None:
    assert rules(fired(tmp_path, changed(good, reward=lambda k: 20 - k / 200))) == ["flat_reward"]


def test_short_episodes_in_seconds(tmp_path: Path) -> None:
    found = fired(tmp_path, changed(good, episode_length=lambda k: 150.0), short_episode_s=5, step_s=0.02)
    assert rules(found) == ["short_episodes"] and "150 steps (3 s)" in found[0].reason


@pytest.mark.parametrize("learns", [True, False])
def test_the_dip_after_a_resume_is_no_alarm_and_hides_none(tmp_path: Path, learns: bool) -> None:
    """Trainers report the short episodes first: low values after each of ten resumes, for less than two episodes."""

    def of_start(begin: int) -> Values:
        def values(k: int) -> dict[str, Any]:
            said = good(k if learns else min(k, 300))
            share = 1.0 if begin == 0 or k >= begin + (40 if learns else 15) else 0.2
            return {**said, "reward": said["reward"] * share, "episode_length": said["episode_length"] * share}

        return values

    write_campaign(tmp_path, alerts={"flat_reward_iterations": 400, "short_episode_s": 3, "step_s": 0.02})
    for attempt, begin in enumerate(range(0, 1650, 150), start=1):
        write_start(tmp_path, attempt, range(begin, begin + (150 if begin < 1500 else 20)), of_start(begin))
    found = alerts(campaigns.read(tmp_path), QUIET)
    assert rules(found) == ([] if learns else ["flat_reward"])


def test_nan_loss(tmp_path: Path) -> None:
    def values(k: int) -> dict[str, Any]:
        said = good(k)
        return (
            {**said, "losses": {**said["losses"], "value": None}, "not_finite": ["losses.value"]} if k > 2990 else said
        )

    found = fired(tmp_path, values)
    assert (
        rules(found) == ["loss_not_finite"]
        and "losses.value is NaN or infinite since iteration 2991" in found[0].reason
    )


def test_diverging_loss(tmp_path: Path) -> None:
    bad = changed(good, losses=lambda k: {"value": 0.02 if k < 2900 else 0.02 * 1.2 ** (k - 2900), "entropy": 1.0})
    found = fired(tmp_path, bad)
    assert rules(found) == ["loss_diverging"] and "the value loss is" in found[0].reason


def test_learning_rate_at_its_floor(tmp_path: Path) -> None:
    found = fired(tmp_path, changed(good, learning_rate=lambda k: 1e-5 if k > 2950 else 3e-4))
    assert rules(found) == ["learning_rate_floor"]


def test_stuck_curriculum(tmp_path: Path) -> None:
    found = fired(tmp_path, changed(good, terrain_level=lambda k: 0.6))
    assert rules(found) == ["stuck_curriculum"] and "terrain level is 0.6" in found[0].reason


def test_low_throughput_against_expected_and_against_itself(tmp_path: Path) -> None:
    slow = changed(good, iteration_time_s=lambda k: 2.0 if k < 2000 else 6.0)
    found = fired(tmp_path / "own", slow)
    assert rules(found) == ["low_throughput"] and "reached before" in found[0].reason
    found = fired(tmp_path / "plan", good, expected_fps=200_000)
    assert rules(found) == ["low_throughput"] and "25 % of the 200,000 expected" in found[0].reason


def test_what_the_watcher_adds(tmp_path: Path) -> None:
    hot = Now(gpu_temperatures_c=(60.0, 91.0), disk_free_bytes=1e9)
    found = fired(tmp_path, good, 300, hot)
    assert rules(found) == ["hot_gpu", "disk_nearly_full"]
    assert "91 °C" in found[0].reason and "1 GB are free" in found[1].reason


def test_a_checkpoint_that_could_not_be_written(tmp_path: Path) -> None:
    write_campaign(tmp_path)
    run = write_start(tmp_path, 1, range(100))
    with (run / "training.jsonl").open("a") as stream:
        event = {
            "event": "checkpoint_failed",
            "t_unix_s": 1.0,
            "next_iteration": 100,
            "error": "No space left on device",
        }
        stream.write(json.dumps(event) + "\n")
    (found,) = alerts(campaigns.read(tmp_path), QUIET)
    assert found.rule == "disk_nearly_full" and "iteration 100 was not written: No space left" in found.reason


def test_no_checkpoint_and_no_progress(tmp_path: Path) -> None:
    write_campaign(tmp_path)
    write_start(tmp_path, 1, range(1, 2400), save_every=10**6)
    joined = campaigns.read(tmp_path)
    (found,) = alerts(joined, QUIET)
    assert found.rule == "no_checkpoint" and "no checkpoint for 80 minutes" in found.reason
    start = joined.starts[-1]
    later = Now(running=True, unix_s=start.origin_unix_s + start.trained_s + 31 * 60)
    assert rules(alerts(joined, later)) == ["no_checkpoint", "no_progress"]
    sooner = Now(running=True, unix_s=start.origin_unix_s + start.trained_s + 60)
    assert rules(alerts(joined, sooner)) == ["no_checkpoint"]


def test_null_switches_a_rule_off(tmp_path: Path) -> None:
    flat = changed(good, reward=lambda k: 1.0, learning_rate=lambda k: 1e-6)
    assert fired(tmp_path, flat, flat_reward_iterations=None, min_learning_rate=None) == []


def test_defaults_are_those_of_a_preset() -> None:
    stated = Alerts().model_dump()
    assert {name: stated[name] for name in DEFAULTS} == DEFAULTS
    assert set().union(*(needed for _, needed in RULES.values())) <= set(stated)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_no_rule_stumbles_over_an_empty_campaign(tmp_path: Path, rule: str) -> None:
    write_campaign(tmp_path)
    assert RULES[rule][0](campaigns.read(tmp_path), QUIET, {**DEFAULTS, "short_episode_steps": 10}) is None
