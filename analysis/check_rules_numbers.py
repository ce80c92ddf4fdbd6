"""Checks of the figures themselves: derived columns, impossible order, mixed rounding, single runs, rank 0's clock.

F-DERIVED, F-MEAN, F-ORDER, F-DIGITS, F-N1, F-RANK0.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from paceline.analysis.curves import curves
from paceline.analysis.finding import Finding
from paceline.analysis.table import RATE_WORDS, RATES, Floats, Table, count, series_of

MEAN_LIMIT = 0.05
"""Relative difference between a stated rate and work over time that is remarked on."""
_TIMES = ("iteration_time_s", "collection_time_s", "update_time_s")


def derived(table: Table) -> Iterator[Finding]:
    """F-DERIVED: a time column is one constant over a rate column, in every row, to the last digit."""
    for time in _TIMES:
        for rate in RATES:
            for curve in curves(table):
                rows = [
                    i
                    for i in curve.positions
                    if np.isfinite(table.number(time)[i]) and np.isfinite(table.number(rate)[i])
                ]
                constant = _constant(table, time, rate, rows)
                if constant is None:
                    continue
                yield Finding(
                    id="F-DERIVED",
                    severity="warn",
                    rows=table.labels(rows),
                    message=(
                        f"{curve.prefix()}{table.header(time)} = {count(constant)} / {table.header(rate)} in every "
                        "row: derived, not measured"
                    ),
                    advice="Treat the two columns as one measurement; ask for the times that were clocked.",
                )


def _constant(table: Table, time: str, rate: str, rows: list[int]) -> float | None:
    """Return the constant c with time = c / rate in all rows within their rounding, None if there is none to remark on.

    A written number stands for anything that rounds or is cut to it: 2.14 for 2.135 up to 2.15.
    """
    x, t = table.number(rate)[rows], table.number(time)[rows]
    if len(rows) < 3 or len(set(x.tolist())) < 3 or len(set(t.tolist())) < 3:
        return None
    batch = table.number("global_batch")[rows]
    batch = np.where(
        np.isfinite(batch), batch, (table.envs_per_rank() * table.world_sizes() * table.number("horizon"))[rows]
    )
    if np.isfinite(batch).all() and np.all(np.abs(x * t / batch - 1) < 0.01):
        return None  # frames per iteration are stated, rate and time are two views of one clock, and nothing is hidden
    low, high = np.array([_span(table, time, i) for i in rows]).T
    rate_low, rate_high = np.array([_span(table, rate, i, cut=False) for i in rows]).T
    bottom, top = float(np.max(low * rate_low)), float(np.min(high * rate_high))
    if bottom > top or np.max(high / low) > 1.05:
        return None
    return _roundest(bottom, top)


def _span(table: Table, name: str, position: int, cut: bool = True) -> tuple[float, float]:
    """Return the values that the written number may stand for; ``cut`` allows digits that were cut off."""
    written = table.written.get(name, ("",) * len(table))[position].strip().lower().rstrip("s% ")
    value = float(table.number(name)[position])
    digits = written.partition("e")[0]
    fraction = digits.partition(".")[2]
    if fraction:
        unit = 10.0 ** -len(fraction)
        shown = float(digits.replace(",", "")) if digits.replace(",", "").replace(".", "").isdigit() else value
        unit *= value / shown if shown else 1.0  # a column in milliseconds has its unit in milliseconds
    else:
        unit = 10.0 ** trailing_zeros(value) if value == round(value) else abs(value) * 1e-9
    return value - unit / 2, value + (unit if cut else unit / 2)


def _roundest(low: float, high: float) -> float:
    """Return the whole number in [low, high] with the most factors of two, the likeliest number of frames."""
    step = 2.0 ** np.floor(np.log2(max(high, 1.0)))
    while step >= 1:
        candidate = np.ceil(low / step) * step
        if candidate <= high:
            return float(candidate)
        step /= 2
    return (low + high) / 2


def mean_of_rates(table: Table) -> Iterator[Finding]:
    """F-MEAN: a stated rate is the mean of rates, not work over time; one slow iteration hardly counts in it."""
    stated, work = table.number("stated_fps"), table.number("aggregate_fps")
    with np.errstate(invalid="ignore"):
        wrong = np.flatnonzero(np.abs(stated / work - 1.0) > MEAN_LIMIT)
    for i in wrong:
        yield Finding(
            id="F-MEAN",
            severity="warn",
            rows=(table.rows[int(i)],),
            message=(
                f"total_fps {count(stated[i])} is a mean of per-iteration rates; all frames over all time give "
                f"{count(work[i])}, the first iteration included"
            ),
            advice="Take frames over time, after the warm-up; never average rates.",
        )


def order(table: Table) -> Iterator[Finding]:
    """F-ORDER: stepping alone cannot be slower than stepping and inference, nor that than the whole iteration."""
    bad: list[int] = []
    shown = ""
    for i in range(len(table)):
        present = [(name, float(table.number(name)[i])) for name in RATES if np.isfinite(table.number(name)[i])]
        for (first, a), (second, b) in pairwise(present):
            if a < b:
                bad.append(i)
                shown = shown or (
                    f"rates out of order in row {table.rows[i]}: {RATE_WORDS[first]} {count(a)} is below "
                    f"{RATE_WORDS[second]} {count(b)}"
                )
    if bad:
        yield Finding(
            id="F-ORDER",
            severity="error",
            rows=table.labels(bad),
            message=f"{shown}: columns swapped or runs mixed",
            advice="Check which column is which; take all rates of a row from one run.",
        )


def trailing_zeros(value: float) -> int:
    """Return how many zeros a whole number ends in; 0 for 0 and for fractions."""
    if value == 0 or value != round(value):
        return 0
    zeros, whole = 0, round(abs(value))
    while whole % 10 == 0:
        whole //= 10
        zeros += 1
    return zeros


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
            if np.isfinite(stated[i]) and stated[i] > 1:
                points[key].update(("stated", k) for k in range(int(stated[i])))
        if points and min(len(runs) for runs in points.values()) < 2:
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
