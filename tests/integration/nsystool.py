"""The real Nsight Systems for tests: fetched from Debian packages, one user at a time."""

from __future__ import annotations

import fcntl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def real_nsys(repository: Path, version: str) -> Iterator[Path]:
    """Yield the nsys of a version, fetched once and kept in build/, which git ignores.

    No other test has one meanwhile: of programs that start under two versions of nsys at once, about one in a hundred
    fails, because its nsys loses its own agent ("End of file", "Local Endpoint is not available").
    """
    folder = repository / "build" / f"nsys-{version}"
    folder.parent.mkdir(exist_ok=True)
    with folder.with_name("nsys.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command: list[str | Path] = ["bash", repository / "tests" / "install" / "nsys.sh", folder, version]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        yield folder / "nsys" / "bin" / "nsys"
