"""What `paceline watch --once`, `status` and `cancel` print of a campaign."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from paceline.bench import campaign as campaigns
from paceline.bench.cluster import load_cluster
from paceline.bench.preset import load_preset
from paceline.bench.presetcheck import Checked

from tests.campaigns import Values, changed, good, write_start

PACELINE = Path(sys.executable).with_name("paceline")


def made(folder: Path, values: Values = good, iterations: int = 1500, status: dict[str, Any] | None = None) -> Path:
    """Return a campaign folder with one start."""
    settings = {"device": "cpu", "iterations": "5000", "hours": "100", "expected_fps": "2000"}
    preset = load_preset("cartpole_2min", {**settings, "alerts.flat_reward_iterations": "1000"})
    agent = {"horizon": 16, "num_minibatches": 4, "num_epochs": 5}
    checked = Checked(settings={}, agent=agent, hidden_layers={}, defaults={}, verified=True)
    opened = campaigns.create(folder, preset, checked, load_cluster("local"))
    run = write_start(folder, 1, range(iterations), values, a_case=opened.case)
    (run / "case.json").write_text(json.dumps(opened.case.to_json()))
    result: dict[str, Any] = {"schema": "paceline.result/1", "case_id": opened.case.case_id, "attempt": 1}
    result |= {"status": "failed", "cause": "error", "message": "it broke", "exit_code": 1, "ranks_expected": 1}
    result |= {"ranks_completed": [], "start_unix_s": 0.0, "end_unix_s": 1.0}
    (run / "result.json").write_text(json.dumps({**result, **(status or {})}))
    return folder


def paceline(*arguments: str | Path) -> str:
    done = subprocess.run([PACELINE, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_picture_of_a_good_campaign(tmp_path: Path) -> None:
    text = paceline("watch", made(tmp_path / "campaign"), "--once")
    for expected in (
        "Isaac-Cartpole-Direct, rsl_rl, 256 environments on 1 CPU rank",
        "start 1 failed",
        "1,500 of 5,000 iterations or 100 h (30.0 %)",
        "by iterations, without waiting in the queue",
        "0 iterations lost",
        "terrain level",
        "learning rate",
        "loss surrogate",
        "steps/s",
        "30 written, newest model_1450.pt",
    ):
        assert expected in text, text
    assert "ALERT" not in text
    assert not (tmp_path / "campaign" / "alerts.jsonl").exists()


def test_alerts_stand_below_it_and_are_kept(tmp_path: Path) -> None:
    folder = made(tmp_path / "campaign", changed(good, reward=lambda k: 1.0))
    assert "ALERT flat_reward: the mean reward has not risen over 1000 iterations" in paceline(
        "watch", folder, "--once"
    )
    assert json.loads((folder / "alerts.jsonl").read_text().splitlines()[0])["rule"] == "flat_reward"


def test_status_and_cancel(tmp_path: Path) -> None:
    folder = made(tmp_path / "campaign")
    assert paceline("status", folder).strip() == "start 1    failed       from iteration 0      error: it broke"
    (row,) = json.loads(paceline("status", folder, "--format", "json"))
    assert (row["state"], row["start_iteration"], row["iterations_done"]) == ("failed", 0, 1500)
    assert "nothing of this campaign is queued or running" in paceline("cancel", folder)


@pytest.mark.parametrize("option", [["--once"], ["--mail", "x@example.org"], ["--webhook", "http://localhost"]])
def test_studies_have_no_campaign_options(tmp_path: Path, option: list[str]) -> None:
    done = subprocess.run(
        [PACELINE, "watch", tmp_path, *option], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2 and "is a study; only campaigns" in done.stderr


def test_an_unknown_preset_and_a_folder_that_is_none(tmp_path: Path) -> None:
    for arguments, said in (
        (["train", "cartpole_2mn"], "did you mean 'cartpole_2min'"),
        (["train", "cartpole_2min", "--set", "iterations"], "expected KEY=VALUE"),
        (["resume", str(tmp_path)], "not a campaign folder"),
        (["evaluate", str(tmp_path / "none.pt")], "missing"),
    ):
        done = subprocess.run([PACELINE, *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and said in done.stderr, done.stderr
