"""How quick the command line is: `paceline --help`, and `paceline status` of a study with 1,000 runs."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from paceline.bench import cluster, launch, study
from paceline.bench.record import ITERATION_COLUMNS, LAUNCH_SCHEMA, RANK_SCHEMA, Result
from paceline.bench.rundir import write_json

COMMAND = Path(sys.executable).with_name("paceline")
HELP_TARGET_S = 0.2
STATUS_TARGET_S = 1.0
RUNS = 1000


def median_time_s(*arguments: str | Path, repeats: int = 9) -> float:
    """Return the median wall time of a command over several calls, after one that warms the file cache."""
    # As users have it: bytecode is written by the first call and read by the others.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    times = []
    for number in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run([COMMAND, *arguments], stdout=subprocess.DEVNULL, env=environment, check=True)
        if number:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def make_study(folder: Path) -> None:
    """Write a study folder with 1,000 runs, most completed, some failed, some under way in this process's name."""
    site = cluster.load_cluster("local")
    settings = {"device": "cpu", "world_sizes": "1,2,4,8", "repeats": str(RUNS // 4), "num_envs": "2048"}
    resolved = study.resolve(study.load_study("strong_scaling", settings), site, 0)
    opened = launch.create(folder, resolved, site)
    cases = opened.plan.cases
    assert len(cases) == RUNS
    for number, case in enumerate(cases):
        run = opened.directory.run(case.case_id, 1)
        run.path.mkdir(parents=True)
        write_json(run.case_json, case.to_json())
        launched = {"schema": LAUNCH_SCHEMA, "launcher": "local", "job_id": None, "pid": os.getpid()}
        write_json(run.launch_json, {**launched, "hostname": os.uname().nodename, "submitted_unix_s": 0.0})
        running, failed = number % 10 == 8, number % 10 == 9
        for rank in range(case.world_size):
            rows = [[i, *([0.5] * (len(ITERATION_COLUMNS) - 1))] for i in range(case.iterations // (1 + running))]
            header = {"type": "header", "schema": RANK_SCHEMA, "columns": ITERATION_COLUMNS}
            run.rank_jsonl(rank).write_text("".join(json.dumps(line) + "\n" for line in (header, *rows)))
        if not running:
            result = Result(
                case_id=case.case_id,
                attempt=1,
                status="failed" if failed else "completed",
                cause="error" if failed else None,
                message="RuntimeError: out of patience" if failed else None,
                exit_code=int(failed),
                ranks_expected=case.world_size,
                ranks_completed=() if failed else tuple(range(case.world_size)),
                start_unix_s=0.0,
                end_unix_s=1.0,
            )
            write_json(run.result_json, result.to_json())


def main() -> int:
    """Print the figures; return 1 if one misses its target."""
    help_s = median_time_s("--help")
    print(f"paceline --help: {help_s:.3f} s (target at most {HELP_TARGET_S} s)")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "study"
        make_study(folder)
        status_s = median_time_s("status", folder, repeats=5)
        counted = subprocess.run([COMMAND, "status", folder], capture_output=True, text=True, check=True).stdout
        expected = f"{RUNS * 8 // 10} completed, {RUNS // 10} running, {RUNS // 10} failed"
        assert counted.splitlines()[-1].startswith(expected), counted.splitlines()[-1]
    print(f"paceline status of {RUNS:,} runs: {status_s:.3f} s (target at most {STATUS_TARGET_S} s)")
    return int(help_s > HELP_TARGET_S or status_s > STATUS_TARGET_S)


if __name__ == "__main__":
    sys.exit(main())
