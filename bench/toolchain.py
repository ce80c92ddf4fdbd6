"""What the jobs' environment is made with, and whether this machine can have it: uv, a Python 3.12, the machine itself.

Standard library only.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from paceline.bench.errors import LaunchError

_NEEDED_BYTES = 9_000_000_000
_NEEDED_GLIBC = (2, 35)


def find_uv(root: Path) -> Path:
    """Return uv: on PATH, in the tool's environment, or where `make setup` puts it; else installed there with pip.

    Raises:
        LaunchError: There is none, and pip cannot get it.
    """
    own = root / ".uv"
    for candidate in (shutil.which("uv"), root / ".venv" / "bin" / "uv", own / "bin" / "uv"):
        if candidate and _runs([str(candidate), "--version"]):
            return Path(candidate)
    shutil.rmtree(own, ignore_errors=True)
    commands = ([sys.executable, "-m", "venv", str(own)], [str(own / "bin" / "python"), "-m", "pip", "install", "uv"])
    if all(_runs(command, timeout_s=300) for command in commands):
        return own / "bin" / "uv"
    raise LaunchError(
        "uv is needed to make the jobs' environment; it is not on PATH and pip could not install it: install uv"
    )


def find_python(uv: Path, candidates: list[str] | None = None) -> str:
    """Return a Python 3.12 that runs: PACELINE_PYTHON, else one of the usual places, else one that uv finds or gets.

    Raises:
        LaunchError: PACELINE_PYTHON is no Python 3.12, or there is none and uv cannot get one.
    """
    told = os.environ.get("PACELINE_PYTHON")
    if told:
        if not _is_python_312(told):
            raise LaunchError(f"PACELINE_PYTHON={told} is not a Python 3.12 that runs; Isaac Lab 3.0 needs 3.12")
        return told
    if candidates is None:
        pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
        candidates = [sys.executable, "python3.12", *(str(path) for path in sorted(pyenv.glob("3.12*/bin/python")))]
    for candidate in candidates:
        found = shutil.which(candidate)
        if found and _is_python_312(found):
            return found
    for arguments in (["python", "find", "3.12"], ["python", "install", "3.12"], ["python", "find", "3.12"]):
        try:
            done = subprocess.run([uv, *arguments], capture_output=True, text=True, timeout=300, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        found = done.stdout.strip()
        if arguments[1] == "find" and done.returncode == 0 and _is_python_312(found):
            return found
    raise LaunchError(
        "no Python 3.12 was found and none could be downloaded; Isaac Lab 3.0 needs one: "
        "install python3.12, or name one with PACELINE_PYTHON=/path/to/python3.12"
    )


def _is_python_312(python: str) -> bool:
    # A shim on PATH may exist and still not run: what counts is that it answers.
    return _runs([python, "-c", "import sys; sys.exit(sys.version_info[:2] != (3, 12))"])


def _runs(command: list[str], timeout_s: float = 30) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=timeout_s, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def check_machine(folder: Path) -> None:
    """Raise LaunchError if Isaac Lab 3.0 cannot be installed here: kind of machine, C library, room on the disk."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise LaunchError(
            f"the jobs' environment is for Linux on x86_64, this is {platform.system()} on {platform.machine()}"
        )
    name, version = platform.libc_ver()
    parts = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if name == "glibc" and len(parts) == 2 and parts < _NEEDED_GLIBC:
        raise LaunchError(
            f"Isaac Lab 3.0 needs glibc {'.'.join(map(str, _NEEDED_GLIBC))} (Ubuntu 22.04 or newer), this machine has "
            f"{version}: use the container image, with `runtime:` in the cluster profile"
        )
    free = shutil.disk_usage(folder).free
    if free < _NEEDED_BYTES:
        raise LaunchError(
            f"the jobs' environment needs {_NEEDED_BYTES / 1e9:.0f} GB in {folder}, {free / 1e9:.1f} GB are free"
        )
