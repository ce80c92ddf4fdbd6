"""All runs in one allocation, so many jobs at once, the same nodes: scripts as text and under bash."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from paceline.bench import allocation
from paceline.bench.cluster import Cluster
from paceline.bench.errors import ClusterError
from paceline.bench.record import Case
from paceline.bench.rundir import RunDir, StudyDir

from tests.job_scene import case as make_case

DONE = """echo "$PWD" >> ../../../order; printf '{\\n "status": "completed"\\n}\\n' > result.json\n"""
SITE = {"name": "site", "scheduler": "slurm", "gpus_per_node": 8, "placement": "one-allocation", "time_limit_min": 5}


def site(**changes: Any) -> Cluster:
    return Cluster.model_validate(SITE | changes)


def runs(folder: Path, **scripts: str) -> list[tuple[Case, RunDir]]:
    """Return runs of one, two and four ranks on one and two nodes, the warm-up first, with their scripts."""
    study = StudyDir(folder)
    cases = {
        "warmup": make_case(1, kind="warmup"),
        "one": make_case(1),
        "four": make_case(4, num_nodes=2),
        "two": make_case(2),
    }
    planned = []
    for name, case in cases.items():
        run = study.run(case.case_id, 1)
        run.path.mkdir(parents=True)
        run.job_sh.write_text(scripts.get(name, DONE))
        planned.append((case, run))
    return planned


def order(folder: Path) -> list[str]:
    path = folder / "order"
    return [Path(line).parent.name for line in path.read_text().splitlines()] if path.exists() else []


def test_allocation_asks_for_the_largest_run_and_the_time_of_all(tmp_path: Path) -> None:
    text = allocation.script(site(), runs(tmp_path / "study"), 30)
    header = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    assert "#SBATCH --nodes=2" in header
    assert "#SBATCH --time=02:00:00" in header
    assert "#SBATCH --exclusive" in header and "#SBATCH --no-requeue" in header
    assert "#SBATCH --output=allocation.log" in header and "#SBATCH --job-name=paceline-allocation" in header
    assert "timeout --foreground --signal=USR1 --kill-after=120 1680 bash job.sh" in text


def test_script_is_clean_under_shellcheck(tmp_path: Path, require: Callable[[str], None]) -> None:
    require("shellcheck")
    program = shutil.which("shellcheck")
    assert program
    text = allocation.script(site(), runs(tmp_path / "it's a $(study)"), 30)
    done = subprocess.run([program, "-"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_runs_follow_one_another_and_what_is_done_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "it's a $(touch x) `study`"
    planned = runs(folder, two="exit 3\n")
    together = allocation.prepare(StudyDir(folder), site(), planned, 5)
    done = subprocess.run(["bash", together.job_sh], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1, "a run that failed fails the job"
    assert order(folder) == [case.case_id for case, _ in planned[:3]]
    assert "1 failed" in done.stdout.splitlines()[-1]
    planned[3][1].job_sh.write_text(DONE)
    again = subprocess.run(["bash", together.job_sh], capture_output=True, text=True, timeout=30, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert order(folder) == [case.case_id for case, _ in planned], "only the one that had failed ran again"
    assert allocation.prepare(StudyDir(folder), site(), planned, 5).path.name == "2"


def test_a_warm_up_that_fails_stops_everything(tmp_path: Path) -> None:
    planned = runs(tmp_path / "study", warmup="exit 1\n")
    together = allocation.prepare(StudyDir(tmp_path / "study"), site(), planned, 5)
    assert subprocess.run(["bash", together.job_sh], capture_output=True, timeout=30, check=False).returncode == 1
    assert order(tmp_path / "study") == []


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_signals_reach_the_run_under_way_and_no_other_starts(tmp_path: Path, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    waits = f"trap 'echo got {name} > signal; exit 143' {name}\ntouch started\nsleep 60 &\nwait\n"
    planned = runs(tmp_path / "study", one=waits)
    together = allocation.prepare(StudyDir(tmp_path / "study"), site(), planned, 5)
    with subprocess.Popen(["bash", together.job_sh], stdout=subprocess.PIPE, text=True) as process:
        under_way = planned[1][1].path
        deadline = time.monotonic() + 20
        while not (under_way / "started").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        said, _ = process.communicate(timeout=20)
    assert process.returncode == 1
    assert (under_way / "signal").read_text() == f"got {name}\n"
    assert order(tmp_path / "study") == [planned[0][0].case_id]
    assert f"stopped by {name}" in said


def test_kinds_of_nodes_are_not_mixed(tmp_path: Path) -> None:
    planned = runs(tmp_path / "study")
    other = make_case(1, device="cuda", gpu_type="h100")
    with pytest.raises(ClusterError, match="several kinds of nodes"):
        allocation.prepare(StudyDir(tmp_path / "study"), site(), [*planned, (other, planned[0][1])], 5)


def test_at_most_so_many_jobs_run_at_once() -> None:
    jobs: list[str] = []
    waits_for = []
    for number in range(6):
        waits_for.append(allocation.dependency(jobs, 2))
        jobs.append(str(number))
    assert waits_for == [None, None, "0", "1", "2", "3"]
    assert allocation.dependency(jobs, None) is None


def test_runs_are_pinned_to_the_first_of_the_largest_runs_nodes() -> None:
    nodes = ["node3", "node7"]
    assert allocation.pinned(nodes, make_case(4, num_nodes=2)) == ["--nodelist=node3,node7"]
    assert allocation.pinned(nodes, make_case(2)) == ["--nodelist=node3"]
    assert allocation.pinned([], make_case(2)) == []


@pytest.mark.parametrize("wrong", [{"max_jobs": 2}, {"same_nodes": True}, {"requeue": True}])
def test_an_allocation_is_one_job_on_the_same_nodes(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="allocation"):
        site(**wrong)
