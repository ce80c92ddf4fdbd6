"""The study in a few sentences, none of which says more than its interval allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from paceline.analysis.finding import Finding
from paceline.analysis.summary import SPLIT
from paceline.analysis.units import interval, known, ranks, show

Row = Mapping[str, Any]

GOOD_EFFICIENCY = 0.8


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a reader takes away."""

    tone: str
    """``better``, ``worse``, ``inconclusive`` or ``none`` (nothing to compare)."""
    headline: str
    details: tuple[str, ...]
    world_size: int | None = None
    """The size that the headline is about, None if there is no number."""


def verdict(kind: str, device: str, rows: Sequence[Row], runs: int) -> Verdict:
    """Return the verdict on a scaling table.

    Args:
        kind: ``strong`` or ``weak``.
        device: ``cuda`` or ``cpu``, for the nouns.
        rows: The rows of the scaling table, as dicts.
        runs: Attempts in the folder, of any status.
    """
    measured = [row for row in rows if known(row["total_fps"])]
    details = _completeness(rows)
    if not measured:
        return Verdict("none", f"No result yet: none of {runs} runs has a number that counts.", details)
    last, first = measured[-1], measured[0]
    if last is first:
        where = ranks(last["world_size"], device)
        text = f"Only {where} measured, {show(last['total_fps'], 'fps')} frames/s: nothing to compare with."
        return Verdict("none", text, details, last["world_size"])
    judged = [row for row in measured[1:] if known(row["speedup_low"])]
    single = [row for row in measured[1:] if not known(row["speedup_low"])]
    last = judged[-1] if judged else last
    tone, headline = _headline(kind, device, first, last)
    if judged and single:
        sizes = ", ".join(ranks(row["world_size"], device) for row in single)
        details = (f"No interval at {sizes} (n=1): not judged.", *details)
    found = (*_reach(device, measured), *_loss(last, device), *_learning(kind, measured, device))
    return Verdict(tone, headline, (*found, *details), last["world_size"])


def checked(found: Verdict, findings: Sequence[Finding], drawn: AbstractSet[int | str], rules: int) -> Verdict:
    """Return the verdict as the checks allow it: none at all if an error touches a run on the curve.

    Args:
        found: The verdict on the numbers alone.
        findings: What the checks found.
        drawn: Labels of the runs on the curve; errors of other runs are no objection, since those are left out.
        rules: Number of rules that looked.
    """
    if found.world_size is None:
        return found
    errors = [finding for finding in findings if finding.severity == "error"]
    serious = [finding for finding in errors if drawn & set(finding.rows)]
    if serious:
        first = serious[0]
        more = f" ({len(serious) - 1} more below)" if len(serious) > 1 else ""
        headline = f"No verdict: {first.message}{more}."
        details = (f"What the numbers alone would say: {found.headline}", first.advice)
        return Verdict("none", headline, details)
    if not findings:
        said = f"{rules} checks found nothing wrong."
    else:
        counts = [(len(errors), "error"), (len(findings) - len(errors), "warning")]
        parts = [f"{count} {word}{'s' * (count > 1)}" for count, word in counts if count]
        said = f"The checks found {' and '.join(parts)}, listed below."
    return Verdict(found.tone, found.headline, (*found.details, said), found.world_size)


def _headline(kind: str, device: str, first: Row, last: Row) -> tuple[str, str]:
    many, few = ranks(last["world_size"], device), ranks(first["world_size"], device)
    if first["world_size"] > 1:
        few = f"{few} (the smallest size measured)"
    speedup, low, high = last["speedup"], last["speedup_low"], last["speedup_high"]
    times = show(speedup, "ratio")
    efficiency = f"efficiency {show(last['efficiency'], 'percent')}\u202f%"
    work, worked = ("train", "trained") if kind == "strong" else ("process frames", "processed frames")
    if not known(low):
        return "inconclusive", (
            f"{many} {worked} {times} times as fast as {few}, {efficiency}: "
            "a point without repeats (n=1, no interval), so the difference is not judged."
        )
    bounds = f"95\u202f% interval {interval(low, high, 'ratio')}"
    if low <= 1.0 <= high:
        return (
            "inconclusive",
            f"Inconclusive: {many} against {few} gave {times} times the throughput; the {bounds} includes no change.",
        )
    if high < 1.0:
        return "worse", f"{many} {work} slower than {few}: {times} times its throughput ({bounds}), {efficiency}."
    scaled = "" if kind == "strong" else " (scaled speed-up: the batch grows)"
    return "better", f"{many} {work} {times} times as fast as {few} ({bounds}), {efficiency}{scaled}."


