"""What the samplers saw of the processor cores of a run while it was measured."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from paceline.analysis.devices import mean, slices_by_run
from paceline.analysis.load import Loaded

OTHERS_PCT = 10.0
"""Share of the job's cores kept busy by other programs that is remarked on. Undisturbed runs show 0.1 to 2.5."""


class HostSamples:
    """The samples of nodes and ranks of a study, ready to be asked run by run."""

    def __init__(self, loaded: Loaded) -> None:
        table = loaded.samples
        sources = table["source"].to_numpy()
        wanted = np.flatnonzero((sources == "node") | (sources == "rank"))
        self._is_node = sources[wanted] == "node"
        names = ("unix_s", "name", "job_cpu_pct", "cpu_pct")
        self._columns = {name: table[name].to_numpy()[wanted] for name in names}
        self._slices = slices_by_run(table["run"].to_numpy()[wanted])
        self._cores = {run: _job_cores(headers) for run, headers in loaded.sample_headers.items()}

    def over(self, run: int, begin_unix_s: float, end_unix_s: float, ranks: int) -> dict[str, Any]:
        """Return how many of the job's cores other programs kept busy; empty where that is not known.

        ``other_cpu_pct`` is the mean use of the cores that the job may use, on all nodes, without what the ranks used,
        in percent of those cores. It is not known unless each of the ``ranks`` was seen. The launcher and the sampler
        count as others: a few percent of one core.
        """
        part = self._slices.get(run)
        cores = self._cores.get(run)
        if part is None or not cores:
            return {}
        seconds = self._columns["unix_s"][part]
        inside = (seconds >= begin_unix_s) & (seconds <= end_unix_s)
        nodes = self._means("job_cpu_pct", part, inside & self._is_node[part])
        used = self._means("cpu_pct", part, inside & ~self._is_node[part])
        if not nodes or len(used) != ranks or not math.isfinite(sum(nodes) + sum(used)):
            return {}
        return {"other_cpu_pct": max(0.0, sum(nodes) - sum(used)) / cores}

    def _means(self, column: str, part: slice, which: Any) -> list[float]:
        """Return the mean of each node or rank over its samples; NaN where there is none."""
        names, values = self._columns["name"][part][which], self._columns[column][part][which]
        return [mean(values[names == name]) for name in dict.fromkeys(names.tolist())]


def _job_cores(headers: list[dict[str, Any]]) -> int:
    """Return how many cores a job may use on all its nodes, 0 if one of them does not say."""
    counts = [len(header["job_cores"]) if isinstance(header.get("job_cores"), list) else 0 for header in headers]
    return sum(counts) if all(counts) else 0
