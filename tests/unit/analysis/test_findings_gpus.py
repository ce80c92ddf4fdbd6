"""The sections of the findings about one GPU: sweeps, GPU models, physics engines."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from paceline.analysis.findings_gpus import KINDS, check, sections
from paceline.bench.errors import RecordError

from tests.sweepworld import World, play, sweep_study
from tests.synthetic import Recipe, write_study

ROOT = Path(__file__).resolve().parents[3]
CURVE = "env_count_sweep_anymal_c_rough.csv"
COMMON = {"title": "T", "host": "one host", "date": "2026-01-01", "command": "cmd", "note": "Note."}


def one_gpu(folder: Path, gpu: str, seconds: float, seed: int, physics: str = "newton_mjwarp") -> None:
    """Records of four runs on one GPU, 4,096 environments."""
    shape: dict[str, Any] = {"kind": "weak", "world_sizes": (1,), "num_envs": 4096, "repeats": 4, "job_noise": 0.004}
    write_study(folder, Recipe(**shape, gpu_name=gpu, base_time_s=seconds, seed=seed, physics=physics))


def test_a_sweep_stands_beside_the_published_curve(tmp_path: Path) -> None:
    play(tmp_path / "s", sweep_study(), World())
    shutil.copyfile(ROOT / "analysis/examples" / CURVE, tmp_path / CURVE)
    published = [{"what": "H100 NVL", "file": CURVE, "gpu": "NVIDIA H100 NVL"}]
    entry: dict[str, Any] = {**COMMON, "name": "s", "folder": "s", "published": published}
    text, charts = sections("sweeps", check("sweeps", [entry], tmp_path), tmp_path)
    assert text.startswith("### T\n\n2026-01-01, one host") and text.endswith("Note.")
    assert "| Environments | Frames/s here | H100 NVL, frames/s |" in text
    assert "| 8,192 |" in text.partition("Beside published")[2] and "| maximum |" in text
    assert set(charts) == {"s-throughput", "s-memory"} and "<!-- figure s-memory -->" in text
    with pytest.raises(RecordError, match="no GPU 'H300'"):
        sections("sweeps", [{**entry, "published": [{**published[0], "gpu": "H300"}]}], tmp_path)


def test_two_gpus_and_two_engines(tmp_path: Path) -> None:
    one_gpu(tmp_path / "a", "NVIDIA H100 80GB HBM3", 0.8, 1)
    one_gpu(tmp_path / "b", "NVIDIA H200", 0.8 / 1.25, 2)
    one_gpu(tmp_path / "c", "NVIDIA H100 80GB HBM3", 1.6, 3, "ovphysx")
    gpus = {**COMMON, "name": "g", "folders": ["a", "b"], "reference": "H100"}
    text, charts = sections("gpus", check("gpus", [gpus], tmp_path), tmp_path)
    row = next(line for line in text.splitlines() if line.startswith("|") and "NVIDIA H200" in line)
    assert "| faster |" in row
    assert "g-throughput" in charts
    engines = {**COMMON, "name": "e", "pairs": [{"a": "a", "b": "c"}]}
    text, charts = sections("engines", check("engines", [engines], tmp_path), tmp_path)
    newton, physx = (next(line for line in text.splitlines() if f"| {name} |" in line) for name in ("Newton", "PhysX"))
    assert "reference" in newton and "slower" in physx and "| 0.50 (" in physx
    assert not charts


def test_a_wrong_entry_is_told(tmp_path: Path) -> None:
    for kind in KINDS:
        with pytest.raises(RecordError, match=rf"{kind}, entry 1: '\w+' is missing or unknown"):
            check(kind, [{"name": "x"}], tmp_path)
        with pytest.raises(RecordError, match="expected a list of keys and values"):
            check(kind, "x", tmp_path)
