"""What goes wrong on a cluster, with a real Slurm that is broken on purpose (docs/faults.md).

Jobs are submitted by `paceline`, run the real job script, torchrun, supervisor and sentinel, and train
programs/small_training.py. After each fault: status and cause are right, attempts are kept apart, the next completes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from paceline.bench.rundir import RunDir, StudyDir, read_json

from tests.fault_scene import Site, attempts, check_table, read

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.isaaclab, pytest.mark.timeout(900)]


@pytest.fixture
def make_site(
    slurm_to_break: Any, paceline: Path, jobs_environment: Path, compiled: Path, tmp_path: Path
) -> Iterator[Callable[..., Site]]:
    """Return a function that makes a Site on a Slurm; its jobs are cancelled in the end."""

    def make(name: str = "study", **profile: Any) -> Site:
        path = tmp_path / f"{name}.yaml"
        assets = tmp_path / "assets"
        (assets / "Isaac").mkdir(parents=True, exist_ok=True)
        values = {
            "name": "site", "scheduler": "slurm", "partition": "batch", "gpus_per_node": 8, "time_limit_min": 10,
            "python": str(jobs_environment), "asset_root": str(assets), "cache_dir": str(compiled), **profile,
        }  # fmt: skip
        path.write_text("schema: paceline.cluster/1\n" + "".join(f"{k}: {json.dumps(v)}\n" for k, v in values.items()))
        return Site(paceline, tmp_path / name, path, dict(slurm_to_break.environment))

    yield make
    jobs = slurm_to_break.jobs()
    if jobs:
        slurm_to_break.run("scancel", *jobs)


def job_in_training(study: StudyDir, repeat: int, attempt: int = 1) -> tuple[str, RunDir]:
    """Wait until both ranks of a repeat have recorded iterations; return its job and folder."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        for run in study.all_runs():
            case = read_json(run.case_json) if run.case_json.exists() else {"kind": "warmup"}
            rank = run.rank_jsonl(1)
            if (
                (case["kind"], case.get("repeat"), run.attempt) == ("strong", repeat, attempt)
                and rank.exists()
                and read(rank).count("\n") > 2
            ):
                return read_json(run.launch_json)["job_id"], run
        time.sleep(0.2)
    raise AssertionError(f"repeat {repeat} does not train: {[read(r.train_log)[-500:] for r in study.all_runs()]}")


def finished(process: subprocess.Popen[str], status: int) -> str:
    output, _ = process.communicate(timeout=400)
    assert process.returncode == status, output
    return output


def daemon(cluster: Any, name: str) -> int:
    return int((cluster.folder / "run" / f"{name}.pid").read_text())


def stop(pid: int, number: int = signal.SIGTERM) -> None:
    os.kill(pid, number)
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}/stat").exists() and time.monotonic() < deadline:
        if read(Path(f"/proc/{pid}/stat")).rsplit(")", 1)[1].split()[0] == "Z":
            return
        time.sleep(0.1)


def quiet(command: list[str], environment: dict[str, str]) -> None:
    """Start a daemon: it must not keep our pipes."""
    subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        check=True, timeout=30,
    )  # fmt: skip


