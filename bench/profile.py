"""Profiled runs of a study: their cases, and where their traces go.

A profiled run is a case of its own kind, with its own ``case_id``: it trains the same problem as the study's case of
that size, for just as long as the profiler needs, and its times never enter the study's report (DESIGN: a profiler
slows down what it looks at).
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from paceline.bench import launch
from paceline.bench.cluster import Cluster
from paceline.bench.errors import RecordError, StudyError
from paceline.bench.plan import Plan, make_plan
from paceline.bench.record import Case
from paceline.bench.rundir import StudyDir, read_json
from paceline.bench.study import Study, load_study

WINDOW_ITERATIONS = 3
_WINDOW = re.compile(r"(\d+):(\d+)")
_MOST_ITERATIONS = 1_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How to profile."""

    world_sizes: tuple[int, ...] = ()
    """Numbers of ranks; empty: 1 and the study's largest."""
    window: str | None = None
    """Iterations to record as ``first:last``, counted from 0, last excluded; None: the first three after warm-up."""
    graph_trace: str = "graph"
    """``graph`` or ``node``."""
    profiler: str = "auto"
    """``auto`` (nsys if it works, else torch.profiler), ``nsys`` or ``torch``."""


def parse_window(text: str) -> tuple[int, int]:
    """Return the iterations that ``"first:last"`` names; StudyError if it names none."""
    match = _WINDOW.fullmatch(text)
    first, last = (int(number) for number in match.groups()) if match else (0, 0)
    if not first < last <= _MOST_ITERATIONS:
        raise StudyError(
            f"--iterations {text}: must be first:last, such as 15:18, counted from 0, last excluded and at most "
            f"{_MOST_ITERATIONS:,}"
        )
    return first, last


def parse_sizes(text: str) -> tuple[int, ...]:
    """Return the world sizes that ``"1,4"`` names, in ascending order; StudyError if it names none."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise StudyError(f"--gpus {text}: must be numbers of GPUs (or CPU ranks) from 1, such as 1,4")
    return tuple(sorted({int(part) for part in parts}))


def cases(study: Study, cluster: Cluster, settings: Settings) -> tuple[Case, ...]:
    """Return the cases to profile, one per world size.

    Args:
        study: A resolved study; its first repeat is what is profiled.
        cluster: The site.
        settings: Which sizes, and how.

    Raises:
        StudyError: A size is larger than the study's largest, or does not divide its problem.
    """
    if study.kind not in ("strong", "weak") or not isinstance(study.world_sizes, tuple):
        raise StudyError(f"study {study.name!r} is of kind {study.kind}; strong and weak ones can be profiled")
    largest = max(study.world_sizes)
    sizes = settings.world_sizes or tuple(sorted({1, largest}))
    if max(sizes) > largest:
        raise StudyError(
            f"--gpus {max(sizes)}: the study goes up to {largest}; --set world_sizes={largest},{max(sizes)} extends it"
        )
    first = study.warmup_iterations or 1
    window = settings.window or f"{first}:{first + WINDOW_ITERATIONS}"
    try:
        return tuple(_case(study, cluster, size, window, settings) for size in sizes)
    except ValueError as error:
        raise StudyError(f"--gpus {','.join(map(str, sizes))}: {error}") from error


def _case(study: Study, cluster: Cluster, size: int, window: str, settings: Settings) -> Case:
    first, last = parse_window(window)
    alone = study.model_copy(update={"world_sizes": (size,), "num_nodes": study.nodes_of(size)})
    return dataclasses.replace(
        make_plan(alone, cluster).cases[0],
        kind="profile",
        iterations=last + 1,  # the window is closed before the iteration after it
        warmup_iterations=first,
        sync_every=0,
        profile_window=window,
        graph_trace=settings.graph_trace,
        profiler=settings.profiler,
    )


def open_study(folder: Path, study: Study, cluster: Cluster, settings: Settings) -> launch.OpenStudy:
    """Return the study of a folder, made if it is none yet, with the profiled cases in the place of its own.

    A folder that exists keeps its study.yaml: profiling changes nothing of what the study measures.

    Raises:
        LaunchError: The folder holds another study, or cannot be written.
        StudyError: What is to be profiled is no point of the study.
    """
    known = StudyDir(folder).study_yaml
    if known.exists():
        before = load_study(known, {})
        sizes = tuple(sorted({*_sizes(before), *_sizes(study)}))
        wanted = cases(study.model_copy(update={"world_sizes": sizes}), cluster, settings)
        study = study.model_copy(update={name: getattr(before, name) for name in launch.EXTENDABLE})
    else:
        wanted = cases(study, cluster, settings)
    opened = launch.create(folder, study, cluster)
    warmup = opened.plan.warmup
    return dataclasses.replace(
        opened, plan=Plan(warmup=warmup, cases=wanted, gpu_hours=opened.plan.gpu_hours, node_hours=0.0)
    )


def _sizes(study: Study) -> tuple[int, ...]:
    return study.world_sizes if isinstance(study.world_sizes, tuple) else ()


def cases_of(directory: StudyDir) -> list[Case]:
    """Return the profiled cases that have a run folder; one that cannot be read is left out."""
    found = []
    for case_id in directory.case_ids():
        for run in directory.attempts(case_id)[-1:]:
            with contextlib.suppress(OSError, RecordError):
                data = read_json(run.case_json)
                if data.get("kind") == "profile":
                    found.append(Case.from_json(data, str(run.case_json)))
    return found


def label(case: Case) -> str:
    """Return the name of the folder that a case's trace report goes to, such as ``4-gpus-node-15-18``."""
    unit = "gpu" if case.device == "cuda" else "cpu-rank"
    graphs = f"-{case.graph_trace}" if case.device == "cuda" else ""
    forced = f"-{case.profiler}" if case.profiler != "auto" else ""
    window = (case.profile_window or "").replace(":", "-")
    return f"{case.world_size}-{unit}{'s' * (case.world_size > 1)}{graphs}{forced}-{window}"


def comparison_label(cases: Sequence[Case]) -> str:
    """Return the folder of the side-by-side report of the first and the last case."""
    return f"{cases[0].world_size}-vs-{label(cases[-1])}"
