"""One rank of a run: trains with Isaac Lab's own entry point and writes rank-NNNN.jsonl.

    torchrun ... -m paceline.bench.worker

The run folder comes in PACELINE_RUN_DIR; what to do is in its case.json; the rank comes from torchrun. Only the
standard library is imported until the thread limits are set, and Isaac Lab only after the hooks are in place. What
Isaac Lab and the trainer write (TensorBoard files, checkpoints) goes to ``trainer/`` in the run folder.
"""

from __future__ import annotations

import os
import sys

from paceline.bench import caches, garbage, hardware, levers, stacks
from paceline.bench.assignment import load_run
from paceline.bench.attempt import read_attempt
from paceline.bench.campaignfile import CampaignDir
from paceline.bench.errors import PacelineError
from paceline.bench.measurement import Measurement
from paceline.bench.rankfile import one_line
from paceline.bench.record import Case
from paceline.bench.rundir import RunDir
from paceline.bench.trainers.isaaclab import common_arguments, load_trainer, rank_of_environment, run_training


def work(run: RunDir, case: Case, applied: levers.Applied) -> int:
    """Train one rank as its case says, and return Isaac Lab's exit status."""
    if CampaignDir.of_run(run.path) is not None:
        from paceline.bench import campaignworker

        return campaignworker.work(run, case, applied)
    trainer = load_trainer(case.trainer)
    # Isaac Lab and the trainers write below the current directory.
    output = run.path / "trainer"
    output.mkdir(exist_ok=True)
    os.chdir(output)
    measurement = Measurement(case, run, trainer, applied)
    try:
        with measurement.attached():
            import torch

            torch.set_num_threads(case.threads_per_rank)
            torch.set_num_interop_threads(case.threads_per_rank)
            attempt = read_attempt(run)
            overrides = [*case.overrides, *(attempt.overrides if attempt else ())]
            status = run_training(case, [*common_arguments(case), *trainer.arguments(case), *overrides])
    except BaseException as error:
        measurement.fail(error)
        raise
    measurement.finish()
    return status


def main() -> int:
    """Run `work` under torchrun's recorder, which hands the first failing rank's traceback to the launcher."""
    garbage.starting()
    run, case = load_run()
    stacks.register()
    for name, value in case.environment:
        os.environ[name] = value
    os.environ.update(caches.enter(rank_of_environment()[0]))  # libraries read these when they are loaded
    hardware.limit_threads(case.threads_per_rank)  # before torch is loaded: OpenMP reads its setting only then
    try:
        applied = levers.apply(case, rank_of_environment()[1])  # so do the allocators
    except PacelineError as error:
        Measurement(case, run, load_trainer(case.trainer), levers.Applied()).fail(error)
        raise
    from torch.distributed.elastic.multiprocessing.errors import record

    status = int(record(work)(run, case, applied) or 0)
    garbage.ending(case.device)
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PacelineError as error:
        # torchrun shows the traceback of the first rank that fails; this line is for a person who reads the log.
        print(f"paceline: {one_line(error)}", file=sys.stderr, flush=True)
        sys.exit(2)
