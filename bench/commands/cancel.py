"""`paceline cancel`: end everything of a study or campaign that is queued or running."""

from __future__ import annotations

import argparse
from pathlib import Path

from paceline.bench.commands import common

EXAMPLE = "paceline cancel outputs/strong-scaling-Isaac-Ant-Direct-rsl_rl-16384envs-mysite"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    common.add_folder_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Cancel, and say what was cancelled. Records of completed runs stay."""
    from paceline.bench import driver, launch
    from paceline.bench.campaignfile import CampaignDir
    from paceline.bench.display import case_label

    folder = launch.find_folder(args.folder)
    if CampaignDir(folder).exists():
        return cancel_campaign(folder)
    cancelled = driver.cancel(launch.open_study(folder))
    for status in cancelled:
        print(f"cancelled: {case_label(status)} (job {status.job_id})")
    if not cancelled:
        print("nothing of this study is queued or running")
    return 0


def cancel_campaign(folder: Path) -> int:
    """Cancel the starts of a campaign; one that is running saves a checkpoint first."""
    from paceline.bench import campaign, campaigndriver

    ended = campaigndriver.cancel(campaign.open_campaign(folder))
    for start in ended:
        print(f"cancelled: start {start.run.attempt}, {start.state} (job {start.job_id})")
    print(f"`paceline resume {folder}` goes on" if ended else "nothing of this campaign is queued or running")
    return 0
