"""`paceline check`: say what is wrong with a table of results, one's own or somebody else's."""

from __future__ import annotations

import argparse
import json

EXAMPLE = "paceline check analysis/examples/strong_scaling_cartpole_l40.csv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "file",
        metavar="FILE",
        help="a CSV table, a study folder, an Isaac Lab benchmark bundle, a training log, or TensorBoard events",
    )
    parser.add_argument(
        "--mode", choices=("strong", "weak"), help="scaling that the table claims, if it does not say so"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how to print (default: text)")


def run(args: argparse.Namespace) -> int:
    """Print the findings; exit code 1 if any is an error, 0 otherwise. What cannot be read raises a RecordError."""
    from paceline.analysis.checks import as_text, check_path, has_errors

    findings = check_path(args.file, args.mode)
    if args.format == "json":
        print(json.dumps([finding.to_json() for finding in findings], indent=1))
    else:
        print(as_text(findings, args.file))
    return 1 if has_errors(findings) else 0
