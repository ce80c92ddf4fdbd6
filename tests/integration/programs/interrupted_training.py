"""Campaigns on a real Slurm with a time limit of minutes and random kills: is the joined record one training?

    .venv/bin/python tests/integration/programs/interrupted_training.py TASK ITERATIONS [--trainers NAMES] [--keep DIR]

Runs the trainers side by side on a Slurm of its own, kills ranks at random times, and prints for each trainer how often
it was started and why each start ended, what was lost, and the reward before and after each resume. --keep copies the
records (as in tests/data/campaigns). By hand: it takes minutes. tests/integration/test_campaign.py holds the same with
a shorter campaign.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from paceline.analysis import campaign as campaigns
from paceline.bench.campaignfile import runs_in_order

KEPT = (
    *("type", "schema", "case_id", "attempt", "rank", "world_size", "clock_origin_unix_s", "seed", "problem"),
    *("versions", "start_iteration", "resumed_from", "columns"),
)
"""Keys of a record's header that are kept: no hardware, no host."""
ROOT = Path(__file__).resolve().parents[3]
PROFILE = """
schema: paceline.cluster/1
name: shortjobs
scheduler: slurm
partition: batch
gpus_per_node: 8
nodelist: {node}
time_limit_min: {minutes}
signal_s: 30
"""


def training(folder: Path) -> tuple[int, int] | None:
    """Return (process id of rank 0, iterations recorded) of the start that is under way."""
    for run in reversed(runs_in_order(folder)):
        if not (run / "result.json").exists():
            lines = (run / "rank-0000.jsonl").read_text().splitlines()
            return int(json.loads(lines[0])["pid"]), len(lines) - 1
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("task")
    parser.add_argument("iterations", type=int)
    parser.add_argument("--trainers", default="rsl_rl,rl_games", help="one or two of them (default: %(default)s)")
    parser.add_argument("--envs", type=int, default=64, help="environments (default: %(default)s)")
    parser.add_argument("--save-interval", type=int, default=20, help="iterations (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the kills (default: %(default)s)")
    parser.add_argument("--minutes", type=int, default=2, help="time limit of a job (default: %(default)s)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="copy the records of each campaign into DIR/<trainer>")
    args = parser.parse_args()
    task, iterations = args.task, args.iterations
    chance = random.Random(args.seed)
    home = Path(tempfile.mkdtemp(prefix="paceline-interrupted-"))
    subprocess.run([ROOT / "tests/slurm/start.sh", home / "slurm"], check=True, stdout=subprocess.DEVNULL)
    environment = {**os.environ, "SLURM_CONF": str(home / "slurm/etc/slurm.conf")}
    processes = {}
    try:
        for node, trainer in zip(("node1", "node2"), args.trainers.split(","), strict=False):
            profile = home / f"{node}.yaml"
            profile.write_text(PROFILE.format(node=node, minutes=args.minutes))
            settings = {
                "task": task,
                "trainer": trainer,
                "device": "cpu",
                "num_envs": args.envs,
                "iterations": iterations,
            }
            settings |= {"save_interval": args.save_interval, "name": trainer}
            arguments = [f"--set={key}={value}" for key, value in settings.items()]
            command: list[str | Path] = [
                ROOT / ".venv/bin/paceline",
                "train",
                "cartpole_2min",
                "--cluster",
                profile,
                *arguments,
            ]
            log = open(home / f"{trainer}.log", "w")  # noqa: SIM115 (as long as the process)
            processes[trainer] = subprocess.Popen(
                [*command, "--folder", home / trainer], env=environment, stdout=log, stderr=log
            )
        early, late = iterations // 12, iterations // 4  # iterations of a start after which it may be killed
        kill_at = {trainer: chance.randint(early, late) for trainer in processes}
        killed: dict[str, list[str]] = {trainer: [] for trainer in processes}
        while any(process.poll() is None for process in processes.values()):
            time.sleep(0.5)
            for trainer in processes:
                now = training(home / trainer)
                if now is not None and now[1] >= kill_at[trainer] and len(killed[trainer]) < 2:
                    number = chance.choice([signal.SIGKILL, signal.SIGTERM])
                    os.kill(now[0], number)
                    killed[trainer].append(number.name)
                    kill_at[trainer] = chance.randint(early, late)
                    time.sleep(3)
        for trainer, process in processes.items():
            tell(home / trainer, trainer, killed[trainer], process.returncode)
            if args.keep is not None:
                keep(home / trainer, args.keep / trainer)
    finally:
        for process in processes.values():
            process.kill()
        subprocess.run([ROOT / "tests/slurm/stop.sh", home / "slurm"], check=False)
    print(home)
    return 0


def keep(folder: Path, target: Path) -> None:
    """Copy the records that say what a campaign did: no paths, no hardware, a few tens of kilobytes."""
    for name in ("campaign.json", "case.json"):
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / name, target / name)
    for run in runs_in_order(folder):
        to = target / run.relative_to(folder)
        to.mkdir(parents=True)
        header, _, rows = (run / "rank-0000.jsonl").read_text().partition("\n")
        facts = {key: value for key, value in json.loads(header).items() if key in KEPT}
        (to / "rank-0000.jsonl").write_text(json.dumps(facts, separators=(",", ":")) + "\n" + rows)
        if (run / "training.jsonl").exists():  # a start that found nothing left to do wrote none
            trained = (run / "training.jsonl").read_text().replace(f"{folder}/", "")
            (to / "training.jsonl").write_text(trained)


def tell(folder: Path, trainer: str, killed: list[str], code: int) -> None:
    """Print what became of one campaign."""
    joined = campaigns.read(folder)
    print(
        f"{trainer}: exit {code}, goal {joined.goal}, {len(joined.iteration)} iterations, "
        f"{len(joined.gaps())} missing or doubled, {joined.lost_iterations} trained again, kills {killed}, "
        f"{joined.trained_s:.0f} s"
    )
    for start in joined.starts:
        result = json.loads((start.folder / "result.json").read_text())
        at = start.start_iteration
        if not start.rows:
            print(f"  from {at:4}: nothing was left to do")
            continue
        before, after = joined.reward[max(0, at - 10) : at], joined.reward[at : at + 10]
        curve = (
            f"reward {np.nanmean(before):.3g} -> {np.nanmean(after):.3g}" if at else f"reward {np.nanmean(after):.3g}"
        )
        print(f"  from {at:4}: {len(start.rows):4} iterations, {result['cause'] or result['status']}; {curve}")
    print(f"  last ten: reward {np.nanmean(joined.reward[-10:]):.3g}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
