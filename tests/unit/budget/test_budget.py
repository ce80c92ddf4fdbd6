"""Budgets: both directions, with what is uncertain."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paceline.analysis import budgettext
from paceline.analysis.budget import Measured, Wish, from_folder, from_table, plan
from paceline.analysis.stats import Estimate
from paceline.bench.errors import RecordError

from tests.sweepworld import World, play, sweep_study
from tests.synthetic import Recipe, write_study

ROOT = Path(__file__).resolve().parents[3]


def measured(**changes: Any) -> Measured:
    values: dict[str, Any] = {"label": "1 GPU", "world_size": 1, "num_envs": 8192, "horizon": 24, "repeats": 3}
    values |= {"fps": Estimate(36000.0, 35000.0, 37000.0), "interval_from": "repeats"}
    return Measured(**{**values, **changes})


def test_a_published_plan() -> None:
    # Spot, rough terrain: 196,608 steps an iteration, 655 iterations an hour, 31,400 in 48 h, 60 checkpoints of 500
    row = plan(measured(), Wish(hours=48.0, save_interval=500))
    assert row["iterations_per_hour"] == pytest.approx(655, rel=0.01)
    assert row["iterations"] == pytest.approx(31400, rel=0.01)
    assert row["frames_low"] < row["frames"] < row["frames_high"]
    assert row["checkpoints"] == 64
    back = plan(measured(), Wish(iterations=row["iterations"]))
    assert back["hours"] == pytest.approx(48.0, rel=1e-4)


def test_more_throughput_is_less_time() -> None:
    row = plan(measured(gpu_hour_price=2.0, world_size=4), Wish(frames=36000 * 3600 * 10.0))
    assert row["hours"] == pytest.approx(10.0)
    assert row["hours_low"] == pytest.approx(10.0 * 36 / 37) and row["hours_high"] == pytest.approx(10.0 * 36 / 35)
    assert row["gpu_hours"] == pytest.approx(40.0) and row["price"] == pytest.approx(80.0)
    assert row["frames_low"] is None, "what was asked for is exact"


def test_a_time_limit_makes_several_jobs_each_with_its_start() -> None:
    row = plan(measured(startup_s=360.0), Wish(frames=36000 * 3600 * 10.0, time_limit_h=2.1))
    assert row["jobs"] == 5 and row["hours"] == pytest.approx(10.0 + 5 * 0.1)
    assert plan(measured(startup_s=360.0), Wish(frames=1e9, time_limit_h=0.05))["jobs"] is None
    fits = plan(measured(startup_s=360.0), Wish(hours=10.5, time_limit_h=2.1))
    assert fits["jobs"] == 5 and fits["frames"] == pytest.approx(36000 * 3600 * 10.0)


def test_checkpoints_and_their_disk() -> None:
    row = plan(measured(checkpoint_bytes=175e6), Wish(iterations=17000, save_interval=500))
    assert row["checkpoints"] == 34 and row["disk_bytes"] == pytest.approx(34 * 175e6)


@given(
    fps=st.floats(1e2, 1e7),
    hours=st.floats(0.5, 500),
    startup_s=st.floats(0, 900),
    limit_h=st.one_of(st.none(), st.floats(0.5, 48)),
)
def test_both_directions_agree(fps: float, hours: float, startup_s: float, limit_h: float | None) -> None:
    way = measured(fps=Estimate(fps, None, None), startup_s=startup_s)
    there = plan(way, Wish(hours=hours, time_limit_h=limit_h))
    if there["frames"] > 0:
        back = plan(way, Wish(frames=there["frames"], time_limit_h=limit_h))
        assert back["hours"] <= hours * (1 + 1e-6) + startup_s / 3600
        assert back["frames"] == there["frames"]


def test_a_study_folder_with_repeats(tmp_path: Path) -> None:
    truth = write_study(tmp_path, Recipe(world_sizes=(1, 2), repeats=3))
    one, two = from_folder(tmp_path)
    assert (one.world_size, two.world_size) == (1, 2) and one.interval_from == "repeats"
    assert one.fps.value == pytest.approx(truth.total_fps[1], rel=0.03)
    assert one.fps.low is not None and one.fps.low < truth.total_fps[1] * 1.03
    text = budgettext.text([one, two], Wish(frames=1e9))
    assert "2 GPUs" in text.splitlines()[0]


def test_one_run_has_the_scatter_inside_it(tmp_path: Path) -> None:
    write_study(tmp_path, Recipe(world_sizes=(1,), repeats=1))
    (only,) = from_folder(tmp_path)
    assert only.interval_from == "blocks of one run" and only.fps.low < only.fps.value < only.fps.high  # type: ignore[operator]
    assert "between runs it is larger" in budgettext.text([only], Wish(hours=1.0))


def test_runs_that_do_not_count_are_not_planned_with(tmp_path: Path) -> None:
    play(tmp_path, sweep_study(limit_envs=131072), World(stack_per_env=60000.0, hot_from=65536))
    assert max(each.num_envs or 0 for each in from_folder(tmp_path)) == 32768


def test_tables_leave_invalid_physics_out() -> None:
    found = from_table(ROOT / "analysis" / "examples" / "env_count_sweep_anymal_c_rough.csv", 24)
    assert 65536 not in {each.num_envs for each in found}
    rows = [plan(each, Wish(iterations=100)) for each in found]
    assert budgettext.best_row(rows, Wish(iterations=100)) is None, "other environments: another amount of training"


def test_the_command(tmp_path: Path, paceline: Path) -> None:
    def answer(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([paceline, "budget", *arguments], capture_output=True, text=True, check=False)

    done = answer("--fps", "36000", "--envs", "8192", "--horizon", "24", "--hours", "48", "--format", "json")
    assert json.loads(done.stdout)["rows"][0]["iterations"] == 31640
    for arguments, message in (
        ((), "state a study folder or table, or --fps"),
        (("--fps", "-3"), "invalid positive number value"),
        (("--fps", "100", "--fps-low", "200", "--fps-high", "300"), "with --fps between them"),
        (("nowhere", "--hours", "1"), "no such study folder"),
        (("--fps", "1", "--hours", "1", "--frames", "2"), "not allowed with argument"),
    ):
        done = answer(*arguments)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr
        assert "Traceback" not in done.stderr


def test_a_folder_without_a_number(tmp_path: Path) -> None:
    play(tmp_path, sweep_study(), World(bytes_per_env=1e9))
    with pytest.raises(RecordError, match="no run that counts"):
        from_folder(tmp_path)
