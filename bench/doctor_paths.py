"""Folders, image, Python and container runtime of a cluster profile, as the login node sees them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from paceline.bench import image, imagecheck, launch
from paceline.bench.cluster import Cluster
from paceline.bench.environment import JobEnvironment
from paceline.bench.errors import PacelineError
from paceline.bench.findings import Finding, State

_GIB = 2**30
_STUDY_BYTES = 5 * _GIB
_STUDY_FILES = 20_000


def examine(cluster: Cluster) -> Iterator[Finding]:
    """Yield what can be told of a profile's folders, image and Python without starting a job."""
    yield _folder("results", Path(cluster.results).expanduser(), "results: in the profile", _STUDY_BYTES)
    cache = Path(cluster.cache_dir or "~/.cache/paceline").expanduser()
    yield _folder("kernel cache", cache, "cache_dir: in the profile", _GIB)
    if cluster.runtime.kind == "none":
        yield _python(cluster)
    else:
        yield from _image(cluster)
    if cluster.asset_root != "auto":
        yield _assets(cluster)


def _folder(name: str, path: Path, key: str, room: int) -> Finding:
    """Return whether a folder can be made and written to, and has room and inodes."""
    there = path.absolute()
    while not there.exists():
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
        usage = os.statvfs(there)
    except OSError as error:
        return _finding(name, "failure", f"{path} cannot be written: {error.strerror}", f"{key}: choose another folder")
    free = usage.f_bavail * usage.f_frsize
    text = f"{path}: {free / _GIB:.0f} GiB free"
    if usage.f_files and usage.f_favail < _STUDY_FILES:
        return _finding(name, "warning", f"{text}, only {usage.f_favail} files can be made", "remove files there")
    if free < room:
        return _finding(name, "warning", text, f"free some space, or {key}: choose another folder")
    return _finding(name, "ok", text)


def _python(cluster: Cluster) -> Finding:
    python = launch.planned_python(cluster)
    if cluster.python == "auto":
        made = JobEnvironment(Path(python).parents[2])
        if made.ready():
            return _finding("python", "ok", f"the jobs' environment: {python}")
        fix = "make jobs-environment makes it now instead of at the first run (minutes, 9 GB)"
        return _finding("python", "warning", "the jobs' environment is not made yet", fix)
    if shutil.which(python):
        return _finding("python", "ok", python)
    if cluster.modules or cluster.setup:
        return _finding("python", "ok", f"{python} (of the profile's modules and setup; not here)")
    return _finding(
        "python", "warning", f"{python} is not here", "python: one that the nodes have, or modules: that bring it"
    )


def _image(cluster: Cluster) -> Iterator[Finding]:
    runtime, name = cluster.runtime.kind, cluster.runtime.image or ""
    program = image.program(runtime) if runtime != "pyxis" else shutil.which("enroot")
    if program is None and runtime != "pyxis":
        hint = (
            "its module is loaded on the nodes"
            if cluster.modules
            else f"modules: [{runtime}] loads it, if the site has one"
        )
        yield _finding("runtime", "ok" if cluster.modules else "warning", f"{runtime} is not on PATH here", hint)
    elif runtime != "pyxis":
        yield _finding("runtime", "ok", str(program))
    if runtime == "apptainer" or name.startswith("/"):
        path = Path(name).expanduser()
        if not path.exists():
            fix = "build it: paceline image build isaaclab-3.0 --output " + name
            yield _finding("image", "failure", f"{name} does not exist", fix)
            return
        if not os.access(path, os.R_OK):
            yield _finding("image", "failure", f"{name} cannot be read", "chmod a+r, or ask its owner")
            return
        size = f", {path.stat().st_size / 1e9:.1f} GB" if path.is_file() else ""
        yield _finding("image", "ok", f"{name}{size}")
    if runtime == "pyxis" or program is None:
        return
    try:
        inside = image.ask(name, timeout_s=60)
    except PacelineError as error:
        # Docker pulls on the node what is not here; Apptainer's file is as good here as there.
        yield _finding(
            "image", "failure" if runtime == "apptainer" else "warning", str(error), "paceline image check says more"
        )
        return
    found = imagecheck.judge(inside)
    if inside["isaacsim"] and not cluster.runtime.accept_eula:
        fix = "read NVIDIA's licence agreement; runtime: accept_eula: true if you accept it"
        yield _finding("licence", "failure", "Isaac Sim does not start before its licence is accepted", fix)
    for finding in found:
        if finding.state != "ok":
            yield _finding(f"image {finding.check}", finding.state, finding.text, finding.fix)
    if all(finding.state == "ok" for finding in found):
        engine = next(finding.text for finding in found if finding.check == "isaaclab")
        yield _finding("image", "ok", f"starts here: isaaclab {engine}")


def _assets(cluster: Cluster) -> Finding:
    root = Path(cluster.asset_root).expanduser()
    if (root / "Isaac").is_dir():
        return _finding("assets", "ok", str(root))
    if cluster.runtime.kind != "none":
        return _finding("assets", "ok", f"{root} (not here: of the nodes or the image)")
    return _finding("assets", "failure", f"{root} has no folder Isaac", "asset_root: a folder with Isaac/ in it")


def _finding(check: str, state: State, text: str, fix: str | None = None) -> Finding:
    return Finding(check=check, state=state, text=text, fix=fix)
