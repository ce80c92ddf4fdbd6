"""`paceline plan`: show what a study would run, without running it."""

from __future__ import annotations

import argparse
from pathlib import Path

from paceline.bench.commands import common

EXAMPLE = "paceline plan strong_scaling --cluster mysite --scripts scripts"


_KINDS = {"strong": "strong scaling", "weak": "weak scaling", "sweep": "environment sweep", "gpus": "GPU comparison"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    common.add_study_arguments(parser)
    parser.add_argument("--scripts", metavar="DIR", help="also write the job script of every case there, to read")


def run(args: argparse.Namespace) -> int:
    """Print the cases and what they ask the cluster for; exit code 0. Starts nothing, makes no environment."""
    from paceline.bench import launch, render
    from paceline.bench.plan import make_plan
    from paceline.bench.rundir import StudyDir

    study, cluster = common.resolved_study(args)
    plan = make_plan(study, cluster)
    cases = plan.all_cases
    print(f"{study.name}: {_KINDS[study.kind]} of {study.task} with {study.trainer} on {cluster.name}")
    if study.kind == "sweep":
        print("At most these cases; which of them run, and which further ones, follows from what becomes of them.")
    head = (
        "case",
        "ranks",
        "nodes",
        "repeat",
        "num_envs",
        "envs/rank",
        "batch",
        "minibatch/rank",
        "steps/iter",
        "iterations",
    )
    rows = [
        (
            case.case_id,
            case.world_size,
            case.num_nodes,
            "warm-up" if case.kind == "warmup" else case.repeat + 1,
            case.num_envs,
            case.num_envs_per_rank,
            case.global_batch,
            case.minibatch_size_per_rank,
            case.optimizer_steps_per_iteration,
            case.iterations,
        )
        for case in cases
    ]
    widths = [max(len(str(row[i])) for row in (head, *rows)) for i in range(len(head))]
    levers = ["  ".join(f"{name}={value}" for name, value in case.levers) for case in cases]
    for row, own in zip((head, *rows), ("levers" if any(levers) else "", *levers), strict=True):
        print("  ".join([f"{value!s:>{width}}" for value, width in zip(row, widths, strict=True)] + [own] * bool(own)))
    print(
        f"{len(cases)} jobs, at most {plan.node_hours:.2f} node hours and {plan.gpu_hours:.2f} GPU hours "
        f"(each job may use its whole time limit); study folder: {launch.default_folder(study, cluster)}"
    )
    if args.scripts:
        folder = Path(args.scripts)
        folder.mkdir(parents=True, exist_ok=True)
        directory = StudyDir(launch.default_folder(study, cluster).absolute())
        for case in cases:
            python = launch.planned_python(cluster)
            script = render.render_job(
                case, cluster, directory, 1, python, asset_root=None, time_limit_min=study.time_limit_min
            )
            (folder / f"{case.case_id}.sh").write_text(script, encoding="utf-8")
        print(f"{len(cases)} scripts in {folder}")
    return 0
