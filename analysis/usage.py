"""What a study used: GPU hours, and what they cost where the cluster profile has prices."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from paceline.analysis.load import Loaded

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Price:
    """Price of one GPU hour."""

    gpu_type: str
    """As the cluster profile names it."""
    gpu_hour: float
    currency: str


def price(loaded: Loaded) -> tuple[Price | None, str | None]:
    """Return the price of the study's GPUs, or None; and a sentence if prices are stated and none of them fits.

    The GPU type is what the cases asked for, else the profile's, else the one whose name is part of the device's.
    """
    stated = loaded.cluster.get("prices")
    table = stated.get("gpu_hour") if isinstance(stated, Mapping) else None
    if not isinstance(stated, Mapping) or not isinstance(table, Mapping) or not table:
        return None, None
    names = {_plain(str(kind)): str(kind) for kind, value in table.items() if _is_amount(value)}
    asked = {str(kind) for kind in loaded.runs["gpu_type"].dropna()} or {str(loaded.cluster.get("gpu_type") or "")}
    devices = {
        str(device.get("name"))
        for headers in loaded.headers.values()
        for device in (header.get("device") for header in headers)
        if isinstance(device, Mapping) and device.get("kind") == "cuda"
    }
    found = {names[_plain(kind)] for kind in asked if _plain(kind) in names}
    if not found:
        fits = [sorted((n for n in names if n and n in _plain(device)), key=len) for device in devices]
        found = {names[own[-1]] for own in fits if own}
    if len(found) != 1:
        if not devices:
            return None, None
        what = ", ".join(sorted(devices)) if not found else f"{', '.join(sorted(found))} in one study"
        return None, f"No cost: the cluster profile has prices for {', '.join(names.values())}, not for {what}."
    kind = found.pop()
    return Price(kind, float(table[kind]), str(stated.get("currency") or "")), None


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def rank_hours(runs: pd.DataFrame) -> float:
    """Return wall time times ranks of attempts, in hours: GPU hours where each rank has a GPU."""
    known = runs[runs["wall_s"].notna() & runs["world_size"].notna()]
    return math.fsum(float(s) * int(n) for s, n in zip(known["wall_s"], known["world_size"], strict=True)) / 3600.0


def usage(loaded: Loaded, cost: Price | None) -> dict[str, Any]:
    """Return what all attempts of the folder used, JSON-able.

    Keys: ``rank_hours`` (GPU hours on GPUs; warm-up and failed attempts included), ``rank_hours_counted`` (of the runs
    that count), ``attempts``, ``attempts_without_time`` (no result yet), ``hung`` (attempts that the watchdog ended),
    ``rank_hours_saved`` (of their time limits), ``cost``, ``price_gpu_hour``, ``gpu_type``, ``currency`` (None without
    a price).
    """
    runs = loaded.runs
    ended = [told for extra in loaded.extras.values() if isinstance(told := extra.get("watchdog"), Mapping)]
    hours: list[Any] = [told.get("saved_rank_hours") for told in ended]
    total = rank_hours(runs)
    return {
        "rank_hours": total,
        "rank_hours_counted": rank_hours(runs[runs["counts"].astype(bool)]),
        "attempts": len(runs),
        "attempts_without_time": int(runs["wall_s"].isna().sum()),
        "hung": len(ended),
        "rank_hours_saved": math.fsum(each for each in hours if _is_amount(each)),
        "cost": cost.gpu_hour * total if cost else None,
        "price_gpu_hour": cost.gpu_hour if cost else None,
        "gpu_type": cost.gpu_type if cost else None,
        "currency": cost.currency if cost else None,
    }
