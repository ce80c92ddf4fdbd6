"""Study folders that cannot be written, are full, or hold something else: one clear line, and nothing lost."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.test_cli import error_of, paceline

SMALL = ("--set", "device=cpu", "--set", "repeats=1")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of its own, 200 kB, which root may mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k,nr_inodes=400", "none", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


def site(folder: Path) -> None:
    """Write a profile with a Python of its own, so that no environment is made."""
    text = "schema: paceline.cluster/1\nname: here\nscheduler: local\npython: /bin/false\nasset_root: /nonexistent\n"
    (folder / "here.yaml").write_text(text)


def test_a_full_disk_is_one_line_and_the_study_goes_on_elsewhere(small_disk: Path, tmp_path: Path) -> None:
    site(tmp_path)
    folder = small_disk / "study"
    error = error_of("run", "strong_scaling", "--cluster", "here", "--folder", str(folder), *SMALL, cwd=tmp_path)
    assert "No space left on device" in error
    # The snapshot was not finished, so it does not count as one.
    assert not (folder / "code" / "snapshot.json").exists()


def test_a_read_only_folder_is_one_line(small_disk: Path, tmp_path: Path) -> None:
    site(tmp_path)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    arguments = ("--cluster", "here", "--folder", str(small_disk / "study"), *SMALL)
    error = error_of("run", "strong_scaling", *arguments, cwd=tmp_path)
    assert "cannot write the study folder (Read-only file system)" in error


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    site(tmp_path)
    precious = tmp_path / "mine" / "thesis.tex"
    precious.parent.mkdir()
    precious.write_text("x")
    error = error_of("run", "strong_scaling", "--cluster", "here", "--folder", "mine", *SMALL, cwd=tmp_path)
    assert "not a study folder and not empty" in error
    assert os.listdir(precious.parent) == ["thesis.tex"]


def failed_study(folder: Path) -> None:
    """Make a study folder whose warm-up failed at once, since its Python does."""
    site(folder)
    answer = paceline("run", "strong_scaling", "--cluster", "here", "--folder", "study", *SMALL, cwd=folder)
    assert answer.returncode == 1, answer.stderr


def test_a_run_that_cannot_start_is_a_failure_with_its_log(tmp_path: Path) -> None:
    failed_study(tmp_path)
    answer = paceline("status", "study", cwd=tmp_path)
    assert answer.returncode == 0
    warmup, *cases = answer.stdout.splitlines()[:-1]
    assert "failed" in warmup or "lost" in warmup
    assert "The Python of the jobs does not run" in cases.pop(0)  # what to do about it
    assert cases and all("missing" in case for case in cases)
    (log,) = (tmp_path / "study").glob("runs/*/attempt-1/train.log")
    assert "this Python does not run" in log.read_text()


def test_a_folder_that_holds_another_study_is_refused_and_says_what_differs(tmp_path: Path) -> None:
    failed_study(tmp_path)
    arguments = ("--cluster", "here", "--folder", "study", *SMALL, "--set", "seed=7")
    error = error_of("run", "strong_scaling", *arguments, cwd=tmp_path)
    assert "holds another study (seed is 42 there and 7 here)" in error


def test_a_folder_of_another_version_is_refused_by_its_schema(tmp_path: Path) -> None:
    failed_study(tmp_path)
    study = tmp_path / "study" / "study.yaml"
    study.write_text(study.read_text().replace("paceline.study/1", "paceline.study/9"))
    for command in (("status", "study"), ("retry", "study"), ("report", "study")):
        assert "paceline.study/9" in error_of(*command, cwd=tmp_path)