def test_cancelled_requeued_and_out_of_time(slurm_to_break: Any, make_site: Callable[..., Site]) -> None:
    """scancel ends a case for good; a requeue by the administrator and the time limit each lead to another attempt."""
    site = make_site(requeue=True, time_limit_min=2, signal_s=60)
    study = site.prepare({"0": "wait", "1": "wait", "2": "wait"}, repeats=3, stall_s=0)
    driver = site.start("retry", site.folder)
    cancelled, _ = job_in_training(study, 0)
    slurm_to_break.run("scancel", cancelled)
    requeued, _ = job_in_training(study, 1)
    slurm_to_break.run("scontrol", "requeue", requeued)
    finished(driver, 1)

    ((_, first),) = attempts(study, 0)
    # Where Slurm's KillWait is over before the sentinel is written, the watcher writes what Slurm says.
    assert first.status == "interrupted" and first.cause in ("signal", "cancelled")
    (_, first), (run, second) = attempts(study, 1)
    assert (first.status, first.cause, second.status) == ("interrupted", "signal", "completed"), read(run.train_log)
    assert first.job_id == second.job_id == requeued
    (_, first), (run, second) = attempts(study, 2)
    assert (first.status, first.cause, second.status) == ("interrupted", "time_limit", "completed"), read(run.train_log)
    assert first.extra["failure"]["family"] == "time limit" and first.job_id == second.job_id

    states = [(row["state"], row["attempt"]) for row in site.status()]
    assert states == [("interrupted", 1), ("completed", 2), ("completed", 2)]
    again = site.paceline("retry", site.folder)
    assert again.returncode == 0, again.stderr
    assert [row["state"] for row in site.status()] == ["completed"] * 3
    assert len(attempts(study, 0)) == 2 and len(attempts(study, 1)) == 2
    check_table(study)


def test_a_node_that_is_wanted_by_another_job_and_one_that_dies(
    slurm_to_break: Any, make_site: Callable[..., Site]
) -> None:
    """Preempted; then slurmd is killed: Slurm queues the job again, and what each life of it wrote stays apart."""
    site = make_site(requeue=True, partition="preempt")
    study = site.prepare({"0": "wait", "attempts": "2"}, repeats=1, stall_s=0, max_attempts=3)
    driver = site.start("retry", site.folder)
    job, _ = job_in_training(study, 0)
    node = slurm_to_break.run("squeue", "--noheader", "--format=%N", "--jobs", job).strip()
    urgent = ["--exclusive", f"--nodelist={node}", "--partition=batch", "--output=/dev/null", "--wrap=sleep 1"]
    slurm_to_break.run("sbatch", *urgent)
    again, _ = job_in_training(study, 0, attempt=2)
    assert again == job
    node = slurm_to_break.run("squeue", "--noheader", "--format=%N", "--jobs", job).strip()
    stop(daemon(slurm_to_break, f"slurmd.{node}"), signal.SIGKILL)
    finished(driver, 0)
    (first, preempted), (_, lost), (_, third) = attempts(study, 0)
    assert (preempted.status, preempted.cause) == ("interrupted", "preempted"), read(first.train_log)
    assert (lost.status, lost.cause) == ("interrupted", "node_failure")
    assert third.status == "completed" and third.nodes != (node,)
    assert site.status()[0]["attempt"] == 3
    told = check_table(study)["strong"]
    assert told == [("interrupted", "preempted"), ("interrupted", "node_failure"), ("completed", None)]
    quiet(["slurmd", "-N", node], site.environment)
    deadline = time.monotonic() + 30
    while "idle" not in slurm_to_break.run("sinfo", "--noheader", "--nodes", node, "--format=%t"):
        assert time.monotonic() < deadline, "the node does not come back"
        time.sleep(0.5)


@pytest.fixture
def patient_slurm(slurm_to_break: Any) -> Iterator[str]:
    """Settings with which no node counts as lost while munge is stopped; afterwards Slurm is what it was."""
    conf = slurm_to_break.folder / "etc" / "slurm.conf"
    before = conf.read_text()
    patient = before.replace("SlurmdTimeout=9", "SlurmdTimeout=120")
    assert patient != before
    yield patient
    conf.write_text(before)
    slurm_to_break.run("scontrol", "reconfigure")
    end = time.monotonic() + 60
    while True:  # a node that was drained, or that has not answered since, is no node that a next test can count on
        nodes = dict(
            line.split() for line in slurm_to_break.run("sinfo", "--noheader", "--Node", "--format=%N %T").splitlines()
        )
        if set(nodes.values()) == {"idle"}:
            break
        assert time.monotonic() < end, nodes
        for node, state in nodes.items():
            if "drain" in state or "down" in state:
                slurm_to_break.run("scontrol", "update", f"nodename={node}", "state=resume")
        time.sleep(1)


