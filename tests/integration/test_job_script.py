"""The job script on a real Slurm: header, several nodes, odd folders, signals, requeue, preemption.

Supervisor and sentinel are the real ones. In the place of torchrun stands a module that writes down what it was given
and waits: training itself is in test_slurm_study.py.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from paceline.bench.cluster import Cluster
from paceline.bench.record import Case
from paceline.bench.render import render_job
from paceline.bench.rundir import RunDir, StudyDir, write_json

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

TORCHRUN = """
import json, os, sys, time
if sys.argv[-1] == "paceline.bench.allreduce":
    sys.exit(0)
names = ("CUDA_VISIBLE_DEVICES", "SLURMD_NODENAME", "SLURM_RESTART_COUNT", "PACELINE_RUN_DIR", "WITH_NEWLINE")
seen = {name: os.environ.get(name) for name in names}
seen["cores_asked_for"] = os.environ.get("SLURM_CPUS_PER_TASK")
path = f"torchrun-{os.environ.get('SLURMD_NODENAME')}-{os.environ.get('SLURM_RESTART_COUNT', 0)}.json"
with open(path + ".part", "w") as stream:
    json.dump({"arguments": sys.argv[1:], **seen}, stream)
os.rename(path + ".part", path)
if "SLURM_RESTART_COUNT" not in os.environ:
    time.sleep(float(os.environ.get("WAIT_S", "0")))
