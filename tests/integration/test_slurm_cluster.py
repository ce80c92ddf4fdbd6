"""The private Slurm cluster of the tests starts beside another, ends by its pid files, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "tests" / "slurm"

pytestmark = [pytest.mark.slow, pytest.mark.slurm]


def call(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [SCRIPTS / script, *arguments]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def folder(require: Callable[[str], None]) -> Iterator[Path]:
    require("slurm")
    # Short, as sockets lie in it, and named so that the next session ends what a killed one left.
    path = Path(tempfile.mkdtemp(prefix=f"paceline-slurm-{os.getpid()}-"))
    yield path
    call("stop.sh", path)
    shutil.rmtree(path)


def daemons(folder: Path) -> dict[str, int]:
    """Return the process ids of the cluster's daemons that are alive, zombies left out."""
    alive = {}
    for file in (folder / "run").glob("*.pid"):
        stat = Path("/proc", file.read_text().strip(), "stat")
        if stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z":
            alive[file.name] = int(stat.parent.name)
    return alive


def test_jobs_see_typed_gpus_and_resolve_node_names(folder: Path, slurm: object) -> None:
    hosts = Path("/etc/hosts").read_text()
    started = call("start.sh", folder)  # beside the cluster of the session
    assert started.returncode == 0, started.stderr
    assert len(daemons(folder)) == 4
    environment = {**os.environ, "SLURM_CONF": str(folder / "etc" / "slurm.conf")}
    script = 'echo "$SLURMD_NODENAME $CUDA_VISIBLE_DEVICES $(getent hosts node1 node2 | cut -d" " -f1 | sort -u)"'
    seen = subprocess.run(
        ["srun", "-N2", "--ntasks-per-node=1", "--gpus-per-node=l40:2", "bash", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert sorted(seen.splitlines()) == ["node1 0,1 127.0.0.1", "node2 0,1 127.0.0.1"]
    subprocess.run(
        ["sbatch", "--output=/dev/null", "--wrap", "trap '' TERM; sleep 1000"], env=environment, timeout=60, check=True
    )
    stopped = call("stop.sh", folder)
    assert stopped.returncode == 0 and not stopped.stderr, stopped.stderr
    assert not daemons(folder)
    assert Path("/etc/hosts").read_text() == hosts
    assert call("stop.sh", folder).returncode == 0, "ending it twice is fine"


def test_a_cluster_that_lost_its_controller_is_ended(folder: Path) -> None:
    assert call("start.sh", folder).returncode == 0
    os.kill(daemons(folder)["slurmctld.pid"], signal.SIGKILL)
    stopped = call("stop.sh", folder)
    assert stopped.returncode == 0, stopped.stderr
    assert not daemons(folder)


def test_wrong_use_is_refused(tmp_path: Path) -> None:
    assert call("start.sh").returncode != 0
    done = call("start.sh", tmp_path / "slurm", "nosuch")
    assert done.returncode == 2 and "nosuch" in done.stderr
    assert not (tmp_path / "slurm").exists()
