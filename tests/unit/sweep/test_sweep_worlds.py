"""Sweeps on simulated GPUs: what is true of them is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from paceline.analysis import sweepreport
from paceline.bench.rundir import StudyDir
from paceline.bench.sweep import ladder

from tests.sweepworld import World, play, sweep_study


def found(folder: Path) -> Any:
    return sweepreport.analyse_folder(folder)


def test_a_limit_ends_it_and_the_knee_is_found(tmp_path: Path) -> None:
    world = World(noise=0.01)
    entries, ended = play(tmp_path, sweep_study(limit_envs=131072), world)
    assert ended is not None and ended.by == "limit"
    assert [e.outcome.point.num_envs_per_rank for e in entries] == ladder(sweep_study(limit_envs=131072))
    analysis = found(tmp_path)
    fit = analysis.fit
    assert fit is not None, analysis.why_no_fit
    assert fit.knee_envs.low < world.knee_envs < fit.knee_envs.high
    assert fit.knee_envs.value == pytest.approx(world.knee_envs, rel=0.1)
    assert fit.max_fps.value == pytest.approx(1 / world.step_per_env_s, rel=0.05)
    assert analysis.memory.bytes_per_env.value == pytest.approx(world.bytes_per_env, rel=0.01)
    assert analysis.memory.wall_envs == pytest.approx(world.max_envs, rel=0.02)
    bound = {point["num_envs_per_rank"]: point["bound"] for point in analysis.points}
    assert bound[1024] == "host" and bound[131072] == "device"
    point = analysis.points[-1]
    assert point["gpu_power_w"] > 300 and point["frames_per_j"] > 0 and point["power_limited_pct"] == 100.0
    assert point["rank_cpu_pct"] == 100.0 and point["gpu_temperature_max_c"] > 60


def test_the_memory_wall_is_found_by_bisection(tmp_path: Path) -> None:
    world = World(bytes_per_env=900e3)
    entries, ended = play(tmp_path, sweep_study(), world)
    assert ended is not None and ended.by == "memory"
    analysis = found(tmp_path)
    assert analysis.largest_valid <= world.max_envs < analysis.smallest_out_of_memory
    assert analysis.smallest_out_of_memory / analysis.largest_valid < 1.06
    assert analysis.memory.wall_envs == pytest.approx(world.max_envs, rel=0.02)
    assert all("out of memory" in row["excluded"] for row in analysis.rows if row["verdict"] == "memory")
    # nothing ran twice: memory that ends is a result
    assert len(world.ran) == len(set(world.ran)) == len(entries)


@pytest.mark.parametrize(
    "text",
    [
        "PxgCudaDeviceMemoryAllocator fail to allocate memory 268435456 bytes!! Result = 2",
        "Warp CUDA error 2: out of memory (in function wp_alloc_device_async, warp.cu:1234)",
        "RuntimeError: Failed to allocate 1073741824 bytes on device 'cuda:0'",
        "[Error] [carb.cudainterop.plugin] CUDA error 2: cudaErrorMemoryAllocation - out of memory)",
        "VkResult: ERROR_OUT_OF_DEVICE_MEMORY",
    ],
)
def test_every_way_to_run_out_of_memory_is_a_result(tmp_path: Path, text: str) -> None:
    _, ended = play(tmp_path, sweep_study(limit_envs=16384), World(bytes_per_env=9e6, log_of_memory=text))
    assert ended is not None and ended.by == "memory"


def test_an_overflow_is_mended_and_both_runs_are_kept(tmp_path: Path) -> None:
    world = World(stack_per_env=2048.0)  # 2**26 bytes serve 32,768 environments
    _, ended = play(tmp_path, sweep_study(limit_envs=131072), world)
    assert ended is not None and ended.by == "limit"
    assert world.ran == ["1024", "2048", "4096", "8192", "16384", "32768", "65536", "65536", "131072", "131072"]
    analysis = found(tmp_path)
    at = [row for row in analysis.rows if row["num_envs_per_rank"] == 65536]
    assert [row["verdict"] for row in at] == ["overflow", "valid"]
    assert at[0]["overflow_buffers"] == "collisionStackSize" and at[0]["overflow_needed"] == str(2048 * 65536)
    assert at[0]["overflow_messages"] == 3
    assert at[1]["buffer_sizes"] == f"gpu_collision_stack_size={2048 * 65536}"
    assert at[0]["total_fps"] > 1.5 * at[1]["total_fps"], "the broken run looks faster"
    assert "contacts dropped" in at[0]["excluded"]
    assert analysis.points[-2]["total_fps"] == pytest.approx(world.fps(65536), rel=0.01)
    # the next point starts with the size that did below it
    assert next(row for row in analysis.rows if row["num_envs_per_rank"] == 131072)["buffer_sizes"] is not None


def test_an_overflow_that_cannot_be_mended_ends_by_physics(tmp_path: Path) -> None:
    world = World(stack_per_env=60000.0)  # from 71,582 environments on more than 32 bits
    _, ended = play(tmp_path, sweep_study(limit_envs=2**18), world)
    assert ended is not None and ended.by == "physics"
    analysis = found(tmp_path)
    assert 65536 <= analysis.largest_valid <= (2**32 - 1) / 60000
    assert analysis.largest_valid > 0.94 * (2**32 - 1) / 60000


def test_a_hot_gpu_is_left_out(tmp_path: Path) -> None:
    world = World(hot_from=65536)
    play(tmp_path, sweep_study(limit_envs=131072), world)
    analysis = found(tmp_path)
    assert [row["num_envs_per_rank"] for row in analysis.excluded] == [65536, 131072]
    assert all("too hot" in row["excluded"] for row in analysis.excluded)
    assert analysis.fit.knee_envs.value == pytest.approx(world.knee_envs, rel=0.02)
    assert max(each.num_envs for each in analysis.recommendations) == 32768


def test_a_sweep_goes_on_where_it_was(tmp_path: Path) -> None:
    study, whole, parts = sweep_study(), World(stack_per_env=4096.0), World(stack_per_env=4096.0)
    play(tmp_path / "whole", study, whole)
    for most in (2, 3, 1, 50):
        play(tmp_path / "parts", study, parts, most)
    assert parts.ran == whole.ran
    data = [json.loads(StudyDir(tmp_path / name).sweep_json.read_text()) for name in ("whole", "parts")]
    assert data[0] == data[1]


def test_sweep_json_stands_in_for_logs(tmp_path: Path) -> None:
    play(tmp_path, sweep_study(), World(stack_per_env=4096.0))
    before = sweepreport.analyse_folder(tmp_path).data
    for log in tmp_path.rglob("train.log"):
        log.unlink()
    world = World(stack_per_env=4096.0)
    play(tmp_path, sweep_study(), world)
    assert world.ran == []
    assert sweepreport.analyse_folder(tmp_path).data == before


def test_a_crash_ends_it_and_is_tried_again_later(tmp_path: Path) -> None:
    world = World(fails_once_at=4096)
    _, ended = play(tmp_path, sweep_study(limit_envs=16384), world)
    assert ended is not None and ended.by == "failed" and "the node went away" in ended.why
    _, ended = play(tmp_path, sweep_study(limit_envs=16384), world)
    assert ended is not None and ended.by == "limit"
    assert world.ran == ["1024", "2048", "4096", "4096", "8192", "16384"]


def test_time_ends_it(tmp_path: Path) -> None:
    _, ended = play(tmp_path, sweep_study(sweep_time_min=1), World())
    assert ended is not None and ended.by == "time" and "minutes are used" in ended.why


def test_a_first_point_that_does_not_fit(tmp_path: Path) -> None:
    _, ended = play(tmp_path, sweep_study(), World(bytes_per_env=1e9))
    assert ended is not None and ended.by == "memory" and "begin with fewer" in ended.why
    analysis = found(tmp_path)
    assert analysis.recommendations == [] and "nothing can be recommended" in sweepreport.text(analysis)


def test_repeats_come_last_and_give_intervals(tmp_path: Path) -> None:
    world = World(noise=0.02)
    play(tmp_path, sweep_study(limit_envs=8192, repeats=3), world)
    assert world.ran == ["1024", "2048", "4096", "8192", "2048", "4096", "8192", "1024", "4096", "8192", "1024", "2048"]
    for point in found(tmp_path).points:
        assert point["repeats"] == 3 and point["total_fps_low"] < point["total_fps"] < point["total_fps_high"]


def test_the_recommendation_is_stable_under_noise(tmp_path: Path) -> None:
    chosen = set()
    for seed in range(12):
        folder = tmp_path / str(seed)
        play(folder, sweep_study(limit_envs=131072), World(noise=0.02, seed=seed))
        chosen.add(tuple((each.purpose, each.num_envs) for each in found(folder).recommendations))
    # a step may be 25 % longer than its fixed part: 1,250; knee 15,000; 65,536 are 96 % of the best
    assert chosen == {(("debugging", 1024), ("balanced", 16384), ("maximum", 131072))}


def test_the_report_has_all_forms(tmp_path: Path) -> None:
    play(tmp_path, sweep_study(), World(stack_per_env=4096.0, bytes_per_env=900e3))
    page = sweepreport.write(found(tmp_path))
    report = StudyDir(tmp_path).report
    assert page == report / "index.html"
    header = (report / "combined_results.csv").read_text().splitlines()[0].split(",")
    assert {"num_envs_per_rank", "total_fps", "gpu_memory_used_bytes", "gpu_power_w", "energy_j", "verdict"} <= set(
        header
    )
    data = json.loads((report / "report.json").read_text())
    assert data["ended_by"] == "memory" and data["saturation"]["supported"]
    text = (report / "report.md").read_text()
    assert "good balance" in text and "collisionStackSize" in text
    # what the report wrote can be read as a sweep again
    again = sweepreport.analyse_csv(report / "combined_results.csv")
    assert len(again) == 1
    assert again[0].data["recommendations"] == data["recommendations"]
    assert again[0].data["saturation"] == data["saturation"]
