"""The README's two commands on a machine without GPU and Slurm: clone, `make strong-scaling`, read the report.

How long it takes is measured by tests/benchmarks/first_report.py.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.isaaclab, pytest.mark.timeout(1800)]


def git(*arguments: str | Path) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    return done.stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone of this checkout, with what is changed here and not committed."""
    target = tmp_path / "paceline"
    git("clone", "--quiet", ROOT, target)
    changed = git("ls-files", "-z", "--modified", "--others", "--exclude-standard").split("\0")
    for name in changed:
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
        elif name:
            (target / name).unlink(missing_ok=True)
    return target


def test_two_commands_from_nothing_to_a_report(clone: Path, jobs_environment: Path) -> None:
    # jobs_environment: the packages are in uv's cache then, and the clone's own environment is made from there.
    plain = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    process = subprocess.Popen(
        ["make", "strong-scaling"],
        cwd=clone,
        env=plain,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    output, progress = process.communicate(timeout=1500)
    assert process.returncode == 0, progress
    assert (clone / ".venv" / "bin" / "paceline").exists()

    page = Path(output.rstrip().splitlines()[-1])
    folder = page.parents[1]
    assert folder.parent == clone / "outputs" and page.name == "index.html"
    runs = [
        (json.loads((run / "launch.json").read_text()), json.loads((run / "case.json").read_text()))
        for run in folder.glob("runs/*/attempt-1")
    ]
    results = [json.loads(path.read_text()) for path in folder.glob("runs/*/attempt-*/result.json")]
    assert [result["status"] for result in results] == ["completed"] * 7, "a warm-up, and three repeats of two sizes"

    with (folder / "report" / "scaling.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["world_size"], row["repeats"], row["num_envs"]) for row in rows] == [
        ("1", "3", "1024"),
        ("2", "3", "1024"),
    ]
    for row in rows:
        assert float(row["total_fps_low"]) < float(row["total_fps"]) < float(row["total_fps_high"])
        assert f"{float(row['total_fps']):,.0f}" in output, "the terminal shows the numbers of the file"
    started = sorted((launch["submitted_unix_s"], case["kind"], case["world_size"]) for launch, case in runs)
    assert started[0][1] == "warmup"
    sizes = [size for _, _, size in started[1:]]
    assert [sorted(sizes[i : i + 2]) for i in (0, 2, 4)] == [[1, 2]] * 3, "repeats are interleaved"
    assert not re.search(r"Traceback|Warning", progress), progress

    # The clone stays as it was cloned: all that was made is ignored by git.
    status = subprocess.run(["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True, check=True)
    assert all((ROOT / line[3:]).exists() for line in status.stdout.splitlines()), status.stdout

    # Again: nothing is left to run.
    again = subprocess.run(
        ["make", "strong-scaling"],
        cwd=clone,
        env=plain,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    assert again.stdout.rstrip().splitlines()[-1] == str(page)
    assert len(list(folder.glob("runs/*/attempt-*"))) == 7
