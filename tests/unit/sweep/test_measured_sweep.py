"""A sweep measured on an H100, through the same analysis: what is read from it, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from paceline.analysis import sweepreport

RECORDS = Path(__file__).resolve().parents[3] / "tests/data/h100/sweep_ant"


def test_ant_on_an_h100() -> None:
    found = sweepreport.analyse_folder(RECORDS)
    assert [point["num_envs_per_rank"] for point in found.points] == [1024 * 2**k for k in range(7)]
    assert found.points[-1]["total_fps"] == pytest.approx(2.142e6, rel=1e-3)
    # The host's speed wanders by more than a model of saturation could bear, and nothing had saturated.
    assert found.fit is None and "+17" in str(found.why_no_fit) and found.knee_measured is None
    assert found.memory is not None and found.memory.bytes_per_env.value is not None
    assert found.memory.bytes_per_env.value / 1024 == pytest.approx(172, abs=4)
    assert [point["bound"] for point in found.points] == ["host"] * 4 + ["both"] * 3
    (cut,) = found.excluded
    assert cut["num_envs_per_rank"] == 131072 and cut["excluded"].startswith("failed: interrupted")
    assert found.largest_valid == 65536 and found.smallest_out_of_memory is None and found.ended_by is None
    per_joule = [point["frames_per_j"] for point in found.points]
    assert per_joule == sorted(per_joule) and per_joule[0] > 700
    assert all(row["cool_down_s"] <= 5 for row in found.rows if row["cool_down_s"] is not None)
    chosen = {each.purpose: each.num_envs for each in found.recommendations}
    assert chosen["maximum"] == 65536
