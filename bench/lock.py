"""The lock of a study folder: of two processes that would drive one study, one goes on."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from types import TracebackType

from paceline.bench import jsontext
from paceline.bench.errors import LaunchError
from paceline.bench.rundir import StudyDir


class StudyLock:
    """Holds a study folder for this process; released when the process ends, however it ends."""

    def __init__(self, study: StudyDir) -> None:
        self._study = study
        self._descriptor: int | None = None

    def __enter__(self) -> StudyLock:
        descriptor = os.open(self._study.lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 4096).decode(errors="replace")
            os.close(descriptor)
            raise LaunchError(
                f"{self._study.path}: another paceline {_who(holder)} drives this study; follow it with "
                f"`paceline watch {self._study.path}`"
            ) from error
        except OSError as error:
            os.close(descriptor)
            raise LaunchError(
                f"{self._study.lock}: cannot lock ({error.strerror}); is the file system read-only?"
            ) from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps({"pid": os.getpid(), "hostname": socket.gethostname()}).encode())
        self._descriptor = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)


def _who(text: str) -> str:
    try:
        holder = jsontext.loads(text)
        return f"(process {holder['pid']} on {holder['hostname']})"
    except (ValueError, KeyError, TypeError):
        return "process"
