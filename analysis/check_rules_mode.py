"""Checks of what kind of scaling a table shows, and whether the learning problem stays the same.

F-MODE, F-SCOPE, F-BATCH, F-CONFIG.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from paceline.analysis import shipped
from paceline.analysis.curves import curves
from paceline.analysis.finding import Finding
from paceline.analysis.frames import Evidence, evidence, mode_of
from paceline.analysis.table import Table, count, series_of


def scaling_mode(table: Table) -> Iterator[Finding]:
    """F-MODE: the declared mode is not what the frames per iteration show, or the columns contradict each other."""
    for curve in curves(table):
        found = evidence(curve)
        if not found:
            continue
        sizes = series_of(list(curve.world_sizes), "/")
        told = {item.mode for item in found}
        declared = table.declared_mode
        wrong = [item for item in found if declared is not None and item.mode != declared]
        if wrong:
            others = [item for item in found if item.mode != wrong[0].mode]
            message = (
                f"{curve.prefix()}declared {declared} ({table.declared_by}), but {_goes(wrong[0])} for N {sizes}: "
                f"this is {_called(wrong[0])}"
            )
            if others:
                message += f"; yet {_goes(others[0])}, which is {_called(others[0])}: the columns contradict each other"
        elif len(told) > 1:
            first = found[0]
            second = next(item for item in found if item.mode != first.mode)
            message = (
                f"{curve.prefix()}{_goes(first)} for N {sizes}, which is {_called(first)}, but {_goes(second)}, "
                f"which is {_called(second)}: the columns contradict each other"
            )
        elif "mixed" in told:
            message = f"{curve.prefix()}{_goes(found[0])} for N {sizes}: neither strong nor weak scaling"
        else:
            continue
        yield Finding(
            id="F-MODE",
            severity="error",
            rows=curve.labels(),
            message=message,
            advice=(
                "Call the curve what the frames per iteration say, or measure again with the problem held as declared."
            ),
        )


def _goes(item: Evidence) -> str:
    lowest, highest = float(item.values.min()), float(item.values.max())
    if item.mode == "strong":
        middle = f"are {count(lowest)}" if lowest == highest else f"stay at {count(lowest)} to {count(highest)}"
        return f"{item.name} {middle}"
    return f"{item.name} go {series_of(list(item.values))}"


def _called(item: Evidence) -> str:
    return "neither strong nor weak" if item.mode == "mixed" else f"{item.mode} scaling"


def per_rank_or_global(table: Table) -> Iterator[Finding]:
    """F-SCOPE: numbers of one rank stand where numbers of all ranks are meant, or the other way round."""
    n, envs, per_rank = table.world_sizes(), table.number("num_envs"), table.number("num_envs_per_rank")
    both = np.isfinite(envs) & np.isfinite(per_rank) & np.isfinite(n)
    wrong = [int(i) for i in np.flatnonzero(both & (np.abs(envs - per_rank * n) > 0.5))]
    if wrong:
        i = wrong[0]
        yield Finding(
            id="F-SCOPE",
            severity="error",
            rows=table.labels(wrong),
            message=(
                f"{table.header('num_envs')} is {count(envs[i])}, but {count(per_rank[i])} per rank on {count(n[i])} "
                "ranks are "
                f"{count(per_rank[i] * n[i])}: one of the two is not what its name says"
            ),
            advice="State environments of all ranks as num_envs and of one rank as num_envs_per_rank.",
        )
        return
    for curve in curves(table):
        if len(curve.world_sizes) < 2:
            continue
        found = {item.name: item for item in evidence(curve)}
        timed = next((item for item in found.values() if item.timed), None)
        stated = found.get("environments of all ranks")
        if timed and stated and stated.mode == "strong" and timed.mode == "weak":
            yield Finding(
                id="F-SCOPE",
                severity="error",
                rows=curve.labels(),
                message=(
                    f"{curve.prefix()}num_envs is {count(stated.values[0])} in every row, but rate x time grows with N "
                    f"({series_of(list(timed.values))} frames): num_envs counts the environments of one rank"
                ),
                advice="Multiply num_envs by the world size: Isaac Lab's --num_envs is per process.",
            )
        series = curve.series("total_fps")
        if series is not None and len(series.world_sizes) >= 2 and found:
            growth = series.values / series.values[0]
            weak = any(item.mode == "weak" for item in found.values()) and table.declared_mode != "strong"
            if weak and series.world_sizes[-1] >= 4 and np.all(growth < 1.1):
                yield Finding(
                    id="F-SCOPE",
                    severity="warn",
                    rows=curve.labels(),
                    message=(
                        f"{curve.prefix()}total rate is {growth[-1]:.2f} of the first at "
                        f"N={count(series.world_sizes[-1])} although the work grows "
                        "with N: it looks like the rate of one rank"
                    ),
                    advice="Give rates of all ranks: frames of all ranks over the time of the slowest.",
                )


def batch_changed(table: Table) -> Iterator[Finding]:
    """F-BATCH: the learning problem changes between the points of one curve."""
    for curve in curves(table):
        if len(curve.world_sizes) < 2:
            continue
        mode = table.declared_mode or mode_of(curve)
        names = ["horizon", "num_minibatches", "num_epochs", "optimizer_steps_per_iteration"]
        names += ["global_batch"] if mode == "strong" else []
        changed = []
        for name in names:
            values = curve.by_world_size(curve.numbers(name))
            if np.isfinite(values).all() and len(set(values.tolist())) > 1:
                changed.append(f"{table.header(name)} goes {series_of(list(values))}")
        batch, size = curve.table.envs_per_rank() * table.number("horizon"), table.number("minibatch_size_per_rank")
        steps = curve.by_world_size((batch / size)[list(curve.positions)])
        if not changed and np.isfinite(steps).all() and len(set(np.round(steps, 6).tolist())) > 1:
            changed.append(f"mini-batches per epoch go {series_of(list(steps))}")
        if changed:
            yield Finding(
                id="F-BATCH",
                severity="error" if mode == "strong" else "warn",
                rows=curve.labels(),
                message=f"{curve.prefix()}the learning problem changes with N: {'; '.join(changed)}",
                advice="Hold horizon, mini-batches and epochs fixed; in strong scaling the global batch too.",
            )


def configuration(table: Table) -> Iterator[Finding]:
    """F-CONFIG: a batch that does not divide, half a configuration, or another than the task ships."""
    horizon, size = table.number("horizon"), table.number("minibatch_size_per_rank")
    batch = table.envs_per_rank() * horizon
    known = np.isfinite(batch) & np.isfinite(size)
    wrong = [int(i) for i in np.flatnonzero(known & (np.mod(batch, np.where(known, size, 1.0)) != 0))]
    if wrong:
        i = wrong[0]
        yield Finding(
            id="F-CONFIG",
            severity="error",
            rows=table.labels(wrong),
            message=(
                f"batch per rank {count(batch[i])} does not divide by mini-batch {count(size[i])}: rl_games refuses "
                "this"
            ),
            advice="Check environments per rank, horizon and mini-batch against the configuration that was run.",
        )
    for name, other in (("horizon", "minibatch_size_per_rank"), ("minibatch_size_per_rank", "horizon")):
        if table.has(name) and not any(map(table.has, (other, "num_minibatches", "optimizer_steps_per_iteration"))):
            missing = "mini-batch size" if other != "horizon" else "horizon"
            yield Finding(
                id="F-CONFIG",
                severity="warn",
                rows=table.rows,
                message=(
                    f"{table.header(name)} is stated, the {missing} is not: optimiser steps per iteration are unknown"
                ),
                advice=f"State the {missing}.",
            )
    yield from _not_as_shipped(table)
    for curve in curves(table):
        if len(curve.world_sizes) >= 3 and not evidence(curve):
            yield Finding(
                id="F-CONFIG",
                severity="warn",
                rows=curve.labels(),
                message=(
                    f"{curve.prefix()}neither environments nor frames per iteration are stated: strong and weak "
                    "scaling cannot be told apart"
                ),
                advice="Add num_envs (all ranks) or num_envs_per_rank, and the horizon.",
            )


def _not_as_shipped(table: Table) -> Iterator[Finding]:
    different: dict[str, list[int]] = {}
    divided = _strong_rows(table)
    for i in range(len(table)):
        ships = shipped.configuration(table.text("task")[i], table.text("library")[i])
        if ships is None:
            continue
        for name, word, value in (
            ("horizon", "horizon", ships.horizon),
            ("minibatch_size_per_rank", "mini-batch", ships.minibatch_size),
        ):
            stated = table.number(name)[i]
            if name == "minibatch_size_per_rank" and i in divided:
                stated *= table.world_sizes()[i]  # strong scaling divides it by N: of all ranks it is as shipped
                word = "mini-batch of all ranks"
            if np.isfinite(stated) and value is not None and stated != value:
                per_rank = table.envs_per_rank()[i] * table.number("horizon")[i]
                batch = f"; batch per rank {count(per_rank)}" if np.isfinite(per_rank) else ""
                task = f"{table.text('task')[i]} ships {count(value)} (Isaac Lab {ships.version})"
                text = f"{word} {count(stated)} stated, {task}{batch}"
                different.setdefault(text, []).append(i)
    for text, positions in different.items():
        yield Finding(
            id="F-CONFIG",
            severity="warn",
            rows=table.labels(positions),
            message=text,
            advice=(
                "Say that the configuration was changed and why; compare with the shipped one only at equal settings."
            ),
        )


def _strong_rows(table: Table) -> frozenset[int]:
    """Return the rows (0-based) of more than one rank on curves that hold the problem fixed."""
    sizes = table.world_sizes()
    return frozenset(
        position
        for curve in curves(table)
        if (mode_of(curve) or table.declared_mode) == "strong"
        for position in curve.positions
        if sizes[position] > 1
    )
