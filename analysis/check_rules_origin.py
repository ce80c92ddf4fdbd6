"""Checks of where the figures come from: mixed rounding, single runs, rank 0's clock.

F-DIGITS, F-N1, F-RANK0.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from paceline.analysis.curves import curves
from paceline.analysis.finding import Finding
from paceline.analysis.table import RATES, Floats, Table, count, series_of, trailing_zeros


def digits(table: Table) -> Iterator[Finding]:
    """F-DIGITS: some rows are rounded to hundreds or more, others are exact."""
    present = [name for name in RATES if table.has(name)]
    if not present or table.kind != "table":
        return
    zeros = {}
    for i in range(len(table)):
        found = [float(table.number(name)[i]) for name in present if np.isfinite(table.number(name)[i])]
        if found:
            zeros[i] = min(trailing_zeros(value) for value in found)
    enough = 2 if len(present) > 1 else 3
    rounded = [i for i, z in zeros.items() if z >= enough]
    exact = [i for i, z in zeros.items() if z == 0]
    if rounded and exact:
        unit = min(zeros[i] for i in rounded)
        name = {2: "hundreds", 3: "thousands", 4: "ten thousands"}.get(unit, f"10^{unit}")
        if table.has("world_size") and len({float(n) for n in table.world_sizes()}) == len(table):
            which = "N=" + ",".join(count(table.world_sizes()[i]) for i in rounded)
        else:
            which = ", ".join(str(table.rows[i]) for i in rounded)
        yield Finding(
            id="F-DIGITS",
            severity="warn",
            rows=table.labels(rounded),
            message=f"rows {which} are rounded to {name}, others are exact: different origins",
            advice="Ask where the rounded rows come from; take all points from the same logs.",
        )


def single_run(table: Table) -> Iterator[Finding]:
    """F-N1: one run per point, so nothing is known about scatter."""
    if table.kind == "log" and "iteration" in table.numbers:
        return
    stated = table.number("repeats")
    found = []
    for curve in curves(table):
        points: dict[tuple[float, float], set[object]] = {}
        said: dict[tuple[float, float], float] = {}
        for i in curve.positions:
            key = (float(table.world_sizes()[i]), float(np.nan_to_num(table.number("num_envs")[i], nan=-1)))
            run: object = i
            if "rank" in table.numbers or "iteration" in table.numbers:
                run = (
                    float(np.nan_to_num(table.number("repeat")[i], nan=-1)),
                    float(np.nan_to_num(table.number("seed")[i], nan=-1)),
                )
            if table.text("status")[i] not in ("", "completed"):
                continue
            points.setdefault(key, set()).add(run)
            said[key] = max(said.get(key, 1.0), float(np.nan_to_num(stated[i], nan=1.0)))
        if points and min(max(len(runs), said[key]) for key, runs in points.items()) < 2:
            found += list(curve.positions)
    if not found:
        return
    floor = _scatter_at_least(table)
    known = (
        f"this table's own impossible points put the scatter at {100 * floor:.0f} % or more, and differences below "
        "that mean nothing"
        if floor
        else "how far two runs of one point differ is not known, so small differences mean nothing"
    )
    yield Finding(
        id="F-N1",
        severity="warn",
        rows=table.labels(found),
        message=f"one run per point: no interval; {known}",
        advice="Repeat every point as a separate job, in interleaved order: 3 times to compare, 5 for a headline.",
    )


def _scatter_at_least(table: Table) -> float:
    """Return the largest superlinearity, or rise of efficiency, that phases without communication show."""
    worst = 0.0
    for curve in curves(table):
        for metric in ("fps_step", "fps_step_inference"):
            series = curve.series(metric)
            if series is None or len(series.world_sizes) < 2:
                continue
            e = series.efficiency
            worst = max(worst, float(e.max()) - 1, *(float(b / a) - 1 for a, b in pairwise(e) if a < 1))
    return worst if worst > 0.01 else 0.0


def rank0(table: Table) -> Iterator[Finding]:
    """F-RANK0: several ranks ran, and all times are those of rank 0."""
    several = np.flatnonzero(table.world_sizes() > 1)
    if table.scope == "rank0" and len(several):
        library = next((t for t in table.text("library") if t), "")
        origin = f" ({library} prints rank 0's clock)" if library else ""
        yield Finding(
            id="F-RANK0",
            severity="warn",
            rows=table.labels([int(i) for i in several]),
            message=(
                f"timings of rank 0 only{origin} for N "
                f"{series_of(sorted(set(_finite(table.world_sizes()[several]))), '/')}: "
                "load balance and stragglers cannot be seen"
            ),
            advice=(
                "Let every rank write a record; until then print n/a (rank-0 timings) for load balance, "
                "serialisation and transfer."
            ),
        )


def _finite(values: Floats) -> list[float]:
    return [float(v) for v in values if np.isfinite(v)]
