"""`paceline doctor`: check this site and its nodes before anything is queued."""

from __future__ import annotations

import argparse
import json

EXAMPLE = "paceline doctor --cluster mysite --on-node --nodes 2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--cluster", metavar="NAME", default="local", help="a cluster profile (default: local, this machine)"
    )
    parser.add_argument(
        "--on-node", action="store_true", help="also check a node from the inside, by a job of some seconds"
    )
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="with --on-node: that many nodes at once")
    parser.add_argument(
        "--gpus", type=int, metavar="N", help="with --on-node: ranks on each node (default: all its GPUs)"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how to print (default: text)")


def run(args: argparse.Namespace) -> int:
    """Print one line per check, with what to do; exit code 1 if any failed, 0 otherwise."""
    from paceline.bench import doctor, findings
    from paceline.bench.cluster import load_cluster
    from paceline.bench.commands.common import console
    from paceline.bench.errors import ClusterError
    from rich.console import Console
    from rich.text import Text

    if args.nodes < 1 or (args.gpus is not None and args.gpus < 1):
        raise ClusterError("--nodes and --gpus: state at least 1")
    cluster = load_cluster(args.cluster)
    found = list(doctor.examine(cluster))
    text = args.format == "text"
    screen = Console(highlight=False)
    if not screen.is_terminal:
        screen.width = 160  # in a log or a pipe lines are not broken
    if text:
        findings.show(screen, found, f"{cluster.name}: before anything is queued")
    if args.on_node:
        if findings.exit_code(found):
            console().print("the nodes are not asked: first mend what failed", style="yellow")
        else:
            inside = doctor.on_node(cluster, args.nodes, args.gpus, console().print)
            if text:
                findings.show(screen, inside, f"\n{cluster.name}: on the nodes")
            found += inside
    if not text:
        print(json.dumps([finding.to_json() for finding in found], indent=1))
    else:
        screen.print(Text(findings.summary(found)))
    return findings.exit_code(found)
