"""`paceline retry`: run the cases that failed or are missing, and report."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from paceline.bench.commands import common
from paceline.bench.commands.run import drive

if TYPE_CHECKING:
    from paceline.bench.status import CaseStatus

EXAMPLE = "paceline retry outputs/strong-scaling-Isaac-Cartpole-Direct-rsl_rl-2048envs-local"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    common.add_folder_argument(parser)
    parser.add_argument("--all", action="store_true", help="also what a bug ended, which would fail again")


def run(args: argparse.Namespace) -> int:
    """Start every case that has neither completed nor is under way, bugs left out; exit code as `paceline run`."""
    from paceline.bench import launch
    from paceline.bench.display import case_label, note
    from paceline.bench.retries import policy

    opened = launch.open_study(launch.find_folder(args.folder))

    def wanted(status: CaseStatus) -> bool:
        return bool(args.all) or status.state == "missing" or policy(status) != "never"

    for status in opened.status():
        if not status.done and not wanted(status):
            print(
                f"{case_label(status)}: not repeated: {note(status)}. {status.advice} (--all repeats it all the same)",
                file=sys.stderr,
            )
    return drive(opened, wanted)
