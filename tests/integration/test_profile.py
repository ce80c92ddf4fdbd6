"""`paceline profile` with real Isaac Lab on CPU ranks, through a real Slurm: under the real nsys, and without it.

There is no GPU here, so the traces hold ranges and no CUDA.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from paceline.analysis import trace
from paceline.bench.profile import cases_of
from paceline.bench.rundir import StudyDir, read_json
from paceline.profiling import nsys

from tests.conftest import SlurmCluster
from tests.integration.nsystool import real_nsys

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

# Two nodes of one rank each: as many reports.
SITE = """
schema: paceline.cluster/1
name: testsite
scheduler: slurm
gpus_per_node: 8
exclusive: true
time_limit_min: 10
"""
RANGES = {"iteration", "rollout", "env_step", "physics", "inference", "update", "minibatch"}
TOKEN = "planted-token-0d5e1b"


@pytest.fixture
def tool(repository: Path) -> Iterator[Path]:
    """The real nsys."""
    with real_nsys(repository, "2024.2.3") as path:
        yield path


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("profile")
    (folder / "site.yaml").write_text(SITE)
    return folder / "study"


def profile(
    paceline: Path, slurm: SlurmCluster, study: Path, *options: str, path: str
) -> subprocess.CompletedProcess[str]:
    small = ("device=cpu", "num_envs=64", "horizon=8", "num_epochs=1", "num_minibatches=2", "world_sizes=1,2")
    settings = [word for pair in (*small, "num_nodes=2") for word in ("--set", pair)]
    where: list[str | Path] = ["--cluster", study.with_name("site.yaml"), "--folder", study]
    return subprocess.run(
        [paceline, "profile", "strong_scaling", *settings, *where, "--iterations", "1:3", *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**slurm.environment, "PATH": path, "MY_API_TOKEN": TOKEN},
        timeout=900,
        check=False,
    )


def ranges_of(report: Path) -> dict[tuple[str, int], dict[str, Any]]:
    rows = json.loads((report / "trace.json").read_text())["ranges"]
    return {(row["name"], row["rank"]): row for row in rows}


@pytest.mark.isaaclab
@pytest.mark.slurm
def test_under_nsys_on_two_nodes(
    paceline: Path, slurm: SlurmCluster, study: Path, tool: Path, jobs_environment: Path
) -> None:
    done = profile(paceline, slurm, study, "--gpus", "2", path=f"{tool.parent}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stdout + done.stderr
    report = study / "profile" / "2-cpu-ranks-1-3"
    assert done.stdout.splitlines()[-1] == str(report / "trace.html")
    assert "2 CPU ranks on 2 nodes, profiled: running" in done.stderr  # progress
    rows = ranges_of(report)
    assert {name for name, _ in rows} >= RANGES | {"communication"}
    for rank in (0, 1):
        # The window alone: two iterations, of eight steps each.
        assert rows["iteration", rank]["instances"] == 2
        assert rows["env_step", rank]["instances"] == 16
    (case,) = cases_of(StudyDir(study))
    run = StudyDir(study).run(case.case_id, 1)
    facts = read_json(run.profiler_json)
    assert (facts["profiler"], facts["cuda"], facts["note"], facts["problems"]) == ("nsys", False, None, [])
    # What nsys recorded besides is gone: the export holds no token, and the raw one is removed.
    assert not list(run.profile.glob("*.sqlite"))
    # One report per node, and one rank in each.
    assert sorted(path.name for path in run.profile.glob("*.nsys-rep")) == ["nsys-0.nsys-rep", "nsys-1.nsys-rep"]
    kept = sorted(report.glob("*.sqlite.xz"))
    assert [path.name for path in kept] == ["node-0.sqlite.xz", "node-1.sqlite.xz"]
    found = [{row["rank"] for row in trace.analyse(path).ranges} for path in kept]
    assert sorted(found, key=min) == [{0}, {1}]
    for path in kept:
        with trace.unpacked(path) as plain:
            assert TOKEN.encode() not in plain.read_bytes()
    warnings = json.loads((report / "trace.json").read_text())["warnings"]
    assert "CPU ranks: the trace has the ranges of the host, and no CUDA" in warnings


@pytest.mark.isaaclab
@pytest.mark.slurm
def test_without_nsys_torch_profiler_fills_in(
    paceline: Path, slurm: SlurmCluster, study: Path, jobs_environment: Path
) -> None:
    plain = [folder for folder in os.environ["PATH"].split(":") if not Path(folder, "nsys").exists()]
    done = profile(paceline, slurm, study, "--gpus", "1", path=":".join(plain))
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = (line for line in done.stderr.splitlines() if "torch.profiler" in line)
    assert line.startswith("1 CPU rank, profiled: nsys is not installed on ")
    rows = ranges_of(study / "profile" / "1-cpu-rank-1-3")
    assert {name for name, _ in rows} >= RANGES
    assert rows["iteration", 0]["instances"] == 2 and rows["env_step", 0]["instances"] == 16
    assert rows["iteration", 0]["wall_s"] > rows["rollout", 0]["wall_s"] + rows["update", 0]["wall_s"]
    # Again: nothing runs, both sizes are there, and the report puts them side by side.
    started = time.monotonic()
    again = profile(paceline, slurm, study, path=":".join(plain))
    assert again.returncode == 0, again.stdout + again.stderr
    assert time.monotonic() - started < 30
    assert again.stdout.splitlines()[-1] == str(study / "profile" / "1-vs-2-cpu-ranks-1-3" / "trace.html")


def test_training_outlives_nsys(tool: Path, tmp_path: Path) -> None:
    """The real nsys is killed while its program runs: the program ends as it would have, and is told apart."""
    program = [sys.executable, str(Path(__file__).parent / "programs" / "nvtx_ranges.py"), "400"]
    command = nsys.profile_command(tool, program, tmp_path / "report", cuda=False, window=False)
    process = subprocess.Popen(
        [sys.executable, "-m", "paceline.profiling.profiler", "run", "--", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(2.5)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    victim = next(
        int(pid)
        for pid in children.stdout.split()
        if b"profile" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    )
    os.kill(victim, signal.SIGKILL)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 137
    assert "nsys was killed by signal 9: the training goes on" in errors
    assert output.count('{"rank"') == 2, output + errors  # both processes came to their end
