"""The images of containers/, really built, and a real study in one of them, through Slurm.

What this proves: the .def and the Dockerfiles build as they are, on a base that stands in for the official one (a local
Debian with Python 3.12, given by the build argument); the SIF is read-only and a whole study of real Isaac Lab runs in
it, with the job script's own binds, from a home folder that the image has never seen. What it does not: the bases of
NVIDIA and of Docker Hub, `--nv`, and the 2.3 image with a real Isaac Sim (there is none here).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from paceline.bench import image, imagecheck

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

FAST = ("--option=--mksquashfs-args", "--option=-comp lz4")
PROFILE = """
schema: paceline.cluster/1
name: containersite
scheduler: slurm
partition: batch
gpus_per_node: 0
placement: one-allocation
time_limit_min: 10
signal_s: 60
cache_dir: {cache}
runtime:
  kind: apptainer
  image: {image}
asset_root: /opt/isaaclab/paceline-assets
"""


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """A folder on the disk, with a name that needs quoting; removed at the end, because it holds gigabytes."""
    folder = Path(__file__).resolve().parents[2] / "build" / f"images {os.getpid()}"
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


# Meshes, robot arms, windows, language models, and of CUDA what torch loads when it is first used.
ONLY_ELSEWHERE = re.compile(
    r"open3d|cmeel.*|coal|eigenpy|pin|pin-pink|coacd|imgui-bundle|pygame-ce|transformers|onnx.*|triton"
    r"|nvidia-cuda-nvrtc|nvidia-cusolver"
)


def locked(repository: Path) -> dict[str, str]:
    """Return the part of each package of the 3.0 lock, its hashes included, by name."""
    text = (repository / "containers" / "locks" / "isaaclab-3.0.txt").read_text()
    parts = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
    return {part.partition("==")[0]: part.rstrip() for part in parts}


def build(*command: str | Path, paceline: Path, temporary: Path) -> None:
    temporary.mkdir(exist_ok=True)
    done = subprocess.run(
        [paceline, "image", "build", *command],
        env={
            **os.environ,
            "APPTAINER_TMPDIR": str(temporary),
            "SINGULARITY_DISABLE_CACHE": "1",
            "APPTAINER_DISABLE_CACHE": "1",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.fixture(scope="module")
def sif(apptainer: Path, base: Path, paceline: Path, repository: Path, scratch: Path) -> Path:
    """The 3.0 image, by `paceline image build` from the .def as it is, with its own %test, on the local base.

    The lock lacks the large packages that neither torch nor a training on CPU imports: 5 GB instead of 7. The jobs'
    environment of the test session is installed from all of it.
    """
    target, lock = scratch / "isaaclab.sif", scratch / "locks" / "smaller.txt"
    packages = locked(repository)
    lock.parent.mkdir()
    lock.write_text("\n".join(text for name, text in packages.items() if not ONLY_ELSEWHERE.fullmatch(name)) + "\n")
    # Fast compression, for two cores. As root without all capabilities, %post needs --fakeroot.
    options = ["--build-arg", f"BASE_IMAGE={base}", "--option=--fakeroot", *FAST]
    options += ["--option=--bind", f"--option={lock.parent}:/media", "--build-arg", f"LOCK=../../../media/{lock.name}"]
    build("isaaclab-3.0", "--output", target, *options, paceline=paceline, temporary=scratch / "tmp")
    shutil.rmtree(scratch / "tmp", ignore_errors=True)
    return target


def test_image_says_what_is_in_it(sif: Path, paceline: Path) -> None:
    # That everything can be imported is what %test has said while it was built.
    done = subprocess.run(
        [paceline, "image", "check", sif, "--format", "json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["packages"]["isaaclab"] == "3.0.0"
    assert found["torch_cuda"]
    assert found["labels"]["paceline.physics"] == "newton"
    assert found["labels"]["paceline.version.torch"] == found["packages"]["torch"]
    assert {row["state"] for row in found["findings"]} == {"ok"}
    # What a person sees.
    text = subprocess.run([paceline, "image", "check", sif], capture_output=True, text=True, check=True).stdout
    assert "3.0.0 with newton" in text and text.splitlines()[-1].endswith(" ok")


@pytest.mark.slurm
@pytest.mark.isaaclab
def test_a_study_runs_in_the_read_only_image(sif: Path, paceline: Path, slurm: Any, scratch: Path) -> None:
    profile = scratch / "site.yaml"
    cache = scratch / "cache"
    profile.write_text(PROFILE.format(image=json.dumps(str(sif)), cache=json.dumps(str(cache))))
    folder = scratch / "study"
    settings = {
        "device": "cpu",
        "task": "Isaac-Cartpole-Direct",
        "world_sizes": "2",  # the warm-up has one rank on one node
        "num_nodes": "2",
        "num_envs": "64",
        "iterations": "6",
        "warmup_iterations": "2",
        "sync_every": "3",
        "repeats": "1",
    }
    arguments = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    home, node = scratch / "home", scratch / "node"
    home.mkdir()
    node.mkdir()
    # A package in the user's own site must not reach into the image.
    intruder = home / ".local" / "lib" / "python3.12" / "site-packages" / "torch"
    intruder.mkdir(parents=True)
    (intruder / "__init__.py").write_text("raise RuntimeError('a torch of the user')")
    done = subprocess.run(
        [paceline, "run", "strong_scaling", "--cluster", profile, "--folder", folder, *arguments],
        cwd=scratch,
        env={**slurm.environment, "HOME": str(home), "TMPDIR": str(node)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    logs = "\n".join(path.read_text()[-3000:] for path in folder.glob("runs/*/*/train.log"))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{logs}"
    assert Path(done.stdout.splitlines()[-1]).is_file(), "the report"

    runs = sorted(folder.glob("runs/*/attempt-1"))
    assert len(runs) == 2
    headers = [json.loads(path.read_text().splitlines()[0]) for path in folder.glob("runs/*/*/rank-*.jsonl")]
    assert {header["versions"]["isaaclab"] for header in headers} == {"3.0.0"}
    two = next(run for run in runs if json.loads((run / "case.json").read_text())["num_nodes"] == 2)
    assert {path.name for path in two.glob("samples-*")} == {"samples-node1.jsonl", "samples-node2.jsonl"}
    assert {path.name for path in two.glob("doctor-*")} == {
        "doctor-node1.json", "doctor-node2.json", "doctor-allreduce.json"
    }  # fmt: skip
    # Not the jobs' environment of this checkout: the image's own.
    assert all("/opt/isaaclab/bin/python" in (run / "train.log").read_text() for run in runs)
    # The warm-up filled the kernel cache, under a key of this image, and the other jobs added nothing that it had.
    manifests = list(cache.glob("warm/*/manifest.json"))
    assert len(manifests) == 1
    files = json.loads(manifests[0].read_text())["files"]
    assert any(name.startswith("warp/") for name in files)
    logs_by_run = [(run / "train.log").read_text() for run in runs]
    assert sum("added to the warm cache" in log for log in logs_by_run) >= 1
    # Nothing is left on the node, and no job wrote to the home folder (Apptainer and the report keep a cache there).
    assert not list(node.iterdir())
    assert {path.name for path in home.rglob("*") if path.parent in (home, home / ".cache")} <= {
        ".local", ".apptainer", ".cache", "paceline"
    }  # fmt: skip
    # The image is what it was.
    refused = subprocess.run(
        ["apptainer", "exec", sif, "touch", "/opt/isaaclab/new"], capture_output=True, text=True, check=False
    )
    assert refused.returncode != 0 and "Read-only file system" in refused.stderr


@pytest.fixture(scope="module")
def buildah(require: Callable[[str], None], base: Path, scratch: Path) -> Iterator[str]:
    """The name of a local base image in a storage of Buildah's own; its environment is set."""
    require("buildah")
    storage = scratch / "storage"
    settings = scratch / "storage.conf"
    settings.write_text(f'[storage]\ndriver = "overlay"\ngraphroot = "{storage}"\nrunroot = "{scratch}/run"\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTAINERS_STORAGE_CONF", str(settings))
        patch.setenv("BUILDAH_ISOLATION", "chroot")  # as root without all capabilities, other kinds cannot start
        yield make_image("scratch", "localhost/base", folder=base)
        subprocess.run(["buildah", "rm", "--all"], capture_output=True, check=False)


def make_image(parent: str, name: str, folder: Path | None = None, files: dict[str, str] | None = None) -> str:
    """Make an image of another with a folder's content and executable files added, and return its name."""

    def call(*words: str | Path) -> str:
        return subprocess.run(["buildah", *words], capture_output=True, text=True, check=True).stdout.strip()

    container = call("from", parent)
    if folder is not None:
        call("copy", container, folder, "/")
    for path, text in (files or {}).items():
        with tempfile.NamedTemporaryFile("w") as stream:
            stream.write(text)
            stream.flush()
            call("copy", "--chmod", "755", container, stream.name, path)
    call("commit", "--quiet", "--rm", container, name)
    return name


def context(repository: Path, folder: Path) -> Path:
    """Return a copy of what the recipes take from a checkout."""
    for part in ("containers", "bench"):
        shutil.copytree(repository / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_dockerfile_of_3_0_is_built(buildah: str, repository: Path, scratch: Path) -> None:
    checkout = context(repository, scratch / "checkout 3.0")
    # Every step does what it does in earnest, with few packages: the .def installs all 7 GB of them.
    short = [locked(repository)[name] for name in ("newton", "nvtx", "psutil", "nvidia-ml-py")]
    (checkout / "containers" / "locks" / "short.txt").write_text("\n".join(short) + "\n")
    arguments = {"BASE_IMAGE": buildah, "LOCK": "short.txt"}
    name = "localhost/isaaclab-3.0"
    image.run_build(image.build_command(checkout / "containers" / "isaaclab-3.0", "buildah", name, arguments), checkout)
    config = json.loads(subprocess.run(["buildah", "inspect", name], capture_output=True, check=True).stdout)["Docker"]
    assert config["config"]["Labels"]["paceline.physics"] == "newton"
    assert config["config"]["Labels"]["paceline.base"] == buildah
    assert config["config"]["Healthcheck"]["Test"][:2] == ["CMD", "/opt/isaaclab/bin/python"]
    container = subprocess.run(["buildah", "from", name], capture_output=True, text=True, check=True).stdout.strip()
    probe = ["buildah", "run", container, "--", "/opt/isaaclab/bin/python", "/opt/isaaclab/imageprobe.py"]
    found: dict[str, Any] = json.loads(subprocess.run(probe, capture_output=True, check=True).stdout)
    assert found["packages"]["newton"] and found["assets"] == "/opt/isaaclab/paceline-assets"
    # The short lock lacks the rest, and that is what the check of images is for.
    failed = {row.check for row in imagecheck.judge(found) if row.state == "failure"}
    assert failed == {"isaaclab", "torch", "trainers"}


PYTHON_SH = '#!/bin/sh\nexec /usr/local/bin/python3 "$@"\n'
LAYOUT_PROFILE = """
schema: paceline.cluster/1
name: layout
scheduler: local
results: {results}
cache_dir: {cache}
runtime: {{kind: apptainer, image: {image}, accept_eula: {accepted}}}
asset_root: /isaac-sim/assets
"""


def test_dockerfile_of_2_3_is_built_and_its_folders_are_bound(
    buildah: str, apptainer: Path, repository: Path, scratch: Path, paceline: Path
) -> None:
    # Isaac Sim's layout, and no Isaac Sim.
    files = {
        "/isaac-sim/python.sh": PYTHON_SH,
        "/workspace/isaaclab/scripts/empty": "",
        "/isaac-sim/assets/Isaac/empty": "",
    }
    name = make_image(buildah, "localhost/isaac-lab:2.3.2", files=files)
    checkout = context(repository, scratch / "checkout 2.3")
    recipe = checkout / "containers" / "isaaclab-2.3"
    image.run_build(image.build_command(recipe, "buildah", "localhost/isaaclab-2.3", {"BASE_IMAGE": name}), checkout)
    # To a cluster: an archive, and of that a SIF.
    archive = scratch / "isaaclab-2.3.tar"
    image.run_build(image.save_command("buildah", "localhost/isaaclab-2.3", archive))
    target = scratch / "isaaclab-2.3.sif"
    build(
        "isaaclab-2.3",
        "--from-archive",
        archive,
        "--output",
        target,
        *FAST,
        paceline=paceline,
        temporary=scratch / "tmp",
    )
    archive.unlink()
    found = image.ask(str(target))
    assert found["isaacsim"] == "/isaac-sim/python.sh"
    assert found["packages"]["nvtx"] == "0.2.11"
    assert found["written"] and not any(found["written"].values())
    # What cannot be imported is told, one line each: this one has neither torch nor a trainer.
    done = subprocess.run(
        [paceline, "image", "check", target, "--imports", "--format", "json"],
        capture_output=True,
        text=True,
        check=False,
    )
    rows = [row["text"] for row in json.loads(done.stdout)["findings"] if row["check"] == "import"]
    assert done.returncode == 1 and "torch: ModuleNotFoundError: No module named 'torch'" in rows

    # The check of a node runs in it: Python found, folders bound, licence accepted only by whoever says so.
    for accepted in ("false", "true"):
        profile = scratch / f"layout-{accepted}.yaml"
        values = {"results": scratch / "results", "cache": scratch / "cache 2.3", "image": target}
        profile.write_text(
            LAYOUT_PROFILE.format(accepted=accepted, **{key: json.dumps(str(value)) for key, value in values.items()})
        )
        opened = Path(scratch / f"log-{accepted}")
        job = render_check(profile, scratch / f"study {accepted}")
        done = subprocess.run(["bash", job], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        opened.write_text(done.stdout + done.stderr)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Python /isaac-sim/python.sh" in done.stdout
        assert "/image/isaac-sim/kit/data" in done.stdout and "/image/workspace/isaaclab/logs" in done.stdout
        assert ("ACCEPT_EULA" in done.stdout) == (accepted == "true")
    target.unlink()


def render_check(profile: Path, folder: Path) -> Path:
    """Return the job script of `paceline doctor --on-node` for one rank, in a study folder that stays."""
    from paceline.bench import doctor, launch, render, snapshot
    from paceline.bench.cluster import load_cluster
    from paceline.bench.rundir import StudyDir, write_json

    cluster = load_cluster(profile)
    case = doctor.check_case(cluster, 1, 1)
    study = StudyDir(folder)
    run = study.run(case.case_id, 1)
    run.path.mkdir(parents=True)
    snapshot.take(study)
    write_json(run.case_json, case.to_json())
    side = launch.job_side(cluster, print)
    run.job_sh.write_text(render.render_job(case, cluster, study, 1, side.python, side.asset_root, only_check=True))
    return run.job_sh


def test_an_image_that_is_missing_is_told_at_once(paceline: Path, apptainer: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [paceline, "image", "check", tmp_path / "no.sif"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == f"paceline: {tmp_path / 'no.sif'}: no such image\n"
    (tmp_path / "broken.sif").write_bytes(b"not an image")
    done = subprocess.run(
        [paceline, "image", "check", tmp_path / "broken.sif"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "does not start" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("recipe", sorted(image.recipes()))
def test_dockerfiles_are_clean(recipe: str, repository: Path) -> None:
    hadolint = shutil.which("hadolint", path=str(repository / ".venv" / "bin")) or shutil.which("hadolint")
    assert hadolint, "hadolint is missing: make dev"
    path = image.recipes()[recipe] / "Dockerfile"
    done = subprocess.run([hadolint, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
