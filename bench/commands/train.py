"""`paceline train`: train to the end, over as many jobs as it takes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from paceline.bench.commands import common
from paceline.bench.errors import StudyError

if TYPE_CHECKING:
    from paceline.bench.campaign import OpenCampaign
    from paceline.bench.presetcheck import Checked

EXAMPLE = "paceline train anymal_c_rough_48h --cluster mysite"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "preset",
        metavar="PRESET",
        help="a preset file, or the name of a shipped one (cartpole_2min, anymal_c_rough_48h, spot_rough_48h)",
    )
    add_campaign_arguments(parser)
    parser.add_argument(
        "--check", action="store_true", help="only check the preset against the task, and say what it changes"
    )
    parser.add_argument(
        "--from", metavar="CHECKPOINT", dest="source", help="begin with a checkpoint of another training"
    )


def add_campaign_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `paceline train` has in common with studies."""
    parser.add_argument(
        "--cluster", metavar="NAME", default="local", help="a cluster profile (default: local, this machine)"
    )
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="settings",
        help="replace a value of the preset, e.g. --set iterations=500, --set rewards.feet_air_time=0.5",
    )
    parser.add_argument("--folder", metavar="DIR", help="where the campaign is kept (default: a folder below outputs/)")


def run(args: argparse.Namespace) -> int:
    """Check the preset, then train until a goal is reached; exit code 0, or 1 if the campaign stopped before."""
    from paceline.bench import campaign, launch, presetcheck
    from paceline.bench import preset as presets
    from paceline.bench.cluster import load_cluster

    cluster = load_cluster(args.cluster)
    preset = presets.load_preset(args.preset, common.settings_of(args.settings))
    console = common.console()
    side = launch.job_side(cluster, console.print)
    checked = presetcheck.check(preset, side.python if cluster.runtime.kind == "none" else "")
    if not checked.verified:
        console.print(
            f"note: the jobs' Python does not run on this machine: settings of {preset.task} are not checked here",
            soft_wrap=True,
        )
    if not cluster.setup:  # a profile's own set-up may add packages in the jobs
        presetcheck.require_packages(preset, checked, side.python)
    if args.check:
        _tell_changes(checked)
        return 0
    folder = Path(args.folder) if args.folder else campaign.default_folder(preset, cluster)
    if args.source is not None:
        campaign.check_checkpoint(
            Path(args.source), campaign.make_case(preset, checked, cluster), checked.hidden_layers
        )
    opened = campaign.create(folder, preset, checked, cluster)
    if args.source is not None:
        if opened.runs():
            raise StudyError(
                f"{folder}: has begun already; `paceline resume {folder} --from {args.source}` goes on from there"
            )
        campaign.request_resume(opened, Path(args.source), checked.hidden_layers)
    return drive(opened)


def drive(opened: OpenCampaign) -> int:
    """Bring a campaign to its end under its lock, with progress; return the exit code."""
    from paceline.bench import campaigndriver, launch
    from paceline.bench.commands.campaignview import View
    from paceline.bench.lock import StudyLock

    console = common.console()
    with StudyLock(opened.directory):
        side = launch.job_side(opened.cluster, console.print)
        with View(console, opened) as view:
            try:
                if opened.cluster.scheduler == "slurm":
                    if not campaigndriver.completed(opened, opened.starts()):
                        campaigndriver.submit_chain(opened, side, view.say)
                    starts = campaigndriver.follow(
                        opened, view.show, lambda: campaigndriver.submit_chain(opened, side, view.say)
                    )
                elif campaigndriver.completed(opened, opened.starts()):
                    starts = opened.starts()
                else:
                    starts = campaigndriver.run_locally(opened, side, view.show, view.say)
            except KeyboardInterrupt:
                view.say(_how_to_go_on(opened))
                raise
        return view.finish(starts)


def _tell_changes(checked: Checked) -> None:
    width = max(map(len, checked.settings), default=0)
    for key, value in checked.settings.items():
        before = checked.defaults.get(key)
        same = "as it is" if before == value else f"was {before}"
        print(f"{key:{width}}  {value}  ({same})")


def _how_to_go_on(opened: OpenCampaign) -> str:
    folder = opened.folder.path
    if opened.cluster.scheduler == "slurm":
        return f"the jobs stay in the queue: `paceline watch {folder}` shows them, `paceline cancel {folder}` ends them"
    return f"the newest checkpoint is kept: `paceline resume {folder}` goes on"
