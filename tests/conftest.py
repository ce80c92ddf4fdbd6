"""What all tests share: components that must be there, the private Slurm clusters, the environment of the jobs."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMPONENTS_FILE = ROOT / "tests" / "install" / "components.txt"

# Where a job or a user's settings would leak into what is tested.
SCRUBBED = ("SLURM_", "SBATCH_", "SRUN_", "PACELINE_", "SUBMITIT_", "CUDA_VISIBLE_DEVICES")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--rewrite-golden`, which `make golden` uses."""
    parser.addoption("--rewrite-golden", action="store_true", help="write the expected files in tests/golden again")


# Files whose tests take longest together, longest first. Workers take whole files in this order, so that none of them
# begins a long one when the others are about to end.
LONG_FILES = (
    "test_training.py",
    "test_containers.py",
    "test_campaign.py",
    "test_fresh_machine.py",
    "test_slurm_study.py",
    "test_faults_local.py",
    "test_slurm_sweep.py",
    "test_profile.py",
    "test_faults_slurm.py",
    "test_levers.py",
    "test_nsys.py",
    "test_damage.py",
    "test_scaling.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test a time limit, so that a hang names its test; put the files that take longest first."""
    ranks = {name: rank for rank, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))  # keeps the order within a file
    for item in items:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(900 if item.get_closest_marker("slow") else 120))


@pytest.fixture(scope="session", autouse=True)
def plain_environment() -> Iterator[None]:
    """Run all tests in the environment of a plain terminal, whatever started them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(SCRUBBED):
                patch.delenv(name)
        patch.setenv("LC_ALL", "C.UTF-8")
        patch.setenv("PATH", os.environ["PATH"] + os.pathsep + "/usr/sbin" + os.pathsep + "/sbin")
        yield


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def paceline() -> Path:
    """The installed command."""
    command = Path(sys.executable).with_name("paceline")
    assert command.exists(), "paceline is not installed beside this Python: run `make setup`"
    return command


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """Return a function that holds a text against an expected file, or writes that file under `--rewrite-golden`."""

    def check(expected: Path, text: str) -> None:
        if request.config.getoption("--rewrite-golden"):
            expected.parent.mkdir(parents=True, exist_ok=True)
            expected.write_text(text, encoding="utf-8")
            return
        assert expected.exists(), f"{expected} does not exist: `make golden` writes it, then read it"
        assert text == expected.read_text(encoding="utf-8"), f"{expected} differs: if meant so, `make golden`"

    return check


def components() -> dict[str, list[tuple[str, str]]]:
    """Return for each component of tests/install/components.txt its (program, Debian package) pairs."""
    table: dict[str, list[tuple[str, str]]] = {}
    for line in COMPONENTS_FILE.read_text().splitlines():
        if line and not line.startswith("#"):
            component, program, package = line.split()
            table.setdefault(component, []).append((program, package))
    return table


@pytest.fixture(scope="session")
def require(plain_environment: None) -> Callable[[str], None]:
    """Return a function that fails the test, with the command to install it, when a component is missing.

    It never skips: what CI lacks is a defect of the installer, and a developer should know what did not run.
    """

    def check(component: str) -> None:
        missing = [package for program, package in components()[component] if shutil.which(program) is None]
        if missing:
            pytest.fail(f"{component} is missing: apt-get install {' '.join(missing)}", pytrace=False)

    return check


@dataclass(frozen=True)
class SlurmCluster:
    """A running private Slurm cluster: node1 and node2, 64 CPUs and eight pretended GPUs of type l40 each."""

    folder: Path
    accounting: bool
    """Whether slurmdbd runs; without it there is neither sacct nor a completion log."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Environment in which Slurm's commands speak to this cluster."""
        return {**os.environ, "SLURM_CONF": str(self.folder / "etc" / "slurm.conf")}

    def run(self, *command: str | os.PathLike[str], timeout_s: float = 60) -> str:
        """Return what a command on this cluster prints; CalledProcessError if it fails."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        assert done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def jobs(self) -> dict[str, str]:
        """Return the state of each job that the controller knows, by job id."""
        rows = self.run("squeue", "--noheader", "--states=all", "--format=%A %T").split("\n")
        return dict(row.split() for row in rows if row)

    def kill(self, job: str) -> int:
        """Kill every process of a job at once, its script too, as a node does that is lost; return how many."""
        marks = {f"SLURM_JOB_ID={job}", f"SLURM_CONF={self.environment['SLURM_CONF']}"}
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # gone in the meantime
                if marks <= set((process / "environ").read_text(errors="replace").split("\0")):
                    found.append(int(process.name))
        for pid in found:  # found first, so that none of them sees another one die and tidies up
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(found)


def slurm_cluster(
    accounting: bool, gpus: tuple[str, str] = ("l40", "l40"), settings: str = ""
) -> Iterator[SlurmCluster]:
    """Yield a cluster of its own, for a fixture.

    ``gpus`` are the types of GPUs that node1 and node2 pretend to have, ``settings`` further lines of slurm.conf.
    """
    scripts = ROOT / "tests" / "slurm"
    shared = Path(tempfile.gettempdir())  # short: a socket's path may have 107 bytes
    for left_over in shared.glob("paceline-slurm-*"):
        # A test session that was killed could not end its cluster.
        owner = left_over.name.split("-")[2]
        if not Path("/proc", owner).exists():
            subprocess.run([scripts / "stop.sh", left_over], check=False, timeout=120)
            shutil.rmtree(left_over, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"paceline-slurm-{os.getpid()}-", dir=shared))
    try:
        started = subprocess.run(
            [scripts / "start.sh", folder, "dbd" if accounting else "none", *gpus],
            env={**os.environ, "SLURM_CONF_MORE": settings},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        if started.returncode:
            pytest.fail(f"the test cluster did not start: {started.stderr}", pytrace=False)
        yield SlurmCluster(folder, accounting)
    finally:
        subprocess.run([scripts / "stop.sh", folder], check=False, timeout=120)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def slurm(require: Callable[[str], None]) -> Iterator[SlurmCluster]:
    """A real Slurm without accounting."""
    require("slurm")
    yield from slurm_cluster(accounting=False)


@pytest.fixture(scope="session")
def slurm_with_accounting(require: Callable[[str], None]) -> Iterator[SlurmCluster]:
    """A real Slurm with slurmdbd."""
    require("slurm")
    require("slurmdbd")
    yield from slurm_cluster(accounting=True)


@pytest.fixture(scope="module")
def slurm_to_break(require: Callable[[str], None]) -> Iterator[SlurmCluster]:
    """A real Slurm of one's own, that notices within seconds when a node has gone."""
    require("slurm")
    yield from slurm_cluster(accounting=False, settings="SlurmdTimeout=9")


