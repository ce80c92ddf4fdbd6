"""GPUs compared on the same case: throughput and its interval, per watt, price, GB/s and TFLOP/s, phase by phase.

A side is what is compared: a GPU model, with its CPU where the same GPU ran on several; where all have the same GPU, a
group of nodes or a node. Runs are compared only with runs of the same case (KEY in gpurows) and of the same versions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from paceline.analysis.gpufactors import cpu_checks, nodes
from paceline.analysis.gpurows import KEY, PHASES, VERSIONS, bounds, case_key
from paceline.analysis.gpuspecs import NO_CHANGE, GpuSpec, disagreements, lookup, resemblance
from paceline.analysis.stats import Estimate, median_interval, ratio_interval
from paceline.analysis.units import known
from paceline.bench.errors import RecordError

GPU_REPORT_SCHEMA = "paceline.gpu-report/1"


class GpuComparison:
    """Everything that follows from the rows of some runs. ``data`` is what ``--format json`` prints."""

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        reference: str | None = None,
        prices: Mapping[str, float] | None = None,
        currency: str = "EUR",
        notes: Sequence[str] = (),
    ) -> None:
        self.rows = [dict(row) for row in rows]
        self.prices = dict(prices or {})
        self.currency = currency
        _name_sides(self.rows)
        self.sides = list(dict.fromkeys(str(row["side"]) for row in self.rows))
        self.reference = self._reference(reference)
        self.specs: dict[str, GpuSpec | None] = {side: _spec(self._of(side)) for side in self.sides}
        self.checks = [line for side in self.sides for line in _check(side, self.specs[side], self._of(side))]
        self.cases = self._cases()
        self.phase_gains = [gain for case in self.cases for gain in self._gains(case)]
        self.cpu_checks = cpu_checks(self.rows)
        self.nodes = nodes(self.rows)
        self.notes = [*self._notes(), *notes]

    @property
    def data(self) -> dict[str, Any]:
        """The content of report.json: numbers in full precision, null where not known."""
        return {
            "schema": GPU_REPORT_SCHEMA,
            "reference": self.reference,
            "sides": self.sides,
            "currency": self.currency if self.prices else None,
            "cases": self.cases,
            "phase_gains": self.phase_gains,
            "cpu_checks": self.cpu_checks,
            "nodes": self.nodes,
            "specifications": [
                {
                    "side": side,
                    "name": spec.name,
                    "memory_bytes": spec.memory_bytes,
                    "memory_bandwidth_gb_per_s": spec.memory_bandwidth_gb_per_s,
                    "fp32_tflop_per_s": spec.fp32_tflop_per_s,
                    "power_limit_w": spec.power_limit_w,
                    "sources": spec.sources,
                }
                for side, spec in self.specs.items()
                if spec is not None
            ],
            "specification_checks": self.checks,
            "notes": self.notes,
            "runs": [{key: value for key, value in row.items() if key != "versions"} for row in self.rows],
        }

    def _reference(self, wanted: str | None) -> str:
        if wanted is None:
            return self.sides[0]
        fitting = [side for side in self.sides if wanted.lower() in side.lower()]
        exact = [side for side in self.sides if side.lower() == wanted.lower()]
        if len(exact or fitting) != 1:
            raise RecordError(f"--reference {wanted}: names {len(fitting)} of the sides ({', '.join(self.sides)})")
        return (exact or fitting)[0]

    def _of(self, side: str) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["side"] == side]

    def _cases(self) -> list[dict[str, Any]]:
        """Return one entry per case and side, by case; the reference first."""
        keys = list(dict.fromkeys(case_key(row) for row in self.rows))
        keys.sort(key=lambda key: tuple((value is None, str(type(value)), value) for value in key))
        order = [self.reference, *(side for side in self.sides if side != self.reference)]
        return [entry for key in keys for side in order if (entry := self._entry(key, side)) is not None]

    def _entry(self, key: tuple[Any, ...], side: str) -> dict[str, Any] | None:
        own = [row for row in self._of(side) if case_key(row) == key]
        if not own:
            return None
        good = [row for row in own if not row["excluded"]]
        reference = [row for row in self._of(self.reference) if case_key(row) == key and not row["excluded"]]
        rates = [row["total_fps"] for row in good]
        why = _not_comparable(good, reference, side == self.reference)
        ratio = Estimate(None, None, None)
        if why is None and rates and side != self.reference:
            ratio = ratio_interval(rates, [row["total_fps"] for row in reference])
        entry: dict[str, Any] = {name: value for name, value in zip(KEY, key, strict=True)}
        entry |= {"side": side, "repeats": len(good), "left_out": len(own) - len(good), "not_comparable": why}
        entry |= bounds("total_fps", median_interval(rates)) | bounds("ratio", ratio)
        for name in ("collection_fps", "cost_us_per_frame", "power_w", "frames_per_j", "gpu_util_pct", "sm_clock_mhz"):
            entry[name] = _median(good, name)
        entry |= {f"{phase}_us_per_frame": _median(good, f"{phase}_us_per_frame") for phase in PHASES}
        entry |= self._per_unit(side, own[0], entry)
        entry["verdict"] = _verdict(entry, side == self.reference)
        return entry

    def _per_unit(self, side: str, row: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
        """Return throughput per price, per GB/s of memory bandwidth and per TFLOP/s of the GPUs that made it."""
        fps, spec, price = entry["total_fps"], self.specs[side], self._price(side, row)
        each = fps / (entry["world_size"] or 1) if known(fps) else None
        bandwidth, arithmetic = (spec.memory_bandwidth_gb_per_s, spec.fp32_tflop_per_s) if spec else (None, None)
        return {
            "frames_per_price": each * 3600.0 / price if each and price else None,
            "fps_per_gb_per_s": each / bandwidth if each and bandwidth else None,
            "fps_per_tflop_per_s": each / arithmetic if each and arithmetic else None,
        }

    def _price(self, side: str, row: Mapping[str, Any]) -> float | None:
        """Return the price of an hour of a side's GPU: by side, group or type, or by a word of the model's name."""
        for name in (side, row.get("group"), row.get("gpu_type"), row.get("gpu_model")):
            if name in self.prices:
                return self.prices[str(name)]
        words = str(row.get("gpu_model") or "").lower().split()
        return next((price for name, price in self.prices.items() if name.lower() in words), None)

    def _gains(self, case: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return how much faster each phase of a case is than on the reference, and what that is like."""
        if case["side"] == self.reference or case["not_comparable"]:
            return []
        base = next((c for c in self.cases if c["side"] == self.reference and case_key(c) == case_key(case)), None)
        if base is None:
            return []
        spec, other = self.specs[case["side"]], self.specs[self.reference]
        mine, its = (
            [row for row in self._of(side) if case_key(row) == case_key(case) and not row["excluded"]]
            for side in (case["side"], self.reference)
        )
        found = []
        for phase in (*PHASES, "cost"):
            name = f"{phase}_us_per_frame"
            if not (known(case[name]) and known(base[name]) and case[name] > 0 and base[name] > 0):
                continue
            gain = base[name] / case[name]
            costs = ([row[name] for row in rows if known(row.get(name))] for rows in (its, mine))
            between = ratio_interval(*costs)
            entry = {key: case[key] for key in KEY}
            entry |= {"side": case["side"], "phase": "whole iteration" if phase == "cost" else phase, "gain": gain}
            entry |= {"gain_low": between.low, "gain_high": between.high}
            entry |= {"reference_us_per_frame": base[name], "us_per_frame": case[name]}
            entry |= {"share_of_reference": base[name] / base["cost_us_per_frame"]}
            # Where the repeats do not even say that it changed, nothing is read from how much.
            unsure = between.low is not None and between.high is not None and _wide(between.low, between.high)
            entry["like"] = "inconclusive" if unsure else resemblance(gain, spec, other)
            found.append(entry)
        return found

    def _notes(self) -> list[str]:
        notes = list(self.checks)
        cpus = {side: sorted({str(r["cpu_model"]) for r in self._of(side) if r["cpu_model"]}) for side in self.sides}
        stated = {models[0] for models in cpus.values() if len(models) == 1}
        if len(stated) > 1:
            listed = "; ".join(f"{side}: {', '.join(models)}" for side, models in cpus.items() if models)
            notes.append(f"The CPUs differ ({listed}): the ratios are those of nodes, not of GPUs alone.")
            if not self.cpu_checks:
                notes.append("No GPU model ran on two CPUs here, so how much of it is the CPU cannot be told.")
        drivers = sorted({str(row["driver_version"]) for row in self.rows if row.get("driver_version")})
        if len(drivers) > 1:
            notes.append(f"Driver versions differ: {', '.join(drivers)}.")
        single = sorted({case["side"] for case in self.cases if case["repeats"] == 1})
        if single:
            notes.append(f"n=1, no interval: {', '.join(single)}. Differences there may be noise.")
        left = [row for row in self.rows if row["excluded"]]
        notes += [f"{row['side']}, repeat {row['repeat']}: left out, {row['excluded']}." for row in left[:20]]
        unknown = [side for side in self.sides if self.specs[side] is None and self._of(side)[0]["gpu_model"]]
        if unknown:
            notes.append(f"No specification is known for {', '.join(unknown)} (analysis/gpu_specs.json).")
        lonely = [case for case in self.cases if case["not_comparable"] == _ONLY_HERE]
        if lonely:
            notes.append(f"{len(lonely)} case(s) ran on one side only; nothing is compared there.")
        return notes


