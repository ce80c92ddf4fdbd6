"""`paceline report`: write the report again, or print its numbers."""

from __future__ import annotations

import argparse
import json

from paceline.bench.commands import common

EXAMPLE = "paceline report outputs/strong-scaling-Isaac-Cartpole-Direct-rsl_rl-2048envs-local --format json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    common.add_folder_argument(parser)
    parser.add_argument(
        "--format",
        choices=("text", "json"),
        default="text",
        help="text: the table and the path of the page; json: the numbers of report.json (default: text)",
    )


def run(args: argparse.Namespace) -> int:
    """Write report/ from the records alone; works on any machine that has the folder. Exit code 0."""
    from paceline.bench.launch import find_folder

    folder = find_folder(args.folder)
    if args.format == "json" and common.study_kind(folder) in ("sweep", "gpus"):
        from paceline.bench.commands import compare_gpus, sweep

        if common.study_kind(folder) == "gpus":
            return compare_gpus.report([folder], form="json")
        sweep.report(folder, "json")
        return 0
    if args.format == "text":
        common.print_report(folder)
        return 0
    from paceline.analysis import report
    from paceline.bench.rundir import StudyDir, read_json

    report.write_report(folder)
    print(json.dumps(read_json(StudyDir(folder).report / "report.json"), indent=1))
    return 0