@pytest.fixture(scope="session")
def jobs_environment(plain_environment: None) -> Path:
    """Python of the jobs environment, with real Isaac Lab; made first where it is missing (minutes)."""
    from paceline.bench import environment

    return environment.ensure().python


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for jobs of all tests: torch is compiled once, not once a test or a worker of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    folder.mkdir(exist_ok=True)
    return folder


def made_once(folder: Path, *command: str | Path) -> Path:
    """Have a script make a folder below build/, which git ignores and which is kept; one test process at a time."""
    folder.parent.mkdir(exist_ok=True)
    lock = folder.with_suffix(".lock")
    done = subprocess.run(["flock", lock, "bash", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def apptainer(plain_environment: None) -> Iterator[Path]:
    """The real Apptainer, on PATH."""
    folder = ROOT / "build" / "apptainer"
    made_once(folder, ROOT / "tests" / "install" / "apptainer.sh", folder)
    program = folder / "apptainer" / "bin" / "apptainer"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
        yield program


@pytest.fixture(scope="session")
def base(require: Callable[[str], None], jobs_environment: Path) -> Path:
    """A root file system in the place of the official Python image."""
    require("mmdebstrap")
    folder = ROOT / "build" / "rootfs"
    return made_once(folder, ROOT / "tests" / "install" / "rootfs.sh", folder, jobs_environment)
