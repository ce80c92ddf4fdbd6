"""`paceline run`: run a study, or complete it, and report."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from paceline.bench.commands import common

if TYPE_CHECKING:
    from collections.abc import Callable

    from paceline.bench.launch import OpenStudy
    from paceline.bench.status import CaseStatus

EXAMPLE = "paceline run strong_scaling --set task=Isaac-Ant-Direct --set world_sizes=1,2,4 --set repeats=5"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    common.add_study_arguments(parser)
    parser.add_argument(
        "--folder",
        metavar="DIR",
        help="where the study is kept (default: a folder below outputs/, named by its content)",
    )


def run(args: argparse.Namespace) -> int:
    """Run what is missing in the study's folder, then report; exit code 0, or 1 if a case did not complete."""
    from paceline.bench import launch

    study, cluster = common.resolved_study(args)
    folder = Path(args.folder) if args.folder else launch.default_folder(study, cluster)
    return drive(launch.create(folder, study, cluster))


def drive(opened: OpenStudy, wanted: Callable[[CaseStatus], bool] = lambda status: True) -> int:
    """Bring an open study to its end under its lock, and report. ``wanted`` picks what may be started."""
    if opened.study.kind == "sweep":
        from paceline.bench.commands.sweep import drive as drive_sweep

        return drive_sweep(opened)
    from paceline.bench import launch
    from paceline.bench.display import Display
    from paceline.bench.driver import Driver
    from paceline.bench.lock import StudyLock

    console = common.console()
    with StudyLock(opened.directory):
        job_side = launch.job_side(opened.cluster, console.print)
        title = f"{opened.study.name} in {opened.directory.path}"
        with Display(console, title) as display:
            try:
                statuses = Driver(opened, job_side, display).run(wanted)
            except KeyboardInterrupt:
                display.say(_how_to_go_on(opened))
                raise
            display.close(statuses)
        return common.finish(opened, statuses)


def _how_to_go_on(opened: OpenStudy) -> str:
    folder = opened.directory.path
    if opened.cluster.scheduler == "slurm":
        return (
            f"the jobs stay in the queue: `paceline watch {folder}` picks them up, `paceline cancel {folder}` ends them"
        )
    return f"nothing that completed is lost: `paceline retry {folder}` goes on"
