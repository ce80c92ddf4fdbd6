"""`paceline schema`: write the JSON Schemas of study and cluster files, for editors."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = "paceline schema docs/schemas"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("folder", metavar="DIR", help="where to write study.json and cluster.json")


def run(args: argparse.Namespace) -> int:
    """Write the schemas and print their paths; exit code 0."""
    from paceline.bench.schema import write

    for path in write(Path(args.folder)):
        print(path)
    return 0
