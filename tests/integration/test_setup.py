"""`make setup` on machines that lack this or that: it finds a Python that works and gets uv by itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the files that a clone would have, in a folder with a space in its name."""
    target = tmp_path / "check out"
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in names:
        if name and (ROOT / name).is_file() and not name.startswith(("tests/", "docs/")):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    return target


def tools(folder: Path, *without: str) -> Path:
    """Make a folder to be PATH: links to the programs of this machine's PATH, some left out."""
    folder.mkdir()
    for directory in ("/usr/local/bin", "/usr/bin", "/bin"):
        for program in Path(directory).iterdir():
            link = folder / program.name
            if not program.name.startswith(("python", "pip", "uv", *without)) and not link.is_symlink():
                link.symlink_to(program)
    return folder


def add_python(path: Path, name: str, line: str) -> None:
    (path / name).write_text(f"#!/bin/sh\n{line}\n")
    (path / name).chmod(0o755)


def setup(checkout: Path, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "setup"],
        cwd=checkout,
        env={**os.environ, "PATH": str(path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


# The interpreter below this environment: in a virtual environment, venv makes copies of the copy.
PYTHON = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")


def test_fresh_machine_without_uv(checkout: Path, tmp_path: Path) -> None:
    path = tools(tmp_path / "bin")
    add_python(
        path, "python3.12", "echo 'pyenv: python3.12: command not found' >&2; exit 127"
    )  # a shim without a Python
    add_python(path, "python3", f'exec "{PYTHON}" "$@"')
    done = setup(checkout, path)
    assert done.returncode == 0, done.stderr
    assert (checkout / ".uv").is_dir()
    command = checkout / ".venv" / "bin" / "paceline"
    version = subprocess.run([command, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert version.startswith("paceline ")

    # Up to date: nothing is done again, and quickly.
    start = time.monotonic()
    again = setup(checkout, path)
    assert again.returncode == 0 and not again.stderr and time.monotonic() - start < 2
    # A new dependency, or another place, sets up again.
    moved = checkout.rename(tmp_path / "moved")
    elsewhere = setup(moved, path)
    assert elsewhere.returncode == 0 and "making .venv" in elsewhere.stderr
    subprocess.run([moved / ".venv" / "bin" / "paceline", "--version"], capture_output=True, check=True)


def test_python_without_ensurepip(checkout: Path, tmp_path: Path) -> None:
    path = tools(tmp_path / "bin")
    refuses = 'if [ "$1" = -m ] && [ "$2" = venv ]; then echo "ensurepip is not available" >&2; exit 1; fi'
    add_python(path, "python3", f'{refuses}\nexec "{PYTHON}" "$@"')
    done = setup(checkout, path)
    assert done.returncode == 0, done.stderr
    assert (checkout / ".uv" / "bin" / "uv").exists() and (checkout / ".venv" / "bin" / "paceline").exists()


def test_nothing_to_get_uv_with(checkout: Path, tmp_path: Path) -> None:
    path = tools(tmp_path / "bin")
    refuses = 'case "$1 $2" in "-m venv" | "-m pip") exit 1 ;; esac'
    add_python(path, "python3", f'{refuses}\nexec "{PYTHON}" "$@"')
    done = setup(checkout, path)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("setup: ")]
    assert lines[-1].startswith("setup: uv is needed") and "python3-venv" in lines[-1]
    assert not (checkout / ".venv").exists()


def test_python_that_does_not_work(checkout: Path, tmp_path: Path) -> None:
    path = tools(tmp_path / "bin")
    add_python(path, "python3", "exit 1")
    done = subprocess.run(
        ["make", "setup", f"PYTHON={path / 'python3'}"], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0 and f"PYTHON={path / 'python3'} is not a Python 3.10 or newer" in done.stderr
    assert not (checkout / ".venv").exists()
