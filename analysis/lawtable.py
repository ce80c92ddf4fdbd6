"""The scaling laws of one curve as rows for a report: what was fitted, what its points carry, the next doubling.

Strong scaling is described by Amdahl, weak scaling by Gustafson, both by the USL and a power law; the experimentally
determined serial fraction stands beside every point (Karp and Flatt for strong, Gustafson's scaled one for weak).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from paceline.analysis.laws import Fit, fit, gustafson_fraction, incremental_efficiency, karp_flatt, predict_doubling
from paceline.analysis.table import Floats, Mode

LAWS = {
    "strong": ("amdahl", "usl_fixed_lambda", "power_law"),
    "weak": ("gustafson", "usl_fixed_lambda", "power_law"),
}
LAW_NAMES = {"amdahl": "Amdahl", "gustafson": "Gustafson", "usl_fixed_lambda": "USL", "power_law": "power law"}
MIN_POINTS = 3
LAW_COLUMNS = (
    *("law", "parameter", "value", "low", "high", "identifiable", "reason", "rms_log_residual", "aicc"),
    *("leave_one_out_low", "leave_one_out_high", "peak_world_size"),
    *("next_world_size", "next_speedup", "next_speedup_low", "next_speedup_high"),
)
"""Keys of a row of ``law_rows``, in the order of laws.csv."""


def law_rows(mode: Mode, world_sizes: Sequence[float], repeats: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """Return one row per law and parameter, JSON-able; empty with fewer than three world sizes.

    Args:
        mode: Scaling mode of the curve.
        world_sizes: Ascending; the first is the reference.
        repeats: Throughput of every repeat at each (frames/s of all ranks), runs that count only.

    Keys: ``law``, ``parameter``, ``value``, ``low`` and ``high`` (95 % over repeats, None with one run per point),
    ``identifiable``, ``reason``, ``rms_log_residual``, ``aicc``, ``leave_one_out_low``, ``leave_one_out_high``, and of
    the law as a whole ``peak_world_size`` (None unless it may be stated), ``next_world_size``, ``next_speedup``,
    ``next_speedup_low``, ``next_speedup_high``: extrapolated, None where the law is not identifiable.
    """
    if len(world_sizes) < MIN_POINTS:
        return []
    samples = [np.asarray(values, dtype=np.float64) for values in repeats]
    medians = [float(np.median(values)) for values in samples]
    out = []
    for model in LAWS[mode]:
        law = fit(model, world_sizes, medians, samples)
        told = predict_doubling(law, samples, world_sizes)
        whole = {
            "identifiable": law.identifiable,
            "reason": law.reason,
            "rms_log_residual": law.rms_log_residual,
            "aicc": law.aicc if law.aicc is not None and math.isfinite(law.aicc) else None,
            "peak_world_size": law.peak_to_print,
            "next_world_size": told.world_size if told else None,
            "next_speedup": told.speedup if told else None,
            "next_speedup_low": told.low if told else None,
            "next_speedup_high": told.high if told else None,
        }
        out += [{"law": LAW_NAMES[model], **_parameter(law, name), **whole} for name in law.parameters]
    return out


def _parameter(law: Fit, name: str) -> dict[str, Any]:
    low, high = law.intervals.get(name, (None, None))
    least, most = law.leave_one_out.get(name, (None, None))
    return {
        "parameter": name,
        "value": law.parameters[name],
        "low": low,
        "high": high,
        "leave_one_out_low": least,
        "leave_one_out_high": most,
    }


def serial_fractions(mode: Mode, world_sizes: Sequence[float], rates: Sequence[float]) -> list[dict[str, Any]]:
    """Return the serial fraction that each point shows, and its incremental efficiency; None at the reference.

    Keys: ``world_size``, ``serial_fraction`` (Karp and Flatt's for strong, the scaled one for weak scaling; negative
    means superlinear), ``incremental_efficiency`` (from the world size before).
    """
    fraction = karp_flatt(world_sizes, rates) if mode == "strong" else gustafson_fraction(world_sizes, rates)
    incremental = incremental_efficiency(world_sizes, rates)
    return [
        {
            "world_size": round(n),
            "serial_fraction": _known(fraction, i),
            "incremental_efficiency": _known(incremental, i),
        }
        for i, n in enumerate(world_sizes)
    ]


def _known(values: Floats, position: int) -> float | None:
    return float(values[position]) if np.isfinite(values[position]) else None


def shown_laws(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows as a report shows them: a law that the points cannot carry is one row, with the reason alone."""
    out: list[dict[str, Any]] = []
    for row in rows:
        if row["identifiable"]:
            out.append(row)
        elif out and not out[-1]["identifiable"] and out[-1]["law"] == row["law"]:
            out[-1]["parameter"] += f", {row['parameter']}"
        else:
            kept = ("law", "parameter", "identifiable", "reason")
            out.append(dict.fromkeys(row) | {key: row[key] for key in kept})
    return out
