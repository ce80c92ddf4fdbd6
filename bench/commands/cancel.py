"""`paceline cancel`: end everything of a study that is queued or running."""

from __future__ import annotations

import argparse

from paceline.bench.commands import common

EXAMPLE = "paceline cancel outputs/strong-scaling-Isaac-Ant-Direct-rsl_rl-16384envs-mysite"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    common.add_folder_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Cancel, and say what was cancelled. Records of completed runs stay."""
    from paceline.bench import driver, launch
    from paceline.bench.display import case_label

    cancelled = driver.cancel(launch.open_study(launch.find_folder(args.folder)))
    for status in cancelled:
        print(f"cancelled: {case_label(status)} (job {status.job_id})")
    if not cancelled:
        print("nothing of this study is queued or running")
    return 0
