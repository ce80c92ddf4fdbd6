"""Sweeps that someone else measured."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from paceline.analysis import sweepreport
from paceline.bench.errors import RecordError

ROOT = Path(__file__).resolve().parents[3]
PUBLISHED = ROOT / "analysis" / "examples" / "env_count_sweep_anymal_c_rough.csv"
H100 = [(1024, 9000), (4096, 24000), (8192, 36447), (16384, 37865), (32768, 40944), (65536, 69090)]


def bare(tmp_path: Path, rows: Sequence[tuple[int, float]], header: str = "num_envs,total_fps") -> Path:
    path = tmp_path / "sweep.csv"
    path.write_text(header + "\n" + "".join(f"{n},{x}\n" for n, x in rows))
    return path


def test_the_published_sweep() -> None:
    h100, laptop = sweepreport.analyse_csv(PUBLISHED)
    broken = [row for row in h100.excluded if row["num_envs_per_rank"] == 65536]
    assert "collisionStackSize" in broken[0]["excluded"]
    assert h100.knee_measured == 8192
    assert h100.fit is not None
    assert h100.data["saturation"]["knee_envs_low"] < 8192 < h100.data["saturation"]["knee_envs_high"]
    # 6.0 GB at 1,024 and 35.3 GB at 65,536 environments: 454 kB for each
    assert h100.memory.bytes_per_env.value == pytest.approx((35.3e9 - 6.0e9) / (65536 - 1024), rel=0.03)
    assert h100.data["memory"]["bytes_per_env_low"] < 454e3 < h100.data["memory"]["bytes_per_env_high"]
    assert {r.purpose: r.num_envs for r in h100.recommendations} == {
        "debugging": 1024,
        "balanced": 8192,
        "maximum": 32768,
    }
    assert laptop.fit is None and "3 valid points" in str(laptop.why_no_fit)
    assert laptop.recommendations[-1].num_envs == 4096


def test_two_columns_are_enough(tmp_path: Path) -> None:
    (analysis,) = sweepreport.analyse_csv(bare(tmp_path, H100))
    assert [row["num_envs_per_rank"] for row in analysis.excluded] == [65536]
    assert "a saturated simulator cannot speed up" in analysis.excluded[0]["excluded"]
    assert analysis.memory is None and analysis.recommendations[-1].num_envs == 32768


def test_points_without_saturation_have_no_model(tmp_path: Path) -> None:
    (analysis,) = sweepreport.analyse_csv(bare(tmp_path, [(2**k, 100.0 * 2**k) for k in range(6, 12)]))
    assert analysis.fit is None and "no saturation" in str(analysis.why_no_fit)
    assert analysis.knee_measured is None
    assert {r.num_envs for r in analysis.recommendations if r.purpose != "debugging"} == {2048}


def test_a_flat_curve_is_saturated_from_the_start(tmp_path: Path) -> None:
    (analysis,) = sweepreport.analyse_csv(
        bare(tmp_path, [(64, 1000), (128, 1001), (256, 1000), (512, 999), (1024, 1000)])
    )
    assert analysis.fit is None
    assert {r.num_envs for r in analysis.recommendations} == {64}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_envs,total_fps\n64,100\n64,101\n", "does not change"),
        ("num_envs,total_fps\n64,-5\n128,7\n", "negative"),
        ("total_fps,iteration\n1,1\n2,2\n", "number of environments"),
        ("num_envs,reward\n64,1\n", "no column of a rate"),
        ("num_envs,total_fps,gpu_memory_gb\n64,100,x\n128,200,3\n", "not a number"),
        ("", "empty"),
    ],
)
def test_what_is_no_sweep_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "sweep.csv"
    path.write_text(text)
    with pytest.raises(RecordError, match=message) as caught:
        sweepreport.analyse_csv(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_status_column_counts(tmp_path: Path) -> None:
    rows = "\n".join(f"{n},{x},completed," for n, x in H100[:5])
    path = tmp_path / "s.csv"
    path.write_text(f"num_envs,total_fps,status,cause\n{rows}\n131072,,failed,CUDA out of memory\n")
    (analysis,) = sweepreport.analyse_csv(path)
    assert analysis.smallest_out_of_memory == 131072
    assert len(analysis.points) == 5


def test_the_command_prints_json(tmp_path: Path, paceline: Path) -> None:
    done = subprocess.run(
        [paceline, "sweep", "--from", bare(tmp_path, H100), "--format", "json"],
        capture_output=True,
        text=True,
        check=True,
    )
    data = json.loads(done.stdout)
    assert data["knee_measured_envs"] == 8192
    assert data["excluded"][0]["num_envs_per_rank"] == 65536
    assert [each["purpose"] for each in data["recommendations"]] == ["debugging", "balanced", "maximum"]
