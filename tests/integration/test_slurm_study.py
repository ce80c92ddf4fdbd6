"""Whole strong-scaling studies of real Isaac Lab, on CPU ranks, through submitit and a real Slurm, to a report."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.isaaclab, pytest.mark.timeout(1500)]

# The smallest study that still has every part: two world sizes, warm-up iterations, undisturbed and synchronised ones.
SMALL = {
    "device": "cpu",
    "task": "Isaac-Cartpole-Direct",
    "world_sizes": "1,2",
    "num_envs": "64",
    "iterations": "8",
    "warmup_iterations": "2",
    "sync_every": "3",
    "repeats": "1",
}
PROFILE = """
schema: paceline.cluster/1
name: testsite
scheduler: slurm
partition: {partition}
gpus_per_node: 8
gpu_type: l40
# Whole nodes, and one of them, so that jobs run one after the other: this machine has few cores.
exclusive: true
{nodes}
time_limit_min: 10
signal_s: 60
"""


@dataclass
class Site:
    """A Slurm cluster with a profile of it, and the command line."""

    cluster: Any
    command: Path
    home: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def profile(self, name: str = "testsite", partition: str = "batch", nodes: str = "nodelist: node1") -> Path:
        path = self.home / f"{name}.yaml"
        path.write_text(PROFILE.format(partition=partition, nodes=nodes))
        return path

    def run_arguments(self, folder: Path, profile: Path | None = None, **settings: str) -> list[str]:
        arguments = ["run", "strong_scaling", "--cluster", str(profile or self.profile()), "--folder", str(folder)]
        for key, value in {**SMALL, **settings}.items():
            arguments += ["--set", f"{key}={value}"]
        return arguments

    def paceline(self, *arguments: str | Path, timeout_s: float = 900) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.command, *arguments],
            cwd=self.home,
            env=self.cluster.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start the command line in a session of its own, as a terminal does."""
        process = subprocess.Popen(
            [self.command, *arguments],
            cwd=self.home,
            env=self.cluster.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # Whoever started the tests may ignore hang-ups (nohup does), and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        )
        self.started.append(process)
        return process

    def end_jobs(self) -> None:
        jobs = active(self)
        if jobs:
            self.cluster.run("scancel", *jobs)
            wait_for(lambda: not active(self), 60, "cancelled jobs to end")

    def status(self, folder: Path) -> list[dict[str, Any]]:
        done = self.paceline("status", folder, "--format", "json")
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout))


@pytest.fixture
def site_on(
    paceline: Path, jobs_environment: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Any], Site]]:
    """Return a function that makes a Site on a cluster; what is still running at the end of the test is ended."""
    sites: list[Site] = []

    def make(cluster: Any) -> Site:
        sites.append(Site(cluster, paceline, tmp_path_factory.mktemp("site with spaces & 'quotes'")))
        return sites[-1]

    yield make
    for site in sites:
        for process in site.started:
            process.kill()
            process.communicate(timeout=30)
        site.end_jobs()


@pytest.fixture
def site(slurm: Any, site_on: Callable[[Any], Site]) -> Site:
    """A site without accounting."""
    return site_on(slurm)


