"""The jobs' environment on machines that have none: Python 3.12 with Isaac Lab 3.0, and assets for it.

Made once per checkout from containers/locks/isaaclab-3.0.txt, every package by its hash, into .venv-isaaclab-3.0. A
stamp in the folder, written last, says which lock it was made from: one that is half-made or of another lock is made
again. Standard library only; nothing of Isaac Lab is imported here.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from paceline.bench.errors import LaunchError
from paceline.bench.toolchain import check_machine, find_python, find_uv

Say = Callable[[str], None]

_ROOT = Path(__file__).resolve().parents[1]
_NAME = "isaaclab-3.0"
_STAMP = ".paceline-complete"
_TELL_EVERY_S = 5.0
_PROBE_S = 5.0


@dataclass(frozen=True, slots=True)
class JobEnvironment:
    """The environment of a checkout, made or not."""

    root: Path
    """Root of the checkout."""

    @property
    def lock(self) -> Path:
        """The lock file that it is made from."""
        return self.root / "containers" / "locks" / f"{_NAME}.txt"

    @property
    def folder(self) -> Path:
        """The virtual environment."""
        return self.root / f".venv-{_NAME}"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def assets(self) -> Path:
        """Asset root made from the installed newton; lies in the environment because it belongs to that newton."""
        return self.folder / "paceline-assets"

    def stamp(self) -> str:
        """Return what the stamp of a complete environment says. The folder is part of it: it cannot be moved."""
        return f"{hashlib.sha256(self.lock.read_bytes()).hexdigest()} {self.folder}\n"

    def ready(self) -> bool:
        """Return whether it is complete, of the present lock, and its interpreter exists."""
        try:
            return (self.folder / _STAMP).read_text() == self.stamp() and self.python.exists()
        except OSError:
            return False


def environment_python() -> Path:
    """Return the interpreter that jobs use on this machine, whether or not it was made yet."""
    return JobEnvironment(_ROOT).python


def cache_variables(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables by which a process shares compiled kernels and bytecode with the jobs of this machine.

    The folders are those of a job whose cluster profile names none; what the user has set stays.
    """
    home = Path(environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME") or Path.home(), ".cache"))
    folders = {"WARP_CACHE_PATH": "warp", "TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
    folders["PYTHONPYCACHEPREFIX"] = "bytecode"  # uv compiles none: importing torch anew would take ten seconds
    return {name: environment.get(name) or str(home / "paceline" / leaf) for name, leaf in folders.items()}


def ensure(say: Say | None = None, root: Path | None = None) -> JobEnvironment:
    """Return the complete environment of a checkout, making it first if need be (minutes, 9 GB).

    Args:
        say: Gets lines of progress; standard error if None.
        root: Root of the checkout; that of this module if None.

    Raises:
        LaunchError: Wrong kind of machine, no Python 3.12, no uv, too little disk, no network.
    """
    say = say or _to_stderr
    made = JobEnvironment(root or _ROOT)
    if not made.lock.is_file():
        raise LaunchError(
            f"{made.lock} is missing: the jobs' environment is made in a checkout of Paceline; "
            "elsewhere name one with `python:` in the cluster profile"
        )
    if made.ready():
        return made
    with _lock(made.folder.with_name(made.folder.name + ".lock"), say):
        if not made.ready():  # another process may have made it while this one waited
            _make(made, say)
    return made


def ensure_assets(python: Path, say: Say | None = None) -> Path | None:
    """Return the asset root that jobs must use, None if Isaac Lab can reach NVIDIA's asset server itself.

    Once an asset root was made it stays in use, so that the runs of a study do not mix two sources of robots.
    """
    say = say or _to_stderr
    root = JobEnvironment(python.parents[2]).assets
    if (root / ".complete").exists():
        return root
    # The jobs' interpreter has nothing of ours: it gets this package alone, through a link.
    with tempfile.TemporaryDirectory() as link:
        package = Path(link) / "paceline"
        package.mkdir()
        (package / "bench").symlink_to(Path(__file__).resolve().parent)
        command = [str(python), "-m", "paceline.bench.assets", "--unless-reachable", str(_PROBE_S), str(root)]
        try:
            done = subprocess.run(
                command,
                env={**os.environ, "PYTHONPATH": link, "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"},
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise LaunchError(f"the asset root {root} cannot be made: {error}") from error
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines() or ["no reason given"]
        raise LaunchError(f"the asset root {root} cannot be made: {reason[-1].removeprefix('paceline: ')}")
    if not root.exists():
        return None
    (root / ".complete").touch()
    say(f"NVIDIA's asset server cannot be reached: robots and ground are newton's, in {root}")
    return root


def _make(made: JobEnvironment, say: Say) -> None:
    """Make the environment from its lock; the stamp comes last."""
    stamp = made.stamp()
    check_machine(made.root)
    uv = find_uv(made.root)
    python = find_python(uv)
    say(f"making the jobs' environment, once (Isaac Lab 3.0 with {python}; some minutes, 9 GB): {made.folder}")
    start = time.monotonic()
    environment = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH")}
    # Where cache and checkout are on two file systems uv copies, and would warn.
    environment.setdefault("UV_LINK_MODE", "copy" if _other_file_system(uv, made.root) else "hardlink")
    install = ["pip", "install", "--require-hashes", "--python", str(made.python), "-r", str(made.lock)]
    for arguments in (["venv", "--clear", "--python", python, str(made.folder)], install):
        _run_told([str(uv), *arguments], environment, start, say)
    (made.folder / _STAMP).write_text(stamp)
    say(f"the jobs' environment is ready ({_clock(start)})")


def _other_file_system(uv: Path, folder: Path) -> bool:
    try:
        cache = subprocess.run([uv, "cache", "dir"], capture_output=True, text=True, timeout=30, check=True)
        path = Path(cache.stdout.strip())
        while not path.exists():
            path = path.parent
        return path.stat().st_dev != folder.stat().st_dev
    except (OSError, subprocess.SubprocessError):
        return True


def _run_told(command: list[str], environment: dict[str, str], start: float, say: Say) -> None:
    """Run a command; say every few seconds how long it has been at it and what it said last."""
    lines: list[str] = []
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:

        def read() -> None:
            assert child.stdout is not None
            lines.extend(line.strip() for line in child.stdout if line.strip())

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            while reader.is_alive():
                reader.join(_TELL_EVERY_S)
                if reader.is_alive():
                    say(f"making the jobs' environment: {_clock(start)}{f', {lines[-1]}' if lines else ''}")
        except BaseException:
            child.terminate()
            raise
    if child.returncode != 0:
        raise LaunchError(f"the jobs' environment cannot be made: {_reason(lines)}")


def _reason(lines: list[str]) -> str:
    """Return what matters of the output of a uv that failed, as one line."""
    text = " ".join(lines)
    if "No space left" in text:
        return "no space left on the device"
    network = ("Connect", "dns error", "resolve", "timed out", "Failed to fetch", "Could not connect")
    errors = [line for line in lines if line.startswith(("error", "cause", "Caused"))]
    if any(word in " ".join(errors) for word in network):
        return f"no network, or the package index cannot be reached ({errors[-1]})"
    return errors[0] if errors else (lines[-1] if lines else "uv gave no reason")


def _clock(start: float) -> str:
    minutes, seconds = divmod(int(time.monotonic() - start), 60)
    return f"{minutes}:{seconds:02d}"


def _to_stderr(text: str) -> None:
    print(f"paceline: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _lock(path: Path, say: Say) -> Iterator[None]:
    """Let one process at a time make the environment. The system drops the lock when its holder dies."""
    try:
        stream = open(path, "w")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise LaunchError(f"the jobs' environment cannot be made in {path.parent}: {error.strerror}") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is making the jobs' environment; waiting for it ({path})")
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError:
            say(f"this file system has no locks; make sure that nothing else makes the environment ({path.parent})")
        yield


if __name__ == "__main__":
    try:
        ensure()
    except LaunchError as error:
        print(f"paceline: {error}", file=sys.stderr)
        sys.exit(2)
