"""Folders of one rank on the node's own disk, with compiled kernels cloned from a warm cache. Standard library only.

    python -m paceline.bench.caches key         prints the key of the warm cache for this node and image
    python -m paceline.bench.caches publish     adds what rank 0 compiled to the warm cache

An image is read-only, a shared file system is slow with many small files, and two simulators that write to one cache
lock each other out. So every rank of a containerised job gets folders of its own below PACELINE_NODE_DIR, for caches,
home and temporary files, filled from PACELINE_WARM_DIR/<key>. The key stands for image, driver and GPU architecture (on
CPU: its model), because compiled kernels are good for these only. The first job fills the warm cache, later ones add.

A warm cache is ``manifest.json`` (path, size and SHA-256 of each file) and ``files/``. What the manifest does not name
does not exist, and a file that is not as the manifest says is left out and told: the rank compiles it anew. Files are
put in place by renaming, so jobs may read and add at the same time.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from paceline.bench.errors import LaunchError, PacelineError, RecordError
from paceline.bench.rundir import read_json, write_json

SCHEMA = "paceline.cache/1"

# Files named by the content that they were compiled from: those of several jobs go together.
_MERGED = {"WARP_CACHE_PATH": "warp", "TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
# Databases and settings, each of one piece: kept from the first job that had them.
_WHOLE = {
    "XDG_CACHE_HOME": "xdg",
    "CUDA_CACHE_PATH": "cuda",
    "__GL_SHADER_DISK_CACHE_PATH": "gl",
    "OVRTX_SHADER_CACHE_PATH": "ovrtx",
    "PACELINE_KIT_ROOT": "kit",  # Kit's --portable-root: its caches, data, documents and logs
}
_OWN = {"HOME": "home", "TMPDIR": "tmp", "MPLCONFIGDIR": "matplotlib"}  # never kept


def enter(rank: int, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Make the folders of one rank, fill them from the warm cache, and return the variables that name them.

    Nothing is made, and nothing returned, where the job script set no PACELINE_NODE_DIR (no container).
    """
    node = environment.get("PACELINE_NODE_DIR")
    if not node:
        return {}
    folder = Path(node, f"rank-{rank}")
    variables = {name: str(folder / leaf) for name, leaf in {**_MERGED, **_WHOLE, **_OWN}.items()}
    try:
        for path in variables.values():
            Path(path).mkdir(parents=True, exist_ok=True)
        warm = _warm(environment)
        if warm is not None:
            clone(warm, folder)
    except OSError as error:
        raise LaunchError(
            f"{folder}: the rank's own folders cannot be made ({error.strerror}); the node's disk may be full: an "
            "`export TMPDIR=...` in `setup` of the cluster profile names another one"
        ) from error
    return variables


def clone(warm: Path, folder: Path) -> int:
    """Copy a warm cache into a rank's folder and return how many files were copied; damaged ones are left out."""
    damaged = copied = 0
    for name, (size, digest) in _manifest(warm).items():
        source, target = warm / "files" / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            content = source.read_bytes()
        except OSError:
            damaged += 1
            continue
        if len(content) != size or hashlib.sha256(content).hexdigest() != digest:
            damaged += 1
            continue
        target.write_bytes(content)
        target.chmod(0o700 if os.access(source, os.X_OK) else 0o600)
        copied += 1
    if damaged:
        print(
            f"paceline: {damaged} files of the warm cache {warm} are damaged: they are compiled anew", file=sys.stderr
        )
    return copied


def publish(folder: Path, warm: Path) -> int:
    """Add what a rank compiled to a warm cache and return how many files were added.

    Files that are there stay as they are, unless they are damaged. Of a database nothing is added to an older one.
    """
    manifest = _manifest(warm)
    kept = {name.partition("/")[0] for name in manifest} & set(_WHOLE.values())
    added = 0
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        if name.partition("/")[0] in kept:
            continue
        target = warm / "files" / name
        if name in manifest and _intact(target, manifest[name]):
            continue  # whichever came first is as good
        content = path.read_bytes()
        entry = [len(content), hashlib.sha256(content).hexdigest()]
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".new-")
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        os.chmod(temporary, 0o700 if os.access(path, os.X_OK) else 0o600)
        os.replace(temporary, target)
        manifest[name] = entry
        added += 1
    if added:
        write_json(warm / "manifest.json", {"schema": SCHEMA, "files": manifest})
    return added


def key(environment: Mapping[str, str] = os.environ) -> str:
    """Return the key of the warm cache for this image and this node, 16 hexadecimal digits."""
    image = environment.get("PACELINE_IMAGE_DIGEST", "")
    return hashlib.sha256("\n".join([image, *_hardware()]).encode()).hexdigest()[:16]


def _hardware() -> list[str]:
    """Return driver version and GPU architectures of the node, or its CPU model where there is no GPU."""
    command = ["nvidia-smi", "--query-gpu=driver_version,compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        lines = sorted({line.strip() for line in done.stdout.splitlines() if line.strip()})
        if done.returncode == 0 and lines:
            return lines
    except (OSError, subprocess.TimeoutExpired):
        pass
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ["unknown"]
    return sorted({line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")})


def _warm(environment: Mapping[str, str]) -> Path | None:
    folder, name = environment.get("PACELINE_WARM_DIR"), environment.get("PACELINE_CACHE_KEY")
    return Path(folder, name) if folder and name else None


def _manifest(warm: Path) -> dict[str, list[object]]:
    try:
        data = read_json(warm / "manifest.json")
    except FileNotFoundError:
        return {}
    except RecordError as error:
        print(f"paceline: {error}: the warm cache is not used", file=sys.stderr)
        return {}
    files = data.get("files") if data.get("schema") == SCHEMA else None
    if not isinstance(files, dict):
        return {}
    # Names are joined to paths: one that leads out of the folder is none of ours.
    inside = {name for name in files if not name.startswith("/") and ".." not in name.split("/")}
    return {name: files[name] for name in inside if isinstance(files[name], list) and len(files[name]) == 2}


def _files(folder: Path) -> Iterator[Path]:
    for leaf in {**_MERGED, **_WHOLE}.values():
        for path in sorted((folder / leaf).rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield path


def _intact(path: Path, entry: list[object]) -> bool:
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return [len(content), hashlib.sha256(content).hexdigest()] == entry


def main(arguments: list[str]) -> int:
    """Print the key, or publish the caches of this job's rank 0."""
    if arguments == ["key"]:
        print(key())
        return 0
    if arguments == ["publish"]:
        warm, node = _warm(os.environ), os.environ.get("PACELINE_NODE_DIR")
        folder = Path(node or "", "rank-0")
        if warm is None or not node or not folder.is_dir():
            return 0
        try:
            added = publish(folder, warm)
        except OSError as error:
            raise LaunchError(f"{warm}: the warm cache cannot be written ({error.strerror})") from error
        if added:
            print(f"paceline: {added} files added to the warm cache {warm}")
        return 0
    raise LaunchError("caches: key or publish")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except PacelineError as error:
        print(f"paceline: {error}", file=sys.stderr)
        sys.exit(2)
