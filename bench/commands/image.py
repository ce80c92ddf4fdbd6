"""`paceline image`: build an image, and say what is in one."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from paceline.bench.errors import ClusterError

EXAMPLE = "paceline image build isaaclab-3.0 && paceline image check isaaclab-3.0.sif"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the two actions and their arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="build|check")
    build = actions.add_parser(
        "build", help="build an image of containers/", description="Build an image of containers/."
    )
    build.add_argument("recipe", metavar="NAME", help="isaaclab-3.0 (kit-less, Newton) or isaaclab-2.3 (Kit, PhysX)")
    build.add_argument(
        "--with",
        dest="builder",
        choices=("apptainer", "docker", "podman", "buildah"),
        help="default: the first that is here",
    )
    build.add_argument(
        "--output", metavar="FILE", help="Apptainer: the .sif file; others: the image's name (default: NAME)"
    )
    build.add_argument(
        "--build-arg",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="build argument: PHYSICS=ovphysx, NSYS=1, BASE_IMAGE=... (may be given several times)",
    )
    build.add_argument(
        "--option", action="append", default=[], help="further option of the program, such as --option=--fakeroot"
    )
    build.add_argument("--archive", metavar="FILE", help="also write a docker-archive, to be carried to a cluster")
    build.add_argument("--from-archive", metavar="FILE", help="make the .sif from a docker-archive instead of building")
    build.add_argument("--dry-run", action="store_true", help="print the commands only")
    check = actions.add_parser("check", help="say what is in an image", description="Say what is in an image.")
    check.add_argument("image", metavar="IMAGE", help="a .sif file, a sandbox folder, or a name of Docker's")
    check.add_argument("--imports", action="store_true", help="also import what jobs import (takes some seconds)")
    check.add_argument(
        "--option", action="append", default=[], help="further option of the runtime, such as --option=--nv"
    )
    check.add_argument("--format", choices=("text", "json"), default="text", help="how to print (default: text)")


def run(args: argparse.Namespace) -> int:
    """Build or check; exit code 1 if the check found a failure."""
    return _build(args) if args.action == "build" else _check(args)


def _build(args: argparse.Namespace) -> int:
    import shlex

    from paceline.bench import image

    arguments = {}
    for word in args.build_arg:
        key, separator, value = word.partition("=")
        if not separator or not key:
            raise ClusterError(f"--build-arg {word}: expected KEY=VALUE")
        arguments[key] = value
    recipe = image.find_recipe(args.recipe)
    builder = image.find_builder("apptainer" if args.from_archive else args.builder)
    output = args.output or (f"{args.recipe}.sif" if builder == "apptainer" else args.recipe)
    if builder == "apptainer":
        output = str(Path(output).absolute())
    if args.from_archive:
        archive = Path(args.from_archive)
        if not archive.is_file() and not args.dry_run:
            raise ClusterError(f"{archive}: no such archive")
        commands = [image.convert_command(archive, output, args.option)]
    else:
        print(f"paceline: {image.base_of(recipe, arguments)}", file=sys.stderr)
        commands = [image.build_command(recipe, builder, output, arguments, args.option)]
        if args.archive and builder == "apptainer":
            raise ClusterError("--archive: Apptainer writes none; build --with docker, podman or buildah")
        if args.archive:
            commands.append(image.save_command(builder, output, Path(args.archive).absolute()))
    if args.dry_run:
        for command in commands:
            print(shlex.join(command))
        return 0
    image.check_room(args.recipe, Path(output), builder, Path(args.from_archive) if args.from_archive else None)
    for command in commands:
        image.run_build(command)
    print(args.archive or output)
    return 0


def _check(args: argparse.Namespace) -> int:
    from paceline.bench import findings, image, imagecheck
    from rich.console import Console
    from rich.text import Text

    found = image.ask(args.image, imports=args.imports, options=args.option)
    judged = imagecheck.judge(found)
    if args.format == "json":
        print(json.dumps({**found, "findings": [finding.to_json() for finding in judged]}, indent=1))
        return findings.exit_code(judged)
    screen = Console(highlight=False)
    if not screen.is_terminal:
        screen.width = 160  # in a log or a pipe lines are not broken
    findings.show(screen, judged, f"{args.image} ({found['runtime']})")
    ours = {
        name: value for name, value in found["labels"].items() if name.startswith(("paceline.", "org.opencontainers."))
    }
    for name, value in sorted(ours.items()):
        if not name.startswith("paceline.version."):  # said above, as found in the image
            screen.print(Text(f"  {name}: {value}", style="dim"), soft_wrap=True)
    screen.print(Text(findings.summary(judged)))
    return findings.exit_code(judged)
