from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest
from paceline.bench import campaign as campaigns
from paceline.bench import checkpoint as checkpoints
from paceline.bench import segment as segments
from paceline.bench.campaignfile import CampaignDir
from paceline.bench.cluster import load_cluster
from paceline.bench.errors import LaunchError
from paceline.bench.preset import load_preset
from paceline.bench.record import Case
from paceline.bench.rundir import RunDir

from tests.campaigns import case, write_campaign, write_start
from tests.unit.test_checkpoint import noted, rl_games, rsl_rl


@pytest.fixture
def folder(tmp_path: Path) -> CampaignDir:
    write_campaign(tmp_path)
    (tmp_path / "trainer").mkdir()
    return CampaignDir(tmp_path)


def decide(folder: CampaignDir, attempt: int = 9, a_case: Case | None = None) -> segments.Segment:
    a_case = a_case or case()
    run = RunDir(folder.path / "runs" / a_case.case_id / f"attempt-{attempt}")
    return segments.decide(folder, folder.read(), run, a_case)


def test_from_scratch(folder: CampaignDir) -> None:
    assert (decide(folder).start_iteration, decide(folder).checkpoint) == (0, None)


def test_the_newest_whole_checkpoint_is_taken(folder: CampaignDir) -> None:
    whole, cut = noted(rsl_rl(folder.trainer, 100), 101), noted(rsl_rl(folder.trainer, 150), 151)
    cut.write_bytes(cut.read_bytes()[:500])
    found = decide(folder)
    assert (found.start_iteration, found.checkpoint) == (101, str(whole))
    assert found.passed_over[0].startswith("model_150.pt: truncated: 500 of")
    assert found.sha256 == checkpoints.sha256(whole)


def test_copies_to_keep_help_when_the_trainers_are_gone(folder: CampaignDir) -> None:
    checkpoints.keep(noted(rsl_rl(folder.trainer, 100), 101), folder.checkpoints)
    for path in folder.trainer.iterdir():
        path.unlink()
    assert decide(folder).start_iteration == 101


def test_wrong_trainer(folder: CampaignDir) -> None:
    rl_games(folder.trainer, 50)
    with pytest.raises(LaunchError, match="is a checkpoint of rl_games, the campaign trains with rsl_rl"):
        decide(folder)


def request(folder: CampaignDir, path: Path | None) -> Any:
    opened = campaigns.OpenCampaign(
        folder=folder,
        preset=load_preset("cartpole_2min"),
        campaign=folder.read(),
        cluster=load_cluster("local"),
        case=case(),
    )
    return campaigns.request_resume(opened, path, {"actor": [32, 16]})


def test_resume_from_an_older_one_voids_the_newer(folder: CampaignDir) -> None:
    older = noted(rsl_rl(folder.trainer, 100), 101)
    noted(rsl_rl(folder.trainer, 200), 201)
    time.sleep(0.02)
    assert request(folder, older).next_iteration == 101
    found = decide(folder)
    assert found.start_iteration == 101 and "resumed-from-model_100.pt" in str(found.checkpoint)
    time.sleep(0.02)
    noted(rsl_rl(folder.trainer, 150), 151)  # trained since
    assert decide(folder).start_iteration == 151


def test_a_named_checkpoint_that_was_damaged_since(folder: CampaignDir) -> None:
    older = noted(rsl_rl(folder.trainer, 100), 101)
    request(folder, older)
    kept = folder.checkpoints / "resumed-from-model_100.pt"
    kept.write_bytes(kept.read_bytes()[:100])
    with pytest.raises(LaunchError, match="truncated"):
        decide(folder)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "nothing.pt", "missing"),
        (lambda folder: rl_games(folder, 5), "is one of rl_games, the campaign trains with rsl_rl"),
        (
            lambda folder: rsl_rl(folder, 5, widths=(64, 64)),
            r"its actor has layers of \[64, 64\], the preset makes \[32, 16\]",
        ),
        (lambda folder: rsl_rl(folder, 5000), "holds 5001 iterations, the campaign ends at 5000"),
    ],
)
def test_checkpoints_that_cannot_be_resumed_from(folder: CampaignDir, tmp_path: Path, make: Any, said: str) -> None:
    with pytest.raises(LaunchError, match=said):
        request(folder, make(tmp_path))
    assert not folder.resume_json.exists()


def failed(folder: CampaignDir, attempt: int, start: int, cause: str = "error") -> None:
    run = write_start(folder.path, attempt, range(start, start + 3))
    result = {"schema": "paceline.result/1", "status": "failed", "cause": cause, "message": f"it broke ({attempt})"}
    (run / "result.json").write_text(json.dumps(result))


def test_a_campaign_without_progress_is_given_up(folder: CampaignDir) -> None:
    for attempt in (1, 2, 3):
        failed(folder, attempt, 0)
        time.sleep(0.02)
    with pytest.raises(LaunchError, match=r"3 starts in a row ended at iteration 0 .* the last one: it broke \(3\)"):
        decide(folder)
    request(folder, None)  # a person wants it tried again
    assert decide(folder).start_iteration == 0


def test_progress_and_preemption_do_not_count_as_failures(folder: CampaignDir) -> None:
    for attempt, cause in enumerate(("error", "preempted", "node_failure", "error"), start=1):
        failed(folder, attempt, 0, cause)
    assert decide(folder).start_iteration == 0
    failed(folder, 5, 0)
    noted(rsl_rl(folder.trainer, 10), 11)
    assert decide(folder).start_iteration == 11


def test_time_of_earlier_starts_counts(folder: CampaignDir) -> None:
    write_start(folder.path, 1, range(0, 10))
    write_start(folder.path, 2, range(10, 20), end={"status": "failed"})
    assert decide(folder).spent_s == pytest.approx(2 * (30 + 10 * 2.0), abs=3)


def test_goals(folder: CampaignDir) -> None:
    campaign = folder.read()
    assert segments.goal_reached(campaign, case(), 4999, 0, None) is None
    assert segments.goal_reached(campaign, case(), 5000, 0, None) == "iterations"
    framed = dataclasses.replace(campaign, frames=10 * case().global_batch)
    assert segments.goal_reached(framed, case(), 9, 0, None) is None
    assert segments.goal_reached(framed, case(), 10, 0, None) == "frames"
    timed = dataclasses.replace(campaign, hours=2.0)
    assert segments.goal_reached(timed, case(), 1, 7199, None) is None
    assert segments.goal_reached(timed, case(), 1, 7200, None) == "hours"
    wanted = dataclasses.replace(campaign, reward=5.0)
    assert segments.goal_reached(wanted, case(), 1, 0, None) is None
    assert segments.goal_reached(wanted, case(), 1, 0, 4.9) is None
    assert segments.goal_reached(wanted, case(), 1, 0, 5.0) == "reward"


def test_ranks_wait_for_rank_0(folder: CampaignDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "this")
    run = RunDir(folder.path / "runs" / case().case_id / "attempt-1")
    run.path.mkdir(parents=True)
    first = segments.take(folder, folder.read(), run, case(), 0)
    assert segments.take(folder, folder.read(), run, case(), 1) == first
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "another start of the same job")
    monkeypatch.setattr(segments, "_WAIT_S", 0.3)
    with pytest.raises(LaunchError, match="rank 0 has not written"):
        segments.take(folder, folder.read(), run, case(), 1)
