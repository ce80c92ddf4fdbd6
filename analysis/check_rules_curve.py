"""Checks of the shape of a curve: can it be true, and what can be fitted to it?

F-MONO, F-SUPER, F-SAT, F-IDENT.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from paceline.analysis.curves import Series, curves
from paceline.analysis.finding import Finding
from paceline.analysis.laws import fit
from paceline.analysis.table import RATE_WORDS, Table, count

RISE_LIMIT = 0.05
"""Efficiency above 1 by more than this cannot be noise of rounding or of one quiet machine."""
SHOWN_LIMIT = 0.03
"""Efficiency above 1 by less is not worth a word even where an interval excludes 1."""
BEND_LIMIT = 0.03
"""Residual (rms of log) above which a curve without a peak no longer describes the points."""
_WITHOUT_COMMUNICATION = ("fps_step", "fps_step_inference", "collection_fps")


def monotone(table: Table) -> Iterator[Finding]:
    """F-MONO: efficiency rises with N although it was below 1: the point before the rise is suspect."""
    for curve in curves(table):
        said, rows = [], list[int]()
        for series in curve.all_series():
            e = series.efficiency
            for a, b in _rises(series):
                growth = series.world_sizes[b] / series.world_sizes[a]
                change = series.change(a, b)
                if change is not None and change[1] / growth <= 1.0:
                    continue
                said.append(
                    f"{RATE_WORDS[series.metric]} efficiency rises from {e[a]:.3f} at "
                    f"N={count(series.world_sizes[a])} to {e[b]:.3f} at "
                    f"N={count(series.world_sizes[b])} (incremental efficiency {e[b] / e[a]:.3f})"
                )
                rows += [*series.positions[a], *series.positions[b]]
        if said:
            suspects = sorted({s.split(" at N=")[1].split(" ")[0] for s in said}, key=float)
            yield Finding(
                id="F-MONO",
                severity="warn",
                rows=curve.labels(rows),
                message=f"{curve.prefix()}{'; '.join(said)}: the {'- and '.join(suspects)}-GPU point is suspect",
                advice=(
                    "Repeat that point, on the same nodes and interleaved with its neighbours; leave it out of fits "
                    "until then."
                ),
            )


def _rises(series: Series) -> Iterator[tuple[int, int]]:
    """Yield neighbouring points (a, b) where efficiency below 1 rises by more than rounding explains."""
    e = series.efficiency
    for b in range(1, len(e)):
        a = b - 1
        # Rising from above 1 is F-SUPER's: there the reference is suspect, not the point.
        limit = 0.01 if series.change(a, b) is None else 0.0
        if e[a] < 1.0 and e[b] / e[a] - 1.0 > limit:
            yield a, b


def superlinear(table: Table) -> Iterator[Finding]:
    """F-SUPER: efficiency above 1 beyond the interval, where nothing can explain it."""
    for curve in curves(table):
        said, rows = [], list[int]()
        worst, phase = 0.0, False
        for series in curve.all_series():
            e = series.efficiency
            above = []
            for i in range(1, len(e)):
                change = series.change(0, i)
                growth = series.world_sizes[i] / series.world_sizes[0]
                beyond = (
                    e[i] - 1.0 > RISE_LIMIT if change is None else change[1] / growth > 1.0 and e[i] - 1.0 > SHOWN_LIMIT
                )
                if beyond:
                    above.append(i)
            if above:
                top = max(above, key=lambda i: e[i])
                said.append(
                    f"{RATE_WORDS[series.metric]} is {100 * (e[top] - 1):.0f} % superlinear at "
                    f"N={count(series.world_sizes[top])} (efficiency {e[top]:.3f})"
                )
                rows += [p for i in [0, *above] for p in series.positions[i]]
                worst = max(worst, float(e[top]) - 1)
                phase = phase or series.metric in _WITHOUT_COMMUNICATION
        if said:
            why = "and has no mechanism for it: " if phase else "without a cause given: "
            yield Finding(
                id="F-SUPER",
                severity="warn",
                rows=curve.labels(rows),
                message=f"{curve.prefix()}{', '.join(said)} {why}reference run too slow or noisy",
                advice=f"Repeat the reference point; until then one run scatters by at least {100 * worst:.0f} %.",
            )


def saturation(table: Table) -> Iterator[Finding]:
    """F-SAT: throughput jumps up again with more environments after it had saturated."""
    envs = table.number("num_envs")
    envs = np.where(np.isfinite(envs), envs, table.number("num_envs_per_rank") * table.world_sizes())
    rate = table.number("total_fps")
    groups: dict[tuple[str, str, float], list[int]] = {}
    for i in np.flatnonzero(np.isfinite(envs) & np.isfinite(rate)):
        groups.setdefault((table.text("task")[i], table.text("gpu")[i], float(table.world_sizes()[i])), []).append(
            int(i)
        )
    for (_, gpu, _), rows in groups.items():
        rows.sort(key=lambda i: envs[i])
        n, x = envs[rows], rate[rows]
        if len(rows) < 3 or len(set(n.tolist())) != len(n):
            continue
        elasticity = np.diff(np.log(x)) / np.diff(np.log(n))
        for k in range(1, len(elasticity)):
            if elasticity[k - 1] < 0.25 and elasticity[k] > 0.5:
                yield Finding(
                    id="F-SAT",
                    severity="warn",
                    rows=table.labels([rows[k + 1]]),
                    message=(
                        f"{gpu + ': ' if gpu else ''}elasticity {elasticity[k]:.3f} at {count(n[k + 1])} environments "
                        "after "
                        f"{elasticity[k - 1]:.3f} at {count(n[k])}: a saturated simulator cannot speed up"
                    ),
                    advice=(
                        "Look for dropped contacts or another physics setting in the last run; leave it out of fits."
                    ),
                )


def identifiable(table: Table) -> Iterator[Finding]:
    """F-IDENT: the curve bends as if it had a peak, but its points cannot carry the parameter that says so."""
    for curve in curves(table):
        series = curve.series("total_fps")
        if series is None or len(series.world_sizes) < 4:
            continue
        law = fit("usl_free_lambda", series.world_sizes, series.values)
        if law.identifiable or law.parameters["kappa"] == 0.0:
            continue
        straight = fit("amdahl", series.world_sizes, series.values).rms_log_residual
        if straight < BEND_LIMIT or straight < 2 * law.rms_log_residual:
            continue  # a law without a peak describes the points as well
        yield Finding(
            id="F-IDENT",
            severity="warn",
            rows=curve.labels(),
            message=f"{curve.prefix()}a peak (USL kappa {law.parameters['kappa']:.4f}) cannot be claimed: {law.reason}",
            advice="Measure more world sizes (6 or more, with repeats) before stating where adding GPUs stops paying.",
        )
