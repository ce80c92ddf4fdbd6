"""Where the numbers come from: commands, versions, hardware, code, scripts; and what differs where nothing should."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paceline.analysis.load import Loaded
from paceline.bench.rundir import RunDir

_MAX_SCRIPT_BYTES = 64 * 1024

# What must be the same for all points of one curve, as (title, path in the header of a rank's record).
SAME_ON_A_CURVE = (
    ("device", ("device", "name")),
    ("driver", ("device", "driver_version")),
    ("CPU", ("cpu", "model")),
    ("torch", ("versions", "torch")),
    ("Isaac Lab", ("versions", "isaaclab")),
    ("simulator", ("versions", "newton")),
    ("horizon", ("problem", "horizon")),
    ("minibatches", ("problem", "num_minibatches")),
    ("epochs", ("problem", "num_epochs")),
)


def provenance(loaded: Loaded) -> dict[str, Any]:
    """Return what a reader needs to trust or to repeat the study, JSON-able.

    Keys: ``study_dir``, ``study``, ``cluster``, ``snapshot``, ``hardware`` and ``versions`` (name to the list of values
    found), ``threads``, ``nodes``, ``scripts`` (one job script per world size), ``differences`` (sentences).
    """
    counted = [int(run) for run in loaded.runs.index[loaded.runs["counts"].astype(bool)]]
    every = [header for run in counted for header in loaded.headers.get(run, [])]
    headers = _distinct(every)
    versions = _collect(headers, "versions")
    hardware = {
        "device": _values(headers, ("device", "name")),
        "driver": _values(headers, ("device", "driver_version")),
        "device memory, bytes": _values(headers, ("device", "memory_total_bytes")),
        "CPU": _values(headers, ("cpu", "model")),
        "logical cores": _values(headers, ("cpu", "logical_cores")),
        "cores allowed": _values(headers, ("cpu", "affinity_cores")),
        "backend": _values(headers, ("backend",)),
        "nodes": sorted({str(header.get("hostname")) for header in every}),
    }
    return {
        "study_dir": loaded.path.name,
        "study": loaded.study,
        "cluster": loaded.cluster,
        "snapshot": loaded.snapshot,
        "hardware": {key: values for key, values in hardware.items() if values},
        "versions": versions,
        "threads": _collect(headers, "threads"),
        "scripts": _scripts(loaded, counted),
        "differences": differences(headers),
    }


def _distinct(headers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one header for each distinct set of conditions: large studies have many headers, and few conditions."""
    found: dict[str, dict[str, Any]] = {}
    for header in headers:
        device = header.get("device")
        own = dict(device, uuid=None) if isinstance(device, dict) else device
        rest = [header.get(key) for key in ("versions", "cpu", "threads", "problem", "backend")]
        found.setdefault(repr((own, rest)), header)
    return list(found.values())


def differences(headers: list[dict[str, Any]]) -> list[str]:
    """Return one sentence for each property that must not differ between the points of a curve, and does."""
    out = []
    for title, path in SAME_ON_A_CURVE:
        values = _values(headers, path)
        if len(values) > 1:
            out.append(f"{title} differs between the runs of this curve: {', '.join(values)}.")
    return out


def _values(headers: list[dict[str, Any]], path: tuple[str, ...]) -> list[str]:
    found: dict[str, None] = {}
    for header in headers:
        value: Any = header
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            found[str(value)] = None
    return sorted(found)


def _collect(headers: list[dict[str, Any]], section: str) -> dict[str, list[str]]:
    names = {name for header in headers for name in (header.get(section) or {})}
    found = {name: _values(headers, (section, name)) for name in sorted(names)}
    return {name: values for name, values in found.items() if values}


def _scripts(loaded: Loaded, counted: list[int]) -> list[dict[str, str]]:
    """Return the job script of the first repeat of each world size, as text."""
    scripts = []
    first: dict[int, Path] = {}
    ordered = loaded.runs.loc[counted].sort_values(["world_size", "repeat"])
    for size, path in zip(ordered["world_size"].tolist(), ordered["path"].tolist(), strict=True):
        first.setdefault(int(size), Path(path))
    for size, path in first.items():
        try:
            text = RunDir(path).job_sh.read_bytes()[:_MAX_SCRIPT_BYTES].decode("utf-8", errors="replace")
        except OSError:
            continue
        scripts.append({"world_size": str(size), "path": str(path.relative_to(loaded.path) / "job.sh"), "text": text})
    return scripts[:8]
