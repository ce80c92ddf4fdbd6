"""Waits before the training until the device has cooled down, so that each run starts in about the same state.

    python -m paceline.profiling.cooldown

The case says to which temperature, and how long at most (``cool_to_c``, ``cool_s``). What it did stands in
cooldown.json in the run folder. Scope: the job's GPUs on this node; the processor's sensors in a run on CPU.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from paceline.bench.assignment import load_run
from paceline.bench.errors import PacelineError
from paceline.bench.record import Case
from paceline.bench.rundir import write_json
from paceline.profiling.nvml import open_nvml

POLL_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Cooldown:
    """How a wait went."""

    waited_s: float
    begin_c: float | None
    """Temperature of the warmest device before, None where there is no thermometer."""
    end_c: float | None
    reached: bool | None
    """Whether it ended at the temperature asked for; None if none was asked for, or none can be read."""


def wait(
    to_c: float | None,
    at_most_s: float,
    read_c: Callable[[], float | None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Cooldown:
    """Wait until ``read_c`` gives at most ``to_c``, but no longer than ``at_most_s``.

    Without a temperature to reach, or without a thermometer, the whole time is waited.
    """
    start = clock()
    begin = now = read_c()
    while True:
        left = at_most_s - (clock() - start)
        cool = to_c is not None and now is not None and now <= to_c
        if cool or left <= 0:
            known = to_c is not None and now is not None
            return Cooldown(waited_s=clock() - start, begin_c=begin, end_c=now, reached=cool if known else None)
        sleep(min(POLL_S, left))
        now = read_c()


def thermometer(case: Case) -> Callable[[], float | None]:
    """Return a function that reads the temperature of the warmest device of the job, °C; None where none tells."""
    if case.device == "cuda":
        nvml = open_nvml()
        if nvml is None:
            return lambda: None
        gpus = nvml.of_job(os.environ.get("CUDA_VISIBLE_DEVICES"), case.local_world_size)
        return lambda: _warmest([nvml.sample(gpu)["temperature_c"] for gpu in gpus])
    return _processor_c


def _processor_c() -> float | None:
    try:
        import psutil

        sensors = psutil.sensors_temperatures()
    except (ImportError, AttributeError, OSError):
        return None
    return _warmest([each.current for name in ("coretemp", "k10temp", "zenpower") for each in sensors.get(name, ())])


def _warmest(values: list[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def main() -> int:
    """Wait as the case of the run that PACELINE_RUN_DIR names asks for."""
    run, case = load_run()
    done = wait(case.cool_to_c, case.cool_s, thermometer(case))
    write_json(run.cooldown_json, asdict(done))
    from_to = "" if done.begin_c is None else f", {done.begin_c:.0f} to {done.end_c:.0f} \u00b0C"
    print(f"paceline: waited {done.waited_s:.0f} s for the device to cool down{from_to}", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PacelineError as error:
        print(f"paceline: {error}", file=sys.stderr)
        sys.exit(2)
