"""The code snapshot of a study: what its jobs import, so that editing the checkout never changes a queued job."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paceline.bench.errors import LaunchError
from paceline.bench.record import require_schema
from paceline.bench.rundir import StudyDir, read_json, write_json

SNAPSHOT_SCHEMA = "paceline.snapshot/1"
PARTS = ("bench", "profiling", "analysis", "slurm_templates")
_SUFFIXES = {".py", ".j2", ".json", ".yaml", ".typed", ".css", ".js", ".html", ".csv"}


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Where the code of a study came from."""

    content_hash: str
    """SHA-256 over names and contents of all files, 16 hexadecimal digits."""
    git_commit: str | None
    git_dirty: bool | None
    version: str
    current: bool
    """Whether the installed code is still the same as the snapshot."""


def take(study: StudyDir) -> Snapshot:
    """Copy the installed code into the study folder, or keep the copy that is there; return what the study has.

    A study keeps the code that it began with: an existing snapshot is never overwritten, and ``current`` tells
    whether the installed code has changed since.
    """
    parts = _part_folders()
    files = _source_files(parts)
    digest = _digest(files)
    if study.snapshot_json.exists():
        data = read_json(study.snapshot_json)
        require_schema(data, SNAPSHOT_SCHEMA, str(study.snapshot_json))
        return _snapshot(data, current=data["content_hash"] == digest)
    if study.code.exists():  # half-made: a snapshot is complete only with its snapshot.json
        shutil.rmtree(study.code)
    for name, source in files:
        target = study.code / "paceline" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    commit, dirty = _git_state(parts["bench"].resolve().parent)
    data = {
        "schema": SNAPSHOT_SCHEMA,
        "content_hash": digest,
        "git_commit": commit,
        "git_dirty": dirty,
        "version": _version(),
    }
    write_json(study.snapshot_json, data)
    return _snapshot(data, current=True)


def _snapshot(data: dict[str, Any], current: bool) -> Snapshot:
    names = ("content_hash", "git_commit", "git_dirty", "version")
    return Snapshot(**{name: data.get(name) for name in names}, current=current)  # type: ignore[arg-type]


def _part_folders() -> dict[str, Path]:
    folders = {}
    for part in PARTS:
        spec = importlib.util.find_spec(f"paceline.{part}")
        if spec is None or not spec.submodule_search_locations:
            raise LaunchError(f"paceline.{part} is not installed: run `make setup`")
        folders[part] = Path(next(iter(spec.submodule_search_locations)))
    return folders


def _source_files(parts: dict[str, Path]) -> list[tuple[str, Path]]:
    """Return (name below ``paceline/``, file) of every file a job may import or read, sorted by name."""
    files = []
    for part, folder in parts.items():
        for directory, names, leaves in os.walk(folder):
            names[:] = [name for name in names if name != "__pycache__" and not name.startswith(".")]
            for leaf in leaves:
                path = Path(directory, leaf)
                if path.suffix in _SUFFIXES and not path.is_symlink():
                    files.append((f"{part}/{path.relative_to(folder).as_posix()}", path))
    return sorted(files)


def _digest(files: list[tuple[str, Path]]) -> str:
    digest = hashlib.sha256()
    for name, path in files:
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def _git_state(folder: Path) -> tuple[str | None, bool | None]:
    """Return commit and dirty flag of the checkout, (None, None) outside one."""
    try:
        commit = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        status = subprocess.run(
            ["git", "-C", str(folder), "status", "--porcelain", "--untracked-files=normal"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None, None
    return commit, bool(status.strip())


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("paceline")
    except PackageNotFoundError:
        return "unknown"
