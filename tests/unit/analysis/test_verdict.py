"""The verdict says no more than the intervals allow."""

from __future__ import annotations

from typing import Any

import pytest
from paceline.analysis.summary import SPLIT
from paceline.analysis.verdict import verdict


def row(
    size: int, speedup: float | None, low: float | None = None, high: float | None = None, **rest: Any
) -> dict[str, Any]:
    def scaled(value: float | None) -> float | None:
        return None if value is None else value / size

    out: dict[str, Any] = {"world_size": size, "repeats": 3 if low else int(speedup is not None), "repeats_planned": 3}
    out |= {"total_fps": None if speedup is None else 1000.0 * speedup, "status": "completed"}
    out |= {"speedup": speedup, "speedup_low": low, "speedup_high": high, "global_batch": 1024 * size}
    out |= {"efficiency": scaled(speedup), "efficiency_low": scaled(low), "efficiency_high": scaled(high)}
    out |= {f"loss_{part}": 0.0 for part in SPLIT} | {"runs_failed": 0, "runs_flagged": 0}
    return out | rest


ONE = row(1, 1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("point", "tone", "start"),
    [
        (
            row(4, 3.2, 3.1, 3.3),
            "better",
            "4 GPUs train 3.20 times as fast as 1 GPU (95\u202f% interval 3.10\u20133.30)",
        ),
        (row(4, 1.1, 0.9, 1.3), "inconclusive", "Inconclusive: 4 GPUs against 1 GPU gave 1.10 times the throughput"),
        (row(4, 0.8, 0.7, 0.9), "worse", "4 GPUs train slower than 1 GPU: 0.80 times"),
        (row(4, 3.2), "inconclusive", "4 GPUs trained 3.20 times as fast as 1 GPU"),
    ],
)
def test_headline(point: dict[str, Any], tone: str, start: str) -> None:
    found = verdict("strong", "cuda", [ONE, point], 6)
    assert found.tone == tone
    assert found.headline.startswith(start)
    assert found.world_size == 4


def test_headline_is_about_the_largest_size_that_can_be_judged() -> None:
    found = verdict("strong", "cuda", [ONE, row(2, 1.9, 1.8, 2.0), row(4, 3.6)], 7)
    assert found.headline.startswith("2 GPUs train 1.90 times")
    assert "No interval at 4 GPUs (n=1): not judged." in found.details


def test_efficiency_limit_is_judged_by_the_interval() -> None:
    rows = [ONE, row(2, 1.8, 1.75, 1.85), row(4, 3.2, 3.0, 3.4), row(8, 4.0, 3.9, 4.1)]
    details = verdict("strong", "cuda", rows, 12).details
    assert "Efficiency is at least 80\u202f% up to 2 GPUs." in details
    assert "Inconclusive at 4 GPUs: the efficiency interval includes 80\u202f%." in details


def test_loss_is_named_only_where_there_is_one() -> None:
    losing = row(2, 1.6, 1.5, 1.7, loss_communication=0.15, loss_physics=0.05)
    assert any(
        "communication 15.0, physics 5.0" in detail for detail in verdict("strong", "cuda", [ONE, losing], 6).details
    )
    ideal = row(2, 1.98, 1.9, 2.05, loss_communication=0.01)
    assert not any("lost" in detail for detail in verdict("strong", "cuda", [ONE, ideal], 6).details)


def test_weak_scaling_says_that_the_batch_grows() -> None:
    found = verdict("weak", "cpu", [ONE, row(2, 1.9, 1.8, 2.0)], 6)
    assert "scaled speed-up" in found.headline and found.headline.startswith("2 CPU ranks process frames")
    assert any("from 1,024 to 2,048 frames per iteration" in detail for detail in found.details)


def test_what_is_missing_is_said() -> None:
    rows = [
        ONE,
        row(2, 1.9, 1.8, 2.0, status="partial", repeats=2, runs_failed=1),
        row(4, None, status="failed", runs_failed=3),
    ]
    details = verdict("strong", "cuda", rows, 9).details
    assert "No number for world size 4 (failed)." in details
    assert "Fewer repeats than planned at world size 2 (2 of 3)." in details
    assert "4 failed attempts are listed below." in details
