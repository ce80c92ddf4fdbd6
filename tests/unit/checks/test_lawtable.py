"""Rows for the report, on studies that four H200 GPUs measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from paceline.analysis.checks import check_path
from paceline.analysis.curves import curves
from paceline.analysis.lawtable import law_rows, serial_fractions
from paceline.analysis.study_table import read_study

H200 = Path(__file__).parents[2] / "data" / "h200"


def series(name: str) -> Any:
    found = curves(read_study(H200 / name))[0].series("total_fps")
    assert found is not None
    return found


def test_strong_scaling_of_ant() -> None:
    """Collection hardly shrinks with the environments per GPU: most of the iteration is serial in Amdahl's sense."""
    measured = series("strong_ant_rsl_rl")
    rows = {
        (row["law"], row["parameter"]): row
        for row in law_rows("strong", measured.world_sizes.tolist(), [r.tolist() for r in measured.repeats])
    }
    assert set(rows) == {("Amdahl", "s"), ("USL", "sigma"), ("USL", "kappa"), ("power law", "alpha")}
    amdahl = rows["Amdahl", "s"]
    assert amdahl["identifiable"] and amdahl["low"] < 0.70 < amdahl["high"] and amdahl["high"] - amdahl["low"] < 0.25
    assert amdahl["next_world_size"] == 8 and amdahl["next_speedup_low"] < amdahl["next_speedup"] < 1.6
    assert amdahl["leave_one_out_low"] <= amdahl["value"] <= amdahl["leave_one_out_high"]
    usl = rows["USL", "kappa"]
    assert not usl["identifiable"] and "3 points" in usl["reason"]
    assert usl["next_speedup"] is None and usl["peak_world_size"] is None
    json.dumps(list(rows.values()), allow_nan=False)


def test_weak_scaling_of_cartpole() -> None:
    measured = series("weak_cartpole_rl_games")
    rows = law_rows("weak", measured.world_sizes.tolist(), [r.tolist() for r in measured.repeats])
    assert [row["law"] for row in rows] == ["Gustafson", "USL", "USL", "power law"]
    assert rows[0]["low"] <= rows[0]["value"] <= rows[0]["high"] and rows[0]["value"] < 0.15
    fractions = serial_fractions("weak", measured.world_sizes.tolist(), measured.values.tolist())
    assert fractions[0]["serial_fraction"] is None and 0 < fractions[2]["serial_fraction"] < 0.2
    assert [row["world_size"] for row in fractions] == [1, 2, 4]


def test_serial_fraction_of_strong_scaling_is_karp_flatt() -> None:
    rows = serial_fractions("strong", [1, 2, 4], [1000.0, 1000 / 0.6, 1000 / 0.4])
    assert [row["serial_fraction"] for row in rows[1:]] == pytest.approx([0.2, 0.2])
    assert rows[1]["incremental_efficiency"] == pytest.approx(1 / 1.2)


def test_too_few_points_and_single_runs() -> None:
    assert law_rows("strong", [1, 2], [[1.0], [1.9]]) == []
    rows = law_rows("strong", [1, 2, 4], [[1000.0], [1800.0], [3000.0]])
    assert {row["low"] for row in rows} == {None} and rows[0]["next_speedup"] is not None
    assert rows[0]["next_speedup_low"] is None


@pytest.mark.parametrize("name", ["strong_ant_rsl_rl", "weak_cartpole_rl_games"])
def test_checks_find_nothing_in_sound_studies(name: str) -> None:
    assert check_path(H200 / name) == []
