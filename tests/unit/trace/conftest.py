"""Captures that the trace tests share."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[2] / "data" / "nsys"


@pytest.fixture(scope="session")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped capture, unpacked."""
    path = tmp_path_factory.mktemp("nsys") / "cartpole.sqlite"
    path.write_bytes(lzma.decompress((DATA / "cartpole_h200_graph.sqlite.xz").read_bytes()))
    return path
