"""GPUs compared: known ratios are found, and what must not be compared is not."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paceline.analysis import gpureport
from paceline.analysis.gpuspecs import disagreements, lookup, specs
from paceline.bench.errors import RecordError
from paceline.bench.rundir import StudyDir

from tests.synthetic import Recipe, write_study

ROOT = Path(__file__).resolve().parents[3]
PUBLISHED = ROOT / "analysis" / "examples" / "gpu_comparison_anymal_c_navigation.csv"
H100, H200 = "NVIDIA H100 80GB HBM3", "NVIDIA H200"


def host(folder: Path, gpu: str = H100, **changes: Any) -> Path:
    """Records of one host: a weak-scaling study on one GPU."""
    values: dict[str, Any] = {"kind": "weak", "world_sizes": (1,), "num_envs": 4096, "repeats": 4, "job_noise": 0.004}
    write_study(folder, Recipe(gpu_name=gpu, **{**values, **changes}))
    return folder


def rewrite(folder: Path, change: Any) -> None:
    """Change the headers of all rank records of a study."""
    for path in folder.rglob("rank-*.jsonl"):
        first, rest = path.read_text().split("\n", 1)
        header = json.loads(first)
        change(header, path)
        path.write_text(json.dumps(header) + "\n" + rest)


def test_two_hosts_that_share_no_slurm(tmp_path: Path) -> None:
    a = host(tmp_path / "a", H100, base_time_s=0.8, seed=1)
    b = host(tmp_path / "b", H200, base_time_s=0.8 / 1.25, seed=2)
    found = gpureport.compare_sources([a, b], None, {"h100": 2.0, "h200": 3.0})
    assert found.sides == [H100, H200] and found.reference == H100
    base, case = found.cases
    assert case["ratio"] == pytest.approx(1.25, rel=0.02)
    assert case["ratio_low"] < 1.25 < case["ratio_high"] and case["verdict"] == "faster"
    assert case["frames_per_price"] / base["frames_per_price"] == pytest.approx(1.25 * 2 / 3, rel=0.02)
    assert case["fps_per_gb_per_s"] / base["fps_per_gb_per_s"] == pytest.approx(1.25 * 3350 / 4800, rel=0.02)
    assert case["fps_per_tflop_per_s"] / base["fps_per_tflop_per_s"] == pytest.approx(1.25, rel=0.02)
    assert case["frames_per_j"] / base["frames_per_j"] == pytest.approx(1.25, rel=0.05)
    gains = {gain["phase"]: gain for gain in found.phase_gains}
    assert gains["physics"]["gain"] == pytest.approx(1.25, rel=0.03)
    assert sum(base[f"{p}_us_per_frame"] for p in ("physics", "inference", "update", "other")) == pytest.approx(
        base["cost_us_per_frame"]
    )
    # both records say 85.5 GB: no H200 has that
    assert any(note.startswith("NVIDIA H200: NVML tells 79.6 GiB of memory") for note in found.notes)
    assert gpureport.compare_sources([a, b], "h200").cases[1]["ratio"] == pytest.approx(0.8, rel=0.02)


def test_equal_gpus_are_inconclusive_and_one_run_has_no_interval(tmp_path: Path) -> None:
    a, b = host(tmp_path / "a", H100, seed=3), host(tmp_path / "b", H200, seed=4)
    case = gpureport.compare_sources([a, b]).cases[1]
    assert case["verdict"] == "inconclusive"
    c = host(tmp_path / "c", H200, repeats=1)
    assert gpureport.compare_sources([a, c]).cases[1]["verdict"] == "n=1, no interval"


def test_other_versions_are_not_comparable(tmp_path: Path) -> None:
    a, b = host(tmp_path / "a", H100), host(tmp_path / "b", H200)
    rewrite(b, lambda header, path: header["versions"].update(torch="2.12.0"))
    found = gpureport.compare_sources([a, b])
    assert found.cases[1]["not_comparable"] == "not comparable: torch 2.12.0 against 2.11.0"
    assert found.cases[1]["ratio"] is None and found.phase_gains == []
    assert gpureport.headline(found).startswith("Nothing is compared: not comparable: torch")


def test_other_cases_are_not_compared(tmp_path: Path) -> None:
    a, b = host(tmp_path / "a", H100), host(tmp_path / "b", H200, num_envs=8192)
    found = gpureport.compare_sources([a, b])
    assert [case["ratio"] for case in found.cases] == [None, None]
    assert any("ran on one side only" in note for note in found.notes)


def test_the_same_gpu_on_two_cpus_is_split(tmp_path: Path) -> None:
    a, b, c = (host(tmp_path / name, gpu, seed=i, base_time_s=t) for i, (name, gpu, t) in enumerate(
        [("a", H100, 0.8), ("b", H100, 0.8 * 1.2), ("c", H200, 0.7)]
    ))  # fmt: skip
    rewrite(b, lambda header, path: header["cpu"].update(model="Intel Xeon Gold 6330"))
    found = gpureport.compare_sources([a, b, c])
    assert found.sides == [f"{H100} · AMD EPYC 9654", f"{H100} · Intel Xeon Gold 6330", H200]
    (check,) = found.cpu_checks
    assert check["ratio"] == pytest.approx(1 / 1.2, rel=0.02) and check["ratio_high"] < 1
    assert any("The CPUs differ" in note for note in found.notes)
    assert not any("cannot be told" in note for note in found.notes)


def test_a_slow_node_is_found(tmp_path: Path) -> None:
    folders = [host(tmp_path / f"n{i}", H100, seed=i, base_time_s=0.8 * (1.15 if i == 2 else 1.0)) for i in range(4)]
    for i, folder in enumerate(folders):
        rewrite(folder, lambda header, path, i=i: header.update(node=f"node{i}"))
    found = gpureport.compare_sources(folders)
    assert {node["node"]: node["verdict"] for node in found.nodes} == {
        "node0": "as the others", "node1": "as the others", "node2": "slow", "node3": "as the others",
    }  # fmt: skip
    assert found.sides == ["node0", "node1", "node2", "node3"]
    assert any("Node node2 is slow" in line for line in gpureport.details(found))


def test_the_published_comparison() -> None:
    found = gpureport.compare_sources([PUBLISHED])
    with (ROOT / "tests/data/expected/gpu_comparison.csv").open() as stream:
        expected = {row["gpu_model"]: row for row in csv.DictReader(stream)}
    for case in found.cases:
        row = expected[case["side"]]
        ratio = 1.0 if case["side"] == "NVIDIA L40" else case["ratio"]
        assert ratio == pytest.approx(float(row["fps_total_ratio_to_l40"]), abs=1e-4)
        for phase, name in (("physics", "step"), ("inference", "inference"), ("update", "update")):
            assert case[f"{phase}_us_per_frame"] == pytest.approx(float(row[f"{name}_us_per_frame"]), abs=1e-4)
    assert any("those of nodes" in note for note in found.notes)
    assert any(note.startswith("n=1, no interval") for note in found.notes)


def test_the_report_has_all_forms(tmp_path: Path) -> None:
    a = host(tmp_path / "a", H100, base_time_s=0.8, seed=1)
    b = host(tmp_path / "b", H200, base_time_s=0.64, seed=2)
    found = gpureport.compare_sources([a, b])
    page = gpureport.write(found, tmp_path / "out")
    assert "H200" in page.read_text()
    assert json.loads((tmp_path / "out" / "report.json").read_text())["cases"][1]["verdict"] == "faster"
    assert "times the throughput" in (tmp_path / "out" / "report.md").read_text()
    header = (tmp_path / "out" / "combined_results.csv").read_text().split("\n")[0]
    assert "physics_us_per_frame" in header and "power_w" in header
    assert gpureport.report_folder([a]) == StudyDir(a).report and gpureport.report_folder([a, b]) is None


def test_noise_is_inconclusive_down_to_the_phases(tmp_path: Path) -> None:
    a = host(tmp_path / "a", H100, base_time_s=0.8, job_noise=0.2, seed=3)
    b = host(tmp_path / "b", H200, base_time_s=0.8 / 1.05, job_noise=0.2, seed=4)
    found = gpureport.compare_sources([a, b])
    assert found.cases[1]["verdict"] == "inconclusive"
    assert gpureport.headline(found).startswith(f"Inconclusive: {H200} gave ")
    assert {gain["like"] for gain in found.phase_gains} == {"inconclusive"}
    assert all(gain["gain_low"] < 1.0 < gain["gain_high"] for gain in found.phase_gains)


def test_a_run_without_phase_times_is_in_the_report(tmp_path: Path) -> None:
    """As a run too short for a synchronised iteration leaves them: nothing in the JSON is not a number."""
    found = gpureport.compare_sources([host(tmp_path / "a", sync_every=0, repeats=1)])
    gpureport.write(found, tmp_path / "out")
    (run,) = json.loads((tmp_path / "out" / "report.json").read_text())["runs"]
    assert run["total_fps"] > 0 and run["step_fps"] is None


def test_nothing_to_compare_is_one_line(tmp_path: Path) -> None:
    a = host(tmp_path / "a")
    with pytest.raises(RecordError, match="--reference h300: names 0 of the sides"):
        gpureport.compare_sources([a], "h300")
    path = tmp_path / "t.csv"
    path.write_text("gpu_model,total_fps\nNVIDIA L40,100\n")
    with pytest.raises(RecordError, match="fewer than two GPU models"):
        gpureport.compare_sources([path])


def test_specifications_are_whole_and_checked_against_nvml() -> None:
    assert len({spec.name for spec in specs()}) == len(specs()) > 20
    for spec in specs():
        assert spec.source and 8 * 2**30 <= spec.memory_bytes <= 200 * 2**30
        # what any of these GPUs does, and nothing without its source
        ranges = {"fp32_tflop_per_s": (5, 150), "memory_bandwidth_gb_per_s": (200, 9000), "power_limit_w": (70, 1000)}
        for figure, (low, high) in ranges.items():
            value = getattr(spec, figure)
            assert (value is None and figure not in spec.sources) or low <= value <= high
            assert value is None or spec.sources[figure].startswith("https://")
    h200 = lookup("NVIDIA H200")
    assert h200 is not None and lookup("NVIDIA H300") is None
    assert lookup("NVIDIA L40") != lookup("NVIDIA L40S")
    assert disagreements(h200, 150_754_820_096, 700.0) == []
    assert "power limit is set to 500 W" in disagreements(h200, None, 500.0)[0]
    measured = next((ROOT / "tests/data/h200").rglob("samples-*.jsonl")).read_text().split("\n")[0]
    gpu = json.loads(measured)["gpus"][0]
    assert disagreements(h200, gpu["memory_total_bytes"], gpu["power_limit_w"]) == []


def test_measured_studies_can_be_compared_with_themselves() -> None:
    folder = ROOT / "tests/data/h200/strong_ant_rsl_rl"
    found = gpureport.compare_sources([folder])
    one = next(case for case in found.cases if case["world_size"] == 1)
    assert one["repeats"] == 3 and one["total_fps"] == pytest.approx(1.59e6, rel=0.01)
    assert np.isfinite(one["fps_per_gb_per_s"])
