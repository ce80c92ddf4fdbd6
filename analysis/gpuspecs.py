"""What GPUs can do on paper, from gpu_specs.json, and whether a GPU that was measured is the one on paper."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from urllib.parse import urlsplit

_MEMORY_TOLERANCE = 0.06  # drivers keep part of the memory, and makers count in 10^9 or 2^30
_POWER_TOLERANCE = 0.02
NO_CHANGE = 0.05
"""As a share: below, a phase gained nothing."""
_LIKE = 0.10  # on a logarithmic scale: a phase moves like a figure of the specification


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuSpec:
    """One GPU model as its maker describes it."""

    name: str
    nvml_name: str
    """Regular expression over the name that NVML tells."""
    memory_bytes: int
    memory_bandwidth_gb_per_s: float | None
    """None, as the next two, where no source for it was found."""
    fp32_tflop_per_s: float | None
    """Single precision outside tensor cores."""
    power_limit_w: float | None
    sources: dict[str, str]
    """Address of the page that a figure was checked against, by the figure's name."""

    @property
    def source(self) -> str:
        """The sites of the pages in one line, each once."""
        return ", ".join(dict.fromkeys(urlsplit(page).netloc for page in self.sources.values()))


@cache
def specs() -> tuple[GpuSpec, ...]:
    """Return all GPU models that are known."""
    data = json.loads(files("paceline.analysis").joinpath("gpu_specs.json").read_text(encoding="utf-8"))
    pages: dict[str, str] = data["documents"]
    return tuple(
        GpuSpec(**entry | {"sources": {figure: pages[key] for figure, key in entry["sources"].items()}})
        for entry in data["gpus"]
    )


def lookup(name: str) -> GpuSpec | None:
    """Return what is known of a GPU, by the name that NVML (or a table) gives it; None if nothing is."""
    text = name.strip()
    exact = next((spec for spec in specs() if re.search(spec.nvml_name, text)), None)
    return exact or next((spec for spec in specs() if spec.name.lower() == text.lower()), None)


def disagreements(spec: GpuSpec, memory_bytes: float | None, power_limit_w: float | None) -> list[str]:
    """Return where a GPU as NVML describes it differs from the data sheet, one sentence each."""
    found = []
    if memory_bytes and abs(memory_bytes / spec.memory_bytes - 1.0) > _MEMORY_TOLERANCE:
        found.append(
            f"NVML tells {memory_bytes / 2**30:.1f} GiB of memory, "
            f"the specification {spec.memory_bytes / 2**30:.1f} GiB"
        )
    if power_limit_w and spec.power_limit_w and abs(power_limit_w / spec.power_limit_w - 1.0) > _POWER_TOLERANCE:
        found.append(
            f"its power limit is set to {power_limit_w:.0f} W, the specification says {spec.power_limit_w:.0f} W"
        )
    return found


def resemblance(gain: float, spec: GpuSpec | None, other: GpuSpec | None) -> str | None:
    """Return what a gain resembles: memory bandwidth, arithmetic, or neither; None where figures are not known."""
    if spec is None or other is None:
        return None
    pairs = {
        "memory bandwidth": (spec.memory_bandwidth_gb_per_s, other.memory_bandwidth_gb_per_s),
        "FP32 arithmetic": (spec.fp32_tflop_per_s, other.fp32_tflop_per_s),
    }
    figures = {name: mine / its for name, (mine, its) in pairs.items() if mine and its}
    if len(figures) < len(pairs):
        return None
    moved = {name: value for name, value in figures.items() if abs(value - 1.0) > NO_CHANGE}
    if abs(gain - 1.0) <= NO_CHANGE:
        same = [name for name in figures if name not in moved]
        if not moved:
            return "unchanged, like the specification"
        return f"unchanged, like {' and '.join(same)}, or bound by the host" if same else "unchanged: bound by the host"
    near = {name: abs(math.log(gain / value)) for name, value in moved.items()}
    name = min(near, key=lambda key: near[key], default=None)
    if name is not None and near[name] <= _LIKE:
        return f"like {name} (x{figures[name]:.2f})"
    listed = ", ".join(f"{key} x{value:.2f}" for key, value in figures.items())
    if moved and min(figures.values()) < gain < max(figures.values()):
        return f"between the figures of the specification ({listed})"
    return f"not as the specification says ({listed}): CPU, clocks or caches"
