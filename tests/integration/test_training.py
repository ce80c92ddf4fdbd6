"""Real Isaac Lab training through supervisor, torchrun, worker and sentinel, on CPU: one rank, two gloo ranks, stock.

Strong scaling must keep the learning problem, and measuring must not change it:

    one rank, three seeds  what seeds do to the reward curve of 256 environments
    two ranks              the same 256 environments as 2 x 128: same batch, same optimiser steps, same learning
    unmeasured             the same training without hooks: the same rewards, to the last digit
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from paceline.bench import environment
from paceline.bench.record import Case, Result, Trainer
from paceline.bench.rundir import RunDir, StudyDir, read_json, write_json

pytestmark = [pytest.mark.slow, pytest.mark.isaaclab, pytest.mark.timeout(1500)]

ROOT = Path(__file__).resolve().parents[2]
TRAINERS: tuple[Trainer, ...] = ("rsl_rl", "rl_games")
ITERATIONS: dict[Trainer, int] = {"rsl_rl": 50, "rl_games": 40}  # as many as it takes to see it learn
SEEDS = (42, 43, 44)
UNMEASURED_ITERATIONS = 12
CASE = Case(
    kind="strong",
    task="Isaac-Cartpole-Direct",
    trainer="rsl_rl",
    world_size=1,
    num_envs=256,
    horizon=16,
    num_minibatches=4,
    num_epochs=5,
    iterations=ITERATIONS["rsl_rl"],
    warmup_iterations=2,
    repeat=0,
    seed=42,
    device="cpu",
    sync_every=5,
)


# rl_games normalises by statistics of each rank's own environments, which with few of them makes two ranks a harder
# problem than one (bench/trainers/rl_games.py). What is compared here is the rest of the problem.
SETTINGS: dict[Trainer, tuple[str, ...]] = {
    "rsl_rl": (),
    "rl_games": ("agent.params.config.normalize_input=False", "agent.params.config.normalize_value=False"),
}


def case_of(trainer: Trainer, **changes: Any) -> Case:
    settings = {"iterations": ITERATIONS[trainer], "overrides": SETTINGS[trainer], **changes}
    return dataclasses.replace(CASE, trainer=trainer, **settings)


# The worker without its measurement.
UNMEASURED = """
import json, sys
from paceline.bench.record import Case
from paceline.bench.trainers.isaaclab import common_arguments, load_trainer, run_training, use_gloo
from paceline.profiling.patches import ImportWatch, Patches

with open(sys.argv[1]) as stream:
    case = Case.from_json(json.load(stream))
trainer = load_trainer(case.trainer)
with ImportWatch() as watch, Patches() as patches:
    use_gloo(watch, patches)
    trainer.adapt_to_cpu(watch, patches)
    sys.exit(run_training(case, [*common_arguments(case), *trainer.arguments(case), *case.overrides]))