def _reach(device: str, measured: Sequence[Row]) -> tuple[str, ...]:
    """Return up to which size efficiency is good, judged by the lower end of the interval."""
    beyond = [row for row in measured[1:] if known(row["efficiency_low"])]
    if not beyond:
        return ()
    limit = f"{GOOD_EFFICIENCY:.0%}".replace("%", "\u202f%")
    good = [row for row in beyond if row["efficiency_low"] >= GOOD_EFFICIENCY]
    unclear = [row for row in beyond if row["efficiency_low"] < GOOD_EFFICIENCY <= row["efficiency_high"]]
    out = []
    if good:
        out.append(f"Efficiency is at least {limit} up to {ranks(good[-1]['world_size'], device)}.")
    elif not unclear:
        out.append(f"Efficiency is below {limit} at every size judged.")
    if unclear:
        sizes = ", ".join(ranks(row["world_size"], device) for row in unclear)
        out.append(f"Inconclusive at {sizes}: the efficiency interval includes {limit}.")
    return tuple(out)


def _loss(last: Row, device: str) -> tuple[str, ...]:
    """Return which parts the lost efficiency went to, largest first."""
    parts = {part: last.get(f"loss_{part}") for part in SPLIT}
    if not all(known(value) for value in parts.values()) or (
        known(last["efficiency_high"]) and last["efficiency_high"] >= 1.0
    ):
        return ()
    lost = 1.0 - float(last["efficiency"])
    if lost <= 0.0:
        return ()
    largest = sorted(((float(v or 0.0), part) for part, v in parts.items()), reverse=True)
    named = [f"{part} {value * 100:.1f}" for value, part in largest[:3] if value > 0.005]
    if not named:
        return ()
    where = ranks(last["world_size"], device)
    return (f"Of the {lost * 100:.1f} points of efficiency lost at {where}, the largest parts are {', '.join(named)}.",)


def _learning(kind: str, measured: Sequence[Row], device: str) -> tuple[str, ...]:
    first, last = measured[0], measured[-1]
    total = last.get("time_to_reward_speedup")
    if known(total) and known(last.get("statistical_efficiency")):
        product = f"{show(last['speedup'], 'ratio')} \u00d7 {show(last['statistical_efficiency'], 'ratio')}"
        low, high = last["time_to_reward_speedup_low"], last["time_to_reward_speedup_high"]
        bounds = interval(low, high, "ratio")
        unclear = ": inconclusive" if bounds and low <= 1.0 <= high else ""
        judged = f" (95\u202f% interval {bounds}{unclear})" if bounds else ""
        return (
            f"{ranks(last['world_size'], device)} reach the same reward {show(total, 'ratio')} times as fast as "
            f"{ranks(first['world_size'], device)}{judged}: throughput speed-up \u00d7 statistical efficiency = "
            f"{product}.",
        )
    if kind != "weak":
        return ()
    batches = (first["global_batch"], last["global_batch"])
    if not all(known(batch) for batch in batches):
        return ()
    return (
        f"The global batch grows from {batches[0]:,} to {batches[1]:,} frames per iteration: more frames per second "
        "is not the same as faster learning.",
    )


def _completeness(rows: Sequence[Row]) -> tuple[str, ...]:
    out = []
    empty = [row for row in rows if not known(row["total_fps"])]
    if empty:
        sizes = ", ".join(f"{row['world_size']} ({row['status']})" for row in empty)
        out.append(f"No number for world size {sizes}.")
    partial = [row for row in rows if row["status"] == "partial"]
    if partial:
        sizes = ", ".join(f"{row['world_size']} ({row['repeats']} of {row['repeats_planned']})" for row in partial)
        out.append(f"Fewer repeats than planned at world size {sizes}.")
    failed = sum(int(row["runs_failed"] or 0) for row in rows)
    flagged = sum(int(row["runs_flagged"] or 0) for row in rows)
    if failed:
        out.append(f"{failed} failed {'attempt is' if failed == 1 else 'attempts are'} listed below.")
    if flagged:
        out.append(f"{flagged} flagged {'run is' if flagged == 1 else 'runs are'} drawn hollow and left out.")
    return tuple(out)
