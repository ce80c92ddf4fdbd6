"""Whatever happens to the files of a study, the report is written or one line says why not."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from paceline.analysis.report import write_report
from paceline.bench.errors import PacelineError

from tests.synthetic import Recipe, write_study

VALUES = [None, "x", -1, 0, 1e308, True, [], {}, [1], {"a": 1}, 10**30]
SMALL = Recipe(world_sizes=(1, 2), repeats=2, iterations=20, warmup_iterations=5, true_warmup=3)


def change(data: Any, rng: random.Random) -> Any:
    """Replace or drop one value somewhere inside."""
    holder: Any = None
    key: Any = None
    inner = data
    while isinstance(inner, dict | list) and inner and rng.random() < 0.8:
        holder, key = inner, rng.choice(list(inner)) if isinstance(inner, dict) else rng.randrange(len(inner))
        inner = holder[key]
    if isinstance(holder, dict) and rng.random() < 0.3:
        del holder[key]
    elif holder is not None:
        holder[key] = rng.choice(VALUES)
    return data


def damage(path: Path, rng: random.Random) -> None:
    """Change a value, cut the file, overwrite bytes, or take it away."""
    content = path.read_bytes()
    way = rng.choice(["value", "value", "value", "cut", "bytes", "gone"])
    if way == "value" and path.suffix in (".json", ".jsonl"):
        lines = content.decode().splitlines() if path.suffix == ".jsonl" else [content.decode()]
        number = rng.choice([0, 0, rng.randrange(len(lines))])
        lines[number] = json.dumps(change(json.loads(lines[number]), rng))
        path.write_text("\n".join(lines) + "\n")
    elif way == "bytes" and content:
        changed = bytearray(content)
        for _ in range(3):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        path.write_bytes(bytes(changed))
    elif way == "gone":
        path.unlink()
    else:
        path.write_bytes(content[: rng.randrange(len(content) + 1)])


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_study(folder, SMALL)
    return folder


def attempt(study: Path, seed: int) -> None:
    """Damage one to three files, report, and put them back."""
    rng = random.Random(seed)
    files = sorted(path for path in study.rglob("*") if path.is_file() and path.parent.name != "report")
    touched = {path: path.read_bytes() for path in rng.sample(files, rng.randint(1, 3))}
    for path in touched:
        damage(path, rng)
    try:
        assert write_report(study).is_file()
    except PacelineError as error:
        assert "\n" not in str(error)
    finally:
        for path, content in touched.items():
            path.write_bytes(content)


def test_damaged_files(study: Path) -> None:
    for seed in range(40):
        attempt(study, seed)


@pytest.mark.slow
def test_many_damaged_files(study: Path) -> None:
    for seed in range(1000, 1250):
        attempt(study, seed)
