"""Checkpoint files of the trainers: whether one is whole, which is the newest, copies to keep.

A leaf module: standard library only, so that jobs, commands and analysis handle checkpoints alike, without torch.

    rsl_rl    model_<i>.pt           ``iter`` is the iteration just done, counted from 0
    rl_games  last_<name>_ep_<n>_rew_<reward>.pth and <name>.pth (the best so far)   ``epoch`` is the number done

`next_iteration` is the same for both: how many iterations are done, which is the number of the one to do next. Beside
each checkpoint that a campaign wrote lies ``paceline-<stem>.json`` (`paceline.checkpoint/1`) with size and SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paceline.bench import jsontext
from paceline.bench.checkpointcontents import read_contents
from paceline.bench.errors import RecordError

CHECKPOINT_SCHEMA = "paceline.checkpoint/1"
SUFFIXES = (".pt", ".pth")
_CHUNK_BYTES = 2**20
_NEXT_IN_NAME = ((re.compile(r"model_(\d+)\.pt"), 1), (re.compile(r"last_.*_ep_(\d+)_rew_.*\.pth"), 0))


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """One checkpoint file as found on disk."""

    path: Path
    next_iteration: int
    size_bytes: int
    modified_unix_s: float
    index: dict[str, Any] | None = field(default=None)
    """What was noted when it was written (`paceline.checkpoint/1`), None if nothing was."""

    @property
    def reward(self) -> float | None:
        """Mean episode reward when it was written, if noted."""
        value = None if self.index is None else self.index.get("reward")
        return float(value) if isinstance(value, int | float) else None


def index_path(checkpoint: Path) -> Path:
    """Return where the note about a checkpoint lies. Isaac Lab must not take it for a checkpoint, by its patterns."""
    return checkpoint.with_name(f"paceline-{checkpoint.stem}.json")


def why_incomplete(path: Path) -> str | None:
    """Return why a checkpoint must not be used, None if it is whole: by its noted checksum, else by the zip's own."""
    try:
        index = read_index(path)
        if index is not None:
            size = path.stat().st_size
            if size != index["size_bytes"]:
                return f"truncated: {size} of {index['size_bytes']} bytes"
            return None if sha256(path) == index["sha256"] else "damaged: its SHA-256 is not the one noted"
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
        return None if bad is None else f"damaged: {bad} fails its checksum"
    except (zipfile.BadZipFile, EOFError):
        return "truncated, or not a checkpoint of torch"
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def read_index(path: Path) -> dict[str, Any] | None:
    """Return the note about a checkpoint, None if there is none that can be used."""
    try:
        index = jsontext.loads(index_path(path).read_bytes())
    except (OSError, ValueError):
        return None
    whole = isinstance(index, dict) and index.get("schema") == CHECKPOINT_SCHEMA
    return index if whole and {"size_bytes", "sha256", "next_iteration"} <= set(index) else None


def find(folder: Path) -> list[Checkpoint]:
    """Return all checkpoints below a folder, newest iteration first. Nothing is said about whether they are whole.

    The iteration comes from the note, the name or the contents, in this order; files without any are left out.
    """
    found = []
    for path in _files(folder):
        try:
            status = path.stat()
            index = read_index(path)
            number = int(index["next_iteration"]) if index is not None else _number_in_name(path.name)
            if number is None:
                number = read_contents(path).next_iteration
        except (OSError, RecordError):
            continue
        found.append(
            Checkpoint(
                path=path,
                next_iteration=number,
                size_bytes=status.st_size,
                modified_unix_s=status.st_mtime,
                index=index,
            )
        )
    return sorted(found, key=lambda c: (c.next_iteration, c.modified_unix_s), reverse=True)


def newest_complete(folder: Path, since_unix_s: float = 0.0) -> tuple[Checkpoint | None, list[tuple[Path, str]]]:
    """Return the newest whole checkpoint below a folder, and the newer ones that were passed over, with the reason.

    Args:
        folder: Where to look, at any depth.
        since_unix_s: Ignore what was written before this time.
    """
    passed: list[tuple[Path, str]] = []
    for checkpoint in find(folder):
        if checkpoint.modified_unix_s < since_unix_s:
            continue
        reason = why_incomplete(checkpoint.path)
        if reason is None:
            return checkpoint, passed
        passed.append((checkpoint.path, reason))
    return None, passed


def write_index(path: Path, facts: Mapping[str, Any]) -> None:
    """Note size and SHA-256 of a checkpoint that was just written; ``facts`` are further keys."""
    index = {
        "schema": CHECKPOINT_SCHEMA,
        "file": path.name,
        **facts,
        "size_bytes": path.stat().st_size,
        "sha256": sha256(path),
        "saved_unix_s": time.time(),
    }
    target = index_path(path)
    with replacing(target) as temporary:
        temporary.write_text(json.dumps(index, indent=1, allow_nan=False) + "\n", encoding="utf-8")


class replacing:
    """Gives a temporary path beside a target; on leaving it is forced to disk and takes the target's place.

    A reader sees the old file or the whole of the new one. After an exception the temporary file is removed.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._temporary = target.with_name(f".paceline-{os.getpid()}-{target.stem[-80:]}.part")

    def __enter__(self) -> Path:
        return self._temporary

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is None:
            try:
                with open(self._temporary, "rb+") as stream:
                    os.fsync(stream.fileno())
                os.replace(self._temporary, self._target)
                return
            except BaseException:
                self._temporary.unlink(missing_ok=True)
                raise
        self._temporary.unlink(missing_ok=True)


def keep(checkpoint: Path, folder: Path, name: str | None = None) -> Path:
    """Copy a checkpoint into a folder so that a reader sees the whole of it or nothing, and return the copy.

    Raises:
        RecordError: The checkpoint is not whole, or the copy is not the same (the disk is failing).
        OSError: There is no room, or the folder cannot be written.
    """
    reason = why_incomplete(checkpoint)
    if reason is not None:
        raise RecordError(f"{checkpoint}: {reason}")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / (name or checkpoint.name)
    digest = hashlib.sha256()
    with replacing(target) as temporary:
        with open(checkpoint, "rb") as source, open(temporary, "wb") as copy:
            while chunk := source.read(_CHUNK_BYTES):
                digest.update(chunk)
                copy.write(chunk)
        if sha256(temporary) != digest.hexdigest():
            raise RecordError(f"{temporary}: the copy of {checkpoint} reads back differently")
    index = read_index(checkpoint) or {"next_iteration": read_contents(target).next_iteration}
    write_index(target, {k: v for k, v in index.items() if k not in ("schema", "file")} | {"copy_of": checkpoint.name})
    return target


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as stream:
        digest = hashlib.sha256()
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    for directory, names, leaves in os.walk(folder):
        names[:] = sorted(name for name in names if name != "exported" and not name.startswith("."))
        for leaf in sorted(leaves):
            if leaf.endswith(SUFFIXES) and not leaf.startswith("."):
                yield Path(directory, leaf)


def _number_in_name(name: str) -> int | None:
    for pattern, offset in _NEXT_IN_NAME:
        match = pattern.fullmatch(name)
        if match:
            return int(match.group(1)) + offset
    return None
