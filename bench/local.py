"""The local launcher: the same job script as on a cluster, run with bash on this machine, one case after another."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from paceline.bench.errors import LaunchError
from paceline.bench.record import LAUNCH_SCHEMA
from paceline.bench.rundir import RunDir, write_json
from paceline.bench.status import process_start_ticks


def visible_gpus() -> int:
    """Return how many NVIDIA GPUs a process started here may use, 0 without any. CUDA_VISIBLE_DEVICES is honoured."""
    mask = os.environ.get("CUDA_VISIBLE_DEVICES")
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    try:
        answer = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    present = sum(line.startswith("GPU ") for line in answer.stdout.splitlines()) if answer.returncode == 0 else 0
    if mask is None:
        return present
    return min(present, len([entry for entry in mask.split(",") if entry.strip() and entry.strip() != "-1"]))


class LocalRun:
    """A job script running under bash in a session of its own, so that Ctrl-C reaches it only through us.

    Args:
        run: The run's folder, with its job script.
        gpus: Indices of the GPUs that it may see (CUDA_VISIBLE_DEVICES), None for all that this process sees.
        cores: Logical cores that it may use, None for all that this process may use.
    """

    def __init__(self, run: RunDir, gpus: Sequence[int] | None = None, cores: Collection[int] | None = None) -> None:
        self.run = run
        environment = None if gpus is None else {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))}
        try:
            with run.train_log.open("ab") as log:
                self._process = subprocess.Popen(
                    ["bash", run.job_sh.name],
                    cwd=run.path,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=environment,
                    preexec_fn=None if cores is None else lambda: os.sched_setaffinity(0, cores),
                )
        except OSError as error:
            raise LaunchError(f"cannot start {run.job_sh}: {error.strerror}") from error
        pid = self._process.pid
        write_json(
            run.launch_json,
            {
                "schema": LAUNCH_SCHEMA,
                "launcher": "local",
                "job_id": str(pid),
                "pid": pid,
                "start_ticks": process_start_ticks(pid),
                "hostname": socket.gethostname(),
                "submitted_unix_s": time.time(),
                **({} if gpus is None else {"gpus": list(gpus)}),
                **({} if cores is None else {"cores": sorted(cores)}),
            },
        )

    def poll(self) -> int | None:
        """Return the script's exit code, None while it runs."""
        return self._process.poll()

    def stop(self, grace_s: float = 60.0) -> None:
        """End the script: TERM, then time to end the training and write the sentinel, then its session is killed."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def wait_until_gone(run: RunDir, limit_s: float = 90.0) -> None:
    """Wait for what is left of a run whose script was killed: its supervisor ends it, and the next must not meet it."""
    mark = f"PACELINE_RUN_DIR={run.path}".encode()
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline and any(_has(process, mark) for process in Path("/proc").glob("[0-9]*")):
        time.sleep(0.2)


def _has(process: Path, variable: bytes) -> bool:
    with contextlib.suppress(OSError):
        return variable in (process / "environ").read_bytes().split(b"\0")
    return False


def cancel(launch: dict[str, object]) -> None:
    """End a local run that another `paceline run` started, if it still runs; LaunchError if it is another host's."""
    host = launch.get("hostname")
    if host != socket.gethostname():
        raise LaunchError(f"the run was started on host {host}: cancel it there")
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(str(launch["pid"])), signal.SIGTERM)
