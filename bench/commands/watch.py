"""`paceline watch`: follow a study or a campaign that is under way."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paceline.bench.commands import common

if TYPE_CHECKING:
    from paceline.bench.display import Display
    from paceline.bench.driver import Driver
    from paceline.bench.launch import OpenStudy
    from paceline.bench.status import CaseStatus

EXAMPLE = """paceline watch outputs/strong-scaling-Isaac-Ant-Direct-rsl_rl-16384envs-mysite
  paceline watch outputs/spot_rough_48h-mysite --once
  paceline watch outputs/spot_rough_48h-mysite --mail me@example.org"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    common.add_folder_argument(parser)
    parser.add_argument("--once", action="store_true", help="campaign: print how it stands and its alerts, and end")
    parser.add_argument(
        "--mail", metavar="ADDRESS", help="campaign: send new alerts there, through the mail server of this host"
    )
    parser.add_argument("--webhook", metavar="URL", help="campaign: post new alerts there, as JSON with a key text")


def run(args: argparse.Namespace) -> int:
    """Follow until nothing is queued or running, then report. Any number of watchers may follow one folder."""
    from paceline.bench import driver, launch
    from paceline.bench.campaignfile import CampaignDir
    from paceline.bench.display import Display
    from paceline.bench.errors import LaunchError

    folder = launch.find_folder(args.folder)
    if CampaignDir(folder).exists():
        return watch_campaign(folder, args)
    for option in ("once", "mail", "webhook"):
        if getattr(args, option):
            raise LaunchError(f"--{option}: {folder} is a study; only campaigns (`paceline train`) have it")
    opened = launch.open_study(folder)
    with Display(common.console(), f"{opened.study.name} in {opened.directory.path}") as display:
        statuses = driver.follow(opened, display, Repeater(opened, display))
        display.close(statuses)
    return common.finish(opened, statuses)


class Repeater:
    """Submits next attempts as `paceline run` would, unless another process drives the study.

    On this machine runs belong to the `paceline run` that started them, so a watcher starts none.
    """

    _PATIENCE_S = 40.0  # two looks of the process that drives the study

    def __init__(self, opened: OpenStudy, display: Display) -> None:
        self._opened = opened
        self._display = display
        self._driver: Driver | None = None
        self._waiting_since: float | None = None

    def __call__(self, statuses: Sequence[CaseStatus]) -> bool:
        """Return whether a next attempt was submitted, here or soon elsewhere."""
        from paceline.bench import launch
        from paceline.bench.driver import Driver
        from paceline.bench.errors import LaunchError
        from paceline.bench.lock import StudyLock
        from paceline.bench.retries import why_not

        if self._opened.cluster.scheduler == "local" or all(why_not(self._opened, status) for status in statuses):
            return False
        if self._driver is None:
            job_side = launch.job_side(self._opened.cluster, self._display.say)
            self._driver = Driver(self._opened, job_side, self._display)
        try:
            with StudyLock(self._opened.directory):
                self._waiting_since = None
                # Another watcher may have been quicker: under the lock, what is there now counts.
                return self._driver.repeat(self._opened.status())
        except LaunchError:
            now = time.monotonic()
            self._waiting_since = self._waiting_since or now
            time.sleep(1.0)
            return now - self._waiting_since < self._PATIENCE_S


def watch_campaign(folder: Path, args: argparse.Namespace) -> int:
    """Show a campaign once, or until nothing of it is queued or running; return 1 if it ended before its goal."""
    from paceline.bench import campaign, campaigndriver
    from paceline.bench.commands.campaignview import View
    from paceline.bench.notify import Notifier
    from rich.console import Console

    opened = campaign.open_campaign(folder)
    notifier = Notifier(opened.folder, args.mail, args.webhook)
    if args.once:
        screen = Console(highlight=False)
        if not screen.is_terminal:
            screen.width = 160
        View(screen, opened, notifier).page(opened.starts())
        return 0
    with View(common.console(), opened, notifier) as view:
        starts = campaigndriver.follow(opened, view.show)
    return view.finish(starts)
