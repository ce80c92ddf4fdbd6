"""What an environment sweep says: curve, knee, memory, what bounds each point, and how many environments to use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from paceline.analysis.hostsamples import OTHERS_PCT
from paceline.analysis.recommend import Candidate, recommend
from paceline.analysis.saturation import elasticity
from paceline.analysis.stats import Estimate, median_interval
from paceline.analysis.sweepfit import TRUSTED_MISFIT, fit, fit_memory, jumps, measured_knee
from paceline.analysis.units import known

SWEEP_REPORT_SCHEMA = "paceline.sweep-report/1"

_MEDIANS = (
    *("collection_fps", "step_fps", "step_inference_fps", "iteration_time_s", "physics_s", "inference_s", "update_s"),
    *("communication_s", "imbalance_s", "other_s", "gpu_util_pct", "rank_cpu_pct", "gpu_power_w", "frames_per_j"),
    *("gpu_temperature_max_c", "sm_clock_mhz", "power_limited_pct", "host_memory_used_bytes", "rank_memory_bytes"),
    *("gpu_memory_used_bytes", "gpu_memory_allocated_bytes", "gpu_memory_total_bytes", "gpu_temperature_start_c"),
)

_BUSY_PCT = 80.0  # a GPU that is busy for less than this waits for something


class SweepAnalysis:
    """Everything that follows from the rows of one sweep. ``data`` is what ``--format json`` prints."""

    def __init__(
        self,
        rows: Sequence[dict[str, Any]],
        *,
        title: str,
        source: str,
        facts: dict[str, Any] | None = None,
        ended: tuple[str | None, str | None] = (None, None),
        notes: Sequence[str] = (),
    ) -> None:
        self.rows = [dict(row) for row in rows]
        self.title = title
        self.source = source
        self.facts = facts or {}
        self.ended_by, self.ended_why = ended
        self.provenance: dict[str, Any] = {}
        self.folder: Path | None = None
        _exclude_jumps(self.rows)
        self.points: list[dict[str, Any]] = _points(self.rows)
        n = np.array([float(point["num_envs_per_rank"]) for point in self.points])
        x = np.array([float(point["total_fps"]) for point in self.points])
        self.fit, self.why_no_fit = fit(n, x)
        self.knee_measured = measured_knee(n, x) if len(n) else None
        self.memory, self.why_no_memory = _memory(self.rows)
        for point, local in zip(self.points, _local(n, x), strict=True):
            point["elasticity"] = local
            point |= self._bound(point)
        trusted = self.fit.model if self.fit and self.fit.rms_residual <= TRUSTED_MISFIT else None
        self.recommendations = recommend([_candidate(point) for point in self.points], trusted)
        self.notes = [*_notes(self), *notes]

    @property
    def largest_valid(self) -> int | None:
        """Largest number of environments with valid physics, None without any."""
        return max((row["num_envs_per_rank"] for row in self.rows if row["verdict"] == "valid"), default=None)

    @property
    def smallest_out_of_memory(self) -> int | None:
        """Smallest number of environments that did not fit, None if all did."""
        return min((row["num_envs_per_rank"] for row in self.rows if row["verdict"] == "memory"), default=None)

    @property
    def excluded(self) -> list[dict[str, Any]]:
        """The rows that are not in the curve."""
        return [row for row in self.rows if row["excluded"]]

    @property
    def data(self) -> dict[str, Any]:
        """The content of report.json: numbers in full precision, null where not known."""
        saturation: dict[str, Any] = {"supported": self.fit is not None, "why_not": self.why_no_fit}
        if self.fit is not None:
            saturation |= {
                "fixed_step_time_s": self.fit.model.fixed_step_time_s,
                "step_time_per_env_s": self.fit.model.step_time_per_env_s,
                **_bounds("max_fps", self.fit.max_fps),
                **_bounds("half_envs", self.fit.half_envs),
                **_bounds("knee_envs", self.fit.knee_envs),
                "rms_residual": self.fit.rms_residual,
                "worst_residual": self.fit.worst_residual,
                "points": self.fit.model.points,
            }
        memory: dict[str, Any] = {"known": self.memory is not None, "why_not": self.why_no_memory}
        if self.memory is not None:
            memory |= {
                **_bounds("bytes_per_env", self.memory.bytes_per_env),
                "fixed_bytes": self.memory.fixed_bytes,
                "total_bytes": self.memory.total_bytes,
                "wall_envs": self.memory.wall_envs,
                "points": self.memory.points,
            }
        return {
            "schema": SWEEP_REPORT_SCHEMA,
            "title": self.title,
            "source": self.source,
            **self.facts,
            "ended_by": self.ended_by,
            "ended_why": self.ended_why,
            "largest_valid_num_envs_per_rank": self.largest_valid,
            "smallest_out_of_memory_num_envs_per_rank": self.smallest_out_of_memory,
            "knee_measured_envs": self.knee_measured,
            "saturation": saturation,
            "memory": memory,
            "recommendations": [asdict(each) for each in self.recommendations],
            "excluded": [
                {
                    "num_envs_per_rank": row["num_envs_per_rank"],
                    "total_fps": row["total_fps"],
                    "reason": row["excluded"],
                }
                for row in self.excluded
            ],
            "points": self.points,
            "runs": self.rows,
            "notes": self.notes,
        }

    def _bound(self, point: dict[str, Any]) -> dict[str, Any]:
        """Return ``bound`` (host, device, both, or None) and ``bound_why`` of a point.

        What does not depend on the number of environments is launches and other work of the host; what grows with it
        is work of the device. A device that idles although most of the time grows waits for the host, too.
        """
        if self.facts.get("device") == "cpu":
            return {"bound": None, "bound_why": "ranks on CPU: the host is the device"}
        count = point["num_envs_per_rank"]
        if self.fit is not None:
            fixed = self.fit.model.launch_bound_fraction(count)
            text = f"{100 * fixed:.0f}\u202f% of the step time does not depend on the number of environments"
        elif known(point["elasticity"]):
            fixed = point["elasticity"]
            text = f"local elasticity {fixed:.2f}"
        else:
            return {"bound": None, "bound_why": "one point says nothing"}
        use, cpu = point.get("gpu_util_pct"), point.get("rank_cpu_pct")
        text += f"; GPU busy {use:.0f}\u202f%" if known(use) else ""
        text += f"; a rank's CPU {cpu:.0f}\u202f%" if known(cpu) else ""
        idles = use is not None and known(use) and use < _BUSY_PCT
        return {"bound": "host" if fixed >= 0.5 else "both" if idles else "device", "bound_why": text}


def _bounds(name: str, estimate: Estimate) -> dict[str, Any]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _exclude_jumps(rows: list[dict[str, Any]]) -> None:
    """Exclude points that cannot be true: throughput that rises again after it had saturated."""
    counts = sorted({row["num_envs_per_rank"] for row in rows if not row["excluded"]})
    medians = [
        float(np.median([row["total_fps"] for row in rows if row["num_envs_per_rank"] == n and not row["excluded"]]))
        for n in counts
    ]
    for place, reason in jumps(counts, medians).items():
        for row in rows:
            if row["num_envs_per_rank"] == counts[place] and not row["excluded"]:
                row["excluded"] = reason


def _points(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one point for each number of environments with valid runs: medians over them, throughput with interval."""
    points = []
    for count in sorted({row["num_envs_per_rank"] for row in rows if not row["excluded"]}):
        own = [row for row in rows if row["num_envs_per_rank"] == count and not row["excluded"]]
        rate = median_interval([row["total_fps"] for row in own])
        point: dict[str, Any] = {"num_envs_per_rank": count, "repeats": len(own), **_bounds("total_fps", rate)}
        for name in _MEDIANS:
            values = [row[name] for row in own if known(row.get(name))]
            point[name] = float(np.median(values)) if values else None
        point["buffer_sizes"] = next((row["buffer_sizes"] for row in own if row.get("buffer_sizes")), None)
        total, used = point["gpu_memory_total_bytes"], point["gpu_memory_used_bytes"]
        point["memory_share"] = used / total if used and total else None
        points.append(point)
    best = max((point["total_fps"] for point in points), default=math.nan)
    for point in points:
        point["share_of_best"] = point["total_fps"] / best
    return points