def wait_for(condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """Return the first true value of a condition, asked five times a second."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.2)
    pytest.fail(f"waited {timeout_s:.0f} s in vain for {what}")


def active(site: Site) -> list[str]:
    """Return the ids of jobs that are queued or running."""
    unfinished = {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING"}
    return [job for job, state in site.cluster.jobs().items() if state in unfinished]


def runs(folder: Path) -> list[Path]:
    return sorted(folder.glob("runs/*/attempt-*"))


def case_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "case.json").read_text()))


def assert_reported(folder: Path, output: str, world_sizes: tuple[int, ...] = (1, 2)) -> None:
    """Check that a report with numbers for all world sizes exists and that its path is the last line printed."""
    page = folder / "report" / "index.html"
    assert output.rstrip().splitlines()[-1] == str(page)
    assert page.stat().st_size > 10_000
    with (folder / "report" / "scaling.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["world_size"]) for row in rows] == list(world_sizes)
    assert all(float(row["total_fps"]) > 0 for row in rows)
    assert float(rows[0]["speedup"]) == pytest.approx(1)
    for row in rows:
        assert float(row["efficiency"]) == pytest.approx(
            float(row["speedup"]) * world_sizes[0] / int(row["world_size"]), rel=1e-3
        )
        assert int(row["num_envs"]) == int(SMALL["num_envs"])


def assert_complete_records(run: Path) -> None:
    """Check that every rank of a run wrote all its iterations, and that they worked at one problem."""
    case = case_of(run)
    result = json.loads((run / "result.json").read_text())
    assert result["status"] == "completed", result
    assert result["ranks_completed"] == list(range(case["world_size"]))
    files = sorted(run.glob("rank-*.jsonl"))
    assert len(files) == case["world_size"]
    for file in files:
        header, *rows, end = [json.loads(line) for line in file.read_text().splitlines()]
        assert header["problem"]["global_batch"] == case["derived"]["global_batch"]
        assert header["slurm"]["job_id"] == json.loads((run / "launch.json").read_text())["job_id"]
        assert len(rows) == case["iterations"] and end["status"] == "completed"
    assert list(run.glob("samples-node*.jsonl")), "the sampler wrote nothing"


def test_lost_terminal_lock_and_completion(site: Site) -> None:
    """The terminal closes after submission, a second `run` is refused before that; `watch` goes on to the report."""
    folder = site.home / "study"
    arguments = site.run_arguments(folder, world_sizes="1")  # two sizes: in the test of retry
    first = site.start(*arguments)
    wait_for(lambda: len(active(site)) == 2 or first.poll() is not None, 120, "two jobs in the queue")
    assert first.poll() is None, first.communicate()[0]

    second = site.paceline(*arguments)
    assert second.returncode == 2
    assert len(second.stderr.strip().splitlines()) == 1 and str(first.pid) in second.stderr, second.stderr
    assert len(runs(folder)) == 2

    os.killpg(first.pid, signal.SIGHUP)
    assert first.wait(timeout=30) != 0
    assert len(active(site)) >= 2, "the jobs outlive the terminal"

    watch = site.paceline("watch", folder)
    assert watch.returncode == 0, watch.stderr
    assert_reported(folder, watch.stdout, (1,))
    for run in runs(folder):
        assert_complete_records(run)
    assert [row["state"] for row in site.status(folder)] == ["completed"] * 2
    assert {json.loads((run / "launch.json").read_text())["launcher"] for run in runs(folder)} == {"slurm"}

    # Running the study again completes what is missing, which is nothing.
    jobs = set(site.cluster.jobs())
    again = site.paceline(*arguments)
    assert again.returncode == 0, again.stderr
    assert_reported(folder, again.stdout, (1,))
    assert set(site.cluster.jobs()) == jobs and len(runs(folder)) == 2

    # More repeats are more jobs, and only those.
    more = site.paceline(*site.run_arguments(folder, world_sizes="1", repeats="2"))
    assert more.returncode == 0, more.stderr
    assert len(runs(folder)) == 3 and {run.name for run in runs(folder)} == {"attempt-1"}
    with (folder / "report" / "scaling.csv").open(newline="") as stream:
        assert [row["repeats"] for row in csv.DictReader(stream)] == ["2"]


def test_retry_after_a_killed_job(slurm_with_accounting: Any, site_on: Callable[[Any], Site]) -> None:
    """A job is killed, with slurmdbd: the study reports the rest and says so; `retry` runs that case alone."""
    site = site_on(slurm_with_accounting)
    folder = site.home / "study"
    # One attempt: with more, `run` would make the next one itself.
    process = site.start(*site.run_arguments(folder, max_attempts="1"))

    def training_with_two_ranks() -> Path | None:
        assert process.poll() is None, process.communicate()[0]
        for run in runs(folder):
            if not (run / "case.json").exists():
                continue  # just being made
            if case_of(run)["kind"] != "warmup" and case_of(run)["world_size"] == 2:
                rank = run / "rank-0001.jsonl"
                if rank.exists() and len(rank.read_text().splitlines()) > 1:
                    return run
        return None

    victim = wait_for(training_with_two_ranks, 600, "the run with two ranks")
    job = json.loads((victim / "launch.json").read_text())["job_id"]
    assert site.cluster.kill(job) >= 4, "a job script, torchrun and two ranks"
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 1, output
    states = {row["case_id"]: row for row in site.status(folder)}
    broken = states.pop(victim.parent.name)
    assert broken["state"] == "failed" and broken["cause"], broken
    assert {row["state"] for row in states.values()} == {"completed"}
    assert victim.parent.name in (folder / "report" / "report.md").read_text(), "it stays in the report"
    with (folder / "report" / "scaling.csv").open(newline="") as stream:
        row = list(csv.DictReader(stream))[1]
    assert row["status"] != "completed" and row["total_fps"] == "" and row["speedup"] == "", row

    retry = site.paceline("retry", folder)
    assert retry.returncode == 0, retry.stderr
    assert_reported(folder, retry.stdout)
    names = {run.relative_to(folder / "runs").as_posix() for run in runs(folder)}
    retried = f"{victim.parent.name}/attempt-2"
    assert names == {f"{case}/attempt-1" for case in (*states, victim.parent.name)} | {retried}
    assert_complete_records(folder / "runs" / retried)
    accounting = site.cluster.run("sacct", "-X", "--noheader", "--format=JobID,State", "-j", job)
    assert "FAILED" in accounting


def test_cancel(site: Site) -> None:
    """Everything of the study leaves the queue; the driver notices and says so; nothing counts as measured."""
    folder = site.home / "study"
    process = site.start(*site.run_arguments(folder, repeats="2"))
    wait_for(lambda: "RUNNING" in site.cluster.jobs().values() or process.poll() is not None, 120, "a running job")
    assert process.poll() is None, process.communicate()[0]
    cancel = site.paceline("cancel", folder)
    assert cancel.returncode == 0, cancel.stderr
    assert len(cancel.stdout.splitlines()) == 5
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    wait_for(lambda: not active(site), 30, "the queue to be empty")
    assert not {row["state"] for row in site.status(folder)} & {"queued", "running", "completed"}
    assert not (folder / "report").exists()
    again = site.paceline("cancel", folder)
    assert again.returncode == 0 and "nothing" in again.stdout


def test_two_nodes(site: Site) -> None:
    """Two ranks on two nodes meet through the c10d rendezvous."""
    folder = site.home / "two nodes"
    profile = site.profile("twonodes", nodes="")
    done = site.paceline(*site.run_arguments(folder, profile, num_nodes="2", world_sizes="2"))
    assert done.returncode == 0, done.stderr
    assert_reported(folder, done.stdout, (2,))
    measured = [run for run in runs(folder) if case_of(run)["kind"] != "warmup"]
    assert len(measured) == 1
    assert_complete_records(measured[0])
    headers = [json.loads(f.read_text().splitlines()[0]) for f in sorted(measured[0].glob("rank-*.jsonl"))]
    # The rendezvous numbers nodes in the order in which they arrive.
    assert sorted(h["node"] for h in headers) == ["node1", "node2"]
    assert [(h["rank"], h["node_rank"], h["local_rank"], h["num_nodes"]) for h in headers] == [
        (0, 0, 0, 2),
        (1, 1, 0, 2),
    ]
    assert sorted(f.name for f in measured[0].glob("samples-*.jsonl")) == ["samples-node1.jsonl", "samples-node2.jsonl"]


@pytest.mark.parametrize(
    ("profile", "settings", "said"),
    [
        ({"partition": "nosuch"}, {}, "invalid partition specified: nosuch"),
        ({"nodes": "constraint: h100"}, {}, "Invalid feature specification"),
        ({"nodes": "account: nosuch\nextra_sbatch: [--licenses=nosuch]"}, {}, "Invalid license specification"),
    ],
    ids=["partition", "constraint", "license"],
)
def test_what_slurm_refuses(site: Site, profile: dict[str, str], settings: dict[str, str], said: str) -> None:
    """One line with Slurm's own words, exit 2, and nothing in the queue."""
    done = site.paceline(*site.run_arguments(site.home / "study", site.profile("wrong", **profile), **settings))
    assert done.returncode == 2, done.stderr
    message = done.stderr.strip().splitlines()
    assert len(message) == 1 and said.lower() in message[0].lower(), done.stderr
    assert not active(site)


def test_slurm_accepts_scripts_for_typed_gpus(site: Site) -> None:
    """Scripts for GPUs pass `sbatch --test-only`; with a type that no node has Slurm refuses them."""
    for gpu_type, accepted in (("l40", True), ("h100", False)):
        profile = site.profile(gpu_type, nodes="")
        profile.write_text(profile.read_text().replace("gpu_type: l40", f"gpu_type: {gpu_type}"))
        scripts = site.home / f"scripts for {gpu_type}"
        plan = site.paceline(
            "plan", "strong_scaling", "--cluster", profile, "--scripts", scripts, "--set", "world_sizes=1,8,16",
            "--set", "num_nodes=2", "--set", "repeats=1",
        )  # fmt: skip
        assert plan.returncode == 0, plan.stderr
        found = sorted(scripts.glob("*.sh"))
        assert len(found) == 4
        for script in found:
            tested = subprocess.run(
                ["sbatch", "--test-only", script],
                env=site.cluster.environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert (tested.returncode == 0) == accepted, f"{script.read_text()}\n{tested.stderr}"
