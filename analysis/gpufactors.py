"""Factors beside the GPU: the CPU, where the same GPU ran on several, and the node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from paceline.analysis.gpurows import KEY, bounds, case_key
from paceline.analysis.stats import Estimate, ratio_interval

SLOW_NODE = 0.97
"""A node counts as slow if it reaches less than this share of the others, and its interval excludes 1."""


def cpu_checks(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return, for each GPU model that ran on several CPUs, their ratio on the same case."""
    found = []
    good = [row for row in rows if not row["excluded"] and row["gpu_model"] and row["cpu_model"]]
    for model in dict.fromkeys(row["gpu_model"] for row in good):
        for key in dict.fromkeys(case_key(row) for row in good if row["gpu_model"] == model):
            own = [row for row in good if row["gpu_model"] == model and case_key(row) == key]
            cpus = list(dict.fromkeys(row["cpu_model"] for row in own))
            for cpu in cpus[1:]:
                values, base = ([r["total_fps"] for r in own if r["cpu_model"] == each] for each in (cpu, cpus[0]))
                ratio = ratio_interval(values, base)
                entry = {name: value for name, value in zip(KEY, key, strict=True)}
                entry |= {"gpu_model": model, "cpu_model": cpu, "reference_cpu_model": cpus[0], "repeats": len(values)}
                found.append(entry | bounds("ratio", ratio))
    return found


def nodes(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return each node against the others with the same GPU and CPU on the same case; empty where there are none."""
    found = []
    good = [row for row in rows if not row["excluded"] and row.get("node")]
    kinds = dict.fromkeys((row["gpu_model"], row["cpu_model"], case_key(row)) for row in good)
    for model, cpu, key in kinds:
        own = [r for r in good if (r["gpu_model"], r["cpu_model"], case_key(r)) == (model, cpu, key)]
        names = list(dict.fromkeys(row["node"] for row in own))
        if len(names) < 2:
            continue
        for node in names:
            values, others = ([r["total_fps"] for r in own if (r["node"] == node) == here] for here in (True, False))
            ratio = ratio_interval(values, others)
            entry = {name: value for name, value in zip(KEY, key, strict=True)}
            entry |= {"gpu_model": model, "node": node, "repeats": len(values), "total_fps": float(np.median(values))}
            entry |= bounds("ratio", ratio)
            entry["verdict"] = _node_verdict(ratio)
            found.append(entry)
    return found


def _node_verdict(ratio: Estimate) -> str:
    if ratio.value is None:
        return "no number"
    if ratio.low is None or ratio.high is None:
        return "n=1: repeat it before blaming the node" if ratio.value < SLOW_NODE else "n=1, no interval"
    if ratio.high < 1.0 and ratio.value < SLOW_NODE:
        return "slow"
    return "as the others" if ratio.low <= 1.0 <= ratio.high or ratio.value >= SLOW_NODE else "slower, within 3 %"