"""


@dataclass
class Scene:
    slurm: Any
    study: StudyDir

    def write(self, case: Case, cluster: Cluster, **environment: str) -> RunDir:
        run = self.study.run(case.case_id, 1)
        run.path.mkdir(parents=True)
        write_json(run.case_json, case.to_json())
        site = cluster.model_copy(update={"environment": environment})
        run.job_sh.write_text(render_job(case, site, self.study, 1, sys.executable, None, time_limit_min=5))
        return run

    def submit(self, run: RunDir) -> str:
        done = subprocess.run(
            ["sbatch", "--parsable", "job.sh"],
            cwd=run.path,
            env=self.slurm.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def wait(self, job: str, states: set[str], timeout_s: float = 90) -> str:
        deadline = time.monotonic() + timeout_s
        while True:
            state: str = self.slurm.jobs()[job]
            if state in states:
                return state
            assert time.monotonic() < deadline, f"job {job} is {state}"
            time.sleep(0.3)


def wait_for(path: Path, timeout_s: float = 60) -> Path:
    deadline = time.monotonic() + timeout_s
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.1)
    return path


@pytest.fixture
def scene(slurm: Any) -> Iterator[Scene]:
    folder = Path(tempfile.mkdtemp(prefix='it\'s a "test"; $(touch x)\n'))
    study = StudyDir(folder / "stu dy")
    for part in ("bench", "profiling"):
        shutil.copytree(ROOT / part, study.code / "paceline" / part, ignore=shutil.ignore_patterns("__pycache__"))
    (study.code / "torch" / "distributed").mkdir(parents=True)
    (study.code / "torch" / "distributed" / "run.py").write_text(TORCHRUN)
    yield Scene(slurm, study)
    shutil.rmtree(folder)


def cluster(**changes: Any) -> Cluster:
    values = {
        "name": "ci",
        "scheduler": "slurm",
        "partition": "batch",
        "gpus_per_node": 8,
        "mem_gb": 4,
        "cpus_per_gpu": 2,
    }
    return Cluster.model_validate(values | changes)


def case(world_size: int, **changes: Any) -> Case:
    values: dict[str, Any] = {
        "kind": "strong",
        "task": "Isaac-Ant-Direct",
        "trainer": "rsl_rl",
        "world_size": world_size,
        "num_envs": 64,
        "horizon": 16,
        "num_minibatches": 4,
        "num_epochs": 5,
        "iterations": 4,
        "warmup_iterations": 1,
        "repeat": 0,
        "seed": 42,
        "device": "cuda",
    }
    return Case(**(values | changes))


EVERYTHING = {
    "gpu_type": "l40",
    "constraint": "l40",
    "nodelist": "node1",
    "exclude": "node2",
    "exclusive": True,
    "mail_user": "me@example.org",
    "mail_type": ["END", "FAIL"],
    "requeue": True,
    "extra_sbatch": ['--comment="of several words"', "--nice=5"],
}


@pytest.mark.parametrize("changes", [{}, {"gpu_request": "gres"}, {"gpu_request": "gpus-per-node", "requeue": False}])
def test_every_directive_is_taken_by_sbatch(scene: Scene, changes: dict[str, Any]) -> None:
    run = scene.write(case(2, gpu_type="l40"), cluster(**(EVERYTHING | changes)))
    done = subprocess.run(
        ["sbatch", "--test-only", "job.sh"],
        cwd=run.path,
        env=scene.slurm.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    job = scene.submit(run)
    shown = scene.slurm.run("scontrol", "show", "job", "--oneliner", job)
    for expected in (
        f"JobName=paceline-{run.case_id} ", "TimeLimit=00:05:00 ", "ReqNodeList=node1 ", "ExcNodeList=node2 ",
        "OverSubscribe=NO ", "Features=l40 ", "MailUser=me@example.org ", "MailType=END,FAIL", "gres:gpu:l40:2 ",
        f"Requeue={1 if changes.get('requeue', True) else 0} ", "Comment=of several words ", "CPUs/Task=4 ",
        "MinMemoryNode=4G ",
    ):  # fmt: skip
        assert expected in shown, shown
    scene.wait(job, {"FAILED"})


def test_two_nodes_meet_at_the_first(scene: Scene) -> None:
    run = scene.write(case(8, num_nodes=2), cluster(), WITH_NEWLINE="a\n'b' $HOME")
    job = scene.submit(run)
    assert scene.wait(job, {"FAILED", "COMPLETED"}) == "FAILED"  # no rank wrote a record
    log = run.train_log.read_text()
    seen = [json.loads((run.path / f"torchrun-node{n}-0.json").read_text()) for n in (1, 2)]
    assert seen[0]["arguments"] == seen[1]["arguments"], log
    arguments = seen[0]["arguments"]
    endpoint = next(word for word in arguments if word.startswith("--rdzv-endpoint="))
    assert endpoint.startswith("--rdzv-endpoint=node1:")
    assert arguments[:3] == ["--nnodes=2", "--nproc-per-node=4", "--rdzv-backend=c10d"]
    assert arguments[3] == f"--rdzv-id={job}"
    assert arguments[-2:] == ["-m", "paceline.bench.worker"]
    for node in seen:
        assert node["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"
        assert node["cores_asked_for"] == "8"
        assert node["PACELINE_RUN_DIR"] == str(run.path)
        assert node["WITH_NEWLINE"] == "a\n'b' $HOME"
    result = json.loads(run.result_json.read_text())
    assert (result["status"], result["ranks_completed"], result["job_id"]) == ("failed", [], job)


@pytest.mark.parametrize("nodes", [1, 2])
def test_usr1_to_the_batch_shell_ends_and_requeues_the_job(scene: Scene, nodes: int) -> None:
    run = scene.write(case(2 * nodes, num_nodes=nodes), cluster(requeue=True), WAIT_S="300")
    job = scene.submit(run)
    for node in range(1, nodes + 1):
        wait_for(run.path / f"torchrun-node{node}-0.json")
    scene.slurm.run("scancel", "--batch", "--signal=USR1", job)  # what --signal=B:USR1@... does
    again = scene.study.run(run.case_id, 2)
    wait_for(again.result_json, timeout_s=100)
    assert scene.wait(job, {"FAILED", "COMPLETED"}) == "FAILED"
    first = json.loads(run.result_json.read_text())
    assert (first["status"], first["cause"]) == ("interrupted", "time_limit")
    second = json.loads(again.result_json.read_text())
    assert second["status"] == "failed"
    assert json.loads((again.path / "torchrun-node1-1.json").read_text())["SLURM_RESTART_COUNT"] == "1"


def test_scancel_leaves_a_result(scene: Scene) -> None:
    run = scene.write(case(1), cluster(), WAIT_S="300")
    job = scene.submit(run)
    wait_for(run.path / "torchrun-node1-0.json")
    scene.slurm.run("scancel", job)
    scene.wait(job, {"CANCELLED"})
    result = json.loads(wait_for(run.result_json, timeout_s=10).read_text())
    assert (result["status"], result["cause"]) == ("interrupted", "signal"), run.train_log.read_text()


@pytest.mark.parametrize("requeue", [False, True])
def test_preemption_is_told_from_the_time_limit(scene: Scene, requeue: bool) -> None:
    site = cluster(partition="preempt", exclusive=True, nodelist="node1", requeue=requeue)
    low = scene.write(case(8), site, WAIT_S="300")
    job = scene.submit(low)
    wait_for(low.path / "torchrun-node1-0.json")
    high = scene.write(case(4), cluster(exclusive=True, nodelist="node1"))
    scene.wait(scene.submit(high), {"FAILED"})
    result = json.loads(wait_for(low.result_json, timeout_s=40).read_text())
    assert (result["status"], result["cause"]) == ("interrupted", "preempted"), low.train_log.read_text()
    scene.slurm.run("scancel", job)
