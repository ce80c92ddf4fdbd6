"""The nsys command lines, and the choice of an nsys."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from paceline.bench.errors import TraceError
from paceline.profiling import nsys


def fake(path: Path, version: str) -> Path:
    """An executable that answers --version as nsys does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho 'NVIDIA Nsight Systems version {version}'\n")
    path.chmod(0o755)
    return path


def test_profile_command() -> None:
    command = nsys.profile_command(
        "/opt/nsys", ["torchrun", "train.py", "--x=a b"], "/runs/1/nsys-node1", graph_trace="node"
    )
    assert command == [
        "/opt/nsys",
        "profile",
        "--output=/runs/1/nsys-node1",
        "--force-overwrite=true",
        "--trace=cuda,nvtx",
        "--sample=none",
        "--cpuctxsw=none",
        "--resolve-symbols=false",
        "--cuda-graph-trace=node",
        "--capture-range=cudaProfilerApi",
        "--capture-range-end=stop",
        "torchrun",
        "train.py",
        "--x=a b",
    ]
    assert shlex.split(shlex.join(command)) == command
    assert nsys.ENVIRONMENT == {"DEBUGINFOD_URLS": ""}


def test_without_a_gpu_there_is_no_capture_of_cuda() -> None:
    command = nsys.profile_command("nsys", ["true"], "o", cuda=False, window=False)
    assert "--trace=nvtx" in command
    assert not any("cuda" in part or "capture" in part for part in command)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="no command"):
        nsys.profile_command("nsys", [], "o")
    with pytest.raises(ValueError, match="graph or node"):
        nsys.profile_command("nsys", ["true"], "o", graph_trace="whole")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("version", "driver", "bad"),
    [
        ((2023, 4, 4, 54), "580.159.04", True),
        ((2023, 4, 4, 54), "590.1", True),
        ((2023, 4, 4, 54), "550.54.15", False),
        ((2024, 2, 3, 38), "580.159.04", False),
        ((2025, 6, 1), "580.159.04", False),
        ((2023, 4, 4, 54), None, False),
        ((2023, 4, 4, 54), "", False),
    ],
)
def test_combinations(version: tuple[int, ...], driver: str | None, bad: bool) -> None:
    found = nsys.problem(version, driver)
    assert (found is not None) == bad
    if found:
        assert "2023.4.4.54" in found and str(driver) in found and "2024.2 or newer" in found and "\n" not in found


def test_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A given path wins over PACELINE_NSYS, that over PATH."""
    given, named, on_path = (fake(tmp_path / name / "nsys", "2024.2.3.38-1") for name in ("a", "b", "c"))
    monkeypatch.setenv("PATH", str(on_path.parent))
    assert nsys.find() == on_path
    monkeypatch.setenv("PACELINE_NSYS", str(named))
    assert nsys.find() == named
    assert nsys.find(given) == given
    with pytest.raises(TraceError, match="not an executable nsys"):
        nsys.find(tmp_path / "absent")
    monkeypatch.setenv("PACELINE_NSYS", str(tmp_path))
    with pytest.raises(TraceError, match="PACELINE_NSYS"):
        nsys.find()


def test_version(tmp_path: Path) -> None:
    assert nsys.version(fake(tmp_path / "nsys", "2024.2.3.38-242334140272v0")) == (2024, 2, 3, 38)
    with pytest.raises(TraceError, match="does not run"):
        nsys.version(tmp_path / "absent")
    with pytest.raises(TraceError, match="--version says"):
        nsys.version(fake(tmp_path / "odd", "unknown"))
