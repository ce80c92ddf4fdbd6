"""The table of tasks is the one that the installed Isaac Lab gives."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from paceline.bench import environment, snapshot
from paceline.bench.rundir import StudyDir

pytestmark = [pytest.mark.slow, pytest.mark.isaaclab]


def test_table_is_that_of_the_installed_isaaclab(jobs_environment: Path, tmp_path: Path) -> None:
    study = StudyDir(tmp_path)
    snapshot.take(study)
    done = subprocess.run(
        [jobs_environment, "-m", "paceline.bench.tasks", "--check"],
        env={**os.environ, **environment.cache_variables(), "PYTHONPATH": str(study.code)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"`python -m paceline.bench.tasks --generate` writes it again\n{done.stderr[-2000:]}"
