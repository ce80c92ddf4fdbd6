"""The `paceline` command line: finds the sub-command, and turns errors into one line and an exit code.

Exit codes: 0 done, 1 the study has runs that did not complete (or a check found errors), 2 wrong input or environment,
130 interrupted. Only the module of the sub-command in use is imported, so that `paceline --help` stays quick.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn, Protocol, cast

from paceline.bench.errors import PacelineError

COMMANDS = {
    "plan": "show what a study would run: cases, scripts, GPU hours (dry run)",
    "run": "run a study, or complete it, and report",
    "sweep": "find out how many environments: double them until something ends it, and report",
    "train": "train to the end, over as many jobs as it takes",
    "resume": "go on with a campaign that stopped, or from a checkpoint",
    "evaluate": "play checkpoints in tasks, as many at once as fit, and say which is best",
    "compare-gpus": "measure the same case on each GPU type, or compare records of several hosts",
    "budget": "say how long a training takes, or what fits into a time, from measured throughput",
    "watch": "follow a study or a campaign that is under way: progress, alerts",
    "status": "show the state of every case",
    "retry": "run the cases that failed or are missing, and report",
    "cancel": "end everything of a study that is queued or running",
    "report": "write the report again, or print its numbers",
    "check": "check someone's scaling table, log or record folder for errors of method",
    "compare": "compare two studies: better, worse or inconclusive",
    "history": "list all studies below a folder",
    "profile": "profile chosen cases of a study with nsys, and say where their time goes",
    "trace": "say where the time goes in an Nsight Systems or Kineto trace",
    "doctor": "check this site and its nodes before anything is queued",
    "image": "build an image for the jobs, or say what is in one",
    "schema": "write the JSON Schemas of study and cluster files",
}

EPILOG = """examples:
  paceline run strong_scaling                                on this machine
  paceline run strong_scaling --cluster mysite               on Slurm; mysite.yaml describes the site
  paceline plan weak_scaling --set world_sizes=1,2,4         what it would run
  paceline COMMAND --help                                    more on a command
"""


class Command(Protocol):
    """What a module in bench/commands provides."""

    EXAMPLE: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's arguments."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it; return the exit code."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Print one line, not the usage, and exit 2."""
        print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def _overview() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:{width}}  {text}" for name, text in COMMANDS.items())
    parser = _Parser(
        prog="paceline",
        usage="paceline COMMAND [options]",
        description="Runs, profiles and explains multi-GPU Isaac Lab training.",
        epilog=f"commands:\n{listing}\n\n{EPILOG}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    return parser


def _parser_of(name: str, command: Command) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"paceline {name}",
        description=COMMANDS[name][0].upper() + COMMANDS[name][1:] + ".",
        epilog=f"example:\n  {command.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show a traceback when something goes wrong")
    return parser


def _print_version() -> int:
    from importlib.metadata import version

    print(f"paceline {version('paceline')}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0].startswith("-"):
        if _overview().parse_args(arguments).version:
            return _print_version()
        _overview().print_help()
        return 0 if arguments else 2
    name = arguments[0]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        _overview().error(f"no command {name!r}; {hint}commands: {', '.join(COMMANDS)}")
    command = cast(Command, importlib.import_module(f"paceline.bench.commands.{name.replace('-', '_')}"))
    args = _parser_of(name, command).parse_args(arguments[1:])
    try:
        code = command.run(args)
        sys.stdout.flush()  # here, where a reader that has gone is handled, not at exit
        return code
    except PacelineError as error:
        return _complain(args, str(error))
    except KeyboardInterrupt:
        print("\npaceline: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone (`paceline status | head`): no error, and nothing to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(args, f"{where}{error.strerror or error}")


def _complain(args: argparse.Namespace, text: str) -> int:
    """Print one line for each problem to stderr and return 2; under --debug raise what is being handled."""
    if args.debug:
        raise
    for line in text.splitlines():
        print(f"paceline: {line}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
