"""The sections of docs/findings.md about profiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from paceline.analysis import findings_traces
from paceline.bench.errors import RecordError

ROOT = Path(__file__).resolve().parents[3]
MANIFEST = ROOT / "docs" / "findings.yaml"
ONE, FOUR = (f"tests/data/nsys/cartpole_rl_games_{gpus}_graph" for gpus in ("1_gpu", "4_gpus"))


def entry(**values: Any) -> Any:
    (checked,) = findings_traces.check([{"title": "T", "note": "N.", "ranges": ["update"], **values}], MANIFEST)
    return checked


def test_captures_stand_beside_each_other() -> None:
    lines = findings_traces.section(
        entry(captures={"1 GPU": ONE, "4 GPUs": FOUR}, ranges=["update", "iteration"])
    ).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    assert cells[0][:4] == ["Range", "Capture", "Instances", "Launches, each"]
    assert "Kernels, each" not in cells[0], "with graphs recorded whole they are the launches"
    assert [row[:4] for row in cells[2:]] == [
        ["update", "1 GPU", "1", "12,171"],
        ["update", "4 GPUs", "1", "12,371"],
        ["iteration", "1 GPU", "1", "17,856"],
        ["iteration", "4 GPUs", "1", "18,056"],
    ]
    assert lines[-1] == f"N. Captures: [{ONE}](../{ONE}), [{FOUR}](../{FOUR})."


def test_one_capture() -> None:
    text = findings_traces.section(entry(file=ONE))
    assert "| Range | Instances | Launches, each |" in text and "NCCL" not in text
    assert text.endswith(f"N. Capture: [{ONE}](../{ONE}).")


def test_a_range_that_is_in_no_capture_is_told() -> None:
    """One that only some captures have is fine: a run on one GPU does not communicate."""
    ant = {name: f"tests/data/nsys/ant_rsl_rl_{name}_graph" for name in ("1_gpu", "4_gpus")}
    assert "communication" in findings_traces.section(entry(captures=ant, ranges=["communication"]))
    with pytest.raises(RecordError, match="no capture has a range 'physic'"):
        findings_traces.section(entry(file=ONE, ranges=["physic"]))
