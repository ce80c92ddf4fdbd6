"""A sweep and a GPU comparison of real Isaac Lab, on CPU ranks, through a real Slurm with two types of GPUs."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from paceline.bench import gpus
from paceline.bench.cluster import Cluster, load_cluster
from paceline.bench.render import render_job
from paceline.bench.rundir import StudyDir
from paceline.bench.study import Study, resolve

from tests.conftest import SlurmCluster, slurm_cluster

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.timeout(1200)]

PROFILE = """
schema: paceline.cluster/1
name: twotypes
scheduler: slurm
gpus_per_node: 8
exclusive: true
time_limit_min: 10
signal_s: 60
prices: {gpu_hour: {h100: 2.5, a5000: 0.5}, currency: EUR}
"""
SHORT = ["--set", "device=cpu", "--set", "warmup_iterations=2", "--set", "sync_every=3"]


@pytest.fixture(scope="module")
def site(require: Callable[[str], None]) -> Iterator[SlurmCluster]:
    """A Slurm whose node1 has GPUs of type h100 and whose node2 of type a5000."""
    require("slurm")
    yield from slurm_cluster(accounting=False, gpus=("h100", "a5000"))


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "twotypes.yaml"
    path.write_text(PROFILE)
    return path


def call(site: SlurmCluster, command: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [command, *arguments],
        env=site.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def test_types_are_discovered(site: SlurmCluster, paceline: Path, profile: Path) -> None:
    done = call(site, paceline, "compare-gpus", "--cluster", profile, "--list")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "h100: gpu_type h100, gpus_per_node 8",  # the default partition has it
        "a5000: gpu_type a5000, gpus_per_node 8",
    ]
    done = call(site, paceline, "compare-gpus", "--cluster", profile, "--types", "l40", "--list")
    assert done.returncode == 2 and "type 'l40' (types: a5000, h100;" in done.stderr


def test_jobs_land_on_their_type(
    site: SlurmCluster, profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", site.environment["SLURM_CONF"])
    cluster: Cluster = load_cluster(profile)
    sides = gpus.groups(gpus.discover(cluster), cluster)
    values: dict[str, Any] = {"name": "c", "kind": "gpus", "task": "Isaac-Ant-Direct", "num_envs_per_rank": 4096}
    study = resolve(Study.model_validate(values | {"world_sizes": (1, 4), "repeats": 1, "groups": sides}), cluster)
    where = {"h100": "node1", "a5000": "node2"}
    for case in gpus.cases(study, cluster):
        script = tmp_path / f"{case.case_id}.sh"
        script.write_text(render_job(case, cluster, StudyDir(tmp_path), 1, "python3", None))
        done = subprocess.run(["sbatch", "--test-only", script], capture_output=True, text=True, check=True)
        assert f"on nodes {where[str(case.gpu_type)]} " in done.stderr, done.stderr


@pytest.mark.isaaclab
def test_a_sweep_mends_a_real_overflow(
    site: SlurmCluster, paceline: Path, profile: Path, jobs_environment: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "sweep"
    few = {"device": "cpu", "iterations": 2, "warmup_iterations": 1, "sync_every": 0, "num_minibatches": 4}
    small = ["--start", "32", "--limit", "32", *(part for key in few for part in ("--set", f"{key}={few[key]}"))]
    # Too few constraints for an Ant that has fallen, and near enough to what it needs that one larger size will do.
    tight = "overrides=env.sim.physics.solver_cfg.njmax=12"
    command: list[str | Path] = ["sweep", "--task", "Isaac-Ant-Direct", "--cluster", profile, "--folder", folder]
    done = call(site, paceline, *command, *small, "--set", tight)
    assert done.returncode == 0, done.stderr
    runs = json.loads((folder / "sweep.json").read_text())["runs"]
    first = runs[0]
    assert (first["verdict"], first["overflows"][0]["buffer"]) == ("overflow", "njmax"), runs
    assert first["overflows"][0]["needed"] > 12
    assert runs[1]["buffer_sizes"] == {"solver_cfg.njmax": first["overflows"][0]["needed"]}
    assert runs[-1]["verdict"] == "valid"
    with (folder / "report" / "combined_results.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(runs)
    assert rows[0]["excluded"].startswith("invalid physics") and float(rows[0]["total_fps"]) > 0
    assert float(rows[-1]["rank_memory_bytes"]) > 1e8
    again = call(site, paceline, *command, *small, "--set", tight)
    assert again.returncode == 0 and "next:" not in again.stderr, "nothing is run twice"


@pytest.mark.isaaclab
def test_a_comparison_runs_on_each_kind_of_node(
    site: SlurmCluster, paceline: Path, profile: Path, jobs_environment: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "comparison"
    sides = ["--constraint", "h100", "--constraint", "a5000"]
    small = ["--envs", "64", "--repeats", "1", "--set", "iterations=6"]
    done = call(site, paceline, "compare-gpus", "--cluster", profile, "--folder", folder, *sides, *small, *SHORT)
    assert done.returncode == 0, done.stderr
    data = json.loads((folder / "report" / "report.json").read_text())
    assert data["sides"] == ["h100", "a5000"] and data["reference"] == "h100"
    assert {run["side"]: run["node"] for run in data["runs"]} == {"h100": "node1", "a5000": "node2"}
    assert data["cases"][1]["verdict"] == "n=1, no interval"
    assert {gain["phase"] for gain in data["phase_gains"]} >= {"physics", "inference", "update"}
    assert done.stdout.rstrip().endswith("index.html")
