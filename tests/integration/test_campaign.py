"""Training campaigns of real Isaac Lab through a real Slurm, interrupted in every way a cluster knows."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paceline.analysis import campaign as campaigns
from paceline.bench import checkpoint as checkpoints
from paceline.bench.campaignfile import runs_in_order

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.isaaclab, pytest.mark.timeout(900)]

PROFILE = """
schema: paceline.cluster/1
name: testsite
scheduler: slurm
partition: batch
gpus_per_node: 8
nodelist: node1
time_limit_min: 10
signal_s: 60
"""


@dataclass
class Campaign:
    """A campaign under way on a private Slurm cluster."""

    cluster: Any
    command: Path
    folder: Path
    process: subprocess.Popen[str]

    def run(self) -> Path | None:
        """Return the folder of the start that is training, None between two."""
        for run in reversed(runs_in_order(self.folder)):
            if not (run / "result.json").exists():
                return run
        return None

    def wait_for_iteration(self, number: int, timeout_s: float = 240) -> Path:
        """Wait until a running start has recorded an iteration; return its folder."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.process.communicate()[0]
            run = self.run()
            if run is not None and (run / "rank-0000.jsonl").read_text().count(f"\n[{number},"):
                return run
            time.sleep(0.1)
        raise AssertionError(f"iteration {number} was not reached in {timeout_s:.0f} s")

    def ranks(self, run: Path) -> list[int]:
        """Return the process ids of the ranks of a start."""
        headers = [json.loads(path.read_text().splitlines()[0]) for path in sorted(run.glob("rank-*.jsonl"))]
        return [int(header["pid"]) for header in headers]

    def job(self, run: Path) -> str:
        return str(json.loads((run / "launch.json").read_text())["job_id"])


