"""Images: building those of containers/ with what a site has, and asking any image what is in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from paceline.bench.errors import ClusterError, LaunchError

Builder = Literal["apptainer", "docker", "podman", "buildah"]
BUILDERS: tuple[Builder, ...] = ("apptainer", "docker", "podman", "buildah")
_ROOT = Path(__file__).resolve().parents[1]
# Room that a build takes in its temporary folder, in GB; a third of it for the result. The 2.3 image is NVIDIA's.
_ROOM_GB = {"isaaclab-3.0": 25, "isaaclab-2.3": 70}
# Where a Python with Isaac Lab lies in images that are known; the job script looks in the same places.
PYTHONS = ("/opt/isaaclab/bin/python", "/isaac-sim/python.sh", "/workspace/isaaclab/_isaac_sim/python.sh",
           "/opt/isaaclab-venv/bin/python")  # fmt: skip


_TAG = re.compile(r":[\w.-]+(?=@sha256:)")


def recipes() -> dict[str, Path]:
    """Return the folders of the image recipes of this checkout, by name."""
    return {path.parent.name: path.parent for path in sorted((_ROOT / "containers").glob("*/Dockerfile"))}


def find_recipe(name: str) -> Path:
    """Return the folder of a recipe; ClusterError if there is none of that name."""
    known = recipes()
    if name not in known:
        raise ClusterError(f"image {name!r}: no such recipe (recipes: {', '.join(known) or 'only in a checkout'})")
    return known[name]


def find_builder(wanted: str | None = None) -> Builder:
    """Return the program that builds: the one wanted, else the first that is there; LaunchError if none is."""
    for builder in BUILDERS:
        if wanted in (None, builder) and program(builder):
            return builder
    if wanted:
        raise LaunchError(f"{wanted} is not on PATH; on many sites `module load {wanted}` puts it there")
    raise LaunchError(f"none of {', '.join(BUILDERS)} is on PATH: one of them builds images")


def program(name: str) -> str | None:
    """Return the path of a container program, None without it. Singularity stands in for Apptainer."""
    return shutil.which(name) or (shutil.which("singularity") if name == "apptainer" else None)


def build_command(
    recipe: Path, builder: Builder, output: str, arguments: Mapping[str, str], options: Sequence[str] = ()
) -> list[str]:
    """Return the command, for the root of the checkout, that builds a recipe.

    Args:
        recipe: Its folder.
        builder: The program to use.
        output: A .sif file for Apptainer, a name for the others.
        arguments: Build arguments, such as ``{"PHYSICS": "ovphysx"}``; ``BASE_IMAGE`` names another base.
        options: Further options of the program.
    """
    name = recipe.name
    if builder == "apptainer":
        values = dict(arguments)
        if "BASE_IMAGE" in values:  # one name in both recipes; a folder is a local base
            values["FROM"] = values.pop("BASE_IMAGE")
            if Path(values["FROM"]).exists():
                values.setdefault("BOOTSTRAP", "localimage")
            else:
                values["FROM"] = _TAG.sub("", values["FROM"])  # older versions refuse a tag together with a digest
        words = [str(program("apptainer") or "apptainer"), "build", *options]
        cache = _uv_cache()
        if cache and name == "isaaclab-3.0" and not any(":/mnt" in option for option in options):
            # Packages that were fetched before, out of the image. /mnt: Apptainer binds onto what every base has.
            words += ["--bind", f"{cache}:/mnt"]
        for key, value in values.items():
            words += ["--build-arg", f"{key}={value}"]
        return [*words, output, str(recipe / f"{name}.def")]
    words = [builder, "bud" if builder == "buildah" else "build", *options]
    for key, value in arguments.items():
        words += ["--build-arg", f"{key}={value}"]
    if builder != "docker":
        words += ["--format", "docker"]  # the OCI format has no health check
    return [*words, "-f", str(recipe / "Dockerfile"), "-t", output, "."]


def base_of(recipe: Path, arguments: Mapping[str, str]) -> str:
    """Return one line: the base that a build starts from, and whether it can change under its name."""
    stated = arguments.get("BASE_IMAGE") or arguments.get("FROM")
    found = re.search(r"^ARG BASE_IMAGE=(\S+)$", (recipe / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    name = stated or (found.group(1) if found else "unknown")
    if "@sha256:" in name:
        return f"base {name} (pinned by its digest)"
    if Path(name).exists():
        return f"base {name} (a local one)"
    return f"base {name} (a tag, which may name another image tomorrow: NAME:TAG@sha256:... pins it)"


def save_command(builder: Builder, name: str, archive: Path) -> list[str]:
    """Return the command that writes an image of Docker, Podman or Buildah as a docker-archive."""
    if builder == "buildah":
        return ["buildah", "push", name, f"docker-archive:{archive}:{name}"]
    more = ["--format", "docker-archive"] if builder == "podman" else []
    return [builder, "save", *more, "-o", str(archive), name]


def convert_command(archive: Path, output: str, options: Sequence[str] = ()) -> list[str]:
    """Return the command that makes a .sif file from a docker-archive."""
    return [str(program("apptainer") or "apptainer"), "build", *options, output, f"docker-archive:{archive.absolute()}"]


def check_room(name: str, output: Path, builder: Builder, archive: Path | None = None) -> None:
    """Raise LaunchError if a build would run out of disk: in its temporary folder, or where its result goes."""
    need = _ROOM_GB.get(name, 25) if archive is None else int(3 * archive.stat().st_size / 1e9)
    temporary = Path(os.environ.get("APPTAINER_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")
    places = {temporary: need, output.absolute().parent: need // 3} if builder == "apptainer" else {}
    for place, room in places.items():
        try:
            free = shutil.disk_usage(place).free / 1e9
        except OSError as error:
            raise LaunchError(f"{place}: {error.strerror}; APPTAINER_TMPDIR names the temporary folder") from error
        if free < room:
            raise LaunchError(
                f"{place} has {free:.0f} GB free, building {name} takes about {room}; "
                "APPTAINER_TMPDIR=/scratch/... names another temporary folder, --output another place"
            )


def run_build(command: Sequence[str], root: Path = _ROOT) -> None:
    """Run a build, its output going to the terminal; LaunchError if it fails."""
    try:
        done = subprocess.run(command, cwd=root, check=False)
    except OSError as error:
        raise LaunchError(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        raise LaunchError(f"{command[0]} ended with exit status {done.returncode}: the lines above say why")


def _uv_cache() -> Path | None:
    cache = Path(
        os.environ.get("UV_CACHE_DIR") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "uv")
    ).expanduser()
    return cache if (cache / "CACHEDIR.TAG").is_file() else None


def runtime_of(image: str) -> Literal["apptainer", "docker"]:
    """Return which runtime an image is for: a file or a folder is Apptainer's, anything else a name of Docker's."""
    path = Path(image)
    if path.suffix in (".tar", ".sqsh"):
        how = "make a .sif of it: paceline image build --from-archive" if path.suffix == ".tar" else "it needs enroot"
        raise ClusterError(f"{image}: cannot be started as it is ({how})")
    if path.exists() or path.suffix == ".sif" or image[:1] == "/":
        if not path.exists():
            raise ClusterError(f"{image}: no such image")
        return "apptainer"
    return "docker"


def ask(image: str, *, imports: bool = False, options: Sequence[str] = (), timeout_s: float = 600) -> dict[str, Any]:
    """Start an image once and return what bench/imageprobe.py finds in it, with its ``labels`` and ``runtime``.

    Raises:
        ClusterError: There is no such image.
        LaunchError: It does not start, or has no Python.
    """
    runtime = runtime_of(image)
    command = program(runtime)
    if command is None:
        raise LaunchError(f"{runtime} is not on PATH; on many sites `module load {runtime}` puts it there")
    if runtime == "apptainer":
        prefix = [command, "exec", "--containall", *options, image]
    else:
        prefix = [command, "run", "--rm", "--interactive", *options, "--entrypoint", "env", image]
    search = " ".join(PYTHONS) + ' "$(command -v python3)"'
    flags = "--imports" if imports else ""
    shell = f'for python in {search}; do if [ -x "$python" ]; then exec "$python" - {flags}; fi; done; exit 44'
    probe = resources.files("paceline.bench").joinpath("imageprobe.py").read_bytes()
    try:
        done = subprocess.run(
            [*prefix, "sh", "-c", shell], input=probe, capture_output=True, timeout=timeout_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LaunchError(f"{image}: does not start ({error})") from error
    if done.returncode == 44:
        raise LaunchError(f"{image}: has no Python")
    try:
        found = json.loads(done.stdout[done.stdout.index(b"{") :])
    except ValueError:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise LaunchError(f"{image}: does not start: {lines[-1]}") from None
    return {"image": image, "runtime": runtime, "labels": labels(image, runtime, command), **found}


def labels(image: str, runtime: str, command: str) -> dict[str, str]:
    """Return the labels of an image, empty if they cannot be read."""
    keys: tuple[str, ...] = ()
    if runtime == "apptainer":
        words, keys = [command, "inspect", "--json", image], ("data", "attributes", "labels")
    else:
        words = [command, "image", "inspect", "--format", "{{json .Config.Labels}}", image]
    try:
        data = json.loads(subprocess.run(words, capture_output=True, timeout=60, check=False).stdout)
        for key in keys:
            data = data[key]
    except (OSError, ValueError, KeyError, TypeError, subprocess.TimeoutExpired):
        return {}
    return {str(key): str(value) for key, value in (data or {}).items()}
