"""The check of a node, and NCCL's all-reduce over all GPUs of this machine."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.gpu, pytest.mark.isaaclab]


def test_node_and_all_reduce(jobs_environment: Path, repository: Path) -> None:
    done = subprocess.run(
        ["bash", repository / "tests" / "gpu" / "doctor.sh"],
        env={**os.environ, "PYTHON": str(jobs_environment)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(done.stdout[: done.stdout.index("\n]") + 2])
    states = {row["check"]: row["state"] for row in rows}
    assert states["gpus"] == "ok" and states["driver"] == "ok"
    kept = json.loads(done.stdout[done.stdout.rindex('{\n "schema"') :])
    assert kept["findings"][0]["state"] == "ok"
    assert kept["findings"][0]["bus_bandwidth_gb_per_s"] >= 0
