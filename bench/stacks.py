"""Where hung ranks are: writes the stacks of all their threads to a file. Linux, standard library only. Scope: node.

With py-spy where there is one (it also sees a rank that is stuck in native code, and its native frames); otherwise each
rank does it itself: `register` has Python's fault handler write on USR2, which works while native code holds the
interpreter. A rank is about to be ended when it is asked, so a simulator that dislikes the signal loses nothing.
"""

from __future__ import annotations

import faulthandler
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from paceline.bench.processes import send

FILE_VARIABLE = "PACELINE_STACKS_FILE"
_SETTLE_S = 0.5
_PY_SPY_S = 20.0
_stream = None  # kept open for the fault handler


def register() -> None:
    """Have this process write its stacks to the file that the supervisor named, when it gets USR2."""
    global _stream
    name = os.environ.get(FILE_VARIABLE)
    if name:
        with suppress(OSError, RuntimeError):
            _stream = open(name, "a", encoding="utf-8")  # noqa: SIM115 (as long as the process lives)
            faulthandler.register(signal.SIGUSR2, file=_stream, all_threads=True)


def dump(pids: Iterable[int], path: Path) -> int:
    """Append the stacks of all ranks among the processes to a file; return how many ranks were asked."""
    ranks = sorted((rank, pid) for pid in pids if (rank := _rank(pid)) is not None)
    spy = py_spy()
    asked = 0
    for rank, pid in ranks:
        can_itself = _catches_usr2(pid)
        if not can_itself and not (spy and _is_python(pid)):
            continue
        asked += 1
        _append(path, f"==== rank {rank}, process {pid} ====\n")
        if spy and _spy(spy, pid, path):
            continue
        if can_itself:
            send(pid, signal.SIGUSR2)
            time.sleep(_SETTLE_S)
    return asked


def py_spy() -> str | None:
    """Return the py-spy to use: beside this Python, or on PATH; none if PACELINE_PY_SPY says off."""
    if os.environ.get("PACELINE_PY_SPY") == "off":
        return None
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("py-spy")


def _spy(program: str, pid: int, path: Path) -> bool:
    """Append what py-spy sees of a process; return whether it was allowed to look."""
    for option in (["--native"], []):
        try:
            done = subprocess.run(
                [program, "dump", "--pid", str(pid), *option], capture_output=True, timeout=_PY_SPY_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        if done.returncode == 0 and done.stdout:
            _append(path, done.stdout.decode(errors="replace"))
            return True
    return False


def _append(path: Path, text: str) -> None:
    with suppress(OSError), path.open("a", encoding="utf-8") as stream:
        stream.write(text)


def _rank(pid: int) -> int | None:
    """Return the global rank that torchrun gave a process, None if it is none of its ranks."""
    with suppress(OSError, ValueError):
        for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if entry.startswith(b"RANK="):
                return int(entry[5:])
    return None


def _is_python(pid: int) -> bool:
    with suppress(OSError):
        return "python" in os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    return False


def _catches_usr2(pid: int) -> bool:
    """Return whether a process has a handler for USR2: without one the signal would end it at once."""
    with suppress(OSError, ValueError, StopIteration):
        status = Path(f"/proc/{pid}/status").read_text()
        caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
        return bool(int(caught.split()[1], 16) >> (signal.SIGUSR2 - 1) & 1)
    return False
