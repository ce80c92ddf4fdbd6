"""`paceline retry`: run the cases that failed or are missing, and report."""

from __future__ import annotations

import argparse

from paceline.bench.commands import common
from paceline.bench.commands.run import drive

EXAMPLE = "paceline retry outputs/strong-scaling-Isaac-Cartpole-Direct-rsl_rl-2048envs-local"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    common.add_folder_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Start every case that has neither completed nor is under way; exit code as `paceline run`."""
    from paceline.bench import launch

    return drive(launch.open_study(launch.find_folder(args.folder)))