def _local(n: np.ndarray[Any, Any], x: np.ndarray[Any, Any]) -> list[float | None]:
    """Return each point's elasticity towards the next (of the last point: from the one before); None for one point."""
    if len(n) < 2:
        return [None] * len(n)
    slopes = elasticity(n, x).tolist()
    return [*slopes, slopes[-1]]


def _memory(rows: Sequence[dict[str, Any]]) -> tuple[Any, str | None]:
    """Fit memory over environments. A run with dropped contacts has its memory all the same."""
    key = (
        "gpu_memory_used_bytes" if any(known(row.get("gpu_memory_used_bytes")) for row in rows) else "rank_memory_bytes"
    )
    own = [row for row in rows if known(row.get(key)) and row["verdict"] != "memory"]
    raised = {row["num_envs_per_rank"] for row in own if row.get("buffer_sizes")}
    own = [row for row in own if row.get("buffer_sizes") or row["num_envs_per_rank"] not in raised]
    total = next((row["gpu_memory_total_bytes"] for row in own if known(row.get("gpu_memory_total_bytes"))), None)
    counts = sorted({row["num_envs_per_rank"] for row in own})
    medians = [float(np.median([row[key] for row in own if row["num_envs_per_rank"] == n])) for n in counts]
    return fit_memory(counts, medians, total)


