"""`paceline watch`: follow a study that is under way, and report."""

from __future__ import annotations

import argparse

from paceline.bench.commands import common

EXAMPLE = "paceline watch outputs/strong-scaling-Isaac-Ant-Direct-rsl_rl-16384envs-mysite"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    common.add_folder_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Follow until nothing is queued or running, then report. Any number of watchers may follow one study."""
    from paceline.bench import driver, launch
    from paceline.bench.display import Display

    opened = launch.open_study(launch.find_folder(args.folder))
    with Display(common.console(), f"{opened.study.name} in {opened.directory.path}") as display:
        statuses = driver.follow(opened, display)
        display.close(statuses)
    return common.finish(opened, statuses)
