"""What the hooks and the sampler cost, as a share of total_fps: on and off interleaved inside one training run.

    .venv/bin/python tests/benchmarks/overhead.py [--trainer rsl_rl|rl_games] [--task TASK] [--iterations N] [--nvtx]
    ... overhead.py --slots 4     four trainings at once, each on a GPU and a quarter of the cores; groups pooled
    ... overhead.py --iterations 100000 --seconds 75    as many as fit into 75 s after the warm-up

Uses a GPU if the jobs' environment sees one, else the CPU. Iterations alternate on, off, off, on, ... (so that drift
cancels). Off means that the original methods are back in place and the sampler is stopped (SIGSTOP). Both kinds are
timed by the trainer itself, the time it prints as collection + learning. No synchronised iterations: they never count
for throughput. One hook stays in both: torch's own callback after an optimiser step, which counts to 16.

With --nvtx, on and off differ in the NVTX ranges only, which no profiler listens to. Their cost is far below what the
machine's own unrest allows to see; --times 200 opens and closes each range 200 times and divides the difference by 200.

Prints the 20 % trimmed mean over groups of four of the relative cost, with a 95 % bootstrap interval; the run fails
only if the whole interval lies above the target. Beside it the same for the processor time of the training process,
which other programs on the machine disturb less, and what the calls of an iteration cost by themselves.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paceline.bench.record import Case
from paceline.bench.rundir import RunDir, StudyDir, write_json

TARGET_PCT = 0.5
NVTX_TARGET_PCT = 0.2
WARMUP = 8
ROOT = Path(__file__).resolve().parents[2]


def case_for(device: str, trainer: str, iterations: int, task: str | None, horizon: int, num_epochs: int) -> Case:
    """Return what is trained: big enough to be a real iteration, small enough to repeat it often."""
    on_gpu = device == "cuda"
    return Case(
        kind="strong",
        task=task or ("Isaac-Ant-Direct" if on_gpu else "Isaac-Cartpole-Direct"),
        trainer="rl_games" if trainer == "rl_games" else "rsl_rl",
        world_size=1,
        num_envs=4096 if on_gpu else 256,
        horizon=horizon,
        num_minibatches=4,
        num_epochs=num_epochs,
        iterations=iterations,
        warmup_iterations=WARMUP,
        repeat=0,
        seed=42,
        device="cuda" if on_gpu else "cpu",
        sync_every=0,
    )


def is_on(iteration: int) -> bool:
    """Return whether an iteration runs with hooks and sampler: on, off, off, on."""
    return iteration % 4 in (0, 3)


class Repeated:
    """Opens and closes every range a number of times, the last time around what it is about."""

    def __init__(self, ranges: Any, times: int) -> None:
        self.pop = ranges.pop
        self._ranges, self._more = ranges, range(times - 1)

    def push(self, name: str, payload: int | None = None) -> None:
        for _ in self._more:
            self._ranges.push(name, payload)
            self._ranges.pop()
        self._ranges.push(name, payload)


# ---- inside the training process ------------------------------------------------------------------------------------


def work(run: RunDir, case: Case, nvtx: bool, sampler: int, limit_s: float | None, repeated: int) -> None:
    """Train with hooks switched between iterations; write [on, seconds, processor seconds] of each to times.json.

    With ``limit_s``, training ends so many seconds after the warm-up.
    """
    from paceline.bench import hardware
    from paceline.bench.measurement import Measurement
    from paceline.bench.trainers.isaaclab import common_arguments, load_trainer, run_training
    from paceline.profiling.brackets import report
    from paceline.profiling.hooks import Attachment
    from paceline.profiling.patches import ImportWatch, Patches

    hardware.limit_threads(case.threads_per_rank)
    import torch

    torch.set_num_threads(case.threads_per_rank)
    trainer = load_trainer(case.trainer)
    measurement = Measurement(case, run, trainer)
    ranges: Any = Repeated(measurement.clock.ranges, repeated) if repeated > 1 else measurement.clock.ranges
    times: list[tuple[bool, float, float]] = []
    processor_at = time.process_time()
    ends_at = math.inf

    def write() -> None:
        Path("times.json").write_text(json.dumps({"times": times, "calls_cost_s": calls_cost_s(measurement)}))

    def after_iteration(owner: Any, args: Any, kwargs: Any, result: Any) -> None:
        spent = trainer.statistics(owner, args, kwargs, result).reported_iteration_time_s
        assert spent is not None
        nonlocal processor_at, ends_at
        on, before = is_on(len(times)), processor_at
        processor_at = time.process_time()
        times.append((on, spent, processor_at - before))
        if len(times) == WARMUP and limit_s is not None:
            ends_at = time.monotonic() + limit_s
        if time.monotonic() > ends_at:
            write()
            os._exit(0)  # the trainers have no way to stop early
        following = is_on(len(times))
        if following == on:
            return
        if nvtx:
            measurement.clock.ranges = ranges if following else None
        else:
            (measurement.patches.resume if following else measurement.patches.suspend)()
            os.kill(sampler, signal.SIGCONT if following else signal.SIGSTOP)

    reporting = tuple(hook for hook in trainer.HOOKS["3.0"] if hook.role.startswith("report"))
    roles = {hook.role: report(after_iteration, before=hook.role == "report_before") for hook in reporting}
    # These stay in place all the time, below those that are measured.
    with ImportWatch() as watch, Patches() as steady:
        Attachment(watch, steady, roles).attach(reporting)
        with measurement.attached():
            run_training(case, [*common_arguments(case), *trainer.arguments(case)])
    write()


def calls_cost_s(measurement: Any) -> float:
    """Return what the hooks of one iteration should cost: what a timed call of nothing costs, times their number.

    With NVTX ranges it is what the ranges add to it.
    """
    from paceline.profiling.brackets import timed

    case, clock = measurement.case, measurement.clock
    clock.sync = False

    def nothing() -> None:
        pass

    def per_call(function: Any, calls: int = 100_000) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            function()
        return (time.perf_counter() - start) / calls

    hooked, clock.ranges = timed(clock, 0)(nothing), None
    cost = per_call(hooked) - per_call(nothing)
    if measurement.ranges is not None:
        clock.ranges = measurement.ranges
        cost = per_call(hooked) - cost
    physics_per_env_step = 4  # at most: decimation of the tasks here
    return float(max(0.0, cost) * case.horizon * (2 + physics_per_env_step))


# ---- outside --------------------------------------------------------------------------------------------------------


def costs(times: list[list[float]], column: int) -> list[float]:
    """Return the relative cost of each group of four iterations, as logarithms, of one column of times.

    on  off off on | on  off off on | ...      cost of a group = (on + on) / (off + off) - 1
    """
    measured = times[WARMUP:]
    groups = [measured[start : start + 4] for start in range(0, len(measured) - 3, 4)]
    return [
        math.log(sum(row[column] for row in group if row[0]) / sum(row[column] for row in group if not row[0]))
        for group in groups
    ]


def interval_pct(values: list[float], resamples: int = 4000) -> tuple[float, float, float]:
    """Return the trimmed mean of logarithms of ratios, and the ends of its 95 % bootstrap interval, in percent."""
    import numpy as np

    def trimmed(rows: Any) -> Any:
        cut = rows.shape[-1] // 5
        return np.partition(rows, (cut, rows.shape[-1] - cut - 1), axis=-1)[..., cut : rows.shape[-1] - cut].mean(-1)

    given, generator = np.asarray(values), np.random.default_rng(7)
    means = np.sort([trimmed(generator.choice(given, given.size)) for _ in range(resamples)])
    found = (trimmed(given), means[int(0.025 * resamples)], means[int(0.975 * resamples)])
    return tuple(100 * float(np.expm1(value)) for value in found)  # type: ignore[return-value]


def train(
    python: Path, folder: Path, case: Case, nvtx: bool, asset_root: Path | None, more: Sequence[str]
) -> dict[str, Any]:
    """Run the training process under torchrun, with a sampler beside it, and return what it wrote."""
    run = StudyDir(folder / "study").run(case.case_id, 1)
    run.path.mkdir(parents=True)
    write_json(run.case_json, case.to_json())
    package = folder / "code" / "paceline"
    package.mkdir(parents=True)
    for part in ("bench", "profiling"):
        (package / part).symlink_to(ROOT / part)
    environment = {
        **os.environ,
        "PYTHONPATH": str(package.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "PACELINE_NVTX": "1" if nvtx else "0",
    }
    if asset_root is not None:
        environment["ISAACSIM_ASSET_ROOT"] = str(asset_root)
    sampler = subprocess.Popen(
        [python, "-m", "paceline.profiling.samplers", "--parent", str(os.getpid()), run.path], env=environment
    )
    try:
        command = [str(python), "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
        command += [str(Path(__file__).resolve()), "--worker", str(run.path), "--sampler", str(sampler.pid)]
        command += ["--nvtx"] if nvtx else []
        command += more
        done = subprocess.run(command, env=environment, cwd=run.path, capture_output=True, text=True, check=False)
    finally:
        sampler.send_signal(signal.SIGCONT)
        sampler.terminate()
        sampler.wait()
    if done.returncode:
        sys.exit(f"the training failed:\n{done.stdout[-2000:]}{done.stderr[-6000:]}")
    found: dict[str, Any] = json.loads((run.path / "times.json").read_text())
    return found


def main() -> int:
    """Print the figures; return 1 if the cost is above the target beyond doubt."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainer", choices=["rsl_rl", "rl_games"], default="rsl_rl")
    parser.add_argument("--task", help="Isaac-Ant-Direct on a GPU, else Isaac-Cartpole-Direct")
    parser.add_argument("--iterations", type=int, default=248)
    parser.add_argument("--horizon", type=int, default=16, help="shorter iterations: more pairs, fewer spikes in each")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seconds", type=float, help="end so long after the warm-up")
    parser.add_argument("--nvtx", action="store_true")
    parser.add_argument("--times", type=int, default=1, help="with --nvtx: open and close each range so often")
    parser.add_argument("--slots", type=int, default=1, help="trainings side by side")
    parser.add_argument("--slot", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--python", type=Path, help="Python of the jobs' environment; made if not given")
    parser.add_argument("--asset-root", type=Path)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--sampler", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        run = RunDir(options.worker)
        work(
            run,
            Case.from_json(json.loads(run.case_json.read_text())),
            options.nvtx,
            options.sampler,
            options.seconds,
            options.times,
        )
        return 0

    from paceline.bench import environment

    python = options.python or environment.ensure().python
    asset_root = options.asset_root or (None if options.python else environment.ensure_assets(python))
    probe = [python, "-c", "import torch; print('cuda' if torch.cuda.is_available() else 'cpu')"]
    device = subprocess.run(probe, capture_output=True, text=True, check=True).stdout.strip()
    case = case_for(device, options.trainer, options.iterations, options.task, options.horizon, options.epochs)
    if options.slots > 1 and options.slot is None:
        sys.path.insert(0, str(ROOT))
        from tests.benchmarks.slots import side_by_side

        printed = side_by_side(options.slots, __file__, [*sys.argv[1:], "--slot", "{slot}"])
        return judge(options, case, [json.loads(text) for text in printed])
    more = ["--times", str(options.times), *(["--seconds", str(options.seconds)] if options.seconds else [])]
    with tempfile.TemporaryDirectory() as name:
        found = train(python, Path(name), case, options.nvtx, asset_root, more)
    if options.slot is not None:
        print(json.dumps(found))
        return 0
    return judge(options, case, [found])


def judge(options: argparse.Namespace, case: Case, found: list[dict[str, Any]]) -> int:
    """Print the figures of all trainings together; return 1 if the cost is above the target beyond doubt."""
    middle, low, high = (
        value / options.times for value in interval_pct([cost for one in found for cost in costs(one["times"], 1)])
    )
    processor = [
        value / options.times for value in interval_pct([cost for one in found for cost in costs(one["times"], 2)])
    ]
    spent = [row[1] for one in found for row in one["times"][WARMUP:]]
    typical, calls = statistics.median(spent), statistics.median(one["calls_cost_s"] for one in found)
    target = NVTX_TARGET_PCT if options.nvtx else TARGET_PCT
    what = "NVTX ranges without a profiler" if options.nvtx else "hooks and sampler"
    what += f" (each {options.times} times, divided by it)" if options.times > 1 else ""
    judged = "" if high <= target else " ABOVE TARGET" if low > target else " (inconclusive)"
    print(
        f"{what}, {case.task} {case.trainer} on {case.device}: {middle:+.3f} % of total_fps, 95 % interval "
        f"{low:+.3f} to {high:+.3f} % (target at most {target} %){judged}; processor time {processor[0]:+.2f} %, "
        f"{processor[1]:+.2f} to {processor[2]:+.2f} %; calls alone {100 * calls / typical:.3f} %; "
        f"{len(spent)} iterations of {typical:.3f} s in {len(found)} trainings"
    )
    return 1 if low > target else 0


if __name__ == "__main__":
    sys.exit(main())
