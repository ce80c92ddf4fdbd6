"""`paceline report`: write the report of a study again, or print its numbers; or re-analyse somebody's table."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from paceline.bench.commands import common
from paceline.bench.errors import RecordError

EXAMPLE = "paceline report outputs/strong-scaling-Isaac-Cartpole-Direct-rsl_rl-2048envs-local --format json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        help="a study folder; or a CSV table, a training log, a benchmark bundle or TensorBoard events, whose numbers "
        "are printed as far as they go",
    )
    parser.add_argument(
        "--format",
        choices=("text", "json"),
        default="text",
        help="text: the table and the path of the page; json: the numbers of report.json (default: text)",
    )
    parser.add_argument(
        "--reward",
        type=float,
        metavar="R",
        help="mean episode reward that counts as reached, for the time to reward (default: 80%% of the way that the "
        "runs of the smallest world size came)",
    )
    parser.add_argument(
        "--figures",
        metavar="DIR",
        help="write the charts as SVG and PDF and the scaling table as LaTeX into this folder, and print their paths",
    )


def run(args: argparse.Namespace) -> int:
    """Write report/ from the records alone; works on any machine that has the folder. Exit code 0."""
    from paceline.bench.launch import find_folder
    from paceline.bench.rundir import StudyDir

    if args.reward is not None and not math.isfinite(args.reward):
        raise RecordError(f"--reward {args.reward}: expected a number")
    named = Path(args.folder)
    if named.exists() and not StudyDir(named).study_yaml.exists() and not StudyDir(named).runs.is_dir():
        return _foreign(named, args)
    folder = find_folder(args.folder)
    if args.format == "json" and common.study_kind(folder) in ("sweep", "gpus"):
        from paceline.bench.commands import compare_gpus, sweep

        if common.study_kind(folder) == "gpus":
            return compare_gpus.report([folder], form="json")
        sweep.report(folder, "json")
        return 0
    if args.format == "text" and args.figures is None:
        common.print_report(folder, args.reward)
        return 0
    from paceline.analysis.load import load_study
    from paceline.analysis.report import Analysis, write_analysis
    from paceline.bench.rundir import read_json

    if args.figures is not None:
        from paceline.analysis.figures import write_figures

        analysis = Analysis(load_study(folder), args.reward)
        for path in write_figures(analysis, Path(args.figures)):
            print(path)
        return 0
    write_analysis(Analysis(load_study(folder), args.reward))
    print(json.dumps(read_json(StudyDir(folder).report / "report.json"), indent=1))
    return 0


def _foreign(path: Path, args: argparse.Namespace) -> int:
    """Print what the numbers of somebody's table, log or bundle say, as far as they go. Exit code 0."""
    from paceline.analysis.ingest import read_any
    from paceline.analysis.reanalysis import as_text, reanalyse

    if args.figures is not None or args.reward is not None:
        raise RecordError(f"{path}: --figures and --reward need a study folder")
    found = reanalyse(read_any(path))
    print(json.dumps(found, indent=1) if args.format == "json" else as_text(found))
    return 0
