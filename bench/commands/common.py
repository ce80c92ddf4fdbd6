"""What several sub-commands share: the study they name, the end of a study, the console."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paceline.bench.errors import StudyError

if TYPE_CHECKING:
    from paceline.bench.cluster import Cluster
    from paceline.bench.launch import OpenStudy
    from paceline.bench.status import CaseStatus
    from paceline.bench.study import Study
    from rich.console import Console


def add_study_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare STUDY, --nodes, --cluster and --set."""
    parser.add_argument(
        "study",
        metavar="STUDY",
        help="a study file, or the name of a shipped one (strong_scaling, weak_scaling, env_sweep)",
    )
    parser.add_argument(
        "--nodes", metavar="N", help="nodes of the largest world size; the same as --set num_nodes=N (default: 1)"
    )
    add_site_arguments(parser)


def add_site_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare --cluster and --set."""
    parser.add_argument(
        "--cluster",
        metavar="NAME",
        default="local",
        help="a cluster profile: a YAML file, or the name of a shipped one (default: local, this machine)",
    )
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="settings",
        help="replace a value of the study file, e.g. --set world_sizes=1,2,4 (may be given several times)",
    )


def add_folder_argument(parser: argparse.ArgumentParser) -> None:
    """Declare FOLDER."""
    parser.add_argument(
        "folder", metavar="FOLDER", help="a study folder (below outputs/ unless you chose another place)"
    )


def settings_of(texts: Sequence[str]) -> dict[str, str]:
    """Return what ``--set KEY=VALUE`` said, by key; StudyError if one is not of that form."""
    settings = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise StudyError(f"--set {text}: expected KEY=VALUE")
        settings[key.strip()] = value
    return settings


def resolved_study(args: argparse.Namespace) -> tuple[Study, Cluster]:
    """Return the study and the cluster that the arguments name, every value stated."""
    from paceline.bench import cluster as cluster_module
    from paceline.bench import local
    from paceline.bench import study as study_module

    settings = settings_of(args.settings)
    if getattr(args, "nodes", None) is not None:
        settings["num_nodes"] = args.nodes
    cluster = cluster_module.load_cluster(args.cluster)
    study = study_module.load_study(args.study, settings)
    devices = local.visible_gpus() if cluster.scheduler == "local" else None
    return study_module.resolve(study, cluster, devices), cluster


def console() -> Console:
    """Return the console that progress goes to: stderr, so that stdout ends with the report's path alone."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def finish(opened: OpenStudy, statuses: Sequence[CaseStatus]) -> int:
    """Say what did not complete, write the report, print its table and, last, its path. Return the exit code.

    0 if every case completed, 1 otherwise.
    """
    from paceline.bench.display import case_label, note
    from paceline.bench.findings import complaints

    if opened.study.kind == "sweep":  # runs that did not complete are its results
        print_report(opened.directory.path)
        return 0
    failed = [status for status in statuses if not status.done]
    for status in failed:
        run = None
        if status.attempt is not None and status.state != "missing":
            run = opened.directory.run(status.case.case_id, status.attempt)
        where = f" (log: {run.train_log})" if run else ""
        detail = f": {note(status)}" if note(status) else ""
        print(f"{case_label(status)}: {status.state}{detail}{where}", file=sys.stderr)
        for line in complaints(run) if run else ():
            print(f"    {line}", file=sys.stderr)
    if not any(status.done and status.case.kind != "warmup" for status in statuses):
        print("paceline: no run completed, so there is nothing to report", file=sys.stderr)
        return 1
    print_report(opened.directory.path)
    return 1 if failed else 0


def study_kind(folder: Path) -> str:
    """Return the kind of the study that a folder holds, empty if it holds none that can be read."""
    import yaml
    from paceline.bench.rundir import StudyDir

    try:
        data = yaml.safe_load(StudyDir(folder).study_yaml.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return ""
    return str(data.get("kind", "")) if isinstance(data, dict) else ""


def print_report(folder: Path, reward: float | None = None) -> None:
    """Write the report of a study folder; print its table and, as the last line, the path of the page.

    ``reward`` is the reward that counts as reached, chosen if not given.
    """
    from paceline.analysis import load, report
    from rich.console import Console

    kind = study_kind(folder)
    if kind == "sweep":
        from paceline.bench.commands.sweep import print_sweep

        return print_sweep(folder)
    if kind == "gpus":
        from paceline.bench.commands.compare_gpus import report as report_gpus

        report_gpus([folder])
        return None
    analysis = report.Analysis(load.load_study(folder), reward)
    page = report.write_analysis(analysis)
    screen = Console(highlight=False)
    if not screen.is_terminal:
        screen.width = 160  # in a log nothing is cut
    screen.print(report.terminal_table(analysis))
    print(page)
