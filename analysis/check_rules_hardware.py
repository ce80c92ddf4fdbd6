"""Checks that one curve was measured on one kind of machine with one set of versions.

F-HW, F-VERSION, F-CLOCK.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from paceline.analysis.curves import Curve, curves
from paceline.analysis.finding import Finding
from paceline.analysis.table import Table

_HARDWARE = {
    "gpu": "GPU model",
    "cpu": "CPU",
    "cpu_cores": "number of CPU cores",
    "driver": "driver",
    "image": "image",
    "node_type": "node type",
}
_VERSIONS = {
    "isaaclab_version": "Isaac Lab",
    "isaacsim_version": "Isaac Sim",
    "torch_version": "torch",
    "cuda_version": "CUDA",
    "nccl_version": "NCCL",
    "python_version": "Python",
    "library_version": "RL library",
    "physics_version": "physics engine",
    "paceline_version": "Paceline",
}
CLOCK_LIMIT = 0.05
"""Relative difference of median SM clocks between points that is remarked on."""


def hardware(table: Table) -> Iterator[Finding]:
    """F-HW: GPU model, CPU, driver, image or node type differ across the points of one curve."""
    for group, what in _compared(table):
        differ = _different(table, group, _HARDWARE)
        if what == "comparison" and not differ.keys() - {"gpu"}:
            continue
        if differ:
            yield Finding(
                id="F-HW",
                severity="error",
                rows=table.labels(group),
                message="; ".join(
                    f"{_HARDWARE[name]} differs: {' / '.join(values)}"
                    for name, values in differ.items()
                    if _shown(what, name)
                )
                + (
                    ": the ratios are of nodes, not of GPUs"
                    if what == "comparison"
                    else ": the points are not of one curve"
                ),
                advice="Measure all points on one kind of node, or call them a comparison of nodes.",
            )


def _shown(what: str, name: str) -> bool:
    return not (what == "comparison" and name == "gpu")


def _compared(table: Table) -> Iterator[tuple[list[int], str]]:
    """Yield rows that must share hardware: the points of a curve, or GPU models compared at one world size."""
    found = curves(table)
    for curve in found:
        if len(curve.world_sizes) > 1 or len(found) == 1:
            yield list(curve.positions), "curve"
    if len(found) > 1 and all(len(curve.world_sizes) <= 1 for curve in found) and len(set(table.text("gpu"))) > 1:
        tasks: dict[str, list[int]] = {}
        for curve in found:
            for i in curve.positions:
                tasks.setdefault(table.text("task")[i], []).append(i)
        for rows in tasks.values():
            if len({table.text("gpu")[i] for i in rows}) > 1:
                yield sorted(rows), "comparison"


def _different(table: Table, rows: list[int], names: dict[str, str]) -> dict[str, list[str]]:
    out = {}
    for name in names:
        values = list(dict.fromkeys(table.text(name)[i].strip() for i in rows if table.text(name)[i].strip()))
        if len(values) > 1:
            out[name] = values
    return out


def versions(table: Table) -> Iterator[Finding]:
    """F-VERSION: software versions differ across the points of one curve."""
    for curve in curves(table):
        differ = _different(table, list(curve.positions), _VERSIONS)
        if differ:
            yield Finding(
                id="F-VERSION",
                severity="error",
                rows=curve.labels(),
                message=curve.prefix()
                + "; ".join(f"{_VERSIONS[name]} differs: {' / '.join(values)}" for name, values in differ.items())
                + ": the points are not of one curve",
                advice="Run all points of a curve with the same software; compare versions with `paceline compare`.",
            )


def clocks(table: Table) -> Iterator[Finding]:
    """F-CLOCK: GPUs ran at different clocks at different points."""
    for curve in curves(table):
        values = curve.numbers("sm_clock_mhz")
        known = values[np.isfinite(values) & (values > 0)]
        if len(known) >= 2 and known.max() / known.min() - 1 > CLOCK_LIMIT and _by_point_differs(curve):
            per_point = curve.by_world_size(values)
            yield Finding(
                id="F-CLOCK",
                severity="warn",
                rows=curve.labels(),
                message=(
                    f"{curve.prefix()}SM clock differs by {100 * (known.max() / known.min() - 1):.0f} %: "
                    f"{' / '.join(f'{v:.0f}' for v in per_point)} MHz along the curve"
                ),
                advice="Lock the application clocks, or report efficiency together with the clock ratio.",
            )


def _by_point_differs(curve: Curve) -> bool:
    per_point = curve.by_world_size(curve.numbers("sm_clock_mhz"))
    known = per_point[np.isfinite(per_point)]
    return len(known) < 2 or bool(known.max() / known.min() - 1 > CLOCK_LIMIT)
