"""Image recipes install what the jobs' environment of a checkout installs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from paceline.bench import image

ROOT = Path(__file__).resolve().parents[2]
LOCK = "containers/locks/isaaclab-3.0.txt"
RECIPES = sorted(path for path in (ROOT / "containers").iterdir() if (path / "Dockerfile").exists())


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_dockerfile_and_def_run_the_same_steps_of_one_script(recipe: Path) -> None:
    call = re.compile(rf"sh /build/containers/{recipe.name}/install\.sh ([a-z ]+)$", re.M)
    steps = {path.name: " ".join(call.findall(path.read_text())).split() for path in recipe.iterdir()}
    script = (recipe / "install.sh").read_text()
    known = re.findall(r"^(\w+)\(\) \{", script + (ROOT / "containers" / "nsys.sh").read_text(), re.M)
    assert steps["Dockerfile"] == steps[f"{recipe.name}.def"]
    assert sorted(steps["Dockerfile"]) == sorted(known), "every step of the script is run, once"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_build_arguments_and_bases_are_the_same(recipe: Path) -> None:
    dockerfile, definition = (recipe / "Dockerfile").read_text(), (recipe / f"{recipe.name}.def").read_text()
    defaults = dict(re.findall(r"^ARG (\w+)=(.*)$", dockerfile, re.M))
    arguments = dict(re.findall(r"^    (\w+)=(.*)$", definition.partition("%arguments")[2].partition("\n\n")[0], re.M))
    assert arguments.pop("BOOTSTRAP") == "docker"
    base = defaults.pop("BASE_IMAGE")
    assert re.fullmatch(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", base) and ":latest@" not in base, "pinned"
    # Without the tag, which older versions of Apptainer refuse beside a digest; the comment above names it.
    name, tag, digest = re.split("[:@]", base, maxsplit=2)
    assert arguments.pop("FROM") == f"{name}@{digest}"
    assert f"{name.rpartition('/')[2]}:{tag} by its digest" in definition
    assert arguments == defaults
    labels = {key: value for key, value in re.findall(r"([\w.]+)=\"([^\"]*)\"", dockerfile.partition("LABEL")[2])}
    in_def = dict(re.findall(r"^    ([\w.]+) (.*)$", definition.partition("%labels")[2].partition("%help")[0], re.M))
    assert labels.keys() == in_def.keys()
    assert labels["org.opencontainers.image.version"] == in_def["org.opencontainers.image.version"]


def test_the_base_that_is_used_is_told(tmp_path: Path) -> None:
    recipe = image.recipes()["isaaclab-3.0"]
    assert image.base_of(recipe, {}).endswith("(pinned by its digest)")
    assert image.base_of(recipe, {"BASE_IMAGE": "python:3.12"}).startswith("base python:3.12 (a tag, which may")
    assert image.base_of(recipe, {"BASE_IMAGE": str(tmp_path)}) == f"base {tmp_path} (a local one)"
    pinned = "example.org:5000/team/python:3.12@sha256:" + "0" * 64
    command = image.build_command(recipe, "apptainer", "out.sif", {"BASE_IMAGE": pinned})
    assert "FROM=example.org:5000/team/python@sha256:" + "0" * 64 in command
    assert f"BASE_IMAGE={pinned}" in image.build_command(recipe, "docker", "out", {"BASE_IMAGE": pinned})


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_packages_come_from_locks_with_their_hashes(recipe: Path) -> None:
    text = (recipe / "install.sh").read_text()
    installs = [line for line in text.replace("\\\n", " ").splitlines() if re.search(r"pip install", line)]
    assert installs
    for line in installs:
        assert ("--require-hashes" in line and "containers/locks/" in line) or "uv==" in line, line
    for package in ("isaaclab==", "torch==", "newton==", "rsl-rl-lib==", "rl-games=="):
        assert package not in text


@pytest.mark.parametrize("lock", ["isaaclab-2.3", "isaaclab-3.0-ovphysx"])
def test_smaller_locks_hold_what_is_asked_for(lock: str) -> None:
    folder = ROOT / "containers" / "locks"
    asked = re.findall(r"^([a-z-]+)", (folder / f"{lock}.in").read_text(), re.M)
    locked = re.findall(r"^([a-z-]+)==[^\n]* \\\n    --hash=sha256:", (folder / f"{lock}.txt").read_text(), re.M)
    assert sorted(asked) == sorted(locked)


def test_the_lock_names_every_package_with_a_hash_and_no_index() -> None:
    text = (ROOT / LOCK).read_text()
    packages = re.findall(r"^([A-Za-z0-9._-]+)==", text, re.M)
    assert {"isaaclab", "torch", "newton", "rsl-rl-lib", "rl-games", "gym", "nvtx"} <= set(packages)
    assert len(packages) == len(re.findall(r"^[A-Za-z0-9._-]+==[^\n]* \\\n    --hash=sha256:[0-9a-f]{64}", text, re.M))
    assert "://" not in text