@pytest.fixture
def begin(slurm: Any, paceline: Path, jobs_environment: Path, tmp_path: Path) -> Iterator[Callable[..., Campaign]]:
    """Return a function that begins a campaign; whatever is left of it is ended after the test."""
    begun: list[Campaign] = []

    def start(trainer: str, *settings: str) -> Campaign:
        profile = tmp_path / "testsite.yaml"
        profile.write_text(PROFILE)
        folder = tmp_path / f"campaign {trainer}"
        arguments = ["train", "cartpole_2min", "--cluster", str(profile), "--folder", str(folder)]
        arguments += ["--set", f"trainer={trainer}", "--set", "device=cpu", "--set", "num_envs=64"]
        for setting in ("save_interval=10", "sync_every=7", "jobs_ahead=2", *settings):
            arguments += ["--set", setting]
        process = subprocess.Popen(
            [paceline, *arguments],
            env=slurm.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        begun.append(Campaign(slurm, paceline, folder, process))
        return begun[-1]

    yield start
    for campaign in begun:
        campaign.process.kill()
        campaign.process.communicate()
        subprocess.run([paceline, "cancel", campaign.folder], env=slurm.environment, check=False, capture_output=True)


@pytest.fixture(scope="module")
def campaign_with_checkpoints(jobs_environment: Path, paceline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local campaign that has learnt to balance the pole for a while."""
    folder = tmp_path_factory.mktemp("local") / "campaign"
    settings = ("device=cpu", "num_envs=64", "iterations=40", "save_interval=20", "keep.last=0")
    command: list[str | Path] = [
        paceline,
        "train",
        "cartpole_2min",
        "--folder",
        folder,
        *(f"--set={text}" for text in settings),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("trainer", ["rsl_rl", "rl_games"])
def test_an_interrupted_campaign_is_one_training(begin: Callable[..., Campaign], trainer: str) -> None:
    """Time limit, crash and a lost node: no iteration is missing or doubled, and the reward goes on where it was."""
    campaign = begin(trainer, "iterations=70", *(["world_size=2"] if trainer == "rsl_rl" else []))

    # The time limit is near: Slurm signals the batch shell. The start saves between two iterations: nothing is lost.
    first = campaign.wait_for_iteration(23)
    campaign.cluster.run("scancel", "--batch", "--signal=USR1", campaign.job(first))
    # The trainer crashes: what came after the newest checkpoint is lost.
    second = campaign.wait_for_iteration(38)
    assert second != first
    for pid in campaign.ranks(second):
        os.kill(pid, signal.SIGKILL)
    if trainer == "rsl_rl":
        # The node is lost: every process of the job is gone at once, no result is written by it.
        third = campaign.wait_for_iteration(57)
        campaign.cluster.run("scancel", "--full", "--signal=KILL", campaign.job(third))

    output, _ = campaign.process.communicate(timeout=400)
    assert campaign.process.returncode == 0, output
    assert Path(output.splitlines()[-1]) == campaign.folder / "checkpoints"

    joined = campaigns.read(campaign.folder)
    assert joined.goal == "iterations" and joined.gaps() == []
    assert list(joined.iteration) == list(range(70))
    assert sum(bool(start.rows) for start in joined.starts) == (4 if trainer == "rsl_rl" else 3)
    resumed = [start.start_iteration for start in joined.starts]
    assert resumed == sorted(resumed)
    assert resumed[1] == joined.starts[0].rows[-1][0] + 1  # saved when it was told to stop
    interval = 10 + 1  # rsl_rl saves after iteration 10, 20, ..., rl_games before
    assert 0 < joined.lost_iterations <= 2 * interval
    assert joined.lost_iterations == sum(len(start.rows) for start in joined.starts) - 70
    # The same policy goes on: right after a resume it is as good as it was, far above an untrained one.
    begun = np.nanmean(joined.reward[:5])
    trained = [start for start in joined.starts if start.rows]
    for before, after in itertools.pairwise(trained):
        at = after.start_iteration
        old, new = np.nanmean(joined.reward[at - 5 : at]), np.nanmean(joined.reward[at : at + 15])
        if old > 3 * begun:
            assert new > begun, (before.folder, begun, old, new)
    assert np.nanmean(joined.reward[-5:]) > 2 * begun
    assert np.isfinite(joined.learning_rate).all() and not joined.not_finite

    kept = checkpoints.find(campaign.folder / "checkpoints")
    assert kept[0].next_iteration == 70 and checkpoints.why_incomplete(kept[0].path) is None
    queue = campaign.cluster.jobs()
    assert not [job for job, state in queue.items() if state in ("PENDING", "RUNNING")], queue


def test_resume_from_and_goals(campaign_with_checkpoints: Path, paceline: Path, tmp_path: Path) -> None:
    """`resume --from` an earlier checkpoint voids what came after it; a reward that is reached ends the campaign."""
    folder = tmp_path / "copy"
    shutil.copytree(campaign_with_checkpoints, folder)
    older = next((folder / "trainer").rglob("model_0.pt"))
    changes = ("--set=reward=-100", "--set=reward_window=5")
    done = subprocess.run(
        [paceline, "resume", folder, "--from", older, *changes],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    joined = campaigns.read(folder)
    assert joined.goal == "reward" and 5 <= joined.done < 30
    assert joined.starts[-1].start_iteration == 1
    assert joined.gaps() == [] and joined.lost_iterations == 39
    assert checkpoints.find(folder / "checkpoints")[0].next_iteration in (joined.done, 40)  # copies of before stay


def test_packed_evaluation_of_real_checkpoints(
    paceline: Path, jobs_environment: Path, tmp_path: Path, campaign_with_checkpoints: Path
) -> None:
    """Two checkpoints x two seeds of a real campaign: all episodes are there, the better one is found, none twice."""
    newest = checkpoints.find(campaign_with_checkpoints)[0].path
    first = next(campaign_with_checkpoints.rglob("model_0.pt"))
    command: list[str | Path] = [
        paceline,
        "evaluate",
        newest,
        first,
        "--seeds",
        "1,2",
        "--episodes",
        "40",
        "--device",
        "cpu",
    ]
    folder = tmp_path / "evaluation"
    done = subprocess.run(
        [*command, "--folder", folder], capture_output=True, text=True, timeout=400, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "report.json").read_text())
    assert [cell["status"] for cell in report["cells"]] == ["completed"] * 4
    assert all(cell["episodes"] == 40 for cell in report["cells"])
    by_length = next(r for r in report["rankings"] if r["measure"] == "length")
    assert by_length["order"][0].endswith(newest.stem) and not by_length["ties_with_first"], done.stdout
    again = subprocess.run([*command, "--folder", folder], capture_output=True, text=True, timeout=60, check=False)
    assert again.returncode == 0 and "running" not in again.stderr
