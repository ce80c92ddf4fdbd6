"""Sweeps as real GPUs made them: their ends and verdicts, kept in tests/data/h100."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from paceline.analysis import sweepreport
from paceline.bench.overflow import scan
from paceline.bench.rundir import StudyDir, read_json

DATA = Path(__file__).resolve().parents[2] / "data" / "h100"


def outcomes(name: str) -> list[tuple[int, str]]:
    runs = read_json(StudyDir(DATA / name).sweep_json)["runs"]
    return [(run["num_envs_per_rank"], run["verdict"]) for run in runs]


def test_rough_terrain_has_a_knee_and_is_bound_by_the_gpu() -> None:
    analysis = sweepreport.analyse_folder(DATA / "sweep_anymal_c_rough")
    points = {point["num_envs_per_rank"]: point for point in analysis.points}
    assert sorted(points) == [1024, 2048, 4096, 8192, 16384]
    assert points[1024]["bound"] == "host"
    assert points[8192]["bound"] == points[16384]["bound"] == "device"
    assert analysis.knee_measured == 8192 and analysis.fit is not None
    rates = [points[size]["total_fps"] for size in sorted(points)]
    assert rates == sorted(rates)
    assert outcomes("sweep_anymal_c_rough")[-1][0] == 16384  # 32,768 was stopped with a full table, and is no point


def test_rough_terrain_to_the_end_of_80_gb() -> None:
    """Points of another host, predicted by the curve and the memory of the sweep up to 16,384."""
    before = sweepreport.analyse_folder(DATA / "sweep_anymal_c_rough")
    analysis = sweepreport.analyse_folder(DATA / "sweep_anymal_c_rough_end")
    assert outcomes("sweep_anymal_c_rough_end") == [(32768, "valid"), (65536, "valid"), (131072, "memory")]
    assert any(line.startswith("The knee is at or below 32,768") for line in sweepreport.details(analysis))
    assert (analysis.largest_valid, analysis.smallest_out_of_memory) == (65536, 131072)
    assert before.fit is not None and before.memory is not None and analysis.memory is not None
    model = before.fit.model
    for point in analysis.points:
        envs = point["num_envs_per_rank"]
        predicted = envs / (model.fixed_step_time_s + envs * model.step_time_per_env_s)
        assert point["total_fps"] == pytest.approx(predicted, rel=0.01)
        assert point["bound"] == "device"
    assert before.memory.wall_envs == pytest.approx(analysis.memory.wall_envs, rel=0.01)
    # The bisection began, and the time on the machine was over: nothing is known of that run.
    cut = {row["num_envs_per_rank"]: row for row in analysis.rows}[98304]
    assert cut["verdict"] == "unfinished" and cut["wall_s"] is None
    assert cut["excluded"].startswith("unfinished: no result")
    assert analysis.ended_by is None
    assert json.dumps(analysis.data, allow_nan=False)  # a number that is unknown is null there


def test_other_programs_on_the_cores_are_told(tmp_path: Path) -> None:
    shutil.copytree(DATA / "sweep_anymal_c_rough_end", tmp_path / "sweep")
    untouched = sweepreport.analyse_folder(tmp_path / "sweep")
    shares = [row["other_cpu_pct"] for row in untouched.rows if row["verdict"] == "valid"]
    assert len(shares) == 2 and all(0 <= share < 0.5 for share in shares)
    assert not any("other programs" in note for note in untouched.notes)
    path = next(path for path in (tmp_path / "sweep").glob("runs/3ce26c29c910/*/samples-*.jsonl"))
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    samples = [json.loads(line) for line in lines]
    for sample in samples:
        if "cpu_pct" in sample:
            sample["cpu_pct"] = [min(100, use + 30) for use in sample["cpu_pct"]]
    path.write_text("\n".join([header, *map(json.dumps, samples)]) + "\n", encoding="utf-8")
    (note,) = [note for note in sweepreport.analyse_folder(tmp_path / "sweep").notes if "other programs" in note]
    assert note.startswith("At 32,768 environments other programs kept 10 % of the job's processor cores busy, or more")


def test_memory_ended_and_the_largest_count_was_found() -> None:
    """Ant with 9.3 GB of an H100 left by another process."""
    assert outcomes("memory_wall") == [(32768, "valid"), (65536, "memory"), (49152, "valid")]
    assert read_json(StudyDir(DATA / "memory_wall").sweep_json)["ended_by"] == "memory"
    failed = [read_json(path) for path in (DATA / "memory_wall").glob("runs/*/*/result.json")]
    (wall,) = [result for result in failed if result["status"] == "failed"]
    assert wall["cause"] == "oom_device"
    assert scan([wall["message"]], 65536).out_of_memory is not None
    analysis = sweepreport.analyse_folder(DATA / "memory_wall")
    assert analysis.points == []  # throughput beside another process on the GPU counts nowhere


def test_physx_named_a_size_and_got_it() -> None:
    """Patch buffer of 1,024 in Ant, 4,096 environments: named sizes are tried, the second with a quarter more."""
    assert outcomes("overflow_patch") == [(4096, "overflow"), (4096, "overflow"), (4096, "valid")]
    cases = [read_json(path)["overrides"] for path in (DATA / "overflow_patch").glob("runs/*/*/case.json")]
    tried = {int(case[-1].partition("=")[2]) for case in cases}
    assert tried == {1024, 8588, 10735}
    analysis = sweepreport.analyse_folder(DATA / "overflow_patch")
    (point,) = analysis.points
    assert point["total_fps"] == pytest.approx(197_622, abs=1)
