"""The processes below a process: finding all of them, and ending all of them. Linux, standard library only.

torchrun starts every rank in a session of its own, so a signal to its process group does not reach the ranks. They are
found through /proc; `adopt_orphans` keeps them below the caller even when torchrun died first. Scope: node.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Container
from contextlib import suppress

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def parents() -> dict[int, int]:
    """Return the parent of every process that can be seen; what has died but was not waited for is left out."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{name}/stat", "rb") as stream:
                    # pid (command) state ppid ...; the command may hold spaces and parentheses
                    state, parent = stream.read().rpartition(b")")[2].split()[:2]
                if state not in (b"Z", b"X"):
                    found[int(name)] = int(parent)
    return found


def descendants(pid: int, without: Container[int] = ()) -> set[int]:
    """Return children, grandchildren and so on of a process; ``without`` leaves out processes and all below them."""
    children: dict[int, list[int]] = {}
    for child, parent in parents().items():
        children.setdefault(parent, []).append(child)
    found: set[int] = set()
    pending = [pid]
    while pending:
        for child in children.get(pending.pop(), ()):
            if child not in found and child not in without:
                found.add(child)
                pending.append(child)
    return found


def end_descendants(grace_s: float, without: Container[int] = ()) -> None:
    """End every descendant of this process: TERM first, KILL for what is left after the grace."""
    deadline = time.monotonic() + grace_s
    for each in descendants(os.getpid(), without):
        send(each, signal.SIGTERM)
    while time.monotonic() < deadline:
        if not descendants(os.getpid(), without):
            return
        time.sleep(0.1)
    kill_descendants(without)


def kill_descendants(without: Container[int] = ()) -> None:
    """KILL every descendant of this process, again until none is left: a killed parent may have started one more."""
    for _ in range(50):
        left = descendants(os.getpid(), without)
        if not left:
            return
        for each in left:
            send(each, signal.SIGKILL)
        time.sleep(0.1)


def send(pid: int, number: int) -> None:
    """Send a signal to a process, if it is still there."""
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def adopt_orphans() -> bool:
    """Make this process the parent of orphaned descendants; return whether the system allows it."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent() -> None:
    """Ask for TERM when the parent of this process dies; for the child side of a fork."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _prctl(option: int, value: int) -> bool:
    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except (OSError, AttributeError):
        return False
    return int(prctl(option, value, 0, 0, 0)) == 0
