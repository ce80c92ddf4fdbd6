"""`paceline compare-gpus`: the same case on each GPU type of a site, or records of hosts that share no Slurm."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paceline.bench.commands import common
from paceline.bench.errors import StudyError

if TYPE_CHECKING:
    from paceline.bench.cluster import Cluster
    from paceline.bench.launch import OpenStudy
    from paceline.bench.study import GpuGroup, Study

EXAMPLE = (
    "paceline compare-gpus --cluster mysite --task Isaac-Ant-Direct --repeats 5\n"
    "  paceline compare-gpus --from outputs/on_h100 outputs/on_h200"
)
_SETTINGS = {
    "task": "task",
    "trainer": "trainer",
    "envs": "num_envs_per_rank",
    "gpus": "world_sizes",
    "repeats": "repeats",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "study",
        metavar="STUDY",
        nargs="?",
        default="gpu_comparison",
        help="a study file of kind gpus (default: the shipped gpu_comparison)",
    )
    parser.add_argument("--task", metavar="TASK", help="Isaac Lab task id")
    parser.add_argument("--trainer", metavar="NAME", help="rsl_rl or rl_games")
    parser.add_argument("--envs", metavar="N", help="environments of each GPU")
    parser.add_argument("--gpus", metavar="N,N", help="numbers of GPUs to compare with, such as 1,4 (default 1)")
    parser.add_argument("--repeats", metavar="N", help="separate jobs on each type (default 3)")
    common.add_site_arguments(parser)
    parser.add_argument(
        "--types", metavar="T,T", default="", help="only these GPU types (default: all that Slurm shows)"
    )
    parser.add_argument(
        "--constraint", metavar="F", action="append", default=[], help="compare nodes with this feature (several times)"
    )
    parser.add_argument(
        "--nodes", metavar="N,N", action="append", default=[], help="compare these nodes with others (several times)"
    )
    parser.add_argument("--per-node", action="store_true", help="each node is a side of its own: finds slow nodes")
    parser.add_argument("--folder", metavar="DIR", help="where the study is kept (default: a folder below outputs/)")
    parser.add_argument("--list", action="store_true", help="only list the GPU types that Slurm shows")
    parser.add_argument(
        "--from",
        metavar="FOLDER",
        dest="sources",
        nargs="+",
        help="run nothing: compare the records in these study folders (or a CSV table of GPU models)",
    )
    parser.add_argument("--reference", metavar="NAME", help="what the others are compared with (default: the first)")
    parser.add_argument(
        "--price",
        metavar="NAME=PRICE",
        action="append",
        default=[],
        help="price of a GPU hour, by name or type (default: the cluster profile's prices)",
    )
    parser.add_argument("--output", metavar="DIR", help="with --from: write the report there")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how to print (default: text)")


def run(args: argparse.Namespace) -> int:
    """Measure what is missing, then compare; or compare records that are there. Exit code 0, or 1 if a case failed."""
    prices = _prices(args.price)
    if args.sources:
        return report([Path(source) for source in args.sources], args.reference, prices, args.format, args.output)
    from paceline.bench import launch

    given = {key: getattr(args, option) for option, key in _SETTINGS.items() if getattr(args, option) is not None}
    args.settings = [*(f"{key}={value}" for key, value in given.items()), *args.settings]
    study, cluster = _resolved(args)
    if args.list:
        assert study.groups is not None
        for group in study.groups:
            asked = {"gpu_type": group.gpu_type, **dict(group.placement), "gpus_per_node": group.gpus_per_node}
            words = ", ".join(f"{key} {value}" for key, value in asked.items() if value)
            print(f"{group.name}: {words or 'this machine'}")
        return 0
    folder = Path(args.folder) if args.folder else launch.default_folder(study, cluster)
    failed = drive(launch.create(folder, study, cluster))
    code = report([folder], args.reference, prices, args.format)
    return 1 if failed else code


def _resolved(args: argparse.Namespace) -> tuple[Study, Cluster]:
    """Return the study with what is compared stated, and the cluster."""
    from paceline.bench import cluster as cluster_module
    from paceline.bench import local
    from paceline.bench import study as study_module

    cluster = cluster_module.load_cluster(args.cluster)
    study = study_module.load_study(args.study, common.settings_of(args.settings))
    if study.kind != "gpus":
        raise StudyError(f"study {study.name!r}: kind is {study.kind}, `paceline compare-gpus` needs kind: gpus")
    if not study.groups:
        study = study.model_copy(update={"groups": _sides(args, cluster)})
    devices = local.visible_gpus() if cluster.scheduler == "local" else None
    return study_module.resolve(study, cluster, devices), cluster


def _sides(args: argparse.Namespace, cluster: Cluster) -> tuple[GpuGroup, ...]:
    from paceline.bench import gpus

    if cluster.scheduler == "local":
        return gpus.here(cluster)
    types = [name for name in args.types.split(",") if name]
    return gpus.groups(gpus.discover(cluster), cluster, types, args.constraint, args.nodes, args.per_node)


def _prices(texts: Sequence[str]) -> dict[str, float]:
    prices = {}
    for text in texts:
        name, separator, value = text.rpartition("=")
        try:
            prices[name.strip()] = float(value)
        except ValueError:
            separator = ""
        if not separator or not name or not prices.get(name.strip(), 0.0) > 0.0:
            raise StudyError(f"--price {text}: expected NAME=PRICE with a positive price, such as --price h100=2.5")
    return prices


def drive(opened: OpenStudy) -> bool:
    """Bring a comparison to its end under its lock, with progress; return whether a case did not complete."""
    from paceline.bench import launch
    from paceline.bench.display import Display, case_label, note
    from paceline.bench.driver import Driver
    from paceline.bench.lock import StudyLock

    console = common.console()
    folder = opened.directory.path
    with StudyLock(opened.directory):
        job_side = launch.job_side(opened.cluster, console.print)
        with Display(console, f"{opened.study.name} in {folder}") as display:
            try:
                statuses = Driver(opened, job_side, display).run()
            except KeyboardInterrupt:
                display.say(f"nothing that ran is lost: the same command, or `paceline retry {folder}`, goes on")
                raise
            display.close(statuses)
    failed = [status for status in statuses if not status.done]
    for status in failed:
        print(f"{case_label(status)}: {status.state}: {note(status)}", file=sys.stderr)
    return bool(failed)


def report(
    sources: Sequence[Path],
    reference: str | None = None,
    prices: dict[str, float] | None = None,
    form: str = "text",
    output: str | None = None,
) -> int:
    """Compare records and print it; a single folder, or --output, gets the report. Return the exit code."""
    from paceline.analysis import gpureport

    comparison = gpureport.compare_sources(sources, reference, prices or {})
    target = Path(output) if output else gpureport.report_folder(sources)
    page = gpureport.write(comparison, target) if target else None
    if form == "json":
        print(json.dumps(comparison.data, indent=1, allow_nan=False))
        return 0
    sys.stdout.write(gpureport.text(comparison).rstrip() + "\n")
    if page is not None:
        print(page)
    return 0
