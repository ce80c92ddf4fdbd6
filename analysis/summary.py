"""One row of numbers per run: throughput, phase times, spread between ranks, power, and what makes a run doubtful.

Rates are aggregates, total frames over total time, never means of rates. The slowest rank sets the time of each
iteration; frames are summed over ranks. Throughput uses the undisturbed iterations after warm-up (``sync`` 0), phase
times the device-complete ones (``sync`` 1) of the same run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from paceline.analysis.devices import GpuSamples, slices_by_run
from paceline.analysis.hostsamples import HostSamples
from paceline.analysis.load import Loaded
from paceline.analysis.samplefile import clock_origin
from paceline.analysis.stats import mser5

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]

MATERIAL_SHIFT = 0.01  # of the mean iteration time
THROTTLE_SHARE = 0.05  # of the GPU samples inside the measured window

# Where an iteration's time goes, per rank and averaged over ranks; with imbalance they sum to the iteration exactly.
SPLIT = ("physics", "inference", "update", "communication", "imbalance", "other")

RATES = ("total_fps", "collection_fps", "iteration_time_s", "step_fps", "step_inference_fps")


@dataclass(slots=True)
class RunArrays:
    """The iterations of one run as arrays of shape (ranks, iterations); iterations are those that every rank has."""

    run: int
    iteration: Floats
    sync: npt.NDArray[np.bool_]
    warmup: npt.NDArray[np.bool_]
    values: dict[str, Floats]

    @property
    def time_s(self) -> Floats:
        """Seconds of each iteration: those of the slowest rank. Shape (iterations,)."""
        times: Floats = self.values["iteration_time_s"].max(axis=0)
        return times

    @property
    def frames(self) -> Floats:
        """Frames of each iteration, all ranks. Shape (iterations,)."""
        frames: Floats = self.values["frames"].sum(axis=0)
        return frames


def run_arrays(loaded: Loaded) -> dict[int, RunArrays]:
    """Return the arrays of every run that has iterations, views into ``loaded.iterations`` where possible."""
    table = loaded.iterations
    columns = {name: table[name].to_numpy() for name in table.columns}
    runs, ranks = columns.pop("run"), columns.pop("rank")
    found = {}
    for run, part in slices_by_run(runs).items():
        arrays = _arrays(run, ranks[part], {name: values[part] for name, values in columns.items()})
        if arrays is not None:
            found[arrays.run] = arrays
    return found


def _arrays(run: int, ranks: npt.NDArray[Any], columns: dict[str, npt.NDArray[Any]]) -> RunArrays | None:
    count = (int(ranks[-1] != ranks[0]) and int(np.count_nonzero(np.diff(ranks))) + 1) or 1
    iteration = columns["iteration"]
    length, rest = divmod(len(ranks), count)
    regular = not rest and bool((iteration.reshape(count, length) == iteration[:length]).all())
    if not regular:  # a rank died early: keep what all of them have
        parts = [np.flatnonzero(ranks == rank) for rank in dict.fromkeys(ranks.tolist())]
        common = set(iteration[parts[0]].tolist()).intersection(*(iteration[part].tolist() for part in parts[1:]))
        order = np.concatenate([part[np.isin(iteration[part], list(common))] for part in parts])
        length = len(common)
        columns = {name: values[order] for name, values in columns.items()}
        if not length or len(order) != count * length:
            return None
    shaped = {name: values.reshape(count, length) for name, values in columns.items()}
    return RunArrays(
        run=run,
        iteration=shaped.pop("iteration")[0],
        sync=np.asarray(shaped.pop("sync").any(axis=0)),
        warmup=np.asarray(shaped.pop("warmup").any(axis=0)),
        values=shaped,
    )


def summarise(loaded: Loaded, arrays: Mapping[int, RunArrays]) -> pd.DataFrame:
    """Return one row per run that has a number (index: run): the RATES, the split of an iteration, and ``flags``.

    ``flags`` is a list of sentences; a run with any is drawn hollow and left out of the curve. ``warmup_note`` says so
    if the declared warm-up looks too short. Values that were not measured are NaN. Scope: job.
    """
    import pandas as pd

    devices, hosts = GpuSamples(loaded), HostSamples(loaded)
    rows = {}
    for run, block in arrays.items():
        if not bool(loaded.runs.at[run, "counts"]):
            continue
        row = _rates(block)
        if row is None:
            nothing = {"flags": ["no undisturbed iteration after warm-up has a time"], "warmup_note": None}
            rows[run] = dict.fromkeys(RATES, math.nan) | nothing
            continue
        row |= _split(block)
        row |= _warmup(block)
        row |= _learning(block)
        window = window_unix_s(loaded, block)
        row |= devices.over(run, *window, used=_gpus(loaded, run))
        row |= hosts.over(run, *window, ranks=len(loaded.headers[run]))
        row["flags"] = _flags(loaded, run, row)
        rows[run] = row
    frame = pd.DataFrame.from_dict(rows, orient="index") if rows else pd.DataFrame(columns=[*RATES, "flags"])
    frame.index.name = "run"
    return frame


def _gpus(loaded: Loaded, run: int) -> frozenset[str]:
    """Return the UUIDs of the GPUs that the ranks of a run computed on; empty on CPU, or where a rank does not say."""
    devices = [header.get("device") for header in loaded.headers.get(run, [])]
    uuids = [device.get("uuid") if isinstance(device, dict) else None for device in devices]
    return frozenset(map(str, uuids)) if uuids and all(uuids) else frozenset()


def _rates(block: RunArrays) -> dict[str, Any] | None:
    """Return the rates of a run; None if no undisturbed iteration after warm-up has times and frames."""
    kept = ~block.warmup & ~block.sync
    time_s, frames = block.time_s[kept], block.frames[kept]
    valid = np.isfinite(time_s) & np.isfinite(frames) & (time_s > 0) & (frames > 0)
    if not valid.any():
        return None
    total_frames, total_s = float(frames[valid].sum()), float(time_s[valid].sum())
    collection_s = float(block.values["collection_time_s"].max(axis=0)[kept][valid].sum())
    row: dict[str, Any] = {
        "total_fps": total_frames / total_s,
        "collection_fps": total_frames / collection_s if collection_s > 0 else math.nan,
        "iteration_time_s": total_s / int(valid.sum()),
        "iterations_measured": int(valid.sum()),
        "iterations_synced": int((~block.warmup & block.sync).sum()),
        "iteration_median_s": float(np.median(time_s[valid])),
        "iteration_p95_s": float(np.quantile(time_s[valid], 0.95)),
        "frames_per_iteration": total_frames / int(valid.sum()),
    }
    synced = ~block.warmup & block.sync
    step = block.values["env_step_time_s"][:, synced]
    acting = step + block.values["inference_time_s"][:, synced]
    frames_synced = float(block.frames[synced].sum())
    for name, seconds in (("step_fps", step), ("step_inference_fps", acting)):
        total = float(seconds.max(axis=0).sum()) if seconds.size else math.nan
        row[name] = frames_synced / total if total > 0 else math.nan
    return row


def _split(block: RunArrays) -> dict[str, float]:
    """Return mean seconds per device-complete iteration of each part in SPLIT (they sum to the slowest rank's time).

    With u_i the useful time of rank i (its iteration without communication) and T the time of the slowest rank:

        |-- mean of u_i, by phase --|-- imbalance: max u_i - mean u_i --|-- communication: T - max u_i --|   = T
    """
    synced = ~block.warmup & block.sync
    names = ("iteration_time_s", "physics_time_s", "inference_time_s", "update_time_s", "communication_time_s")
    total, physics, inference, update, communication = (block.values[name][:, synced] for name in names)
    if len(total) == 1:
        communication = np.nan_to_num(communication)  # one rank: no collectives, whether recorded as 0 or null
    phases = np.stack([physics, inference, update - communication, total - physics - inference - update])
    if not synced.any() or not np.isfinite(phases).all():
        return {}
    useful = phases.sum(axis=0)
    slowest = total.max(axis=0)
    row = dict(zip(("physics_s", "inference_s", "update_s", "other_s"), phases.mean(axis=(1, 2)).tolist(), strict=True))
    row["imbalance_s"] = float((useful.max(axis=0) - useful.mean(axis=0)).mean())
    # A single rank may have collectives too (rl_games calls them all the same); without any, rounding leaves a residue.
    transfer = float((slowest - useful.max(axis=0)).mean())
    row["communication_s"] = transfer if transfer > 1e-9 * float(slowest.mean()) else 0.0
    row["sync_iteration_s"] = float(slowest.mean())
    row["useful_s_per_frame"] = float(useful.sum() / block.frames[synced].sum())
    per_rank = useful.mean(axis=1)
    row["rank_spread_pct"] = float((per_rank.max() - per_rank.min()) / per_rank.mean() * 100.0)
    if len(total) > 1:
        row["slowest_rank"] = float(per_rank.argmax())
    return row


def _warmup(block: RunArrays) -> dict[str, Any]:
    """Return what MSER-5 says about the window that the study declared as steady.

    The rule always finds some cut in noise; it is mentioned only if keeping the cut iterations moved the result by 1 %
    or more.
    """
    kept = ~block.warmup & ~block.sync
    time_s = block.time_s[kept]
    state = mser5(time_s) if np.isfinite(time_s).all() else None
    if state is None or state.cut == 0:
        return {"warmup_note": None, "warmup_cut": 0 if state else None}
    shift = float(time_s.mean() / time_s[state.cut :].mean()) - 1.0
    note = None
    if abs(shift) >= MATERIAL_SHIFT and not state.reached:
        note = f"no steady state: iteration time still drifts in the second half ({shift * 100:+.1f} % on the mean)"
    elif abs(shift) >= MATERIAL_SHIFT:
        first = int(block.iteration[kept][state.cut])
        note = (
            f"warm-up of {int(block.warmup.sum())} iterations looks too short: steady from iteration {first} on "
            f"(MSER-5), which moves the mean iteration time by {shift * 100:+.1f} %"
        )
    return {"warmup_note": note, "warmup_cut": state.cut}


def _learning(block: RunArrays) -> dict[str, float]:
    """Return the mean reward over the last fifth of the run (rank mean), NaN if none was reported."""
    tail = block.values["reward"][:, -max(len(block.iteration) // 5, 1) :]
    known = tail[np.isfinite(tail)]
    return {"final_reward": float(known.mean()) if known.size else math.nan}


def window_unix_s(loaded: Loaded, block: RunArrays) -> tuple[float, float]:
    """Return when the measured window (all iterations after warm-up) of a run began and ended, Unix time."""
    origin = clock_origin(loaded.headers[block.run][0])
    kept = np.flatnonzero(~block.warmup)
    start = block.values["start_s"][0]
    return origin + float(start[kept[0]]), origin + float(start[kept[-1]] + block.time_s[kept[-1]])


def _flags(loaded: Loaded, run: int, row: dict[str, Any]) -> list[str]:
    """Return why a run must not be on the curve (DESIGN rule: flagged, kept, drawn hollow, left out of fits)."""
    flags = []
    if row.get("throttled_share", 0.0) > THROTTLE_SHARE:
        share = row["throttled_share"]
        flags.append(f"GPU clocks limited in {share * 100:.0f} % of the samples ({row['throttle_reasons']})")
    if row.get("foreign_share", 0.0) > 0.0:
        flags.append(f"another process used the GPU in {row['foreign_share'] * 100:.0f} % of the samples")
    invalid = loaded.extras.get(run, {}).get("invalid_physics")
    if invalid:
        flags.append(
            f"invalid physics: {invalid if isinstance(invalid, str) else 'the simulator reported an overflow'}"
        )
    return flags
