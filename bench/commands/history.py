"""`paceline history`: all studies below a folder, filtered and exported."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import Any

EXAMPLE = "paceline history outputs --filter task~Ant --filter 'world_size>=4' --export ant.csv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "folder", metavar="FOLDER", nargs="?", default="outputs", help="where the studies are (default: outputs)"
    )
    parser.add_argument(
        "--filter",
        metavar="CONDITION",
        action="append",
        default=[],
        help="such as trainer=rsl_rl, world_size>=4 or gpu~H100 (contains); may be repeated, all must hold",
    )
    parser.add_argument("--rebuild", action="store_true", help="read every study again")
    parser.add_argument(
        "--format", choices=("text", "json", "csv"), default="text", help="how to print (default: text)"
    )
    parser.add_argument(
        "--export", metavar="FILE", help="write the rows to a .csv or .json file instead of printing them"
    )


def run(args: argparse.Namespace) -> int:
    """Print or export one row per study and world size; exit code 0."""
    from pathlib import Path

    from paceline.analysis.history import COLUMNS, history
    from paceline.bench.errors import RecordError

    target = Path(args.export) if args.export else None
    if target is not None and target.suffix not in (".csv", ".json"):
        raise RecordError(f"--export {args.export}: the name must end in .csv or .json")
    rows = history(Path(args.folder), args.filter, rebuild=args.rebuild)
    if target is not None:
        target.write_text(
            _csv(rows, COLUMNS) if target.suffix == ".csv" else json.dumps(rows, indent=1) + "\n", encoding="utf-8"
        )
        print(f"{len(rows)} row(s) -> {target}")
    elif args.format == "json":
        print(json.dumps(rows, indent=1))
    elif args.format == "csv":
        print(_csv(rows, COLUMNS), end="")
    else:
        _print_text(rows)
    return 0


def _csv(rows: list[dict[str, Any]], columns: Iterable[str]) -> str:
    import csv
    import io

    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _print_text(rows: list[dict[str, Any]]) -> None:
    """Print one paragraph per study, one line per world size."""
    import datetime

    shown = None
    for row in rows:
        if row["path"] != shown:
            shown = row["path"]
            day = "not started"
            if row["started_unix_s"] is not None:
                day = datetime.datetime.fromtimestamp(row["started_unix_s"]).strftime("%Y-%m-%d %H:%M")
            if row["problem"]:
                print(f"{day}  {shown}: unreadable: {row['problem']}")
                continue
            what = f"{row['kind']} {row['task']} {row['trainer']}"
            runs = f"{row['runs_completed']} run(s), {row['runs_failed']} failed"
            print(f"{day}  {shown}: {what}, {row['gpu'] or '?'}, {runs}")
            if row["findings"]:
                print(f"    checks found {row['findings']} ({row['errors']} of severity error)")
        if row["world_size"] is None:
            continue
        if row["total_fps"] is None:
            print(f"    N={row['world_size']:<4} {row['status']}")
            continue
        efficiency = f"efficiency {row['efficiency']:.3f}" if row["efficiency"] is not None else ""
        interval = "n=1, no interval"
        if row["efficiency_low"] is not None and row["efficiency_high"] is not None:
            interval = f"{row['efficiency_low']:.3f} to {row['efficiency_high']:.3f}"
        print(f"    N={row['world_size']:<4} {row['total_fps']:>14,.0f} frames/s  {efficiency} ({interval})")
    studies = len({row["path"] for row in rows})
    print(f"{studies} study folder(s), {len(rows)} row(s)")
