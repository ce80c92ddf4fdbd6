"""The copy of the code that jobs run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from paceline.bench import snapshot
from paceline.bench.rundir import StudyDir, read_json


def test_jobs_import_the_snapshot_and_nothing_else(tmp_path: Path) -> None:
    study = StudyDir(tmp_path)
    snapshot.take(study)
    answer = subprocess.run(
        [sys.executable, "-S", "-c", "import paceline.bench.record as r; print(r.__file__)"],
        env={**os.environ, "PYTHONPATH": str(study.code), "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip() == str(study.code / "paceline" / "bench" / "record.py")
    assert not list(study.code.rglob("__pycache__"))
    assert not (study.code / "paceline" / "__init__.py").exists()
    assert not (study.code / "paceline" / "profiling" / "__init__.py").exists()
    assert list((study.code / "paceline" / "slurm_templates").glob("*.j2"))


def test_an_existing_snapshot_is_kept_when_the_code_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = StudyDir(tmp_path)
    first = snapshot.take(study)
    assert first.current
    record = study.code / "paceline" / "bench" / "record.py"
    before = record.read_bytes()
    monkeypatch.setattr(snapshot, "_digest", lambda files: "another")
    second = snapshot.take(study)
    assert (second.content_hash, second.current) == (first.content_hash, False)
    assert record.read_bytes() == before


def test_a_half_made_snapshot_is_made_again(tmp_path: Path) -> None:
    study = StudyDir(tmp_path)
    stale = study.code / "paceline" / "bench" / "stale.py"
    stale.parent.mkdir(parents=True)
    stale.write_text("")
    snapshot.take(study)
    assert not stale.exists()
    assert read_json(study.snapshot_json)["schema"] == snapshot.SNAPSHOT_SCHEMA


def test_the_hash_follows_names_and_contents(tmp_path: Path) -> None:
    one, two = tmp_path / "a.py", tmp_path / "b.py"
    one.write_text("x")
    two.write_text("x")
    digests = {
        snapshot._digest([("a.py", one)]),
        snapshot._digest([("b.py", one)]),
        snapshot._digest([("a.py", one), ("b.py", two)]),
    }
    two.write_text("y")
    digests.add(snapshot._digest([("a.py", two)]))
    assert len(digests) == 4
