"""Levers: what a launcher may set without touching the learning problem, and the variants that a study compares.

    levers:                 # every run of the study has these
      gc: freeze
    tuning:                 # variants, each against the study's own levers (the baseline), interleaved
      affinity: {cpu_affinity: numa}
      together: {gc: freeze, cpu_affinity: numa}

bench/levers.py puts them into effect on the job side and reads them back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from paceline.bench.errors import StudyError
from paceline.bench.filemodel import FileModel, Line, Text
from paceline.bench.record import lever_pairs
from paceline.bench.shell import check_environment
from pydantic import Field, StringConstraints, field_validator

BASELINE = "baseline"
MAX_VARIANTS = 32

# What only has a meaning on a GPU, or for one trainer.
_GPU_ONLY = ("cuda_allocator",)
_TRAINERS = {"check_for_nan": ("rsl_rl",)}
_COMPILE_MODES = {
    "rsl_rl": ("off", "default", "max-autotune-no-cudagraphs"),  # it refuses the modes that capture CUDA graphs
    "rl_games": ("off", "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
}

Lever = tuple[tuple[str, str], ...]
VariantName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,31}$")]


class Levers(FileModel):
    """Settings of the launcher; what is not stated stays as it is."""

    cpu_affinity: Literal["numa", "split"] | None = None
    """Pin each rank to cores of its own: numa: its share of the cores near its GPU; split: its share of all cores
    that the job may use."""
    threads_per_rank: Annotated[int, Field(ge=1)] | None = None
    """CPU threads that each rank's libraries may use, in the place of the study's threads_per_rank."""
    cuda_allocator: Literal["expandable_segments", "cuda_malloc_async"] | None = None
    """Torch's allocator of device memory."""
    malloc: Line | None = None
    """Allocator of host memory, loaded before all else: jemalloc, tcmalloc, or the path of a shared library."""
    gc: Literal["freeze", "rare", "per_iteration"] | None = None
    """Python's garbage collector: freeze: what exists when training starts is never looked at again; rare: freeze, and
    collections a hundred times less often; per_iteration: freeze, and one collection at the start of each iteration."""
    torch_compile: Literal["off", "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] | None = (
        None
    )
    """The trainer's own torch.compile option (stock: off for rsl_rl, default for rl_games)."""
    check_for_nan: bool | None = None
    """The trainer's own check of every environment step for NaN, which waits for the device (rsl_rl; stock: true)."""
    environment: dict[str, Text] | None = None
    """Environment variables of the ranks, such as NCCL's."""

    @field_validator("environment")
    @classmethod
    def _check_environment(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        return value if value is None else check_environment(value)

    def pairs(self) -> Lever:
        """Return the levers that are stated, as a Case keeps them."""
        return lever_pairs(self.model_dump(exclude_none=True))


def check(name: str, levers: Levers, trainer: str, device: str) -> None:
    """Raise StudyError if a lever cannot be had with this trainer on this device."""
    stated = levers.model_dump(exclude_none=True)
    if not stated:
        raise StudyError(f"{name}: states no lever (levers: {', '.join(Levers.model_fields)})")
    for lever in stated:
        if device != "cuda" and lever in _GPU_ONLY:
            raise StudyError(f"{name}.{lever}: needs GPUs, the study runs on CPU ranks")
        if trainer not in _TRAINERS.get(lever, (trainer,)):
            raise StudyError(f"{name}.{lever}: {trainer} has no such option (it is {_TRAINERS[lever][0]}'s)")
    modes = _COMPILE_MODES[trainer]
    if levers.torch_compile is not None and levers.torch_compile not in modes:
        raise StudyError(
            f"{name}.torch_compile: {trainer} has no mode {levers.torch_compile!r} (it has {', '.join(modes)})"
        )


def check_study(kind: str, values: Mapping[str, Any]) -> None:
    """Raise StudyError if a variant of a resolved study cannot be had, or two of them are the same."""
    own, variants = values.get("levers"), values.get("tuning") or {}
    if variants and kind not in ("strong", "weak"):
        raise StudyError(f"tuning: has a meaning for kind strong and weak only, not for {kind}")
    if own is not None:
        check("levers", own, values["trainer"], values["device"])
    if len(variants) > MAX_VARIANTS:
        raise StudyError(f"tuning: {len(variants)} variants; at most {MAX_VARIANTS}")
    seen: dict[Lever, str] = {own.pairs() if own else (): BASELINE}
    for name, levers in variants.items():
        if name == BASELINE:
            raise StudyError(f"tuning.{BASELINE}: the baseline is the study without a variant; state it by levers")
        check(f"tuning.{name}", levers, values["trainer"], values["device"])
        if levers.pairs() in seen:
            raise StudyError(f"tuning.{name}: the same levers as {seen[levers.pairs()]}")
        seen[levers.pairs()] = name


def variants_of(levers: Levers | None, tuning: Mapping[str, Levers] | None) -> tuple[Lever, ...]:
    """Return the levers of each variant, the baseline first."""
    own = levers.pairs() if levers else ()
    return (own, *(variant.pairs() for variant in (tuning or {}).values()))