"""


@dataclass(frozen=True)
class Trained:
    """A run that has ended."""

    run: RunDir
    result: Result
    headers: list[dict[str, Any]]
    rows: list[list[dict[str, Any]]]
    """Iterations of each rank, by column."""
    ends: list[dict[str, Any]]

    def column(self, name: str, rank: int = 0) -> list[Any]:
        return [row[name] for row in self.rows[rank]]


class Jobs:
    """Starts runs as the job script does, each once."""

    def __init__(self, python: Path, assets: Path | None, folder: Path) -> None:
        self.python = python
        self.study = StudyDir(folder / "a study's folder")
        code = self.study.code / "paceline"
        code.mkdir(parents=True)
        for part in ("bench", "profiling"):
            (code / part).symlink_to(ROOT / part)
        # As in a job script: compiled modules are kept, or each process would compile torch and Isaac Lab anew (13 s).
        self.environment = {**os.environ, **environment.cache_variables(), "PYTHONSAFEPATH": "1"}
        self.environment |= {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)
        if assets is not None:
            self.environment["ISAACSIM_ASSET_ROOT"] = str(assets)
        self._done: dict[str, Trained] = {}

    def prepare(self, case: Case) -> RunDir:
        run = self.study.run(case.case_id, 1)
        run.path.mkdir(parents=True)
        write_json(run.case_json, case.to_json())
        return run

    def start(self, run: RunDir, case: Case, *options: str) -> subprocess.Popen[bytes]:
        python = str(self.python)
        torchrun = [python, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={case.world_size}"]
        with open(run.train_log, "wb") as log:
            return subprocess.Popen(
                [python, "-m", "paceline.bench.supervise", *options, "--", *torchrun, "-m", "paceline.bench.worker"],
                env=self.of_run(run),
                cwd=run.path,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def of_run(self, run: RunDir) -> dict[str, str]:
        return {**self.environment, "PACELINE_RUN_DIR": str(run.path), "PYTHONPATH": str(self.study.code)}

    def conclude(self, run: RunDir, exit_code: int) -> Result:
        command = [str(self.python), "-m", "paceline.bench.sentinel", "--exit-code", str(exit_code)]
        subprocess.run(command, env=self.of_run(run), check=False, timeout=60)
        return Result.from_json(read_json(run.result_json))

    def train(self, case: Case) -> Trained:
        """Return a completed run of a case, from an earlier call if there was one."""
        if case.case_id not in self._done:
            run = self.prepare(case)
            exit_code = self.start(run, case).wait(timeout=900)
            result = self.conclude(run, exit_code)
            assert result.status == "completed", f"{result.message}\n{run.train_log.read_text()[-4000:]}"
            assert exit_code == 0
            self._done[case.case_id] = load(run, result)
        return self._done[case.case_id]

    def unmeasured(self, trainer: Trainer, folder: Path) -> str:
        """Return what the same training prints without hooks, and the names of its checkpoints.

        For rsl_rl that is Isaac Lab's own command line, with nothing of ours in it. rl_games rounds its learning rate
        to single precision as soon as it is told to be distributed, so there only the hooks are left away.
        """
        case = case_of(trainer, iterations=UNMEASURED_ITERATIONS)
        folder.mkdir()
        if trainer == "rsl_rl":
            command = [str(self.python.with_name("isaaclab")), "train", "--rl_library", trainer, "--task", case.task]
            command += ["--num_envs", str(case.num_envs), "--max_iterations", str(case.iterations), "--seed", "42"]
            command += ["--device", "cpu", "--viz", "none", "physics=newton_mjwarp", "agent.device=cpu"]
            command += ["agent.num_steps_per_env=16", "agent.algorithm.num_mini_batches=4"]
            command += ["agent.algorithm.num_learning_epochs=5"]
        else:
            write_json(folder / "case.json", case.to_json())
            (folder / "unmeasured.py").write_text(UNMEASURED)
            command = [str(self.python), "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
            command += [str(folder / "unmeasured.py"), str(folder / "case.json")]
        done = subprocess.run(
            command,
            env={**self.environment, "PYTHONPATH": str(self.study.code)},
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return "\n".join((done.stdout, *(path.name for path in folder.rglob("*.pth"))))


def load(run: RunDir, result: Result) -> Trained:
    headers, rows, ends = [], [], []
    for path in run.rank_files():
        header, *iterations, end = (json.loads(line) for line in path.read_text().splitlines())
        headers.append(header)
        rows.append([dict(zip(header["columns"], row, strict=True)) for row in iterations])
        ends.append(end)
    return Trained(run, result, headers, rows, ends)


@pytest.fixture(scope="module")
def jobs(jobs_environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    assets = environment.ensure_assets(jobs_environment)
    return Jobs(jobs_environment, assets, tmp_path_factory.mktemp("training"))


@dataclass(frozen=True)
class Runs:
    """All runs that the tests below look at, by trainer."""

    one: dict[Trainer, list[Trained]]
    """One rank, by seed; the first with the seed of ``two``."""
    two: dict[Trainer, Trained]
    """Two ranks."""
    unmeasured: dict[Trainer, str]
    """What the same training printed without hooks."""


@pytest.fixture(scope="module")
def runs(jobs: Jobs, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Two processes at a time, for two cores; before them the shortest run alone, which fills the caches."""
    found = Runs({}, {}, {})
    for trainer in TRAINERS:
        found.unmeasured[trainer] = jobs.unmeasured(trainer, tmp_path_factory.mktemp("unmeasured") / trainer)
        first, second, third = (case_of(trainer, seed=seed) for seed in SEEDS)
        with ThreadPoolExecutor(2) as pool:
            found.one[trainer] = list(pool.map(jobs.train, (first, second, third)))
        found.two[trainer] = jobs.train(dataclasses.replace(first, world_size=2))
    return found


