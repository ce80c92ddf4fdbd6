"""Job scripts as text: one expected file each, written again by `make golden` and read in the diff."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from paceline.bench import shell
from paceline.bench.cluster import Cluster, load_cluster, shipped
from paceline.bench.record import Case
from paceline.bench.render import render_job
from paceline.bench.rundir import StudyDir

HERE = Path(__file__).parent
PYTHON = "/opt/isaaclab/bin/python"
ODD = '/data/it\'s a "study"; $(rm -rf x) `id` \\ #1\n& more'

PLAIN = Cluster(name="site", scheduler="slurm", gpus_per_node=8, partition="gpu", cpus_per_gpu=8, mem_per_gpu_gb=32)


def case(world_size: int, **changes: Any) -> Case:
    values: dict[str, Any] = {
        "kind": "strong",
        "task": "Isaac-Ant-Direct",
        "trainer": "rsl_rl",
        "world_size": world_size,
        "num_envs": 16384,
        "horizon": 32,
        "num_minibatches": 4,
        "num_epochs": 5,
        "iterations": 60,
        "warmup_iterations": 15,
        "repeat": 0,
        "seed": 42,
        "device": "cuda",
    }
    return Case(**(values | changes))


def profiled(world_size: int, **changes: Any) -> Case:
    values = {"kind": "profile", "iterations": 19, "sync_every": 0, "profile_window": "15:18", "graph_trace": "graph"}
    return case(world_size, **(values | {"profiler": "auto"} | changes))


def cluster(**changes: Any) -> Cluster:
    return Cluster.model_validate(PLAIN.model_dump(by_alias=True, exclude_none=True) | changes)


CONTAINER = {"binds": ["/scratch", "/data:/mnt/data:ro"], "accept_eula": True}
DOCKER = {"kind": "docker", "image": "nvcr.io/nvidia/isaac-lab:2.3.2", "options": ["--shm-size=8g"], **CONTAINER}
APPTAINER = {"kind": "apptainer", "image": "/images/isaac lab.sif", "options": ["--writable-tmpfs"], **CONTAINER}
PYXIS = {"kind": "pyxis", "image": "/images/isaaclab.sqsh", "options": ["--no-container-mount-home"], **CONTAINER}

SCRIPTS: dict[str, tuple[Case, Cluster, str, str | None]] = {
    "1-gpu": (case(1), PLAIN, "/results/study", "/assets"),
    "8-gpus": (case(8), PLAIN, "/results/study", "/assets"),
    "2-nodes-of-4": (case(8, num_nodes=2), cluster(gpu_request="gres", gpu_type="l40"), "/results/study", None),
    "no-scheduler-cpu": (
        case(2, device="cpu", num_envs=1024, threads_per_rank=2, environment=(("NCCL_DEBUG", "it's $HOME"),)),
        Cluster(name="local", scheduler="local"),
        "/home/user/outputs/study",
        "/home/user/assets",
    ),
    "levers": (
        case(4, threads_per_rank=4, levers=(("cpu_affinity", "numa"), ("environment.X", "a\n#SBATCH b"))),
        PLAIN,
        "/results/study",
        "/assets",
    ),
    "apptainer": (case(4), cluster(runtime=APPTAINER), "/results/my study", "/assets"),
    "apptainer-2-nodes": (case(8, num_nodes=2), cluster(runtime=APPTAINER), "/results/study", "/assets"),
    "docker": (case(4), Cluster.model_validate({"name": "d", "scheduler": "local", "runtime": DOCKER}), "/r", None),
    "pyxis": (case(4), cluster(runtime=PYXIS), "/results/study", "/assets"),
    "pyxis-2-nodes": (case(8, num_nodes=2), cluster(runtime=PYXIS), "/results/study", "/assets"),
    "odd-paths": (case(1), cluster(cache_dir="/c $x; 'y'"), ODD, "/a'b"),
    "profile-1-gpu": (profiled(1), PLAIN, "/results/study", "/assets"),
    "profile-2-nodes": (profiled(8, num_nodes=2, graph_trace="node"), PLAIN, "/results/study", "/assets"),
    "profile-apptainer-2-nodes": (profiled(8, num_nodes=2), cluster(runtime=APPTAINER), "/results/study", "/assets"),
    "profile-docker": (
        profiled(4),
        Cluster.model_validate({"name": "d", "scheduler": "local", "runtime": DOCKER}),
        "/r",
        None,
    ),
    "profile-pyxis": (profiled(4), cluster(runtime=PYXIS), "/results/study", "/assets"),
    "profile-no-scheduler-cpu": (
        profiled(2, device="cpu", num_envs=1024),
        Cluster(name="local", scheduler="local"),
        "/home/user/outputs/study",
        "/home/user/assets",
    ),
    "every-directive": (
        case(2, gpu_type="l40"),
        load_cluster(shipped()["slurm_typed_gres"]).model_copy(
            update={"nodelist": "node3", "reservation": "bench", "setup": ("ulimit -n 65536",)}
        ),
        "/scratch/study",
        "/assets",
    ),
}


def script(name: str) -> str:
    job, site, folder, asset_root = SCRIPTS[name]
    return render_job(job, site, StudyDir(folder), 1, PYTHON, asset_root)


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_is_as_expected(name: str, golden: Callable[[Path, str], None]) -> None:
    golden(HERE / "job_scripts" / f"{name}.sh", script(name))


def test_scripts_export_what_the_table_of_variables_says() -> None:
    """One table says what files may not set and what Docker is given; the scripts say what there is."""
    exported = set()
    for name, (job, site, _, _) in SCRIPTS.items():
        words = re.findall(r"\bexport ((?:[A-Z_]+(?:=\S*)?[ \n;])+)", script(name))
        found = {word.partition("=")[0].rstrip(";") for word in " ".join(words).split()}
        exported |= found - {variable for variable, _ in job.environment} - set(site.environment)
    assert exported == set(shell.JOB_VARIABLES)


def test_no_expected_script_is_left_over() -> None:
    assert {path.stem for path in (HERE / "job_scripts").glob("*")} == set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_is_clean_under_shellcheck(name: str, tmp_path: Path, require: Callable[[str], None]) -> None:
    require("shellcheck")
    path = tmp_path / "job.sh"
    path.write_text(script(name))
    found = subprocess.run(["shellcheck", "-s", "bash", path], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_one_rank_goes_the_same_way_as_eight(name: str) -> None:
    text = script(name)
    assert text.count("-m torch.distributed.run") == 1
    assert text.count("-m paceline.bench.supervise") == 1
    assert text.count("-m paceline.bench.sentinel") == 1


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name.startswith("profile-")])
def test_nsys_stands_around_all_ranks_of_a_node_and_ends_before_the_simulator(name: str) -> None:
    text = script(name)
    command = next(line for line in text.splitlines() if "-m torch.distributed.run" in line)
    assert command.strip().startswith('"${profiler[@]}" "$PYTHON" -m torch.distributed.run')
    assert '"$nsys" profile' in text
    on_gpu = SCRIPTS[name][0].device == "cuda"
    assert ("'--capture-range=cudaProfilerApi'" in text) == on_gpu
    assert ("'--capture-range-end=stop'" in text) == on_gpu
    assert ("%q{SLURM_NODEID}" in text) == (SCRIPTS[name][0].num_nodes > 1)
    assert text.index("profiler export") > text.index('wait "$train_pid"')


@pytest.mark.parametrize("name", [name for name in SCRIPTS if not name.startswith("profile-")])
def test_an_unprofiled_run_knows_no_profiler(name: str) -> None:
    assert "profiler" not in script(name) and "nsys" not in script(name)
