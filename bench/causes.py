"""Why a run failed: classes of causes, found in its log. Standard library only.

Each row is (class, pattern); the first row that matches a line in the end of the log wins, so rows go from the root
cause to mere consequences: after one rank runs out of memory, the others report broken connections.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

_TAIL_BYTES = 1 << 20


class Cause(NamedTuple):
    """Class of a failure, and one line for a person."""

    cause: str
    message: str


# Patterns are searched for in each line, and the line is the message. None begins with `.*`: on a long line that would
# take time that grows with the square of its length.
CAUSES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (cause, re.compile(pattern))
    for cause, pattern in (
        ("oom_device", r"OutOfMemoryError|CUDA out of memory|CUDA error(?: \d+)?: out of memory"),
        ("oom_device", r"CUBLAS_STATUS_ALLOC_FAILED|Warp.{0,80}[Ff]ailed to allocate"),
        ("oom_host", r"oom[-_]kill|Out [Oo]f [Mm]emory|OOM Killed|Cannot allocate memory|\bMemoryError\b"),
        ("time_limit", r"DUE TO TIME LIMIT"),
        ("preempted", r"DUE TO PREEMPTION"),
        ("node_failure", r"DUE TO NODE FAILURE"),
        ("cancelled", r"slurmstepd: error: .{0,80}CANCELLED AT"),
        ("stalled", r"paceline supervise: no rank has recorded anything"),
        ("disk_full", r"No space left on device|Disk quota exceeded"),
        ("settings", r"\bLaunchError: "),
        ("driver", r"Found no NVIDIA driver|CUDA driver version is insufficient|no CUDA-capable device"),
        ("gpu", r"\bXid\b|uncorrectable ECC|device-side assert|illegal memory access|GPU has fallen off the bus"),
        ("asset", r"FileNotFoundError: .{0,400}\.usd|Unable to open the usd file"),
        ("missing_package", r"\bModuleNotFoundError: |\bImportError: "),
        ("nccl", r"ncclUnhandledCudaError|ncclSystemError|ncclInternalError|NCCL error|NCCL timeout"),
        ("segfault", r"Segmentation fault|SIGSEGV|exitcode\s*:\s*-11\b"),
        ("signal", r"SignalException: Process \d+ got signal"),
        ("killed", r"SIGKILL|exitcode\s*:\s*-9\b|^Killed$"),
    )
)

_LINE_LIMIT = 2000
# torchrun and Isaac Lab put the rank before a line; our own errors have a module path before their name.
_WHO = re.compile(r"^(?:\[\w+\]:\s*)?(?:paceline\.bench\.errors\.)?")
# The last line of a traceback: `package.Name: message`, or a bare name.
_EXCEPTION = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit)(?::.*)?$")
_LAUNCHER = re.compile(r"(?:torch\.distributed\.elastic\S*)?ChildFailedError")


def read_tail(path: Path) -> str:
    """Return the last megabyte of a log, empty if there is none."""
    try:
        with open(path, "rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - _TAIL_BYTES))
            return stream.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


def classify(log: str) -> Cause:
    """Return the cause of a failure from the end of a log: a known class, else the first exception, else unknown."""
    lines = [_WHO.sub("", line.strip()[:_LINE_LIMIT]) for line in log.splitlines()]
    for cause, pattern in CAUSES:
        for line in lines:
            if pattern.search(line):
                return Cause(cause, shorten(line))
    for line in lines:
        if _EXCEPTION.match(line) and not _LAUNCHER.match(line):
            return Cause("error", shorten(line))
    return Cause("unknown", "the log names no error")


def shorten(text: str) -> str:
    """Return a text as one line of at most 300 characters."""
    line = " ".join(text.split())
    return line if len(line) <= 300 else line[:299] + "…"
