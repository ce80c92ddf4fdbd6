"""Training campaigns of real Isaac Lab through a real Slurm, interrupted in every way a cluster knows."""

from __future__ import annotations

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
from paceline.bench.checkpointcontents import ANOTHER_NETWORK

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

SAVE_INTERVAL = 8
CHECKPOINTS = Path(__file__).resolve().parents[1] / "data" / "checkpoints"


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
        for setting in (f"save_interval={SAVE_INTERVAL}", "sync_every=7", "jobs_ahead=2", *settings):
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
def local_campaign(jobs_environment: Path, paceline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short local campaign with a network that is not the task's own."""
    folder = tmp_path_factory.mktemp("local") / "campaign"
    settings = ["device=cpu", "num_envs=64", "iterations=14", "save_interval=7", "keep.last=0"]
    settings += [f"agent.{network}.hidden_dims=[16,16]" for network in ("actor", "critic")]
    done = call(paceline, "train", "cartpole_2min", "--folder", folder, *(f"--set={text}" for text in settings))
    assert done.returncode == 0, done.stderr
    return folder


def call(*words: str | Path, timeout_s: float = 300, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=timeout_s, check=False, **options)


@pytest.mark.parametrize(("trainer", "lost"), [("rsl_rl", "the ranks are killed"), ("rl_games", "the node is lost")])
def test_an_interrupted_campaign_is_one_training(begin: Callable[..., Campaign], trainer: str, lost: str) -> None:
    """Time limit, then a crash or a lost node: no iteration is missing or doubled, and the training goes on."""
    campaign = begin(trainer, "iterations=34", *(["world_size=2"] if trainer == "rsl_rl" else []))

    # The time limit is near: Slurm signals the batch shell. The start saves between two iterations: nothing is lost.
    first = campaign.wait_for_iteration(9)
    campaign.cluster.run("scancel", "--batch", "--signal=USR1", campaign.job(first))
    # What came after the newest checkpoint is lost. The next one comes after iteration 21 (rl_games) or 24 (rsl_rl).
    second = campaign.wait_for_iteration(17)
    assert second != first
    if lost == "the ranks are killed":
        for pid in campaign.ranks(second):
            os.kill(pid, signal.SIGKILL)
    else:  # every process of the job is gone at once, no result is written by it
        assert campaign.cluster.kill(campaign.job(second)) >= 3

    output, _ = campaign.process.communicate(timeout=400)
    assert campaign.process.returncode == 0, output
    assert Path(output.splitlines()[-1]) == campaign.folder / "checkpoints"

    joined = campaigns.read(campaign.folder)
    assert joined.goal == "iterations" and joined.gaps() == []
    assert list(joined.iteration) == list(range(34))
    trained = [start for start in joined.starts if start.rows]
    assert len(trained) == 3
    assert trained[1].start_iteration == trained[0].rows[-1][0] + 1  # saved when it was told to stop
    assert trained[1].start_iteration < trained[2].start_iteration <= trained[1].rows[-1][0]
    assert 0 < joined.lost_iterations <= SAVE_INTERVAL + 1  # rsl_rl saves after iteration 8, 16, ..., rl_games before
    assert joined.lost_iterations == sum(len(start.rows) for start in trained) - 34
    # The same policy goes on: what it has learnt so far (it explores less and less) is there after a resume.
    entropy = joined.losses["entropy"]
    for start in trained[1:]:
        at = start.start_iteration
        assert abs(entropy[at] - entropy[at - 1]) < 0.5 * (entropy[0] - entropy[at - 1]), (at, entropy[: at + 1])
    assert np.isfinite(joined.learning_rate).all() and not joined.not_finite

    kept = checkpoints.find(campaign.folder / "checkpoints")
    assert kept[0].next_iteration == 34 and checkpoints.why_incomplete(kept[0].path) is None
    queue = campaign.cluster.jobs()
    assert not [job for job, state in queue.items() if state in ("PENDING", "RUNNING")], queue


def test_resume_from_and_goals(local_campaign: Path, paceline: Path, tmp_path: Path) -> None:
    """`resume --from` an earlier checkpoint voids what came after it; a reward that is reached ends the campaign."""
    folder = tmp_path / "copy"
    shutil.copytree(local_campaign, folder)
    older = next((folder / "trainer").rglob("model_0.pt"))
    done = call(paceline, "resume", folder, "--from", older, "--set=reward=-100", "--set=reward_window=5")
    assert done.returncode == 0, done.stderr
    joined = campaigns.read(folder)
    assert joined.goal == "reward" and 5 <= joined.done < 14
    assert joined.starts[-1].start_iteration == 1
    assert joined.gaps() == [] and joined.lost_iterations == 13
    assert checkpoints.find(folder / "checkpoints")[0].next_iteration in (joined.done, 14)  # copies of before stay


def test_a_checkpoint_of_another_network_is_one_line(local_campaign: Path, paceline: Path, tmp_path: Path) -> None:
    """What the login node could not see, the job finds: the cause is one line that names the file and the layer."""
    folder = tmp_path / "copy"
    shutil.copytree(local_campaign, folder)
    for old in (folder / "runs", folder / "checkpoints"):
        shutil.rmtree(old)
    for old in (folder / "trainer").rglob("*model_*"):
        old.unlink()
    run_folder = next(path.parent for path in (folder / "trainer").rglob("events.out.*"))
    foreign = Path(shutil.copy(CHECKPOINTS / "cartpole_rsl_rl_untrained.pt", run_folder / "model_0.pt"))
    done = call(paceline, "resume", folder, "--set=max_failures=1")
    assert done.returncode == 1, done.stderr
    (result,) = [json.loads(path.read_text()) for path in folder.glob("runs/*/attempt-*/result.json")]
    said = f"{foreign} {ANOTHER_NETWORK}: size mismatch for "
    assert said in result["message"] and "\n" not in result["message"]
    assert result["message"].endswith(": [32, 4] in the checkpoint, [16, 4] in the model")
    assert said in " ".join((done.stdout + done.stderr).split())


def test_packed_evaluation_of_real_checkpoints(paceline: Path, jobs_environment: Path, tmp_path: Path) -> None:
    """Checkpoints of both trainers side by side: all episodes are there, the untrained one is last, none twice."""
    names = ("cartpole_rsl_rl.pt", "cartpole_rl_games.pth", "cartpole_rsl_rl_untrained.pt")
    folder = tmp_path / "evaluation"
    command: list[str | Path] = [
        paceline,
        "evaluate",
        *(CHECKPOINTS / name for name in names),
        "--task",
        "Isaac-Cartpole-Direct",
    ]
    command += ["--episodes", "20", "--num-envs", "10", "--device", "cpu", "--folder", folder]
    command += ["--set", "env.episode_length_s=3"]
    done = call(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "report.json").read_text())
    assert [cell["status"] for cell in report["cells"]] == ["completed"] * 3
    assert all(cell["episodes"] == 20 for cell in report["cells"])
    assert report["speed"]["most_at_once"] == min(2, len(os.sched_getaffinity(0)))
    by_length = next(r for r in report["rankings"] if r["measure"] == "length")
    assert by_length["order"][-1] == "cartpole_rsl_rl_untrained", done.stdout
    assert by_length["p_values"]["cartpole_rsl_rl_untrained"] < 0.001
    again = call(*command, timeout_s=60)
    assert again.returncode == 0 and "running" not in again.stderr
