"""One sentence that says what limits a profiled run.

NCCL kernels wait on the GPU until every rank has come: the rank with the least time in them is the one that the others
wait for. The sentence is about that rank; without NCCL, about the one whose ranges take longest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paceline.analysis.trace import Trace

_CONTAINERS = ("iteration", "rollout")
HOST_BOUND_IDLE = 0.4
"""From this idle share of the time on, the GPU waits for the host, or for other ranks, not the host for the GPU."""
GPU_BOUND_IDLE = 0.15
EXPOSED_NCCL = 0.2
"""From this share of the time on, communication that nothing hides is the first thing to say."""
WAITING = 0.1
"""From this share of the time on, it is worth saying that a rank waits for another."""


def sentence(trace: Trace) -> str:
    """Return the diagnosis of a trace, for the rank that the others wait for, without a full stop."""
    if not trace.processes:
        return _without_gpu(trace)
    rows = deciding(trace)
    if not rows:
        busy = max(row["gpu_busy_s"] for row in trace.processes)
        return f"no ranges: the GPU works for {_seconds(busy)} of the {_seconds(trace.details['span_s'])} captured"
    whole = next((row for row in rows if row["name"] == "iteration"), max(rows, key=lambda row: float(row["wall_s"])))
    wall = whole["wall_s"]
    if not wall:
        return f"{whole['name']} has no length: nothing can be said"
    rate = f"{whole['launches'] / whole['instances']:,.0f} launches per {whole['name']}" + _waiting(trace, whole)
    on_rank = f" on rank {whole['rank']}" if len(trace.processes) > 1 and whole["rank"] is not None else ""
    idle, exposed = whole["gpu_idle_s"] / wall, whole["nccl_exposed_s"] / wall
    if exposed >= EXPOSED_NCCL:
        worst = _concentrated(rows, "nccl_exposed_s")
        if worst["nccl_exposed_s"] > worst["wall_s"]:  # it runs on after the host has left the range that launched it
            worst = whole
        share = _percent(worst["nccl_exposed_s"], worst["wall_s"])
        return f"communication-bound: NCCL that nothing hides takes {share} of {worst['name']}{on_rank}; {rate}"
    if idle >= HOST_BOUND_IDLE:
        worst = _concentrated(rows, "gpu_idle_s")
        share = _percent(worst["gpu_idle_s"], worst["wall_s"])
        return f"host-bound: the GPU idles {share} of {worst['name']}{on_rank}; {rate}"
    most = _concentrated(rows, "gpu_busy_s")
    share = _percent(most["gpu_busy_s"], whole["gpu_busy_s"])
    kind = "GPU-bound" if idle <= GPU_BOUND_IDLE else "mixed"
    return (
        f"{kind}: the GPU works for {_percent(whole['gpu_active_s'], wall)} of {whole['name']}{on_rank}; "
        f"{most['name']} causes {share} of its work"
    )


def deciding(trace: Trace) -> list[dict[str, Any]]:
    """Return the rows of the process that decides how long an iteration takes, less those without length."""
    longest: dict[int, float] = {}
    nccl: dict[int, float] = {}
    for row in trace.ranges:
        key = row["process"]
        longest[key] = max(longest.get(key, 0.0), row["wall_s"] / row["instances"])
        nccl[key] = max(nccl.get(key, 0.0), row["nccl_s"])
    working = {row["process"] for row in trace.processes}
    candidates = [process for process in longest if process in working]
    with_nccl = [process for process in candidates if nccl[process]]
    chosen = max(candidates, key=lambda process: longest[process], default=None)
    if len(with_nccl) > 1:
        chosen = min(with_nccl, key=lambda process: nccl[process])
    return [row for row in trace.ranges if row["process"] == chosen]


def _waiting(trace: Trace, whole: dict[str, Any]) -> str:
    """Return a clause about the rank that waits longest for the one of ``whole``; nothing if none waits for long."""
    same = [row for row in trace.ranges if row["name"] == whole["name"] and row["style"] == whole["style"]]
    longest = max(same, key=lambda row: float(row["nccl_s"]))
    waits = (longest["nccl_s"] - whole["nccl_s"]) / whole["wall_s"]
    if waits < WAITING or not whole["nccl_s"]:
        return ""
    who = "another process" if longest["rank"] is None else f"rank {longest['rank']}"
    return f"; {who} waits for it in NCCL for {_percent(waits, 1.0)} of the time"


def _concentrated(rows: list[dict[str, Any]], key: str) -> dict[str, Any]:
    """Return the shortest range that holds most of what the worst one holds: the place to look at."""
    candidates = [row for row in rows if row["name"] not in _CONTAINERS and row["wall_s"] > 0] or rows
    worst = max(float(row[key]) for row in candidates)
    return min((row for row in candidates if row[key] >= 0.7 * worst), key=lambda row: float(row["wall_s"]))


def _without_gpu(trace: Trace) -> str:
    if not trace.ranges:
        return "neither ranges nor GPU work in the capture"
    rows = [row for row in trace.ranges if row["name"] not in _CONTAINERS] or trace.ranges
    longest = max(rows, key=lambda row: float(row["wall_s"]))
    same = [row for row in trace.ranges if row["process"] == longest["process"]]
    whole = next((row for row in same if row["name"] == "iteration"), longest)
    start = f"no GPU work in the capture; on the host {longest['name']} takes"
    if whole["wall_s"] and whole is not longest:
        return f"{start} {_percent(longest['wall_s'], whole['wall_s'])} of iteration"
    return f"{start} longest, {_seconds(longest['wall_s'])}"


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "0 %"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.1f} ms"
