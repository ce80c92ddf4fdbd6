"""The check of a node, and NCCL's all-reduce over this machine's GPUs: over one, over two, over all."""

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
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    states = {row["check"]: row["state"] for row in rows}
    assert states["gpus"] == "ok" and states["driver"] == "ok"
    sums = [row for row in rows if row["check"] == "all-reduce"]
    gpus = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout.count("GPU ")
    assert len(sums) == gpus and all(row["state"] == "ok" and row["text"].startswith("nccl, ") for row in sums)
    # One rank has nobody to send to. Two and more send 64 MiB faster than any network but NVLink's or PCIe's.
    assert sums[0]["bus_bandwidth_gb_per_s"] == 0
    assert all(row["bus_bandwidth_gb_per_s"] > 1 for row in sums[1:]), sums
