"""How quick a report is: 12 runs, 1,000 runs of 500 iterations, 1,000 runs of 8 ranks and 500 iterations."""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[2]))

from paceline.bench.rundir import RunDir, StudyDir, write_json

from tests import synthetic

ITERATIONS = 500
RUNS = 1000
VARIANTS = 12  # different texts of one world size; the rest repeats them

CALLS = 5  # medians: the first call on a virtual machine often waits for memory that its host has yet to give
LOAD = "from paceline.analysis.load import load_study; load_study({folder!r})"
REPORT = "from pathlib import Path; from paceline.analysis.report import write_report; write_report(Path({folder!r}))"


def make_large(folder: Path, world_sizes: tuple[int, ...]) -> None:
    """Write a study of RUNS runs, as real as a generated one gets, without computing each run anew."""
    repeats = RUNS // len(world_sizes)
    recipe = synthetic.Recipe(
        world_sizes=world_sizes, repeats=repeats, iterations=ITERATIONS, warmup_iterations=50, base_time_s=0.4
    )
    synthetic.write_study_yaml(folder, recipe)
    rng = np.random.default_rng(0)
    for size in world_sizes:
        templates = []
        for number in range(VARIANTS):
            path = folder / "templates" / f"{size}-{number}"
            run = RunDir(path / "attempt-1")
            synthetic.write_run(run, recipe, size, 0, rng)
            templates.append(run)
        for repeat in range(repeats):
            case = synthetic.case_of(recipe, size, repeat)
            run = StudyDir(folder).run(case.case_id, 1)
            shutil.copytree(templates[repeat % VARIANTS].path, run.path)
            write_json(run.case_json, case.to_json())
            result = json.loads(run.result_json.read_bytes())
            write_json(run.result_json, result | {"case_id": case.case_id})
    shutil.rmtree(folder / "templates")


def measure(code: str, repeats: int = 1) -> tuple[float, float]:
    """Return the median wall time of a fresh interpreter that runs the code, and its peak memory in GiB.

    Prints the processor time, too: on a machine that others use, it says more.
    """
    before = os.times()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        times.append(time.perf_counter() - start)
    after = os.times()
    used = (after.children_user + after.children_system - before.children_user - before.children_system) / repeats
    spread = f", wall {min(times):.2f} to {max(times):.2f} s in {repeats} calls" if repeats > 1 else ""
    print(f"(processor time of the next: {used:.2f} s{spread})", flush=True)
    return statistics.median(times), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024**2


def line(name: str, found: float, target: float, unit: str) -> bool:
    """Print one figure; return whether it meets its target."""
    print(f"{name}: {found:.2f} {unit} (target at most {target:g} {unit})", flush=True)
    return found <= target


def main() -> int:
    """Print the figures; return 1 if one misses its target."""
    good = []
    # As users have it: bytecode is written by the first call and read by the others.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_CACHE_HOME"] = str(Path(name) / "cache")
        small = Path(name) / "small"
        small.mkdir()
        synthetic.write_study(small, synthetic.Recipe())
        measure(REPORT.format(folder=str(small)))  # the first report on a machine also makes the chart library's cache
        seconds, _ = measure(REPORT.format(folder=str(small)), repeats=CALLS)
        good.append(line("report of 12 runs, imports included", seconds, 2.0, "s"))

        middle = Path(name) / "middle"
        middle.mkdir()
        make_large(middle, (1, 2, 4, 8))
        seconds, gib = measure(REPORT.format(folder=str(middle)), repeats=CALLS)
        good.append(line(f"report of {RUNS:,} runs x {ITERATIONS} iterations", seconds, 10.0, "s"))
        good.append(line(f"memory of that report ({RUNS:,} runs)", gib, 1.0, "GiB"))
        shutil.rmtree(middle)

        large = Path(name) / "large"
        large.mkdir()
        make_large(large, (8,))
        seconds, _ = measure(LOAD.format(folder=str(large)), repeats=CALLS)
        good.append(line(f"load of {RUNS:,} runs x 8 ranks x {ITERATIONS} iterations", seconds, 5.0, "s"))
        seconds, gib = measure(REPORT.format(folder=str(large)), repeats=CALLS)
        good.append(line(f"report of {RUNS:,} runs x 8 ranks x {ITERATIONS} iterations", seconds, 15.0, "s"))
        good.append(line(f"memory of that report ({RUNS:,} runs x 8 ranks)", gib, 1.5, "GiB"))
    return int(not all(good))


if __name__ == "__main__":
    sys.exit(main())
