"""Planning and rendering 1,000 cases: from the study file to the text of every job script. Target: 2 s."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from paceline.bench.cluster import load_cluster, shipped
from paceline.bench.plan import make_plan
from paceline.bench.render import render_job
from paceline.bench.rundir import StudyDir
from paceline.bench.study import load_study, resolve

TARGET_S = 2.0


def main() -> int:
    """Print the figure; return 1 if it misses the target."""
    start = time.perf_counter()
    cluster = load_cluster(shipped()["slurm_typed_gres"])
    study = resolve(load_study("strong_scaling", {"repeats": "250"}), cluster)
    plan = make_plan(study, cluster)
    folder = StudyDir(Path("/results/study"))
    size = sum(len(render_job(case, cluster, folder, 1, "python3", "/assets")) for case in plan.cases)
    elapsed_s = time.perf_counter() - start
    if len(plan.cases) != 1000 or size < 1_000_000:
        raise AssertionError(f"{len(plan.cases)} cases, {size} characters: this measures something else")
    print(f"plan and render {len(plan.cases)} cases: {elapsed_s:.2f} s (target {TARGET_S:.0f} s)")
    return 0 if elapsed_s <= TARGET_S else 1


if __name__ == "__main__":
    sys.exit(main())
