"""What measuring costs: `total_fps` under Paceline against Isaac Lab's stock launcher, the same case side by side.

    .venv/bin/python tests/benchmarks/stock.py                    1 CPU rank, or all GPUs of this machine
    ... stock.py --trainer rl_games --task Isaac-Cartpole-Direct --gpus 4 --envs 16384 --cluster gpuhost.yaml
    ... stock.py --gpus 1 --slots 4            four series of pairs at once, each on a GPU and a quarter of the cores

Runs alternate (ours, stock; stock, ours; ...), and a pair is two neighbours. Both get the same number of CPU threads:
left alone, the stock launcher gives a single rank all cores and several ranks one each. Paceline's rate is over its
undisturbed iterations after the warm-up, the stock rate over all iterations after the warm-up, as its own console log
tells them (rank 0).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from paceline.analysis import load, summary
from paceline.bench import cluster as clusters
from paceline.bench import launch, local
from paceline.bench import study as studies
from paceline.bench.display import Display
from paceline.bench.driver import Driver
from paceline.bench.errors import PacelineError
from paceline.bench.record import Case
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.benchmarks.slots import paired_interval, side_by_side

TARGET = 0.01
_RATES = {
    "rsl_rl": re.compile(r"Steps per second: +(\d+)"),
    "rl_games": re.compile(r"fps total: +(\d+) epoch: +\d+"),
}


def stock_command(case: Case, python: str) -> list[str]:
    """Return the command line of the stock launcher for a case."""
    trainer = (
        [f"agent.algorithm.num_mini_batches={case.num_minibatches}", f"agent.num_steps_per_env={case.horizon}"]
        if case.trainer == "rsl_rl"
        else [
            f"agent.params.config.minibatch_size={case.minibatch_size_per_rank}",
            f"agent.params.config.horizon_length={case.horizon}",
        ]
    )
    if case.device == "cpu":
        own = ["train", "--device", "cpu"]
        trainer += (
            ["agent.device=cpu"]
            if case.trainer == "rsl_rl"
            else [
                "agent.params.config.device=cpu",
                "agent.params.config.device_name=cpu",
                "+agent.params.config.torch_compile=False",
            ]
        )
    else:
        own = ["train_multigpu", "--num_gpus", str(case.world_size)]
    common = ["--rl_library", case.trainer, "--task", case.task, "--num_envs", str(case.num_envs_per_rank)]
    length = ["--max_iterations", str(case.iterations), "--seed", str(case.seed), "--viz", "none"]
    return [python, "-m", "isaaclab", *own, *common, *length, f"physics={case.physics}", *trainer]


def run_stock(case: Case, side: launch.JobSide, cache: Path, paths: str | None, log: Path, slot: int) -> float:
    """Train once with the stock launcher and return frames per second after the warm-up, all ranks."""
    threads = str(case.threads_per_rank)
    environment = {
        **os.environ,
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads),
        "WARP_CACHE_PATH": str(cache / "warp"),
        "XDG_CACHE_HOME": str(cache / "xdg"),
        "PYTHONUNBUFFERED": "1",
        "PET_MASTER_PORT": str(29500 + slot),  # torchrun's --master-port, which the stock launcher leaves at 29500
    }
    environment.pop("PYTHONPATH", None)
    if paths:
        environment["PYTHONPATH"] = paths
    if side.asset_root:
        environment["ISAACSIM_ASSET_ROOT"] = side.asset_root
    with tempfile.TemporaryDirectory() as folder, log.open("w") as stream:
        done = subprocess.run(
            stock_command(case, side.python), cwd=folder, env=environment, stdout=stream, stderr=subprocess.STDOUT
        )
    text = log.read_text(errors="replace")
    rates = [int(rate) for rate in _RATES[case.trainer].findall(text)]
    if done.returncode or len(rates) < case.iterations:
        raise SystemExit(f"the stock launcher ended with {done.returncode} after {len(rates)} iterations: {log}")
    # Frames over time, not a mean of rates: iteration times add up, rates do not.
    return statistics.harmonic_mean(rates[case.warmup_iterations :])


def main() -> int:
    """Print one line: the ratio with its interval over repeats; return 1 if the interval lies outside the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    gpus = local.visible_gpus()
    parser.add_argument("--task", default="Isaac-Ant-Direct" if gpus else "Isaac-Cartpole-Direct")
    parser.add_argument("--trainer", default="rsl_rl", choices=sorted(_RATES))
    parser.add_argument("--gpus", type=int, default=max(1, gpus), help="number of ranks")
    parser.add_argument("--envs", type=int, default=16384 if gpus else 512, help="environments of all ranks")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=60 if gpus else 40)
    parser.add_argument("--cluster", default="local")
    parser.add_argument("--pythonpath", help="PYTHONPATH of the stock runs")
    parser.add_argument("--keep", help="folder for the study and the logs (default: a temporary one)")
    parser.add_argument("--slots", type=int, default=1, help="series of pairs side by side (single-GPU runs)")
    parser.add_argument("--slot", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.slots > 1 and args.slot is None:
        own = [*sys.argv[1:], "--slot", "{slot}"]
        if args.keep:
            own += ["--keep", f"{args.keep}/slot-{{slot}}"]
        return judge(args, [ratio for text in side_by_side(args.slots, __file__, own) for ratio in json.loads(text)])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.keep or temporary).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        return measure(args, folder)


