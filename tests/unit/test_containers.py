"""Image recipes install what the jobs' environment of a checkout installs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCK = "containers/locks/isaaclab-3.0.txt"
RECIPES = sorted((ROOT / "containers" / "isaaclab-3.0").iterdir())


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_images_install_the_lock_with_its_hashes_and_nothing_of_isaac_lab_beside_it(recipe: Path) -> None:
    text = recipe.read_text()
    assert LOCK in text
    assert re.search(r"uv pip install [^\n]*--require-hashes -r /opt/isaaclab-3\.0\.txt", text)
    for package in ("isaaclab==", "torch==", "newton==", "rsl-rl-lib==", "rl-games=="):
        assert package not in text


def test_the_lock_names_every_package_with_a_hash_and_no_index() -> None:
    text = (ROOT / LOCK).read_text()
    packages = re.findall(r"^([A-Za-z0-9._-]+)==", text, re.M)
    assert {"isaaclab", "torch", "newton", "rsl-rl-lib", "rl-games", "gym", "nvtx"} <= set(packages)
    assert len(packages) == len(re.findall(r"^[A-Za-z0-9._-]+==[^\n]* \\\n    --hash=sha256:[0-9a-f]{64}", text, re.M))
    assert "://" not in text


def test_both_recipes_install_the_same_debian_packages() -> None:
    found = [re.search(r"--no-install-recommends ([^\n\\]+)", recipe.read_text()) for recipe in RECIPES]
    assert len({match.group(1).strip() for match in found if match}) == 1