def test_a_controller_that_restarts_a_drained_node_no_munge_and_two_watchers(
    slurm_to_break: Any, patient_slurm: str, make_site: Callable[..., Site]
) -> None:
    """Nothing of it is lost: whoever watches waits, jobs run to their end, and each case has one attempt."""
    site = make_site()
    study = site.prepare({"0": "pause", "1": "kill rank"}, repeats=2)
    driver = site.start("retry", site.folder)
    job, _ = job_in_training(study, 0)
    driver.kill()  # and nobody drives the study any more
    driver.communicate()
    watchers = [site.start("watch", site.folder) for _ in range(2)]

    folder = slurm_to_break.folder
    node = slurm_to_break.run("squeue", "--noheader", "--format=%N", "--jobs", job).strip()
    slurm_to_break.run("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
    stop(daemon(slurm_to_break, "slurmctld"))
    (folder / "etc" / "slurm.conf").write_text(patient_slurm)
    time.sleep(3)
    quiet(["slurmctld"], site.environment)
    stop(daemon(slurm_to_break, "munged"))
    status = site.paceline("status", site.folder)
    assert status.returncode == 0, status.stderr
    time.sleep(3)
    quiet(
        ["munged", "--force", f"--key-file={folder}/etc/munge.key", f"--socket={folder}/run/munge.socket",
         f"--pid-file={folder}/run/munged.pid", f"--log-file={folder}/log/munged.log",
         f"--seed-file={folder}/run/munged.seed"], site.environment,
    )  # fmt: skip
    for watcher in watchers:
        finished(watcher, 0)
    ((_, result),) = attempts(study, 0)
    assert result.status == "completed" and result.job_id == job
    # The other repeat lost a rank; one of the two watchers submitted its next attempt.
    assert [(r.status, r.cause) for _, r in attempts(study, 1)] == [("failed", "killed"), ("completed", None)]
    assert [row["state"] for row in site.status()] == ["completed"] * 2
    check_table(study)


@pytest.mark.usefixtures("apptainer")
def test_a_missing_image_and_a_node_with_too_few_gpus(
    make_site: Callable[..., Site], base: Path, jobs_environment: Path, tmp_path: Path
) -> None:
    """The image is not there, then it is, and one of the nodes has no GPU for the job: each is told within seconds."""
    image = tmp_path / "image"
    prefix = subprocess.run(
        [jobs_environment, "-c", "import sys; print(sys.base_prefix)"], capture_output=True, text=True, check=True
    ).stdout.strip()
    site = make_site(
        runtime={"kind": "apptainer", "image": str(image), "binds": [str(jobs_environment.parents[1]), prefix]},
        setup=['if [ "$SLURMD_NODENAME" = node1 ]; then export CUDA_VISIBLE_DEVICES=; fi'],
    )
    study = site.prepare({}, repeats=1, device="cuda", world_sizes=(1,), max_attempts=6)

    failed = site.paceline("retry", site.folder)
    assert failed.returncode == 1, failed.stderr
    warmup, measured = json.loads(site.paceline("status", site.folder, "--format", "json").stdout)
    assert (warmup["state"], warmup["cause"], measured["cause"]) == ("failed", "image", "dependency")
    assert str(image) in warmup["message"] and "runtime.image" in warmup["advice"] and warmup["evidence"]

    image.symlink_to(base)
    again = site.paceline("retry", site.folder)
    assert again.returncode == 0, again.stderr
    (row,) = site.status()
    assert row["state"] == "completed"
    told = check_table(study)
    few, completed = ("failed", "wrong_gpus"), ("completed", None)
    assert told["warmup"] == [("failed", "image"), few, completed]
    assert told["strong"][-2:] == [few, completed]
    ((first, refused), (_, done)) = attempts(study, 0)[-2:]
    assert refused.message is not None and "0 GPUs are visible on" in refused.message, read(first.train_log)
    assert (refused.nodes, done.nodes) == (("node1",), ("node2",))
