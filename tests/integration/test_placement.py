"""Jobs on a real Slurm: so many at once, pinned to the nodes of the largest, all in one allocation."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from paceline.bench import allocation, doctor, slurm
from paceline.bench.cluster import Cluster
from paceline.bench.record import Case
from paceline.bench.rundir import RunDir, StudyDir

from tests.job_scene import case as make_case

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

SCRIPT = """#!/bin/bash
#SBATCH --nodes={nodes}
#SBATCH --output=train.log
#SBATCH --exclusive
date +%s.%N > start
echo "$SLURM_JOB_NODELIST" > nodes
sleep 1
date +%s.%N > end
printf '{{\\n "status": "completed"\\n}}\\n' > result.json
"""


@pytest.fixture
def planned(slurm: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Case, RunDir]]:
    monkeypatch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])
    study = StudyDir(tmp_path / "it's a $(study)")
    runs = []
    for case in (make_case(1, kind="warmup"), make_case(1), make_case(2, num_nodes=2), make_case(4)):
        run = study.run(case.case_id, 1)
        run.path.mkdir(parents=True)
        run.job_sh.write_text(SCRIPT.format(nodes=case.num_nodes))
        runs.append((case, run))
    return runs


def wait_for(jobs: list[str]) -> None:
    deadline = time.monotonic() + 90
    while any(state["State"] in slurm.MAY_CHANGE for state in slurm.job_states(jobs).values()):
        assert time.monotonic() < deadline, slurm.job_states(jobs)
        time.sleep(0.3)


def span(run: RunDir) -> tuple[float, float]:
    return float((run.path / "start").read_text()), float((run.path / "end").read_text())


def test_one_after_the_other_on_the_first_nodes_of_the_largest(planned: list[tuple[Case, RunDir]]) -> None:
    nodes = slurm.likely_nodes(allocation.most(planned)[1])
    assert nodes == ["node1", "node2"]
    executor = slurm.executor(planned[0][1].path.parents[2])
    jobs: list[str] = []
    for case, run in planned:
        job = executor.submit_script(
            run, after_any=allocation.dependency(jobs, 1), arguments=allocation.pinned(nodes, case)
        )
        jobs.append(job.job_id)
    wait_for(jobs)
    spans = [span(run) for _, run in planned]
    assert all(before[1] <= after[0] for before, after in pairwise(spans)), spans
    where = [(run.path / "nodes").read_text().strip() for _, run in planned]
    assert where == ["node1", "node1", "node[1-2]", "node1"]


def test_one_allocation_makes_all_runs_in_their_order(planned: list[tuple[Case, RunDir]]) -> None:
    site = Cluster(name="site", scheduler="slurm", gpus_per_node=8, placement="one-allocation", time_limit_min=4)
    study = StudyDir(planned[0][1].path.parents[2])
    together = allocation.prepare(study, site, planned, 4)
    assert slurm.check_script(together) is None
    job = slurm.executor(study.path).submit_script(together).job_id
    wait_for([job])
    assert slurm.job_states([job])[job]["State"] == "COMPLETED", (together.path / "allocation.log").read_text()
    spans = [span(run) for _, run in planned]
    assert all(before[1] <= after[0] for before, after in pairwise(spans)), spans
    assert {(run.path / "nodes").read_text() for _, run in planned} == {"node[1-2]\n"}


def test_the_doctor_knows_this_slurm(slurm: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])
    right = {"name": "site", "scheduler": "slurm", "gpus_per_node": 8, "gpu_type": "l40", "results": str(tmp_path)}
    found = {row.check: row for row in doctor.examine(Cluster.model_validate(right | {"cache_dir": str(tmp_path)}))}
    asked = ("scheduler", "partition", "time limit", "gpus", "submission", "results", "kernel cache")
    assert {check: found[check].state for check in asked} == dict.fromkeys(asked, "ok")
    assert "batch: 2 of 2 nodes usable" in found["partition"].text
    wrong = right | {"gpus_per_node": 9, "partition": "nosuch"}
    found = {row.check: row for row in doctor.examine(Cluster.model_validate(wrong))}
    assert found["partition"].state == "failure"
    assert found["partition"].fix == "partition: in the profile; there are batch, preempt"
    wrong = right | {"gpus_per_node": 9, "constraint": "h100", "time_limit_min": 3000}
    found = {row.check: row for row in doctor.examine(Cluster.model_validate(wrong))}
    failed = {check for check, row in found.items() if row.state == "failure"}
    assert failed == {"time limit", "constraint", "gpus", "submission"}
    assert all(found[check].fix for check in failed)