@pytest.mark.parametrize("trainer", TRAINERS)
def test_two_ranks_keep_the_problem(runs: Runs, trainer: Trainer) -> None:
    one, two = runs.one[trainer][0], runs.two[trainer]
    (whole,) = (header["problem"] for header in one.headers)
    assert whole["global_batch"] == 256 * 16
    for header in two.headers:
        half = header["problem"]
        assert half["global_batch"] == whole["global_batch"]
        assert half["num_envs_per_rank"] == whole["num_envs_per_rank"] // 2
        assert half["minibatch_size_per_rank"] == whole["minibatch_size_per_rank"] // 2
        for same in ("horizon", "num_minibatches", "num_epochs", "optimizer_steps_per_iteration", "max_iterations"):
            assert half[same] == whole[same]
    steps = {row["optimizer_steps"] for trained in (one, two) for rank in trained.rows for row in rank}
    assert steps == {20}  # counted, not planned
    assert sum(row["frames"] for rank in two.rows for row in rank) == sum(one.column("frames"))


@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_rank_has_its_own_seed(runs: Runs, trainer: Trainer) -> None:
    headers = runs.two[trainer].headers
    assert [header["seed"] for header in headers] == [42, 43]
    assert len({header["trainer_seed"] for header in headers}) == 2


@pytest.mark.parametrize("trainer", TRAINERS)
def test_ranks_differ_in_nothing_else(runs: Runs, trainer: Trainer) -> None:
    for trained in (runs.one[trainer][0], runs.two[trainer]):
        for rank, header in enumerate(trained.headers):
            assert header["rank"] == header["local_rank"] == rank
            assert header["world_size"] == len(trained.headers)
            assert header["threads"]["torch"] == header["threads"]["omp_num_threads"] == 1
            assert header["device"]["kind"] == "cpu" and header["device"]["uuid"] is None
            assert header["versions"]["isaaclab"] == "3.0.0"
        assert [end["iterations"] for end in trained.ends] == [ITERATIONS[trainer]] * len(trained.headers)
        assert len({header["node"] for header in trained.headers}) == 1
    assert {header["backend"] for header in runs.two[trainer].headers} == {"gloo"}


