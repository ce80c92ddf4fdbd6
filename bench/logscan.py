"""Finds the lines of a log that matter, in logs of any size. Standard library only. Scope: job.

A log of up to 32 MiB is read whole. Of a longer one the first 16 MiB are read, and the rest is searched by ``grep``:
gigabytes in seconds, in little memory. Where that is not done in 60 s, the last 16 MiB are read instead, and the result
says how much was searched. Equal lines are counted, not kept: a text that is repeated a million times makes logs long.
"""

from __future__ import annotations

import io
import os
import resource
import select
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

WHOLE_BYTES = 32 << 20
TAIL_BYTES = 1 << 20
"""How much of the end of a log tells why a run ended: what lies further back was survived."""
_SEARCH_S = 60.0
_CHUNK_BYTES = 4 << 20
_LINE_BYTES = 2000
_KINDS = 20_000
_GREP_BYTES = 1 << 30


@dataclass(kw_only=True)
class LogScan:
    """What was found in a log."""

    size_bytes: int = 0
    searched_bytes: int = 0
    """How much of it was searched; less than its size where a search took too long."""
    lines: dict[str, int] = field(default_factory=dict)
    """Lines that hold one of the words, in the order of their first occurrence, and how often each occurs."""
    tail: str = ""
    """The end of the log."""


def scan(path: Path, words: Iterable[str], limit_s: float = _SEARCH_S) -> LogScan:
    """Return what a log says; nothing if there is none.

    Args:
        path: The log.
        words: Texts of which a line that matters holds at least one.
        limit_s: Longest time that a search between beginning and end may take.
    """
    found = LogScan()
    needles = [word.encode() for word in words]
    try:
        with open(path, "rb", buffering=0) as stream:  # grep shares its position
            size = found.size_bytes = os.fstat(stream.fileno()).st_size
            if size <= WHOLE_BYTES:
                found.searched_bytes = _collect(found, stream, size, needles)
            else:
                half = WHOLE_BYTES // 2
                found.searched_bytes = _collect(found, stream, half, needles)
                found.searched_bytes += _grep(found, stream, needles, limit_s)
                if found.searched_bytes < size:
                    stream.seek(max(found.searched_bytes, size - half))
                    found.searched_bytes += _collect(found, stream, half, needles)
            stream.seek(max(0, size - TAIL_BYTES))
            found.tail = stream.read(TAIL_BYTES).decode("utf-8", errors="replace")
    except OSError:
        pass
    return found


def _collect(found: LogScan, stream: io.FileIO, length: int, needles: list[bytes]) -> int:
    """Add the lines of the next ``length`` bytes that hold a needle; return how many bytes were searched."""
    left = length
    rest = b""
    while left > 0 and (chunk := stream.read(min(left, _CHUNK_BYTES))):
        left -= len(chunk)
        block, newline, rest = (rest + chunk).rpartition(b"\n")
        if left <= 0 or (not newline and len(rest) > _CHUNK_BYTES):
            block, rest = block + newline + rest, b""
        present = [needle for needle in needles if needle in block]
        if present:
            _count(found, (line for line in block.split(b"\n") if any(needle in line for needle in present)))
    return length - left


def _grep(found: LogScan, stream: io.FileIO, needles: list[bytes], limit_s: float) -> int:
    """Add lines from here to the end, searched by grep; return how many bytes it came through."""
    program = shutil.which("grep")
    if program is None:
        return 0
    start = stream.tell()
    deadline = time.monotonic() + limit_s
    with tempfile.NamedTemporaryFile() as patterns:
        patterns.write(b"\n".join(needles) + b"\n")
        patterns.flush()
        with subprocess.Popen(
            [program, "--fixed-strings", "--text", f"--file={patterns.name}"],
            stdin=stream,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
            preexec_fn=_little_memory,  # a line of gigabytes must not take them
        ) as child:
            assert child.stdout is not None
            rest = b""
            while chunk := _read(child.stdout.fileno(), deadline):
                *lines, rest = (rest + chunk).split(b"\n")
                _count(found, lines)
            _count(found, [rest] if rest else [])
            child.kill()
    return stream.tell() - start


def _little_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_GREP_BYTES, _GREP_BYTES))


def _read(descriptor: int, deadline: float) -> bytes:
    """Return what there is to read; nothing at the end, or when the time is over."""
    ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
    return os.read(descriptor, _CHUNK_BYTES) if ready else b""


def _count(found: LogScan, lines: Iterable[bytes]) -> None:
    for line, count in Counter(lines).items():
        text = line[:_LINE_BYTES].decode("utf-8", errors="replace").strip()
        if text in found.lines or len(found.lines) < _KINDS:
            found.lines[text] = found.lines.get(text, 0) + count
