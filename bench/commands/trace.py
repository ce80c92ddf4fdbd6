"""`paceline trace`: say where the time goes in a profiler's capture, or scrub an export so that it can be shared."""

from __future__ import annotations

import argparse
import gc
import json
from pathlib import Path

EXAMPLE = """paceline trace profile.sqlite --format html --out trace-report
  paceline trace one-gpu.sqlite --compare eight-gpus.sqlite --range update
  paceline trace scrub profile.sqlite --out shareable.sqlite"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="+",
        help="nsys export (.sqlite, or a folder of .parquet) or Kineto trace (.json, .json.gz); "
        "`scrub FILE` writes a copy without environment, output, process list and paths",
    )
    parser.add_argument(
        "--range",
        metavar="NAME",
        action="append",
        help="show this range (name or domain:name); may be given again (default: Paceline's own, else the longest)",
    )
    parser.add_argument("--compare", metavar="FILE", help="a second capture to put beside the first")
    parser.add_argument(
        "--format",
        choices=("text", "json", "html"),
        default="text",
        help="text and json are printed, html writes a page, CSV and JSON into --out (default: text)",
    )
    parser.add_argument(
        "--out",
        metavar="PATH",
        help="folder of the html report (default: trace-report), or what scrub writes: a file .sqlite, or by a name "
        "without a suffix a folder of Parquet files, which takes a fraction of the room",
    )


def run(args: argparse.Namespace) -> int:
    """Analyse or scrub; exit code 0."""
    from paceline.bench.errors import TraceError

    if args.file[0] == "scrub" and len(args.file) == 2:
        return _scrub(args.file[1], args.out)
    if len(args.file) != 1:
        raise TraceError("give one FILE; two captures as FILE --compare FILE, scrubbing as scrub FILE --out FILE")
    # Large captures are few large arrays; looking for cycles among the modules' objects again and again takes 0.2 s.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return _show(args)
    finally:
        if collecting:
            gc.enable()


def _show(args: argparse.Namespace) -> int:
    from paceline.analysis import trace

    picture = args.format == "html"
    found = [trace.analyse(path, args.range, picture=picture) for path in (args.file[0], args.compare) if path]
    if args.format == "html":
        from paceline.analysis import trace_report

        print(trace_report.write(found, args.out or "trace-report"))
    elif args.format == "json":
        result = found[0].to_json()
        if len(found) == 2:
            result = {"a": result, "b": found[1].to_json(), "comparison": trace.compare(*found)}
        print(json.dumps(result, indent=1, allow_nan=False))
    else:
        from paceline.analysis import trace_text

        print(trace_text.both(*found) if len(found) == 2 else trace_text.one(found[0]))
    return 0


def _scrub(path: str, output: str | None) -> int:
    from paceline.analysis.scrub import scrub
    from paceline.bench.errors import TraceError

    if output is None:
        raise TraceError("scrub needs --out FILE: the file to write")
    if path.endswith(".xz"):
        from paceline.analysis.trace import unpacked

        with unpacked(Path(path)) as plain:
            done = scrub(plain, Path(output))
    else:
        done = scrub(Path(path), Path(output))
    print(f"{done.path}: {len(done.kept)} tables kept, {len(done.dropped)} left out, {done.redacted} texts redacted")
    return 0
