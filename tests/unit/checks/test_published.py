"""The shipped published tables give the golden numbers, and the checks find exactly what is wrong with them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paceline.analysis import laws
from paceline.analysis.attribution import costs_from_rates, loss_attribution
from paceline.analysis.checks import check_path, has_errors
from paceline.analysis.curves import curves
from paceline.analysis.ingest import read_any
from paceline.analysis.saturation import fit_saturation

STUDIES = {"cartpole_direct_l40": "strong_scaling_cartpole_l40", "ant_v0_l40": "weak_scaling_ant_l40"}
METRICS = {"fps_step": "fps_step", "fps_step_inference": "fps_step_inference", "fps_total": "total_fps"}
PARAMETERS = {"s": "s_fraction", "lambda": "lambda_ratio", "sigma": "sigma", "kappa": "kappa", "alpha": "alpha"}

# What is wrong with each table, no more and no less.
FINDINGS = {
    "strong_scaling_cartpole_l40": "F-MODE F-DERIVED F-MONO F-DIGITS F-N1 F-RANK0 F-WARMUP",
    "weak_scaling_ant_l40": "F-SUPER F-CONFIG F-IDENT F-N1 F-RANK0 F-WARMUP",
    "gpu_comparison_anymal_c_navigation": "F-HW F-N1 F-WARMUP",
    "isaaclab_documented_multi_gpu": "F-MONO F-SUPER F-N1 F-RANK0 F-WARMUP",
    "env_count_sweep_anymal_c_rough": "F-INVALID F-SAT F-DIGITS F-N1 F-WARMUP",
    "strong_scaling_cartpole_l40_log_excerpt": "F-N1 F-WARMUP",
}
ERRORS = {
    "strong_scaling_cartpole_l40": {"F-MODE"},
    "gpu_comparison_anymal_c_navigation": {"F-HW"},
    "env_count_sweep_anymal_c_rough": {"F-INVALID"},
}


def rate(example: Callable[[str], Path], study: Any, metric: Any) -> Any:
    table = read_any(example(STUDIES[study]))
    if metric == "inverse_time_per_epoch":
        return table.world_sizes(), 1 / table.number("iteration_time_s")
    series: Any = curves(table)[0].series(METRICS[metric])
    return series.world_sizes, series.values


def close(value: Any, text: str, tolerance: Any = 1e-4) -> Any:
    if text == "":
        assert value is None or math.isnan(value)
    else:
        assert value == pytest.approx(float(text), abs=tolerance)


@pytest.mark.parametrize("name", FINDINGS)
def test_finds_what_is_wrong_and_nothing_else(example: Callable[[str], Path], name: str) -> None:
    found = check_path(example(name))
    assert {f.id for f in found} == set(FINDINGS[name].split())
    assert {f.id for f in found if f.severity == "error"} == ERRORS.get(name, set())
    assert has_errors(found) == bool(ERRORS.get(name))


def test_messages_carry_the_numbers(example: Callable[[str], Path]) -> None:
    said = {f.id: f.message for f in check_path(example("strong_scaling_cartpole_l40"))}
    assert "4096 / 8192 / 16,384 / 32,768" in said["F-MODE"] and "weak scaling" in said["F-MODE"]
    assert "522,134 to 524,251" in said["F-MODE"] and "contradict" in said["F-MODE"]
    assert "524,288 / fps_total_frames_per_s" in said["F-DERIVED"]
    assert "0.708 at N=4 to 0.771 at N=8" in said["F-MONO"] and "the 4-GPU point is suspect" in said["F-MONO"]
    assert "N=2,4 are rounded to thousands" in said["F-DIGITS"]
    said = {f.id: f.message for f in check_path(example("weak_scaling_ant_l40"))}
    assert "12 % superlinear at N=4" in said["F-SUPER"]
    assert "mini-batch 16,384 stated, Isaac-Ant-v0 ships 32,768" in said["F-CONFIG"]
    assert "kappa comes from the point N=8 alone" in said["F-IDENT"]
    assert "12 % or more" in said["F-N1"]
    said = {f.id: f.message for f in check_path(example("gpu_comparison_anymal_c_navigation"))}
    assert "36 / 96 / 64" in said["F-HW"]
    sweep = check_path(example("env_count_sweep_anymal_c_rough"))
    assert {f.rows for f in sweep if f.id in ("F-INVALID", "F-SAT")} == {(7,)}
    said = {f.id: f.message for f in sweep}
    assert "0.755 at 65,536 environments after 0.113" in said["F-SAT"] and "collisionStackSize" in said["F-INVALID"]


def test_scaling_tables(example: Callable[[str], Path], golden: Callable[[str], list[dict[str, str]]]) -> None:
    for row in golden("scaling_tables"):
        n, x = rate(example, row["study"], row["metric"])
        i = list(n).index(float(row["num_gpus"]))
        close(laws.speedup(x)[i], row["throughput_ratio"])
        close(laws.speedup(x)[i] / n[i], row["efficiency"])
        close(laws.karp_flatt(n, x)[i], row["karp_flatt_fraction"])
        close(laws.gustafson_fraction(n, x)[i], row["gustafson_scaled_serial_fraction"])
        close(laws.incremental_efficiency(n, x)[i], row["incremental_efficiency"])


def test_scaling_fits(example: Callable[[str], Path], golden: Callable[[str], list[dict[str, str]]]) -> None:
    rows = golden("scaling_fits")
    assert len(rows) == 35
    for row in rows:
        law = laws.fit(row["model"], *rate(example, row["study"], row["metric"]))
        for name, column in PARAMETERS.items():
            if row[column]:
                close(law.parameters[name], row[column])
        close(law.rms_log_residual, row["rms_log_residual"])
        close(law.aicc, row["aicc"], 2e-3)
        if row["usl_peak_num_gpus"]:
            close(law.peak_world_size, row["usl_peak_num_gpus"], 1e-2)
        else:
            assert law.peak_world_size is None
        assert law.identifiable == (row["model"] in ("amdahl", "gustafson", "power_law"))
        assert law.peak_to_print is None and not law.intervals


def test_leave_one_out(example: Callable[[str], Path], golden: Callable[[str], list[dict[str, str]]]) -> None:
    for row in golden("leave_one_out"):
        n, x = rate(example, row["study"], row["metric"])
        for model, name, column in (("amdahl", "s", "amdahl_s"), ("power_law", "alpha", "power_alpha")):
            low, high = laws.fit(model, n, x).leave_one_out[name]
            close(low, row[f"{column}_min"])
            close(high, row[f"{column}_max"])


def test_cost_attribution(example: Callable[[str], Path], golden: Callable[[str], list[dict[str, str]]]) -> None:
    for study in STUDIES:
        rates = {metric: rate(example, study, metric)[1] for metric in METRICS}
        n = rate(example, study, "fps_total")[0]
        costs = costs_from_rates(n, rates["fps_step"], rates["fps_step_inference"], rates["fps_total"])
        rows = [row for row in golden("cost_attribution") if row["study"] == study]
        assert len(rows) == 4
        for i, row in enumerate(rows):
            split = loss_attribution({p: v[0] for p, v in costs.items()}, {p: v[i] for p, v in costs.items()})
            close(split.efficiency, row["efficiency"])
            close(split.cost_s_per_frame * 1e6, row["total_gpu_us_per_frame"])
            for phase, word in (("env_step", "step"), ("inference", "inference"), ("update", "update")):
                close(costs[phase][i] * 1e6, row[f"{word}_gpu_us_per_frame"])
                close(split.loss[phase], row[f"loss_{word}_fraction"])
                close(split.phase_efficiency[phase], row[f"{word}_phase_efficiency"])
            assert sum(split.loss.values()) == pytest.approx(1 - split.efficiency, abs=1e-12)


def test_phase_seconds(example: Callable[[str], Path], golden: Callable[[str], list[dict[str, str]]]) -> None:
    for row in golden("phase_seconds"):
        n, total = rate(example, row["study"], "fps_total")
        costs = costs_from_rates(
            n, rate(example, row["study"], "fps_step")[1], rate(example, row["study"], "fps_step_inference")[1], total
        )
        i = list(n).index(float(row["num_gpus"]))
        per_rank = float(row["frames_per_epoch"]) / n[i]
        for phase, word in (("env_step", "step"), ("inference", "inference"), ("update", "update")):
            close(costs[phase][i] * per_rank, row[f"{word}_s"], 1e-5)
        close(sum(c[i] for c in costs.values()) * per_rank, row["total_s"], 1e-5)


def test_frames_implied_by_the_derived_column(
    example: Callable[[str], Path], golden: Callable[[str], list[dict[str, str]]]
) -> None:
    table = read_any(example("strong_scaling_cartpole_l40"))
    implied = table.number("total_fps") * table.number("iteration_time_s")
    for i, row in enumerate(golden("cartpole_frames_check")):
        assert implied[i] == pytest.approx(float(row["frames_per_epoch_implied"]), abs=0.5)
        close(implied[i] / 524288, row["ratio_to_524288"])
        close(
            131072 * table.world_sizes()[i] / table.number("total_fps")[i], row["time_per_epoch_if_4096_envs_per_gpu_s"]
        )


def test_documented_efficiency(example: Callable[[str], Path], golden: Callable[[str], list[dict[str, str]]]) -> None:
    table = read_any(example("isaaclab_documented_multi_gpu"))
    found = {curve.label: curve for curve in curves(table)}
    checked = 0
    for row in golden("isaaclab_documented_efficiency"):
        curve = next(
            c for label, c in found.items() if label.startswith(row["task"]) and label.endswith(row["gpu_model"])
        )
        for column, metric in METRICS.items():
            series: Any = curve.series(metric)
            i = list(series.world_sizes).index(float(row["num_gpus"]))
            close(series.efficiency[i], row[f"{column}_efficiency"])
            close(series.efficiency[i] * series.world_sizes[i], row[f"{column}_ratio"])
            checked += 1
    assert checked == 48


def test_gpu_comparison(example: Callable[[str], Path], golden: Callable[[str], list[dict[str, str]]]) -> None:
    table = read_any(example("gpu_comparison_anymal_c_navigation"))
    costs = costs_from_rates(
        table.world_sizes(), table.number("fps_step"), table.number("fps_step_inference"), table.number("total_fps")
    )
    total: Any = sum(costs.values())
    for i, row in enumerate(golden("gpu_comparison")):
        for column, metric in METRICS.items():
            close(table.number(metric)[i] / table.number(metric)[0], row[f"{column}_ratio_to_l40"])
        for phase, word in (("env_step", "step"), ("inference", "inference"), ("update", "update")):
            close(costs[phase][i] * 1e6, row[f"{word}_us_per_frame"])
            close(costs[phase][i] / total[i], row[f"{word}_fraction"])


def test_saturation(example: Callable[[str], Path], golden: Callable[[str], list[dict[str, str]]]) -> None:
    table = read_any(example("env_count_sweep_anymal_c_rough"))
    rows = [
        i
        for i in range(len(table))
        if "H100" in table.text("gpu")[i]
        and table.number("num_envs")[i] >= 8192
        and np.isfinite(table.number("total_fps")[i])
    ]
    n, x = table.number("num_envs")[rows], table.number("total_fps")[rows]
    for row in golden("saturation_fits"):
        k = int(row["num_points"])
        law = fit_saturation(n[:k], x[:k])
        assert round(law.max_fps) == int(row["x_inf_steps_per_s"])
        assert round(law.half_envs) == int(row["n_half_envs"])
        assert round(law.envs_at_90_pct) == int(row["n90_envs"])
        close(law.fixed_step_time_s * 1e3, row["fixed_step_time_a_ms"])
        close(law.step_time_per_env_s * 1e6, row["per_env_step_time_b_us"])
        assert round(law.rate(65536)) == int(row["predicted_at_65536_steps_per_s"])
    for i, row in enumerate(golden("env_count_sweep")):
        close(n[i] / x[i] * 1e3, row["env_step_wall_ms"], 6e-3)
