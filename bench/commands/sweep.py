"""`paceline sweep`: find out how many environments a GPU should simulate, and report."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from paceline.bench.commands import common
from paceline.bench.errors import StudyError

if TYPE_CHECKING:
    from paceline.bench.launch import OpenStudy

EXAMPLE = (
    "paceline sweep --task Isaac-Ant-Direct --start 1024 --limit 65536 --cluster mysite\n"
    "  paceline sweep --from somebodys_sweep.csv --format json"
)

# Option -> key of the study file that it sets.
_SETTINGS = {"task": "task", "trainer": "trainer", "start": "start_envs", "limit": "limit_envs", "repeats": "repeats"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "study",
        metavar="STUDY",
        nargs="?",
        default="env_sweep",
        help="a study file of kind sweep (default: the shipped env_sweep)",
    )
    parser.add_argument("--task", metavar="TASK", help="Isaac Lab task id")
    parser.add_argument("--trainer", metavar="NAME", help="rsl_rl or rl_games")
    parser.add_argument("--start", metavar="N", help="environments of each rank at the first point")
    parser.add_argument("--limit", metavar="N", help="environments of each rank to stop at if nothing else does")
    parser.add_argument("--repeats", metavar="N", help="separate runs of each valid point (default 1)")
    common.add_site_arguments(parser)
    parser.add_argument(
        "--folder",
        metavar="DIR",
        help="where the sweep is kept (default: a folder below outputs/); one that is there goes on where it was",
    )
    parser.add_argument(
        "--from",
        metavar="FILE",
        dest="source",
        help="run nothing: analyse a sweep that is there, a CSV file (num_envs, total_fps ...) or a study folder",
    )
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="how to print the result (default: text)"
    )


def run(args: argparse.Namespace) -> int:
    """Run a sweep or go on with it, then report; or analyse one that is there. Exit code 0, or 1 if it broke off."""
    if args.source:
        return _analyse(Path(args.source), args.format)
    from paceline.bench import launch

    given = {key: getattr(args, option) for option, key in _SETTINGS.items() if getattr(args, option) is not None}
    args.settings = [*(f"{key}={value}" for key, value in given.items()), *args.settings]
    study, cluster = common.resolved_study(args)
    if study.kind != "sweep":
        raise StudyError(f"study {study.name!r}: kind is {study.kind}, `paceline sweep` needs kind: sweep")
    folder = Path(args.folder) if args.folder else launch.default_folder(study, cluster)
    return drive(launch.create(folder, study, cluster), args.format)


def drive(opened: OpenStudy, form: str = "text") -> int:
    """Bring a sweep to its end under its lock, with progress, and report."""
    from paceline.bench import launch
    from paceline.bench.display import Display
    from paceline.bench.lock import StudyLock
    from paceline.bench.sweepdriver import SweepDriver

    console = common.console()
    folder = opened.directory.path
    with StudyLock(opened.directory):
        job_side = launch.job_side(opened.cluster, console.print)
        with Display(console, f"{opened.study.name} in {folder}") as display:
            try:
                _, ended = SweepDriver(opened, job_side, display).run()
            except KeyboardInterrupt:
                display.say(f"nothing that ran is lost: the same command, or `paceline retry {folder}`, goes on")
                raise
            display.say(f"the sweep ended by {ended.by}: {ended.why}")
        report(folder, form)
    return 1 if ended.by == "failed" else 0


def report(folder: Path, form: str) -> None:
    """Write the report of a sweep folder and print it, as text or as the numbers of report.json."""
    from paceline.analysis import sweepreport

    analysis = sweepreport.analyse_folder(folder)
    page = sweepreport.write(analysis)
    if form == "json":
        print(json.dumps(analysis.data, indent=1, allow_nan=False))
        return
    print_text(sweepreport.text(analysis))
    print(page)


def print_sweep(folder: Path) -> None:
    """Write the report of a sweep; print it in short and, as the last line, the path of the page."""
    report(folder, "text")


def print_text(text: str) -> None:
    """Print text that is ready for a terminal, without its markup being read."""
    sys.stdout.write(text.rstrip() + "\n")


def _analyse(source: Path, form: str) -> int:
    """Print the analysis of somebody's sweep; a table of several GPU models is one analysis for each."""
    from paceline.analysis import sweepreport

    if source.is_dir():
        report(source, form)
        return 0
    analyses = sweepreport.analyse_csv(source)
    if form == "json":
        data = [analysis.data for analysis in analyses]
        print(json.dumps(data[0] if len(data) == 1 else {"sweeps": data}, indent=1, allow_nan=False))
        return 0
    for analysis in analyses:
        print_text(sweepreport.text(analysis))
        print()
    return 0