def measure(args: argparse.Namespace, folder: Path) -> int:
    """Run both sides in turn below ``folder`` and print the line."""
    settings = {
        "task": args.task,
        "trainer": args.trainer,
        "world_sizes": str(args.gpus),
        "num_envs": str(args.envs),
        "repeats": str(args.repeats),
        "iterations": str(args.iterations),
    }
    if not local.visible_gpus():
        settings["num_minibatches"] = "4"  # few environments: the task's own minibatch would be larger than the batch
    site = clusters.load_cluster(args.cluster)
    resolved = studies.resolve(studies.load_study("strong_scaling", settings), site, local.visible_gpus())
    opened = launch.create(folder / "study", resolved, site)
    console = Console(stderr=True, highlight=False)
    side = launch.job_side(site, console.print)
    cache = Path(site.cache_dir or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "paceline")
    ours: dict[int, float] = {}
    stock: list[float] = []
    with Display(console, "stock against Paceline") as display:
        driver = Driver(opened, side, display)
        for case in opened.plan.cases:
            for turn in ("ours", "stock") if (case.repeat + (args.slot or 0)) % 2 == 0 else ("stock", "ours"):
                if turn == "ours":
                    number = case.repeat
                    driver.run(lambda s, number=number: s.case.kind == "warmup" or s.case.repeat == number)  # type: ignore[misc]
                else:
                    log = folder / f"stock-{case.repeat}.log"
                    stock.append(run_stock(case, side, cache, args.pythonpath, log, args.slot or 0))
    loaded = load.load_study(opened.directory.path)
    measured = summary.summarise(loaded, summary.run_arrays(loaded)).to_dict("index")
    for index, run in loaded.runs.to_dict("index").items():
        if run["kind"] == "strong":
            ours[int(run["repeat"])] = float(measured[index]["total_fps"])
    if len(ours) != len(stock):
        raise SystemExit(f"{len(stock) - len(ours)} of {len(stock)} runs failed: {opened.directory.path}")
    ratios = [ours[repeat] / theirs for repeat, theirs in zip(sorted(ours), stock, strict=True)]
    if args.slot is not None:
        print(json.dumps(ratios))
        return 0
    return judge(args, ratios)


def judge(args: argparse.Namespace, ratios: list[float]) -> int:
    """Print the line; return 1 if the interval lies outside the target."""
    value, low, high = paired_interval(ratios)
    interval = "n=1, no interval" if low is None or high is None else f"{low:.4f} to {high:.4f}"
    beside = f", {args.slots} series side by side" if args.slots > 1 else ""
    print(
        f"Paceline / stock launcher, {args.task} {args.trainer}, {args.gpus} ranks, {args.envs} envs{beside}: "
        f"{value:.4f} ({interval}, {len(ratios)} pairs; each: {', '.join(f'{r:.4f}' for r in ratios)}; "
        f"target within {TARGET:.0%})"
    )
    inside = low is None or high is None or (low <= 1 + TARGET and high >= 1 - TARGET)
    return 0 if inside else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PacelineError as problem:
        sys.exit(f"stock.py: {problem}")
