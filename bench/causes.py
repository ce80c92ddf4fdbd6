"""Why a run failed: classes of causes, found in its log. Standard library only.

Each row is (class, pattern); the first row that matches anywhere in the end of the log wins, so rows go from the root
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


CAUSES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (cause, re.compile(pattern))
    for cause, pattern in (
        ("oom_device", r"(?:torch\.)?(?:cuda\.)?OutOfMemoryError.*|CUDA out of memory.*|Warp.*[Ff]ailed to allocate.*"),
        ("oom_device", r"CUDA error.*out of memory.*|CUBLAS_STATUS_ALLOC_FAILED.*"),
        ("oom_host", r".*(?:oom[-_]kill|Out [Oo]f [Mm]emory|OOM Killed|Cannot allocate memory|MemoryError).*"),
        ("time_limit", r".*DUE TO TIME LIMIT.*"),
        ("preempted", r".*DUE TO PREEMPTION.*"),
        ("node_failure", r".*DUE TO NODE FAILURE.*"),
        ("cancelled", r".*slurmstepd: error: .*CANCELLED AT.*"),
        ("stalled", r"paceline supervise: no rank has recorded anything.*"),
        ("disk_full", r".*(?:No space left on device|Disk quota exceeded).*"),
        ("settings", r"(?:paceline\.bench\.errors\.)?LaunchError: .*"),
        ("driver", r".*(?:Found no NVIDIA driver|CUDA driver version is insufficient|no CUDA-capable device).*"),
        ("gpu", r".*(?:Xid|uncorrectable ECC|device-side assert|illegal memory access|GPU has fallen off the bus).*"),
        ("asset", r".*(?:FileNotFoundError: .*\.usd\w?|Unable to open the usd file|asset.*not found).*"),
        ("missing_package", r"ModuleNotFoundError: .*|ImportError: .*"),
        ("nccl", r".*(?:ncclUnhandledCudaError|ncclSystemError|ncclInternalError|NCCL error|NCCL timeout).*"),
        ("segfault", r".*(?:Segmentation fault|SIGSEGV|exitcode\s*:\s*-11).*"),
        ("killed", r".*(?:SIGKILL|exitcode\s*:\s*-9|^Killed$).*"),
    )
)

# `Name: message` or a bare `Name`, at the start of a line, perhaps behind torchrun's `[rank0]: `: end of a traceback.
_EXCEPTION = re.compile(r"^(?:\[\w+\]:\s*)?((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit)(?::.*)?)$")
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
    for cause, pattern in CAUSES:
        for line in log.splitlines():
            text = re.sub(r"^\[\w+\]:\s*", "", line)
            match = pattern.search(text)
            if match:
                return Cause(cause, shorten(match.group(0)))
    for line in log.splitlines():
        found = _EXCEPTION.match(line.strip())
        if found and not _LAUNCHER.match(found.group(1)):
            return Cause("error", shorten(found.group(1)))
    return Cause("unknown", "the log names no error")


def shorten(text: str) -> str:
    """Return a text as one line of at most 300 characters."""
    line = " ".join(text.split())
    return line if len(line) <= 300 else line[:299] + "…"
