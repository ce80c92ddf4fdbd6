"""`paceline resume`: go on with a campaign that stopped, or from a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = "paceline resume outputs/spot_rough_48h-mysite --from outputs/spot_rough_48h-mysite/checkpoints/model_9500.pt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("folder", metavar="FOLDER", help="a campaign folder")
    parser.add_argument(
        "--from",
        metavar="CHECKPOINT",
        dest="source",
        help="a checkpoint to go on from (default: the newest that is whole); what was trained after it counts no more",
    )
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="settings",
        help="change a goal or how checkpoints are kept, e.g. --set iterations=40000 --set keep.best=5",
    )


def run(args: argparse.Namespace) -> int:
    """Go on until a goal is reached; exit code 0, or 1 if the campaign stopped before."""
    from paceline.bench import campaign, launch, presetcheck
    from paceline.bench.commands import common, train
    from paceline.bench.errors import LaunchError
    from paceline.bench.preset import load_preset
    from paceline.bench.status import UNFINISHED

    opened = campaign.open_campaign(launch.find_folder(args.folder))
    folder = opened.folder.path
    if any(start.state in UNFINISHED for start in opened.starts()):
        raise LaunchError(f"{folder}: is under way; `paceline cancel {folder}` ends it first")
    layers = {}
    if args.settings or args.source is not None:
        python = launch.planned_python(opened.cluster) if opened.cluster.runtime.kind == "none" else ""
        preset = load_preset(opened.folder.preset_yaml, common.settings_of(args.settings))
        checked = presetcheck.check(preset, python)
        layers = checked.hidden_layers
        if args.settings:
            opened = campaign.create(folder, preset, checked, opened.cluster)
    contents = campaign.request_resume(opened, Path(args.source) if args.source else None, layers)
    if contents is not None:
        common.console().print(f"going on from iteration {contents.next_iteration}, {args.source}", soft_wrap=True)
    return train.drive(opened)
