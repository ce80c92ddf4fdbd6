"""Reads samples-<node>.jsonl: what the sampler of one node saw, once a second."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paceline.analysis.jsontext import loads
from paceline.analysis.readroom import ReadRoom
from paceline.bench.errors import RecordError
from paceline.bench.record import SAMPLES_SCHEMA, require_schema

GPU_KEYS = (
    "util_pct",
    "memory_used_bytes",
    "temperature_c",
    "power_w",
    "energy_j",
    "sm_clock_mhz",
    "memory_clock_mhz",
    "processes",
    "foreign_processes",
)
NODE_KEYS = ("load_1m", "ram_used_bytes", "disk_read_bytes", "disk_written_bytes")
RANK_KEYS = ("cpu_pct", "threads", "rss_bytes")
VALUES = {"gpu": GPU_KEYS, "node": ("cpu_pct", "job_cpu_pct", *NODE_KEYS), "rank": RANK_KEYS}
"""What a row says, by its source."""

# Reasons for a lower clock that are a choice or an idle GPU, not a limit that it ran into.
NO_THROTTLE = frozenset({"none", "gpu_idle", "applications_clocks_setting", "sync_boost", "display_clock_setting"})

# A GPU that draws all the power it may is in the normal state of a data-centre GPU at work: worth a note, no fault.
POWER_LIMIT = frozenset({"sw_power_cap"})

Row = tuple[str, str, float, str | None, tuple[Any, ...]]

# A pattern that starts with plain text is searched for quickly.
_FOREIGN = re.compile(rb'"foreign_processes": ?[1-9]')


@dataclass(slots=True)
class SamplesFile:
    """What one node's sampler wrote: a row per second for each GPU, the node and each rank.

    A row is its source, name, time (``t_s``), throttle reasons and values (``VALUES``, as in the file). The source is
    ``gpu`` (name: UUID), ``node`` (name: node) or ``rank`` (name: global rank). ``cpu_pct`` of a node is the mean over
    its cores (100 = all cores busy), that of a rank is per process (100 = one core busy); ``job_cpu_pct`` is the sum
    over the cores that the job may use (100 = one core busy). The throttle reasons are the driver's, joined by spaces,
    None where there are none.
    """

    path: Path
    header: dict[str, Any]
    rows: list[Row]
    bad_lines: int
    """Lines that could not be read (the last line of a killed sampler is one)."""


def clock_origin(header: Mapping[str, Any]) -> float:
    """Return the Unix time at which a record's clock read 0; 0 if its header does not say."""
    value = header.get("clock_origin_unix_s")
    return float(value) if isinstance(value, int | float) else 0.0


def read_samples(path: Path, keep_every: int, room: ReadRoom) -> SamplesFile:
    """Return the samples of one node; RecordError if the file has no readable header.

    Args:
        path: The file.
        keep_every: Of the seconds in which nothing notable happened, read every so-manieth only. The first and the last
            second, and each with a foreign process, are always read. Throttled seconds are not: picking them would
            enlarge their share.
        room: What the file is read into.
    """
    room.clear()
    data, first, stop = room.text(path)
    lines = _lines(data, first, stop)
    if not lines:
        raise RecordError(f"{path}: empty")
    try:
        header = loads(data[lines[0]])
    except ValueError as error:
        raise RecordError(f"{path}: line 1 is not valid JSON") from error
    require_schema(header, SAMPLES_SCHEMA, str(path))
    notable = keep_every > 1 and _FOREIGN.search(data, first, stop) is not None
    rows: list[Row] = []
    bad = 0
    node = str(header.get("node", path.stem.removeprefix("samples-")))
    job_cores = header.get("job_cores")
    for number, place in enumerate(lines[1:]):
        regular = number % keep_every == 0 or number == len(lines) - 2
        if not regular and not (notable and _FOREIGN.search(data, place.start, place.stop)):
            continue
        line = data[place]
        try:
            _add(rows, loads(line), node, job_cores)
        except (ValueError, KeyError, TypeError, AttributeError):
            bad += 1
    return SamplesFile(path, header, rows, bad)


def _lines(data: bytearray, start: int, end: int) -> list[slice]:
    """Return where each line lies: most lines of a large study are never looked into."""
    places = []
    while start < end:
        stop = data.find(b"\n", start, end)
        stop = end if stop < 0 else stop
        places.append(slice(start, stop))
        start = stop + 1
    return places


def _add(rows: list[Row], sample: dict[str, Any], node: str, job_cores: Any) -> None:
    if sample.get("type") == "end":
        return
    t_s = float(sample["t_s"])
    get = sample.get
    all_cores = get("cpu_pct") or ()
    cores = [value for value in all_cores if value is not None]
    busy = sum(cores) / len(cores) if cores else None
    of_job = _of_job(all_cores, job_cores)
    rows.append(("node", node, t_s, None, (busy, of_job, *map(get, NODE_KEYS))))
    for gpu in get("gpus") or ():
        reasons = gpu.get("throttle")
        if reasons:
            reasons = " ".join(sorted(set(map(str, reasons)) - NO_THROTTLE))
        rows.append(("gpu", str(gpu.get("uuid")), t_s, reasons or None, tuple(map(gpu.get, GPU_KEYS))))
    rows += [("rank", str(rank.get("rank")), t_s, None, tuple(map(rank.get, RANK_KEYS))) for rank in get("ranks") or ()]


def _of_job(cores: Any, job_cores: Any) -> float | None:
    """Return the use of the job's cores in all, percent of one core; None if one of them was not seen."""
    if not job_cores:
        return None
    try:
        return float(sum(cores[core] for core in job_cores))
    except (IndexError, TypeError):
        return None
