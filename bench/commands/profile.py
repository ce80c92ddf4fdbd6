"""`paceline profile`: profile chosen cases of a study, and say where their time goes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from paceline.bench.commands import common

if TYPE_CHECKING:
    from paceline.bench.launch import OpenStudy
    from paceline.bench.status import CaseStatus
    from rich.console import Console

EXAMPLE = """paceline profile strong_scaling --task Isaac-Ant-Direct --gpus 1,4
  paceline profile strong_scaling --graph-trace node --iterations 20:22    kernels inside CUDA graphs"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    common.add_study_arguments(parser)
    parser.add_argument("--task", metavar="TASK", help="the same as --set task=TASK")
    parser.add_argument(
        "--gpus", metavar="N,M", help="numbers of GPUs (or CPU ranks) to profile (default: 1 and the study's largest)"
    )
    parser.add_argument(
        "--iterations",
        metavar="A:B",
        help="iterations to record, counted from 0, B excluded (default: three after the warm-up)",
    )
    parser.add_argument(
        "--graph-trace",
        choices=("graph", "node"),
        default="graph",
        help="CUDA graphs as one row each, or kernel by kernel, which slows the run down more (default: graph)",
    )
    parser.add_argument(
        "--profiler",
        choices=("auto", "nsys", "torch"),
        default="auto",
        help="auto: nsys if it works where the job runs, else torch.profiler (default: auto)",
    )
    parser.add_argument(
        "--folder",
        metavar="DIR",
        help="where the study is kept (default: as `paceline run` has it); the traces go to profile/ in it",
    )


def run(args: argparse.Namespace) -> int:
    """Profile what is not profiled yet, then report; exit code 0, or 1 if there is a case without a trace."""
    from paceline.bench import launch, profile

    settings = profile.Settings(
        world_sizes=profile.parse_sizes(args.gpus) if args.gpus else (),
        window="{}:{}".format(*profile.parse_window(args.iterations)) if args.iterations else None,
        graph_trace=args.graph_trace,
        profiler=args.profiler,
    )
    if args.task:
        args.settings.append(f"task={args.task}")
    study, cluster = common.resolved_study(args)
    folder = Path(args.folder) if args.folder else launch.default_folder(study, cluster)
    opened = profile.open_study(folder, study, cluster, settings)
    console = common.console()
    return report(opened, drive(opened, console), console)


def drive(opened: OpenStudy, console: Console) -> list[CaseStatus]:
    """Run the profiled cases that have no trace yet, with progress, and return the state of all of them."""
    from paceline.bench import launch
    from paceline.bench.display import Display
    from paceline.bench.driver import Driver
    from paceline.bench.lock import StudyLock

    with StudyLock(opened.directory):
        job_side = launch.job_side(opened.cluster, console.print)
        with Display(console, f"profile of {opened.study.name} in {opened.directory.path}") as display:
            try:
                statuses = Driver(opened, job_side, display).run()
            except KeyboardInterrupt:
                display.say("what was profiled is kept: the same command goes on")
                raise
            display.close(statuses)
    return statuses


def report(opened: OpenStudy, statuses: list[CaseStatus], console: Console) -> int:
    """Scrub, analyse and report every profiled case; print what limits each and, last, the path of the page."""
    from paceline.analysis import profile_report
    from paceline.bench import profile
    from paceline.bench.display import case_label, note
    from paceline.bench.errors import PacelineError

    made: list[profile_report.Profiled] = []
    failed = []
    cases = [status for status in statuses if status.case.kind == "profile"]
    for status in cases:
        name = case_label(status)
        run = opened.directory.run(status.case.case_id, status.attempt or 1)
        if not status.done:
            log = f" (log: {run.train_log})" if status.attempt and status.state != "missing" else ""
            failed.append(f"{name}: {status.state}: {note(status)}{log}")
            continue
        console.print(f"reading the trace of {name} ...")
        try:
            folder = opened.directory.profile / profile.label(status.case)
            made.append(profile_report.make(run, folder, name, status.case.world_size))
        except PacelineError as error:
            failed.append(f"{name}: {error}")
    for line in (*failed, *(f"{one.label}: {one.note}" for one in made if one.note)):
        print(line, file=sys.stderr)
    if not made:
        print("paceline: no run was profiled, so there is nothing to report", file=sys.stderr)
        return 1
    page = made[-1].page
    if len(made) > 1:
        ends = [status.case for status in cases if status.case.case_id in {m.run.case_id for m in (made[0], made[-1])}]
        page = profile_report.side_by_side(made[0], made[-1], opened.directory.profile / profile.comparison_label(ends))
    profile_report.write_index(opened.directory.profile, made)
    for one in made:
        print(f"{one.label}: {one.trace.diagnosis}")
    print(page)
    return 1 if failed else 0