def late(trained: Trained) -> float:
    """Return the mean reward of the last fifth of a run."""
    return statistics.fmean(trained.column("reward")[-(len(trained.rows[0]) // 5) :])


def gain(trained: Trained) -> float:
    """Return how far the reward rose from its lowest value (it falls at first: longer episodes, more cost)."""
    return late(trained) - float(min(reward for reward in trained.column("reward") if reward is not None))


@pytest.mark.parametrize("trainer", TRAINERS)
def test_two_ranks_learn_as_one(runs: Runs, trainer: Trainer) -> None:
    # Both trainers report the mean over the last 100 episodes of one rank. With half the environments on a rank that
    # looks back twice as far, so a rising curve lies a little lower: gains get half the spread of the seeds as slack.
    seeds = [late(trained) for trained in runs.one[trainer]]
    gains = [gain(trained) for trained in runs.one[trainer]]
    two = runs.two[trainer]
    assert min(gains) > 2, f"one rank does not learn: {gains}"
    assert gain(two) > 0.5 * min(gains), f"two ranks learn less than one: {gain(two)}, one rank {gains}"
    # 95 % prediction interval for one more run, from three: Student's t for 2 degrees of freedom is 4.30.
    noise = 4.30 * statistics.stdev(seeds) * (1 + 1 / len(seeds)) ** 0.5
    assert abs(late(two) - statistics.fmean(seeds)) <= noise + 0.1 * abs(statistics.fmean(seeds))


@pytest.mark.parametrize("trainer", TRAINERS)
def test_times_agree_with_the_trainers_own(runs: Runs, trainer: Trainer) -> None:
    for trained in (runs.one[trainer][0], runs.two[trainer]):
        for rank in range(len(trained.rows)):
            ours = sum(trained.column("iteration_time_s", rank))
            theirs = sum(trained.column("reported_iteration_time_s", rank))
            assert abs(ours / theirs - 1) < 0.005
            for row in trained.rows[rank]:
                assert row["physics_time_s"] < row["env_step_time_s"] < row["collection_time_s"]
                assert row["inference_time_s"] > 0 and row["communication_time_s"] < row["update_time_s"]
                explained = row["physics_time_s"] + row["inference_time_s"] + row["update_time_s"]
                assert explained < row["iteration_time_s"]
    assert sum(runs.two[trainer].column("communication_time_s")) > 0
    assert min(runs.two[trainer].column("collectives")) >= 20


@pytest.mark.parametrize("trainer", TRAINERS)
def test_modes_are_marked(runs: Runs, trainer: Trainer) -> None:
    trained = runs.one[trainer][0]
    assert trained.column("warmup")[:3] == [1, 1, 0]
    synchronised = [number for number, sync in enumerate(trained.column("sync")) if sync]
    assert synchronised == list(range(6, ITERATIONS[trainer], 5))
    starts = trained.column("start_s")
    assert starts == sorted(starts)


def test_samples_lie_beside_the_records(runs: Runs) -> None:
    run = runs.two["rsl_rl"].run
    (path,) = run.samples_files()
    header, *samples = [json.loads(line) for line in path.read_text().splitlines()]
    assert header["case_id"] == run.case_id
    both = [sample for sample in samples if len(sample["ranks"]) == 2]
    assert both, "the sampler never saw both ranks"
    assert [entry["rank"] for entry in both[-1]["ranks"]] == [0, 1]
    assert max(entry["cpu_pct"] for entry in both[-1]["ranks"]) > 5


def test_nothing_is_written_elsewhere(runs: Runs, repository: Path) -> None:
    run = runs.one["rl_games"][0].run
    names = {path.name.partition("-")[0] for path in run.path.iterdir()}
    assert names == {"case.json", "rank", "result.json", "samples", "train.log", "trainer"}
    assert list((run.path / "trainer").rglob("events.out.tfevents.*"))


@pytest.mark.parametrize("trainer", TRAINERS)
def test_measuring_changes_nothing(runs: Runs, trainer: Trainer) -> None:
    measured, printed = runs.one[trainer][0], runs.unmeasured[trainer]
    if trainer == "rsl_rl":
        log = measured.run.train_log.read_text()
        for name in ("Mean reward", "Mean episode length", "Mean value loss", "Mean surrogate loss"):
            values = re.findall(rf"{name}: +(\S+)", printed)
            assert len(values) >= UNMEASURED_ITERATIONS - 1
            assert re.findall(rf"{name}: +(\S+)", log)[: len(values)] == values
    else:
        # It prints no rewards; the name of its last checkpoint has the mean reward with all its digits.
        (reward,) = set(re.findall(rf"_ep_{UNMEASURED_ITERATIONS}_rew_+(-?\d+\.\d+)", printed))
        assert measured.column("reward")[UNMEASURED_ITERATIONS - 1] == pytest.approx(float(reward), abs=1e-7)


def test_a_trainer_that_does_something_else_is_a_failure(jobs: Jobs) -> None:
    case = dataclasses.replace(CASE, iterations=3, world_size=2, overrides=("agent.algorithm.num_learning_epochs=2",))
    run = jobs.prepare(case)
    exit_code = jobs.start(run, case).wait(timeout=600)
    result = jobs.conclude(run, exit_code)
    assert exit_code != 0
    assert (result.status, result.cause, result.ranks_completed) == ("failed", "settings", ())
    assert result.message is not None and "num_epochs is 2, the case says 5" in result.message
    ends = [json.loads(path.read_text().splitlines()[-1]) for path in run.rank_files()]
    assert ends and all(end["status"] == "failed" for end in ends)


@pytest.mark.parametrize("how", ["a rank is killed", "the job is told to end"])
def test_a_run_that_dies(jobs: Jobs, how: str) -> None:
    case = dataclasses.replace(CASE, world_size=2, iterations=500, seed=7 if "rank" in how else 8)
    run = jobs.prepare(case)
    job = jobs.start(run, case)
    wait_until(lambda: run.rank_jsonl(1).exists() and run.rank_jsonl(1).read_text().count("\n") >= 3, job)
    header = json.loads(run.rank_jsonl(1).read_text().splitlines()[0])
    if "rank" in how:
        os.kill(header["pid"], signal.SIGKILL)
    else:
        job.send_signal(signal.SIGTERM)
    exit_code = job.wait(timeout=120)
    assert exit_code != 0
    result = jobs.conclude(run, exit_code)
    assert (result.status, result.ranks_completed) == ("failed", ())
    assert result.message is not None and "\n" not in result.message
    if "rank" in how:
        assert result.cause == "killed"
    # What was measured before is kept, line by line.
    lines = run.rank_jsonl(1).read_text().splitlines()
    assert sum(1 for line in lines if line.startswith("[") and line.endswith("]")) >= 2
    time.sleep(0.5)
    assert not Path("/proc", str(header["pid"])).exists()


def wait_until(happened: Callable[[], bool], job: subprocess.Popen[bytes], timeout_s: float = 400) -> None:
    tick = threading.Event()
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert job.poll() is None, "the job has ended"
        assert time.monotonic() < deadline, "it never happened"
        tick.wait(0.2)