def _candidate(point: dict[str, Any]) -> Candidate:
    return Candidate(
        num_envs=point["num_envs_per_rank"],
        total_fps=point["total_fps"],
        gpu_power_w=point["gpu_power_w"],
        memory_share=point["memory_share"],
        iteration_time_s=point["iteration_time_s"],
    )


def _notes(analysis: SweepAnalysis) -> list[str]:
    """Return what a reader must know before believing a number, one sentence each."""
    notes = []
    nodes = sorted({row["node"] for row in analysis.rows if row.get("node")})
    models = sorted({row["gpu_model"] for row in analysis.rows if row.get("gpu_model")})
    if len(models) > 1:
        notes.append(f"The points ran on different GPUs ({', '.join(models)}): they make no curve.")
    elif len(nodes) > 1:
        notes.append(f"The points ran on different nodes ({', '.join(nodes)}).")
    if any(point["repeats"] == 1 for point in analysis.points):
        notes.append(
            "n=1: points with one run have no interval of their own"
            + ("; the fit's interval comes from all of them." if analysis.fit is not None else ".")
        )
    limited = [p["num_envs_per_rank"] for p in analysis.points if (p["power_limited_pct"] or 0.0) > 5.0]
    if limited:
        notes.append(
            f"At {', '.join(f'{n:,}' for n in limited)} environments the GPU ran at its power limit, "
            "which belongs to the GPU and stays in the curve."
        )
    shared = {row["num_envs_per_rank"] for row in analysis.rows if (row.get("other_cpu_pct") or 0.0) >= OTHERS_PCT}
    if shared:
        notes.append(
            f"At {', '.join(f'{n:,}' for n in sorted(shared))} environments other programs kept {OTHERS_PCT:.0f} % "
            "of the job's processor cores busy, or more: its ranks may have waited for a core."
        )
    raised = [p["num_envs_per_rank"] for p in analysis.points if p["buffer_sizes"]]
    if raised:
        notes.append(
            f"{', '.join(f'{n:,}' for n in raised)} environments ran with physics buffers larger than the task's own."
        )
    return notes
