"""The curves in a table: rows that differ in world size only, and what a rate does along them.

task A, L40     N = 1  2  4  8        one curve
task A, 4090    N = 1                 another: the GPU model differs and world size 1 occurs in both
task A          N = 1 on L40, N = 4 on H100      one curve with mixed hardware, for the checks to find
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from paceline.analysis.stats import ratio_interval
from paceline.analysis.table import RATES, Floats, Table, count

_IDENTITY = ("task", "library", "physics")


@dataclass(frozen=True, kw_only=True)
class Series:
    """One rate along one curve, by world size ascending. Arrays have shape (world sizes,)."""

    metric: str
    world_sizes: Floats
    values: Floats
    """Median over repeats, frames/s of all ranks."""
    repeats: tuple[Floats, ...]
    """Per world size, the values of its repeats."""
    positions: tuple[tuple[int, ...], ...]
    """Per world size, positions (0-based) of its rows in the table."""
    low: Floats
    high: Floats
    """95 % interval that the table states; NaN where it states none."""

    @property
    def efficiency(self) -> Floats:
        """(X_N / X_ref) / (N / N_ref), the reference being the smallest world size; shape (world sizes,)."""
        return np.asarray((self.values / self.values[0]) / (self.world_sizes / self.world_sizes[0]))

    def change(self, a: int, b: int) -> tuple[float, float, float] | None:
        """Return X_b/X_a with its 95 % interval, or None where one run per point gives none.

        From the repeats where both points have some; otherwise, from stated intervals, the widest ratio that they
        allow.
        """
        found = ratio_interval(self.repeats[b].tolist(), self.repeats[a].tolist())
        if found.value is not None and found.low is not None and found.high is not None:
            return found.value, found.low, found.high
        ratio = float(self.values[b] / self.values[a])
        bounds = (self.low[a], self.high[a], self.low[b], self.high[b])
        if all(np.isfinite(bounds)):
            return ratio, float(self.low[b] / self.high[a]), float(self.high[b] / self.low[a])
        return None


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Rows of a table that belong to one curve."""

    table: Table
    label: str
    """What the curve is of, '' if the table holds one curve only."""
    positions: tuple[int, ...]
    """Positions (0-based) of its rows."""

    @property
    def world_sizes(self) -> Floats:
        """Distinct world sizes, ascending."""
        n = self.table.world_sizes()[list(self.positions)]
        return np.unique(n[np.isfinite(n)])

    def numbers(self, name: str) -> Floats:
        """Return a numeric column at the curve's rows, NaN where unknown."""
        return self.table.number(name)[list(self.positions)]

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a text column at the curve's rows."""
        column = self.table.text(name)
        return tuple(column[i] for i in self.positions)

    def prefix(self) -> str:
        """Return the label as the start of a message."""
        return f"{self.label}: " if self.label else ""

    def labels(self, positions: Sequence[int] | None = None) -> tuple[int | str, ...]:
        """Return row labels of the curve, or of some of its rows (positions in the table)."""
        return self.table.labels(self.positions if positions is None else positions)

    def by_world_size(self, values: Floats) -> Floats:
        """Return the median of per-row values (curve order) at each distinct world size; NaN where there are none."""
        n = self.table.world_sizes()[list(self.positions)]
        out = []
        for size in self.world_sizes:
            here = values[n == size]
            here = here[np.isfinite(here)]
            out.append(np.median(here) if len(here) else np.nan)
        return np.array(out, dtype=np.float64)

    def series(self, metric: str) -> Series | None:
        """Return one rate along the curve, None if no row has it.

        Rows that share world size and repeat are ranks of one run: the slowest counts. Rows that share a run and hold
        an iteration each are combined as total frames over total time (harmonic mean).
        """
        table = self.table
        if metric not in table.numbers:
            return None
        values = table.number(metric)
        usable = [i for i in self.positions if np.isfinite(values[i]) and table.text("status")[i] in ("", "completed")]
        sizes, medians, repeats, places = [], [], [], []
        n = table.world_sizes()
        for size in sorted({float(n[i]) for i in usable if np.isfinite(n[i])}):
            rows = [i for i in usable if n[i] == size]
            runs = self._runs(rows)
            rates = np.array([self._one_run(run, values) for run in runs])
            sizes.append(size)
            medians.append(float(np.median(rates)))
            repeats.append(rates)
            places.append(tuple(rows))
        if not sizes:
            return None

        def stated(name: str) -> Floats:
            column = table.number(name)
            return np.array([column[list(rows)][0] if len(rows) == 1 else np.nan for rows in places], dtype=np.float64)

        return Series(
            metric=metric,
            world_sizes=np.array(sizes),
            values=np.array(medians),
            repeats=tuple(repeats),
            positions=tuple(places),
            low=stated(f"{metric}_low"),
            high=stated(f"{metric}_high"),
        )

    def _runs(self, rows: list[int]) -> list[list[int]]:
        table = self.table
        if "rank" not in table.numbers and "iteration" not in table.numbers:
            return [[i] for i in rows]
        key = [table.number("repeat"), table.number("seed"), table.number("num_envs")]
        groups: dict[tuple[float, ...], list[int]] = {}
        for i in rows:
            groups.setdefault(tuple(float(np.nan_to_num(column[i], nan=-1)) for column in key), []).append(i)
        return list(groups.values())

    def _one_run(self, rows: list[int], values: Floats) -> float:
        table = self.table
        if "rank" in table.numbers:
            ranks: dict[float, list[float]] = {}
            for i in rows:
                ranks.setdefault(float(table.number("rank")[i]), []).append(float(values[i]))
            return min(harmonic_mean(found) for found in ranks.values())
        return harmonic_mean([float(values[i]) for i in rows])

    def all_series(self) -> list[Series]:
        """Return every rate that the curve has, with at least two world sizes."""
        found = [self.series(metric) for metric in RATES]
        return [series for series in found if series is not None and len(series.world_sizes) >= 2]


