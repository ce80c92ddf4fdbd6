"""Benchmark of the README's first command: `make strong-scaling` in a fresh clone, from the first job to the report.

What is set up before the first job (environments, downloads) is printed apart and has no target.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET_S = 300  # on two cores


def main() -> int:
    """Clone this checkout, run the command there, print both times; return 1 if the target was missed."""
    with tempfile.TemporaryDirectory(prefix="paceline-first-report-") as folder:
        clone = Path(folder) / "paceline"
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        started = time.time()
        done = subprocess.run(
            ["make", "strong-scaling"],
            cwd=clone,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        ended = time.time()
        if done.returncode:
            print(f"make strong-scaling: failed with exit {done.returncode}")
            return 1
        study = Path(done.stdout.rstrip().splitlines()[-1]).parents[1]
        launches = [json.loads(path.read_text()) for path in study.glob("runs/*/attempt-*/launch.json")]
        first = min(launch["submitted_unix_s"] for launch in launches)
    print(f"make strong-scaling, set-up of environments: {first - started:.0f} s")
    print(f"make strong-scaling, {len(launches)} runs and report: {ended - first:.0f} s (target {TARGET_S} s)")
    return int(ended - first > TARGET_S)


if __name__ == "__main__":
    sys.exit(main())
