"""The trace analysis against its targets and its peers, on synthetic captures made for the occasion.

    .venv/bin/python tests/benchmarks/trace.py                  5 M kernels, 1 M ranges, 5 runs
    .venv/bin/python tests/benchmarks/trace.py large            20 M kernels; 16 M ranges with 2 M kernels; 3 runs
    .venv/bin/python tests/benchmarks/trace.py peers NSYS NSYS_AI [KERNELS]

`peers` gives the same file to `nsys stats -r nvtx_gpu_proj_sum` and nsys-ai's `skill run nvtx_layer_breakdown`, which
start without a cache, in turn. Every run is a fresh process from start to printed result, the file in the page cache.
Captures are made in a temporary folder (TMPDIR names another) and deleted: 0.7 GB for 5 M kernels, 2.7 GB for 20 M.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from tests.tracegen import synthetic  # noqa: E402

TARGETS = {"5 M kernels": (5.0, 1.5), "20 M kernels": (20.0, 4.0), "NVTX-heavy": (20.0, None)}
LIMIT_S = 1800


def main(arguments: list[str]) -> int:
    """Run what was asked for; return 1 if a target was missed."""
    with tempfile.TemporaryDirectory(prefix="paceline-trace-") as folder:
        path = Path(folder) / "capture.sqlite"
        if arguments[:1] == ["peers"]:
            kernels = int(arguments[3]) if len(arguments) > 3 else 1_000_000
            print_made(path, kernels, kernels // 5)
            return peers(path, arguments[1], arguments[2])
        missed = 0
        if arguments[:1] == ["large"]:
            print_made(path, 20_000_000, 4_000_000)
            missed += ours(path, "20 M kernels", 3)
            print_made(path, 2_000_000, 16_000_000, inline_names=True)
            missed += ours(path, "NVTX-heavy", 3)
        else:
            print_made(path, 5_000_000, 1_000_000)
            missed += ours(path, "5 M kernels", 5)
        return int(missed > 0)


def print_made(path: Path, kernels: int, ranges: int, inline_names: bool = False) -> None:
    """Make a capture of 8 processes."""
    # In a process of its own: the peak memory of a child counts from that of the process that starts it.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        rows = pool.apply(synthetic, (path, kernels, ranges), {"inline_names": inline_names})
    text = ", ".join(f"{count:,} {name}" for name, count in rows.items())
    print(f"trace capture: {path.stat().st_size / 1e9:.2f} GB, {text}", flush=True)


def ours(path: Path, name: str, repeats: int) -> int:
    """Print time and memory of ``paceline trace``; return how many targets were missed."""
    command = [str(Path(sys.executable).with_name("paceline")), "trace", str(path), "--format", "json"]
    timed(command)  # compiles, unless that was done before
    runs = [timed(command) for _ in range(repeats)]
    wall, cpu, memory = (statistics.median(run[i] for run in runs) for i in range(3))
    most_s, most_gb = TARGETS[name]
    print(f"trace {name}: {wall:.1f} s wall, {cpu:.1f} s processor (target {most_s:.0f} s wall), median of {repeats}")
    limit = f"target {most_gb} GB" if most_gb else "no target"
    print(f"trace {name}: {memory:.2f} GB peak ({limit})", flush=True)
    return int(wall > most_s) + int(most_gb is not None and memory > most_gb)


def peers(path: Path, nsys: str, nsys_ai: str) -> int:
    """Print times of the peers and of Paceline on one file, in turn, and the ratios."""
    commands = {
        "paceline": [str(Path(sys.executable).with_name("paceline")), "trace", str(path), "--format", "json"],
        "nsys stats": [nsys, "stats", "-q", "-r", "nvtx_gpu_proj_sum", "--format", "csv", str(path)],
        "nsys-ai": [nsys_ai, "skill", "run", "nvtx_layer_breakdown", str(path)],
    }
    timed(commands["paceline"])
    runs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
    for _ in range(int(os.environ.get("REPEATS", "5"))):
        for name, command in commands.items():
            for made in path.parent.iterdir():  # caches of the run before
                if made != path:
                    shutil.rmtree(made) if made.is_dir() else made.unlink()
            runs[name].append(timed(command))
    medians = {name: [statistics.median(run[i] for run in found) for i in range(3)] for name, found in runs.items()}
    for name, (wall, cpu, memory) in medians.items():
        ratio = wall / medians["paceline"][0]
        print(
            f"trace peers, {name}: {wall:.1f} s wall, {cpu:.1f} s processor, {memory:.2f} GB, {ratio:.1f} x", flush=True
        )
    return int(any(medians[name][0] < 10 * medians["paceline"][0] for name in ("nsys stats", "nsys-ai")))


def timed(command: list[str]) -> tuple[float, float, float]:
    """Return wall time (s), processor time (s) and peak memory (GB) of a command and its children."""
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        timer = threading.Timer(LIMIT_S, process.kill)
        timer.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            text = errors.read().decode(errors="replace")[-500:]
            raise SystemExit(f"{' '.join(command)}: exit code {process.returncode} after {wall:.0f} s: {text}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