def harmonic_mean(rates: Sequence[float]) -> float:
    """Return total frames over total time of iterations with equal frames: the only mean of rates that is a rate."""
    values = np.asarray(rates, dtype=np.float64)
    return float(len(values) / np.sum(1.0 / values))


def curves(table: Table) -> list[Curve]:
    """Return the curves of a table, in the order of their first rows."""
    identity = [name for name in _IDENTITY if len({t for t in table.text(name) if t}) > 1]
    modes = {t.lower() for t in table.text("mode") if t}
    if len(modes) > 1:
        identity.append("mode")
    groups: dict[tuple[str, ...], list[int]] = {}
    for i in range(len(table)):
        groups.setdefault(tuple(table.text(name)[i] for name in identity), []).append(i)
    out = []
    for key, positions in groups.items():
        for gpu, rows in _by_gpu(table, positions):
            for size, part in _by_envs(table, rows):
                label = ", ".join(text for text in (*key, gpu, size) if text)
                out.append(Curve(table=table, label=label, positions=tuple(part)))
    return out


def _by_gpu(table: Table, positions: list[int]) -> list[tuple[str, list[int]]]:
    """Split by GPU model if the models are compared (they share a world size); otherwise it is one curve."""
    models: dict[str, list[int]] = {}
    for i in positions:
        models.setdefault(table.text("gpu")[i], []).append(i)
    if len(models) < 2:
        return [("", positions)]
    n = table.world_sizes()
    sizes = [{float(n[i]) for i in rows} for rows in models.values()]
    if set.intersection(*sizes):
        return list(models.items())
    return [("", positions)]


def _by_envs(table: Table, positions: list[int]) -> list[tuple[str, list[int]]]:
    """Split a grid of world sizes and numbers of environments into curves, by what stays fixed along most of them."""
    n = table.world_sizes()
    if len({float(n[i]) for i in positions}) < 2:
        return [("", positions)]
    grids = []
    for name, values, word in (
        ("weak", table.envs_per_rank(), "environments per rank"),
        ("strong", table.number("num_envs"), "environments"),
    ):
        groups: dict[float, list[int]] = {}
        for i in positions:
            groups.setdefault(float(values[i]), []).append(i)
        at_one_size = any(len({float(values[i]) for i in positions if n[i] == size}) > 1 for size in {*n[positions]})
        if not np.isfinite(list(groups)).all() or not at_one_size:
            continue
        long = sum(len({float(n[i]) for i in rows}) >= 2 for rows in groups.values())
        preferred = table.declared_mode == name
        grids.append((long, preferred, [(f"{count(size)} {word}", rows) for size, rows in groups.items()]))
    if not grids or max(grid[0] for grid in grids) == 0:
        return [("", positions)]
    return max(grids, key=lambda grid: grid[:2])[2]
