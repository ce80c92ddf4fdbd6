"""`paceline budget`: how long a training takes, or what fits into a time, from measured throughput."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from paceline.bench.errors import StudyError

if TYPE_CHECKING:
    from paceline.analysis.budget import Measured

EXAMPLE = (
    "paceline budget outputs/my-sweep --frames 3e9 --time-limit 24\n"
    "  paceline budget outputs/my-sweep --hours 48\n"
    "  paceline budget --fps 36000 --envs 8192 --horizon 24 --iterations 17000"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "source", metavar="SOURCE", nargs="?", help="a study folder, or a CSV table with a throughput in each row"
    )
    parser.add_argument(
        "--fps", metavar="X", type=_positive, help="in the place of SOURCE: frames/s, all GPUs together"
    )
    parser.add_argument("--fps-low", metavar="X", type=_positive, help="lower bound of --fps")
    parser.add_argument("--fps-high", metavar="X", type=_positive, help="upper bound of --fps")
    parser.add_argument(
        "--gpus", metavar="N", type=_count, help="only this number of GPUs (with --fps: how many it is of)"
    )
    parser.add_argument(
        "--envs", metavar="N", type=_count, help="only this number of environments, of all GPUs together"
    )
    parser.add_argument(
        "--horizon", metavar="N", type=_count, help="environment steps per iteration, if SOURCE does not say"
    )
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--frames", metavar="N", type=_positive, help="how long do so many frames take?")
    asked.add_argument("--iterations", metavar="N", type=_count, help="how long do so many iterations take?")
    asked.add_argument("--hours", metavar="H", type=_positive, help="what fits into so many hours?")
    asked.add_argument("--gpu-hours", metavar="H", type=_positive, help="what fits into so many GPU-hours?")
    parser.add_argument("--time-limit", metavar="H", type=_positive, help="hours that one job may take at most")
    parser.add_argument(
        "--save-interval", metavar="N", type=_count, help="iterations between checkpoints (default 50)", default=50
    )
    parser.add_argument(
        "--checkpoint-mb", metavar="MB", type=_positive, help="size of a checkpoint (default: measured)"
    )
    parser.add_argument(
        "--startup-s", metavar="S", type=float, help="seconds before the first iteration (default: measured)"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how to print (default: text)")


def run(args: argparse.Namespace) -> int:
    """Print the budget; exit code 0."""
    from paceline.analysis import budgettext
    from paceline.analysis.budget import Wish

    wish = Wish(
        frames=args.frames,
        iterations=args.iterations,
        hours=args.hours,
        gpu_hours=args.gpu_hours,
        time_limit_h=args.time_limit,
        save_interval=args.save_interval,
    )
    measured = _changed(_measured(args), args)
    if args.format == "json":
        print(json.dumps(budgettext.data(measured, wish, args.source or "--fps"), indent=1, allow_nan=False))
        return 0
    sys.stdout.write(budgettext.text(measured, wish).rstrip() + "\n")
    return 0


def _measured(args: argparse.Namespace) -> list[Measured]:
    from paceline.analysis import budget
    from paceline.analysis.stats import Estimate

    if (args.source is None) == (args.fps is None):
        raise StudyError("state a study folder or table, or --fps; not both")
    if args.source is None:
        low, high = args.fps_low, args.fps_high
        if (low is None) != (high is None) or (low is not None and not low <= args.fps <= high):
            raise StudyError("--fps-low and --fps-high bound --fps: state both, with --fps between them")
        label = f"{args.gpus or 1} GPU" + ("s" if (args.gpus or 1) > 1 else "")
        return [
            budget.Measured(
                label=label,
                world_size=args.gpus or 1,
                num_envs=args.envs,
                horizon=args.horizon,
                fps=Estimate(args.fps, low, high),
                repeats=None,
                interval_from="stated" if low is not None else "none",
            )
        ]
    path = Path(args.source)
    if path.is_file():
        found = budget.from_table(path, args.horizon)
    else:
        from paceline.bench.launch import find_folder

        found = budget.from_folder(find_folder(args.source))
    chosen = [m for m in found if args.gpus in (None, m.world_size) and args.envs in (None, m.num_envs)]
    if not chosen:
        have = ", ".join(each.label for each in found)
        raise StudyError(f"{args.source}: nothing there with --gpus {args.gpus} --envs {args.envs} (it has: {have})")
    return chosen


def _changed(measured: list[Measured], args: argparse.Namespace) -> list[Measured]:
    """Return what was measured with what the command line states in its place."""
    from dataclasses import replace

    changes = {}
    if args.checkpoint_mb is not None:
        changes["checkpoint_bytes"] = args.checkpoint_mb * 1e6
    if args.startup_s is not None:
        if not 0 <= args.startup_s < 1e6:
            raise StudyError(f"--startup-s {args.startup_s:g}: state seconds, 0 or more")
        changes["startup_s"] = args.startup_s
    return [replace(each, **changes) for each in measured]


def _positive(text: str) -> float:
    """Return a positive number; 3e9, 3_000 and 1.5 are such."""
    value = float(text)
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(text)
    return value


def _count(text: str) -> int:
    """Return a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


_positive.__name__ = "positive number"  # argparse names the type in its message
_count.__name__ = "whole number"
