"""What the samplers saw of the GPUs of a run while it was measured."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from paceline.analysis.load import Loaded
from paceline.analysis.samplefile import POWER_LIMIT


class GpuSamples:
    """The GPU samples of a study, ready to be asked run by run."""

    def __init__(self, loaded: Loaded) -> None:
        table = loaded.samples
        gpus = (table["source"] == "gpu").to_numpy(dtype=bool)
        names = ("unix_s", "energy_j", "power_w", "util_pct", "sm_clock_mhz", "foreign_processes", "name", "throttle")
        self._columns = {name: table[name].to_numpy()[gpus] for name in names}
        self._slices = slices_by_run(table["run"].to_numpy()[gpus])

    def over(
        self, run: int, begin_unix_s: float, end_unix_s: float, used: frozenset[str] = frozenset()
    ) -> dict[str, Any]:
        """Return power (all GPUs), mean use and clock, and the shares of disturbed samples; empty without samples.

        ``throttled_share`` counts samples whose clocks were held down by heat or by the hardware; samples at the power
        limit, the normal state of a loaded GPU, are ``power_limited_share``.

        Scope: the GPUs whose UUIDs are in ``used``, all that were sampled if it is empty. A job on an exclusive node
        sees GPUs that no rank uses, and those must not count. Power comes from the energy counter where the driver has
        one, else from the mean of its samples.
        """
        part = self._slices.get(run)
        if part is None:
            return {}
        seconds = self._columns["unix_s"][part]
        wanted = (seconds >= begin_unix_s) & (seconds <= end_unix_s)
        if used:
            wanted &= np.isin(self._columns["name"][part].astype(str), sorted(used))
        inside = np.flatnonzero(wanted)
        if not len(inside):
            return {}
        own = {name: values[part][inside] for name, values in self._columns.items()}
        power_w = math.fsum(_power_w(own, own["name"] == gpu) for gpu in dict.fromkeys(own["name"].tolist()))
        found = [frozenset(text.split()) for text in own["throttle"].tolist() if isinstance(text, str)]
        reasons = [reason - POWER_LIMIT for reason in found if reason - POWER_LIMIT]
        return {
            "power_w": power_w,
            "gpu_util_pct": mean(own["util_pct"]),
            "sm_clock_mhz": mean(own["sm_clock_mhz"]),
            "throttled_share": len(reasons) / len(inside),
            "throttle_reasons": " ".join(sorted(frozenset().union(*reasons))),
            "power_limited_share": sum(bool(reason & POWER_LIMIT) for reason in found) / len(inside),
            "foreign_share": float(np.count_nonzero(own["foreign_processes"] > 0)) / len(inside),
        }


def _power_w(own: dict[str, Any], which: Any) -> float:
    """Return the mean power of one GPU."""
    energy, seconds = own["energy_j"][which], own["unix_s"][which]
    known = np.flatnonzero(np.isfinite(energy))
    if len(known) >= 2 and seconds[known[-1]] > seconds[known[0]]:
        first, last = known[0], known[-1]
        return float((energy[last] - energy[first]) / (seconds[last] - seconds[first]))
    return mean(own["power_w"][which])


def slices_by_run(runs: Any) -> dict[int, slice]:
    """Return where the rows of each run lie in a column of run numbers, in which each run's are together."""
    starts = np.flatnonzero(np.diff(runs, prepend=-1))
    stops = np.append(starts[1:], len(runs)) if len(runs) else starts  # no GPU rows on a CPU
    return {int(runs[a]): slice(a, b) for a, b in zip(starts.tolist(), stops.tolist(), strict=True)}


def mean(values: Any) -> float:
    """Return the mean of what is known, NaN if nothing is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan
