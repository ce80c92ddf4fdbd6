"""`paceline status`: show the state of every case."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from paceline.bench.commands import common

EXAMPLE = "paceline status outputs/strong-scaling-Isaac-Ant-Direct-rsl_rl-16384envs-mysite --format json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    common.add_folder_argument(parser)
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how to print (default: text)")


def run(args: argparse.Namespace) -> int:
    """Print one row per case; exit code 0 whatever the states are."""
    from paceline.bench import launch, profile, watchdog
    from paceline.bench.campaignfile import CampaignDir
    from paceline.bench.display import case_label, note
    from paceline.bench.status import UNFINISHED, study_status, summary

    folder = launch.find_folder(args.folder)
    if CampaignDir(folder).exists():
        return print_campaign(folder, args.format)
    opened = launch.open_study(folder)
    profiled = profile.cases_of(opened.directory)
    statuses = opened.status() if not profiled else study_status(opened.directory, (*opened.cases, *profiled))
    if args.format == "json":
        rows = [
            {
                "case_id": status.case.case_id,
                "kind": status.case.kind,
                "world_size": status.case.world_size,
                "repeat": status.case.repeat,
                "state": status.state,
                "attempt": status.attempt,
                "job_id": status.job_id,
                "iterations_done": status.iterations_done,
                "iterations": status.case.iterations,
                "cause": status.cause,
                "message": status.message,
                "invalid_physics": status.invalid_physics,
                "advice": status.advice,
                "evidence": list(status.evidence),
                "saved_rank_hours": round(watchdog.saved(opened.directory.attempts(status.case.case_id))[1], 4),
            }
            for status in statuses
        ]
        print(json.dumps(rows, indent=1))
        return 0
    width = max((len(case_label(status)) for status in statuses), default=0)
    for status in statuses:
        progress = f"{status.iterations_done}/{status.case.iterations}" if status.attempt else ""
        line = f"{status.case.case_id}  {case_label(status):{width}}  {status.state:11}  {progress:>9}  {note(status)}"
        print(line.rstrip())
        if status.advice and status.state not in UNFINISHED:
            print(f"{'':{len(status.case.case_id)}}  {status.advice}")
    ended, hours = watchdog.saved(opened.directory.all_runs())
    if ended:
        unit = "GPU hours" if any(status.case.device == "cuda" for status in statuses) else "rank hours"
        runs = f"{ended} hung run{'s' * (ended > 1)}"
        print(f"the watchdog ended {runs} and saved {hours:.2f} {unit} of the time limit")
    print(summary(statuses))
    return 0


def print_campaign(folder: Path, how: str) -> int:
    """Print one row per start of a campaign."""
    from paceline.bench import campaign

    starts = campaign.open_campaign(folder).starts()
    rows = [
        {
            "start": start.run.attempt,
            "state": start.state,
            "job_id": start.job_id,
            "start_iteration": start.start_iteration,
            "iterations_done": start.iterations_done,
            "cause": start.cause,
            "message": start.message,
        }
        for start in starts
    ]
    if how == "json":
        print(json.dumps(rows, indent=1))
        return 0
    for row in rows:
        begun = f"from iteration {row['start_iteration']}" if row["start_iteration"] is not None else ""
        reason = ": ".join(str(row[key]) for key in ("cause", "message") if row[key])
        print(f"start {row['start']:<4} {row['state']:11}  {begun:20}  {reason}".rstrip())
    if not rows:
        print("not started")
    return 0
