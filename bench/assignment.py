"""What a process of a job works on: the run folder that the job script names, and its case. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path

from paceline.bench.errors import LaunchError
from paceline.bench.record import Case
from paceline.bench.rundir import RunDir, read_json


def load_run() -> tuple[RunDir, Case]:
    """Return the run folder named in PACELINE_RUN_DIR and its case."""
    folder = os.environ.get("PACELINE_RUN_DIR")
    if not folder:
        raise LaunchError("PACELINE_RUN_DIR is not set: the job script sets it to the run folder")
    run = RunDir(Path(folder).absolute())
    try:
        data = read_json(run.case_json)
    except OSError as error:
        raise LaunchError(
            f"{run.case_json} cannot be read ({error.strerror}): PACELINE_RUN_DIR must name a run folder"
        ) from None
    return run, Case.from_json(data, str(run.case_json))
