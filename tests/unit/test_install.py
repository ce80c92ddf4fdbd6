"""The installer of what tests need: one table, nothing to do when all is there, one clear line when it cannot help."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INSTALL = ROOT / "tests" / "install"
TABLE = [line.split() for line in (INSTALL / "components.txt").read_text().splitlines() if line and line[0] != "#"]


def install(*components: str, path: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {"PATH": path or os.environ["PATH"], **environment}
    return subprocess.run(
        ["/bin/bash", INSTALL / "debian.sh", *components],
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture
def ordinary_user(tmp_path: Path) -> str:
    """A PATH with next to nothing on it, on which one is not root."""
    program = tmp_path / "id"
    program.write_text("#!/bin/sh\necho 1000\n")
    program.chmod(0o755)
    return str(tmp_path)


def test_every_component_that_tests_ask_for_is_in_the_table() -> None:
    known = {component for component, _, _ in TABLE}
    sources = [path.read_text() for path in (ROOT / "tests").rglob("*.py")]
    asked = {name for text in sources for name in re.findall(r'\brequire\("(\w+)"\)', text)}
    assert asked <= known
    assert {"slurm", "slurmdbd", "chromium", "shellcheck"} <= known
    assert len({program for _, program, _ in TABLE}) == len(TABLE)


def test_nothing_to_do(require: Callable[[str], None]) -> None:
    require("shellcheck")
    done = install("shellcheck")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_ordinary_user_is_told_what_is_missing(ordinary_user: str) -> None:
    done = install("chromium", "poppler", path=ordinary_user)
    assert done.returncode == 0, "tests that need none of it can run"
    assert len(done.stderr.splitlines()) == 1
    assert "apt-get install chromium poppler-utils" in done.stderr


def test_under_ci_what_is_missing_fails(ordinary_user: str) -> None:
    done = install("chromium", path=ordinary_user, CI="true")
    assert done.returncode == 1 and "chromium" in done.stderr


def test_a_missing_component_fails_the_test_that_needs_it(
    require: Callable[[str], None], ordinary_user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", ordinary_user)
    with pytest.raises(pytest.fail.Exception, match="chromium is missing: apt-get install chromium"):
        require("chromium")
