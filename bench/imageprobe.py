"""What is in an image, or in any place where jobs run: asked from the inside. Prints one JSON object.

    python imageprobe.py [--imports] [--labels]          or:  python - --imports < imageprobe.py

Stands alone (standard library only, nothing of Paceline), because it is fed through standard input into images that
have never heard of Paceline: `paceline image check` does so, and the images of containers/ keep a copy for their test.
Versions are read without importing anything; ``--imports`` imports what a job imports and says what fails.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SCHEMA = "paceline.image/1"
PACKAGES = ("isaaclab", "isaacsim", "newton", "warp-lang", "mujoco-warp", "ovphysx", "torch", "rsl-rl-lib", "rl-games",
            "skrl", "nvtx", "nvidia-ml-py", "psutil", "numpy")  # fmt: skip
MODULES = ("torch", "isaaclab", "rsl_rl.runners", "rl_games.torch_runner", "nvtx", "pynvml", "psutil")
# Folders that Isaac Sim and Isaac Lab write to, whoever runs them; in a read-only image jobs bind over them.
WRITTEN = ("/isaac-sim/kit/cache", "/isaac-sim/kit/data", "/isaac-sim/kit/logs", "/workspace/isaaclab/logs",
           "/workspace/isaaclab/data_storage", "/var/cache/hub")  # fmt: skip
_NSYS = ("/opt/nvidia/nsight-systems*/*/bin/nsys", "/opt/nvidia/nsight-systems*/*/target-linux-x64/nsys",
         "/usr/local/cuda*/bin/nsys")  # fmt: skip


def probe(imports: bool = False) -> dict[str, Any]:
    """Return what is here: system, Python, versions, CUDA of torch, nsys, layout, what is writable, failed imports."""
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "os": _os_name(),
        "libc": " ".join(platform.libc_ver()).strip() or None,
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "packages": {name: _version(name) for name in PACKAGES},
        "torch_cuda": _torch_cuda(),
        "compiler": shutil.which("gcc") or shutil.which("cc"),
        "nsys": _nsys(),
        "vulkan_loader": any(Path(folder, "libvulkan.so.1").exists() for folder in _library_folders()),
        "uid": os.getuid(),
        "home": _folder(os.environ.get("HOME") or ""),
        "temporary": _folder(tempfile.gettempdir()),
        "isaacsim": _first_existing("/isaac-sim/python.sh", "/workspace/isaaclab/_isaac_sim/python.sh"),
        "isaaclab_path": _first_existing(os.environ.get("ISAACLAB_PATH", ""), "/workspace/isaaclab"),
        "written": {path: os.access(path, os.W_OK) for path in WRITTEN if os.path.isdir(path)},
        "shared_memory_bytes": _free_bytes("/dev/shm"),
        "assets": _first_existing("/opt/isaaclab/paceline-assets"),
    }
    if imports:
        found["imports"] = {name: _import(name) for name in _wanted_modules(found)}
    return found


def labels(found: dict[str, Any]) -> dict[str, str]:
    """Return the labels of an image: version by name, for what it has."""
    packages = {name: version for name, version in found["packages"].items() if version}
    values = {f"paceline.version.{name}": version for name, version in packages.items()}
    values["paceline.version.python"] = found["python"]["version"]
    if found["torch_cuda"]:
        values["paceline.version.cuda"] = found["torch_cuda"]
    if found["nsys"]:
        values["paceline.version.nsys"] = found["nsys"]["version"] or "unknown"
    return values


def _wanted_modules(found: dict[str, Any]) -> list[str]:
    # Under Kit, Isaac Lab can only be imported after the simulator has started.
    wanted = [name for name in MODULES if not (found["isaacsim"] and name == "isaaclab")]
    return wanted if found["isaacsim"] else [*wanted, "newton"]


def _import(name: str) -> str | None:
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # as the job script has it: rsl_rl, in an image without git
    try:
        importlib.import_module(name)
    except BaseException as error:  # a library may well call sys.exit while it is imported
        return f"{type(error).__name__}: {error}".splitlines()[0][:300]
    return None


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch_cuda() -> str | None:
    """Return the CUDA that torch was built for, without importing torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    try:
        text = Path(next(iter(spec.submodule_search_locations)), "version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(r"^cuda[^=\n]*= *'([\d.]+)'", text, re.MULTILINE)
    return match.group(1) if match else None


def _nsys() -> dict[str, str | None] | None:
    places = [str(path) for pattern in _NSYS for path in sorted(Path("/").glob(pattern.lstrip("/")), reverse=True)]
    program = shutil.which("nsys") or next(iter(places), None)
    if program is None:
        return None
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        said = ""
    match = re.search(r"\b20\d\d\.\d+(?:\.\d+)*", said)
    return {"path": program, "version": match.group() if match else None}


def _library_folders() -> list[str]:
    more = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    return ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib", *filter(None, more)]


def _folder(path: str) -> dict[str, Any]:
    return {"path": path, "exists": os.path.isdir(path), "writable": os.access(path, os.W_OK) if path else False}


def _first_existing(*paths: str) -> str | None:
    return next((path for path in paths if path and os.path.exists(path)), None)


def _free_bytes(path: str) -> int | None:
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


def _os_name() -> str | None:
    try:
        text = Path("/etc/os-release").read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(r'^PRETTY_NAME="?([^"\n]+)', text, re.MULTILINE)
    return match.group(1) if match else None


def main(arguments: list[str]) -> int:
    """Print what is here as JSON, or as label lines; exit status 1 if ``--imports`` found something that fails."""
    found = probe("--imports" in arguments)
    if "--labels" in arguments:
        for name, value in labels(found).items():
            print(name, value)
    else:
        print(json.dumps(found, indent=1))
    return 1 if any(found.get("imports", {}).values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
