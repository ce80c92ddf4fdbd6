"""`paceline compare`: two studies, point by point: better, worse or inconclusive."""

from __future__ import annotations

import argparse
import json
import re

EXAMPLE = "paceline compare outputs/before outputs/after --fail-if-worse 2%"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("a", metavar="A", help="study folder (or CSV table) before the change")
    parser.add_argument("b", metavar="B", help="study folder (or CSV table) after it")
    parser.add_argument(
        "--fail-if-worse",
        metavar="LIMIT",
        type=_share,
        help="exit 1 if B is worse by more than this, such as 2%%, over all world sizes or, beyond chance, at one",
    )
    parser.add_argument(
        "--allow",
        metavar="NAME",
        action="append",
        default=[],
        help=(
            "something that may differ because it is what is compared, such as gpu or num_minibatches; may be repeated"
        ),
    )
    parser.add_argument("--mode", choices=("strong", "weak"), help="scaling of tables that do not say it")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how to print (default: text)")


def _share(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%?)", text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share; write 2%% or 0.02")
    value = float(match.group(1)) / (100.0 if match.group(2) else 1.0)
    if value >= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is 100 % or more; write 2%% or 0.02")
    return value


def run(args: argparse.Namespace) -> int:
    """Print what changed; exit code 1 if --fail-if-worse says so, 0 otherwise; RecordError if not comparable."""
    from pathlib import Path

    from paceline.analysis.compare import as_text, compare_paths

    found = compare_paths(Path(args.a), Path(args.b), args.mode, args.allow)
    print(json.dumps(found.to_json(), indent=1) if args.format == "json" else as_text(found))
    return 1 if args.fail_if_worse is not None and found.fails(args.fail_if_worse) else 0
