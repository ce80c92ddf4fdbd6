from __future__ import annotations

import csv
import importlib.util
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from types import ModuleType

import pytest
from paceline.analysis.checks import check_table
from paceline.analysis.finding import Finding
from paceline.analysis.plain_csv import parse_csv

EXPECTED = Path(__file__).parents[2] / "data" / "expected"


@pytest.fixture
def check() -> Callable[..., dict[str, list[Finding]]]:
    """Return a function: CSV text (and file name) -> findings by id."""

    def run(text: str, name: str = "table.csv") -> dict[str, list[Finding]]:
        found: dict[str, list[Finding]] = {}
        for finding in check_table(parse_csv(text, name)):
            found.setdefault(finding.id, []).append(finding)
        return found

    return run


@pytest.fixture
def example() -> Callable[[str], Path]:
    """Return a function: name of a shipped table -> its path."""

    def path(name: str) -> Path:
        return Path(str(resources.files("paceline.analysis") / "examples" / f"{name}.csv"))

    return path


@pytest.fixture
def golden() -> Callable[[str], list[dict[str, str]]]:
    """Return a function: name of a golden table -> its rows."""

    def rows(name: str) -> list[dict[str, str]]:
        with open(EXPECTED / f"{name}.csv", newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))

    return rows


@pytest.fixture(scope="session")
def synthetic() -> ModuleType:
    """Return tests/synthetic.py: study folders with known truth."""
    name = "tests.synthetic"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[2] / "synthetic.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]