_ONLY_HERE = "the reference did not run this case"


def _name_sides(rows: list[dict[str, Any]]) -> None:
    """Give each row the name of its side: by what differs, the GPU first."""
    models = {row["gpu_model"] for row in rows}
    cpus_of: dict[Any, set[Any]] = {}
    for row in rows:
        cpus_of.setdefault(row["gpu_model"], set()).add(row["cpu_model"])
    several_cpus = {model for model, cpus in cpus_of.items() if len(cpus) > 1 and model is not None}
    groups = {row["group"] for row in rows if row["group"]}
    for row in rows:
        model = row["gpu_model"]
        if model in several_cpus:
            row["side"] = f"{model} \u00b7 {row['cpu_model']}"
        elif len(models) > 1 and model is not None:
            row["side"] = str(model)
        elif len(groups) > 1 and row["group"]:
            row["side"] = str(row["group"])
        elif len({each["node"] for each in rows}) > 1:
            row["side"] = str(row["node"])
        else:
            row["side"] = str(model or row["cpu_model"] or row["node"])


def _not_comparable(
    own: Sequence[Mapping[str, Any]], reference: Sequence[Mapping[str, Any]], is_reference: bool
) -> str | None:
    """Return why a side must not be held against the reference, None if it may."""
    if is_reference:
        return None
    if not own:
        return "no run counts"
    if not reference:
        return _ONLY_HERE
    different = []
    for name in VERSIONS:
        here, there = (sorted({_version(name, row) for row in rows} - {""}) for rows in (own, reference))
        if here and there and here != there:
            different.append(f"{name} {', '.join(here)} against {', '.join(there)}")
    return f"not comparable: {'; '.join(different)}" if different else None


