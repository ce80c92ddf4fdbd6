"""Checks of the conditions of measurement: physics, throttling, warm-up, profiler, failures.

F-INVALID, F-THROTTLE, F-WARMUP, F-PROFILED, F-SYNC, F-FAILED.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from paceline.analysis.finding import Finding
from paceline.analysis.stats import mser5
from paceline.analysis.table import RATES, Floats, Table, at_size, count

THROTTLE_LIMIT_PCT = 5.0
"""Share of samples with a throttle reason above which a run is flagged."""
WARMUP_LIMIT = 0.01
"""Relative change of the mean iteration time by which a transient counts."""
_COOL = "Check cooling and power limit of that node; repeat the run elsewhere and leave this one out of fits."
_POWER_LIMIT = (
    "A GPU at its power limit is in its normal state under load: state the limit; compare runs at the same one."
)
_NO = re.compile(r"\s*(?:no|false|0|invalid|n)\s*", re.IGNORECASE)
_YES = re.compile(r"\s*(?:yes|true|1|y|nsys.*|ncu.*|kineto.*|torch.*)\s*", re.IGNORECASE)
_DROPPED = re.compile(
    r"overflow|contacts? (?:were |was )?dropped|dropped contacts|miss(?:es|ed|ing)? (?:interactions|contacts)"
    r"|out of memory|\bOOM\b|\bNaN\b|exceeded MJWarp limit|corrupted",
    re.IGNORECASE,
)
_SIZE = re.compile(r"at least (\d+)|Increase nconmax|parameter to (\d+)")


def invalid_physics(table: Table) -> Iterator[Finding]:
    """F-INVALID: the simulator dropped contacts or diverged; the rate counts work that was not done."""
    for i in range(len(table)):
        flag, remark, cause = table.text("physics_valid")[i], table.text("remark")[i], table.text("cause")[i]
        said = next((text for text in (remark, cause) if _DROPPED.search(text)), "")
        if table.text("status")[i] not in ("", "completed") or not (_NO.fullmatch(flag) or said):
            continue
        envs = table.number("num_envs")[i]
        where = f" at {count(envs)} environments" if np.isfinite(envs) else ""
        rate = next((table.number(name)[i] for name in reversed(RATES) if np.isfinite(table.number(name)[i])), None)
        number = f"throughput {count(rate)}{where}" if rate is not None else f"throughput{where}"
        yield Finding(
            id="F-INVALID",
            severity="error",
            rows=(table.rows[i],),
            message=f"{said or 'physics marked as not valid'}: {number} is not usable",
            advice=(
                "Enlarge the buffer the simulator names (nconmax, gpu_collision_stack_size ...) and run the point "
                "again."
            ),
        )


def throttled(table: Table) -> Iterator[Finding]:
    """F-THROTTLE: a GPU held its clocks down for more than a share of the window."""
    share = table.number("throttled_pct")
    words = table.text("throttle")
    for i, word in enumerate(words):
        if not np.isfinite(share[i]) and word and not _NO.fullmatch(word) and word.lower() not in ("none", "[]", "-"):
            yield Finding(
                id="F-THROTTLE",
                severity="warn",
                rows=(table.rows[i],),
                message=f"marked as throttled ({word}){at_size(table, i)}",
                advice=_advice(word),
            )
    for i in np.flatnonzero(np.nan_to_num(share) > THROTTLE_LIMIT_PCT).tolist():
        reason = words[i]
        yield Finding(
            id="F-THROTTLE",
            severity="warn",
            rows=(table.rows[i],),
            message=f"{share[i]:.0f} % of samples throttled{f' ({reason})' if reason else ''}{at_size(table, i)}",
            advice=_advice(reason),
        )


def _advice(reasons: str) -> str:
    return _POWER_LIMIT if reasons.strip().lower() == "sw_power_cap" else _COOL


def warm_up(table: Table) -> Iterator[Finding]:
    """F-WARMUP: no steady state, warm-up inside the measured window, or a window that is not stated."""
    if "iteration" in table.numbers:
        yield from _series_warm_up(table)
        return
    cut, total, left_out = table.number("steady_cut"), table.number("iterations"), table.number("warmup_iterations")
    inside = [int(i) for i in np.flatnonzero(np.nan_to_num(cut, nan=-1) > np.nan_to_num(left_out))]
    if inside:
        worst = max(inside, key=lambda i: float(cut[i] / total[i]))
        reached = bool(cut[worst] <= total[worst] / 2)
        what = "warm-up inside the window" if reached else "steady state not reached"
        several = f" (the worst of {len(inside)} runs)" if len(inside) > 1 else ""
        yield Finding(
            id="F-WARMUP",
            severity="warn",
            rows=table.labels(inside),
            message=(
                f"{what}: MSER-5 cuts {count(cut[worst])} of {count(total[worst])} iterations, the run marked "
                f"{count(np.nan_to_num(left_out[worst]))}{several}"
            ),
            advice="Mark more warm-up iterations, or run longer, and compare at equal policy age.",
        )
    zero = [int(i) for i in np.flatnonzero(left_out == 0) if i not in inside]
    if zero and not table.has("steady_cut"):
        yield Finding(
            id="F-WARMUP",
            severity="warn",
            rows=table.labels(zero),
            message="warm-up inside the window: 0 iterations left out, and the first one compiles kernels",
            advice="Leave out the first iterations; MSER-5 on the iteration series says how many.",
        )
    if (
        not table.has("warmup_iterations")
        and not table.has("steady_cut")
        and table.kind == "table"
        and any(map(table.has, RATES))
    ):
        yield Finding(
            id="F-WARMUP",
            severity="warn",
            rows=table.rows,
            message="the measured window is not stated: whether warm-up is inside these rates cannot be known",
            advice=(
                "State which iterations the rates come from (iterations, warmup_iterations) and how they were combined."
            ),
        )


def _series_warm_up(table: Table) -> Iterator[Finding]:
    """Look for the end of warm-up in a table that has one row per iteration."""
    groups: dict[tuple[float, float, float], list[int]] = {}
    keys = [np.nan_to_num(table.number(name), nan=-1) for name in ("world_size", "repeat", "rank")]
    for i in range(len(table)):
        groups.setdefault((float(keys[0][i]), float(keys[1][i]), float(keys[2][i])), []).append(i)
    for rows in groups.values():
        values = _iteration_times(table, rows)
        if values is None:
            continue
        values = values[np.isfinite(values)]
        state = mser5(values)
        if state is not None and not matters(values, state.cut):
            continue
        if state is None:
            message = f"{len(values)} iterations are too few to tell a steady state (30 are needed)"
        elif not state.reached:
            message = f"steady state not reached: MSER-5 cuts {state.cut} of {len(values)} iterations"
        elif state.cut > 0 and not np.nan_to_num(table.number("warmup_iterations")[rows[0]]) >= state.cut:
            message = f"the first {state.cut} of {len(values)} iterations are warm-up by MSER-5"
        else:
            continue
        yield Finding(
            id="F-WARMUP",
            severity="warn",
            rows=table.labels([rows[0], rows[-1]]),
            message=message,
            advice="Take rates from the iterations after the cut, as total frames over total time.",
        )


def matters(times_s: Floats, cut: int) -> bool:
    """Return whether leaving out the first ``cut`` iterations changes the mean time by more than WARMUP_LIMIT.

    MSER-5 also cuts slow waves of ordinary noise, which change nothing.
    """
    return cut > 0 and bool(abs(times_s.mean() / times_s[cut:].mean() - 1.0) > WARMUP_LIMIT)


def _iteration_times(table: Table, rows: list[int]) -> Floats | None:
    """Return iteration times, or what is proportional to them; a slow first iteration shows in times, not in rates."""
    if table.has("iteration_time_s"):
        return table.number("iteration_time_s")[rows]
    for name in ("total_fps", "collection_fps"):
        if table.has(name):
            return np.asarray(1.0 / table.number(name)[rows])
    return None


def profiled(table: Table) -> Iterator[Finding]:
    """F-PROFILED: a rate from a run that a profiler slowed."""
    marked = [i for i, text in enumerate(table.text("profiled")) if _YES.fullmatch(text)]
    if marked:
        word = table.text("profiled")[marked[0]].strip()
        tool = word if word.lower() not in ("yes", "true", "1", "y") else "a profiler"
        yield Finding(
            id="F-PROFILED",
            severity="error",
            rows=table.labels(marked),
            message=f"measured under {tool}: use the unprofiled repeat",
            advice="Take rates from runs without a profiler; keep the profiled one for the phases.",
        )


def mixed_sync(table: Table) -> Iterator[Finding]:
    """F-SYNC: rates of undisturbed iterations and of device-complete ones on one curve, or rates from the latter."""
    marks = [(i, text.strip().lower()) for i, text in enumerate(table.text("sync")) if text.strip()]
    completed = [
        i for i, text in marks if text in ("1", "yes", "true", "serialized_synchronized", "device_complete", "sync")
    ]
    if completed and any(table.has(name) for name in RATES):
        rest = len(marks) - len(completed)
        mixed = f", {rest} other row(s) were not: two measurement modes on one curve" if rest else ""
        yield Finding(
            id="F-SYNC",
            severity="error",
            rows=table.labels(completed),
            message=f"{len(completed)} row(s) were measured with device synchronisation around the phases{mixed}",
            advice=(
                "Take throughput from iterations without synchronisation, phase times from those with it, and never "
                "mix them."
            ),
        )


def failed(table: Table) -> Iterator[Finding]:
    """F-FAILED: a run failed, so its point rests on fewer runs than asked for."""
    for i, status in enumerate(table.text("status")):
        if status.strip().lower() not in ("", "completed", "ok", "done", "success"):
            cause = table.text("cause")[i]
            yield Finding(
                id="F-FAILED",
                severity="warn",
                rows=(table.rows[i],),
                message=f"run {status}{f' ({cause})' if cause else ''}{at_size(table, i)}: it has no number",
                advice="Find the cause in its log and run it again; do not fill in another value.",
            )
