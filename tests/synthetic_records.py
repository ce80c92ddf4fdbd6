"""What simulated ranks and samplers write beside the iteration rows: headers, and samples once a second."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from paceline.bench.record import ITERATION_COLUMNS, RANK_SCHEMA, SAMPLES_SCHEMA, Case


def rank_header(case: Case, attempt: int, rank: int, origin: float, gpu_name: str) -> dict[str, Any]:
    cuda = case.device == "cuda"
    return {
        "type": "header",
        "schema": RANK_SCHEMA,
        "case_id": case.case_id,
        "attempt": attempt,
        "rank": rank,
        "local_rank": rank % case.local_world_size,
        "node_rank": rank // case.local_world_size,
        "world_size": case.world_size,
        "local_world_size": case.local_world_size,
        "num_nodes": case.num_nodes,
        "node": "node1",
        "hostname": "node1",
        "pid": 1000 + rank,
        "clock_origin_unix_s": origin,
        "seed": case.seed + rank,
        "problem": {
            "num_envs_per_rank": case.num_envs_per_rank,
            "horizon": case.horizon,
            "num_minibatches": case.num_minibatches,
            "minibatch_size_per_rank": case.minibatch_size_per_rank,
            "num_epochs": case.num_epochs,
            "optimizer_steps_per_iteration": case.optimizer_steps_per_iteration,
            "global_batch": case.global_batch,
            "max_iterations": case.iterations,
        },
        "device": {
            "kind": case.device,
            "name": gpu_name if cuda else "cpu",
            "uuid": f"GPU-{rank:04d}" if cuda else None,
            "memory_total_bytes": 85_520_809_984 if cuda else None,
            "driver_version": "580.65.06" if cuda else None,
            "cuda_visible_devices": None,
        },
        "versions": {
            "paceline": "0.1.0",
            "python": "3.12.11",
            "torch": "2.11.0",
            "isaaclab": "3.0.0",
            case.trainer: "5.5.1",
        },
        "cpu": {"model": "AMD EPYC 9654", "logical_cores": 32, "affinity_cores": 32},
        "threads": {"torch": 1, "torch_interop": 1, "omp_num_threads": 1, "pxr_work_thread_limit": None},
        "backend": ("nccl" if cuda else "gloo") if case.world_size > 1 else "none",
        "slurm": {},
        "columns": list(ITERATION_COLUMNS),
    }


def samples_text(
    gpu_name: str,
    case: Case,
    attempt: int,
    duration_s: float,
    origin: float,
    rng: np.random.Generator,
    *,
    throttle: bool = False,
    foreign: bool = False,
) -> str:
    """Return the samples of the one node, one a second."""
    gpus = range(case.world_size if case.device == "cuda" else 0)
    header = {
        "type": "header",
        "schema": SAMPLES_SCHEMA,
        "node": "node1",
        "hostname": "node1",
        "interval_s": 1.0,
        "clock_origin_unix_s": origin,
        "case_id": case.case_id,
        "attempt": attempt,
        "gpus": [
            {"index": g, "uuid": f"GPU-{g:04d}", "name": gpu_name, "memory_total_bytes": 85_520_809_984}
            | {"power_limit_w": 700.0, "driver_version": "580.65.06", "sm_clock_max_mhz": 1980}
            for g in gpus
        ],
        "logical_cores": 32,
        "job_cores": list(range(32)),
        "ram_total_bytes": 270_000_000_000,
    }
    lines = [json.dumps(header)]
    energy = [1e6 + 1e5 * g for g in gpus]
    for second in range(1, int(duration_s) + 1):
        busy = second > 5
        row: dict[str, Any] = {"t_s": float(second), "gpus": []}
        for g in gpus:
            power = float(rng.normal(420.0, 10.0)) if busy else 110.0
            energy[g] += power
            row["gpus"].append(
                {
                    "uuid": f"GPU-{g:04d}",
                    "util_pct": int(rng.integers(84, 97)) if busy else 0,
                    "memory_used_bytes": 6_100_000_000,
                    "temperature_c": 58,
                    "power_w": round(power, 1),
                    "energy_j": round(energy[g], 3),
                    "sm_clock_mhz": 1410 if throttle else 1965,
                    "memory_clock_mhz": 2619,
                    "throttle": ["sw_thermal_slowdown"] if throttle and busy and g == 0 else [],
                    "processes": 2 if foreign else 1,
                    "foreign_processes": 1 if foreign else 0,
                }
            )
        cores = np.where(np.arange(32) < case.world_size, 100.0, 4.0) if busy else np.full(32, 8.0)
        row |= {"cpu_pct": [round(float(c), 1) for c in cores], "load_1m": 1.2, "ram_used_bytes": 22_000_000_000}
        row |= {"disk_read_bytes": 1_000_000 * second, "disk_written_bytes": 50_000 * second}
        row["ranks"] = [
            {"rank": r, "cpu_pct": 101.0 if busy else 60.0, "threads": 40, "rss_bytes": 5_200_000_000}
            | {"thread_groups": {"main": 98.0, "warp": 2.0}}
            for r in range(case.world_size)
        ]
        lines.append(json.dumps(row))
    return "\n".join(lines) + "\n"