def _version(name: str, row: Mapping[str, Any]) -> str:
    text = str((row.get("versions") or {}).get(name) or "")
    return ".".join(text.split(".")[:2]) if name == "python" else text


def _verdict(entry: Mapping[str, Any], is_reference: bool) -> str:
    if is_reference:
        return "reference"
    if entry["not_comparable"]:
        return str(entry["not_comparable"])
    if not known(entry["ratio"]):
        return "no number"
    if not known(entry["ratio_low"]):
        return "n=1, no interval"
    if entry["ratio_low"] > 1.0:
        return "faster"
    return "slower" if entry["ratio_high"] < 1.0 else "inconclusive"


def _spec(rows: Sequence[Mapping[str, Any]]) -> GpuSpec | None:
    return lookup(str(rows[0]["gpu_model"])) if rows and rows[0]["gpu_model"] else None


def _check(side: str, spec: GpuSpec | None, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return where NVML describes a side's GPU otherwise than its specification."""
    if spec is None:
        return []
    memory = next((row["nvml_memory_total_bytes"] for row in rows if row.get("nvml_memory_total_bytes")), None)
    power = next((row["nvml_power_limit_w"] for row in rows if row.get("nvml_power_limit_w")), None)
    return [f"{side}: {line}." for line in disagreements(spec, memory, power)]


def _wide(low: float, high: float) -> bool:
    """Return whether an interval includes no change and reaches beyond what counts as none."""
    return low <= 1.0 <= high and (low < 1.0 - NO_CHANGE or high > 1.0 + NO_CHANGE)


def _median(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if known(row.get(name))]
    return float(np.median(values)) if values else None
