"""Makes the folder of a run and notes its job: what studies and campaigns have in common. Plan side."""

from __future__ import annotations

import socket
import time

from paceline.bench.attempt import Attempt, write_attempt
from paceline.bench.errors import LaunchError
from paceline.bench.record import LAUNCH_SCHEMA, Case
from paceline.bench.rundir import RunDir, StudyDir, write_json


def next_run(directory: StudyDir, case_id: str) -> RunDir:
    """Return the next attempt at a case: the one that was prepared once and never started, or a new one."""
    attempts = directory.attempts(case_id)
    if attempts and not attempts[-1].launch_json.exists() and not attempts[-1].result_json.exists():
        return attempts[-1]
    return directory.run(case_id, attempts[-1].attempt + 1 if attempts else 1)


def write_run(run: RunDir, case: Case, script: str, changes: Attempt | None = None) -> None:
    """Write the folder of a run that is about to be started.

    Args:
        run: The folder.
        case: What it is an attempt at.
        script: Its job script.
        changes: What this attempt does otherwise.

    Raises:
        LaunchError: It cannot be written.
    """
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        write_json(run.case_json, case.to_json())
        if changes:
            write_attempt(run, changes)
        run.job_sh.write_text(script, encoding="utf-8")
        run.job_sh.chmod(run.job_sh.stat().st_mode | 0o100)
    except OSError as error:
        raise LaunchError(f"{run.path}: cannot write the run folder ({error.strerror})") from error


def write_launch(run: RunDir, job_id: str) -> None:
    """Note the Slurm job that a run was submitted as."""
    write_json(
        run.launch_json,
        {
            "schema": LAUNCH_SCHEMA,
            "launcher": "slurm",
            "job_id": job_id,
            "hostname": socket.gethostname(),
            "submitted_unix_s": time.time(),
        },
    )
