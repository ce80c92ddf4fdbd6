"""What GPUs can do on paper, from gpu_specs.json, and whether a GPU that was measured is the one on paper."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from urllib.parse import urlsplit

_MEMORY_TOLERANCE = 0.06  # drivers keep part of the memory, and makers count in 10^9 or 2^30
_POWER_TOLERANCE = 0.02


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
