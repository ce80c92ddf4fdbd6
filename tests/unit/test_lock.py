"""Two processes that would drive one study."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from paceline.bench.errors import LaunchError
from paceline.bench.lock import StudyLock
from paceline.bench.rundir import StudyDir

HOLD = """
import sys, time
from paceline.bench.lock import StudyLock
from paceline.bench.rundir import StudyDir
with StudyLock(StudyDir(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_second_is_told_who_holds_the_study_and_can_have_it_afterwards(tmp_path: Path) -> None:
    study = StudyDir(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LaunchError, match=rf"process {holder.pid} on .*paceline watch"), StudyLock(study):
            pass
        holder.kill()  # not even SIGKILL leaves the study locked
    with StudyLock(study):
        assert str(os.getpid()) in study.lock.read_text()


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), StudyLock(StudyDir(tmp_path / "gone")):
        pass
