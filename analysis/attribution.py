"""Where the lost efficiency went, exactly; and the POP efficiency tree from per-rank times.

Cost is additive, rates are not: c = N / X, rank-seconds per frame, is the sum of its phases' costs, and E is
c_ref / c_N. So the lost efficiency splits without a remainder:

    1 - E = sum over phases of (c_phase,N - c_phase,ref) / c_N

The same holds for strong and weak scaling.

POP names after the POP Centre of Excellence (pop-coe.eu, "Standard metrics"): GE = PE x CompS, PE = LB x CommE,
CommE = SerE x TE.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from paceline.analysis.summary import RunArrays
from paceline.analysis.table import Floats

NOT_APPLICABLE = "n/a (rank-0 timings)"
"""What to print for load balance, serialisation and transfer where only rank 0 was timed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attribution:
    """The lost efficiency of one point, by phase."""

    efficiency: float
    """c_ref / c_N."""
    cost_s_per_frame: float
    """Rank-seconds per frame at this point, all phases."""
    loss: Mapping[str, float]
    """Share of the lost efficiency per phase; they add up to 1 - efficiency. Negative: the phase became cheaper."""
    phase_efficiency: Mapping[str, float]
    """c_phase,ref / c_phase,N; NaN where the phase costs nothing here."""


def costs_from_rates(
    world_sizes: Floats, fps_step: Floats, fps_step_inference: Floats, total_fps: Floats
) -> dict[str, Floats]:
    """Return rank-seconds per frame by phase from the three rates of rl_games, each of shape (world sizes,).

    env_step = N/X_step, inference = N/X_step+inference - N/X_step (GAE and bookkeeping included), update the rest.
    Differences of reciprocals enlarge errors: 5 % on each rate can be 40 % on a small phase.
    """
    step = world_sizes / fps_step
    collection = world_sizes / fps_step_inference
    return {"env_step": step, "inference": collection - step, "update": world_sizes / total_fps - collection}


def loss_attribution(reference: Mapping[str, float], costs: Mapping[str, float]) -> Attribution:
    """Return the exact split of the efficiency lost between two points.

    Args:
        reference: Cost by phase at the reference world size, rank-seconds per frame.
        costs: Cost by phase at this point; a phase missing on one side costs nothing there.
    """
    phases = list(dict.fromkeys([*reference, *costs]))
    before = {phase: float(reference.get(phase, 0.0)) for phase in phases}
    after = {phase: float(costs.get(phase, 0.0)) for phase in phases}
    total = sum(after.values())
    return Attribution(
        efficiency=sum(before.values()) / total,
        cost_s_per_frame=total,
        loss={phase: (after[phase] - before[phase]) / total for phase in phases},
        phase_efficiency={phase: before[phase] / after[phase] if after[phase] else float("nan") for phase in phases},
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class PopTree:
    """POP efficiencies of one run against a reference run; each lies in (0, 1] but for computation_scaling."""

    parallel_efficiency: float
    load_balance: float
    communication_efficiency: float
    serialisation_efficiency: float
    transfer_efficiency: float
    computation_scaling: float | None
    """Useful time per frame of the reference over that of this run; None without a reference."""
    level: Literal["segment", "iteration"]
    """With iterations as segments, serialisation is an upper bound and transfer a lower bound."""

    @property
    def global_efficiency(self) -> float | None:
        """Parallel efficiency times computation scaling, None without a reference; not classic strong efficiency."""
        return None if self.computation_scaling is None else self.parallel_efficiency * self.computation_scaling


def pop_tree(
    useful_s: Floats,
    wall_time_s: float,
    frames: float,
    reference: tuple[Floats, float] | None = None,
    level: Literal["segment", "iteration"] = "iteration",
) -> PopTree | None:
    """Return the POP tree of one run, None where the times are not those of all ranks ("n/a (rank-0 timings)").

    Args:
        useful_s: Useful time of every rank in every segment, shape (ranks, segments); a segment ends at a collective.
            NaN for ranks that were not timed.
        wall_time_s: Wall time over all segments.
        frames: Frames of all ranks over all segments.
        reference: (useful_s, frames) of the reference run.
        level: What a segment is.
    """
    useful = np.atleast_2d(useful_s)
    if not np.isfinite(useful).all():
        return None
    totals = useful.sum(axis=1)
    ideal = float(useful.max(axis=0).sum())
    scaling = None
    if reference is not None:
        scaling = (float(np.sum(reference[0])) / reference[1]) / (float(totals.sum()) / frames)
    return PopTree(
        parallel_efficiency=float(totals.mean()) / wall_time_s,
        load_balance=float(totals.mean() / totals.max()),
        communication_efficiency=float(totals.max()) / wall_time_s,
        serialisation_efficiency=float(totals.max()) / ideal,
        transfer_efficiency=ideal / wall_time_s,
        computation_scaling=scaling,
        level=level,
    )


def rate_scaling(
    computation: float, launches_per_frame: tuple[float, float], sm_clock_mhz: tuple[float, float]
) -> dict[str, float]:
    """Return the factors of computation scaling, CompS = WorkS x RateS x FreqS.

    From kernel launches per frame (reference, here), SM clocks (reference, here), and the rest. GPU stand-ins for
    POP's instruction, IPC and frequency scaling.
    """
    work = launches_per_frame[0] / launches_per_frame[1]
    frequency = sm_clock_mhz[1] / sm_clock_mhz[0]
    return {"work_scaling": work, "frequency_scaling": frequency, "rate_scaling": computation / (work * frequency)}


def pop_of_run(block: RunArrays, reference: RunArrays | None = None) -> PopTree | None:
    """Return the POP tree of a run from its records: useful is what is left of an iteration without communication.

    Uses the device-complete iterations after warm-up; None if there are none. Waiting that happens outside the timed
    collectives lands in the transfer efficiency, which is therefore a lower bound. Scope: job.

    Args:
        block: The run's iterations by rank.
        reference: Those of the reference run, usually of one rank.
    """
    useful, wall_time_s, frames = _useful(block)
    if not useful.size:
        return None
    base = None
    if reference is not None:
        reference_useful, _, reference_frames = _useful(reference)
        if reference_useful.size:
            base = (reference_useful, reference_frames)
    return pop_tree(useful, wall_time_s, frames, base)


def _useful(block: RunArrays) -> tuple[Floats, float, float]:
    kept = ~block.warmup & block.sync
    times = block.values["iteration_time_s"][:, kept]
    communication = np.nan_to_num(block.values["communication_time_s"][:, kept])
    return times - communication, float(block.time_s[kept].sum()), float(block.frames[kept].sum())
