"""One rank's measured training: attaches the hooks, checks what the trainer really does, writes the rank's record.

Scope: rank. The trainer's library calls into this through the hooks; nothing here knows which library it is.
"""

from __future__ import annotations

import contextlib
import gc
import os
import platform
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from paceline.bench import hardware, levers
from paceline.bench.errors import LaunchError
from paceline.bench.rankfile import RankFile, one_line
from paceline.bench.record import Case
from paceline.bench.rundir import RunDir
from paceline.bench.trainers.isaaclab import Problem, Statistics, Trainer, rank_of_environment
from paceline.profiling import profiler
from paceline.profiling.brackets import wrappers
from paceline.profiling.clock import IterationClock, IterationTimes
from paceline.profiling.hooks import ISAACLAB_HOOKS, Attachment
from paceline.profiling.patches import ImportWatch, Patches
from paceline.profiling.ranges import AnnotatedRanges, AnyRanges, WindowRanges, nvtx_ranges
from paceline.profiling.recorders import CudaProfilerApi, NoRecorder, Recorder, TorchProfiler
from paceline.profiling.window import ProfileWindow


class Measurement:
    """The measurement of one rank, from before Isaac Lab is imported to after the trainer has returned."""

    def __init__(self, case: Case, run: RunDir, trainer: Trainer, applied: levers.Applied | None = None) -> None:
        self.case = case
        self.levers = applied or levers.Applied()
        self.run = run
        self.trainer = trainer
        self.rank, self.local_rank, self.world_size = rank_of_environment()
        self.origin, self.origin_unix = time.perf_counter(), time.time()
        self.file = RankFile(run.rank_jsonl(self.rank))
        self.patches = Patches()
        self.statistics: Statistics | None = None
        """What the trainer said about the newest iteration."""
        self._cleanup = contextlib.ExitStack()
        self._rank_mark = f"rank={self.rank} world={self.world_size} local={self.local_rank}"
        self.profiler: str | None = None
        on_gpu = case.device == "cuda"
        self.ranges, self.window = self._profiling()
        self.clock = IterationClock(
            warmup_iterations=case.warmup_iterations,
            sync_every=case.sync_every,
            synchronize=_synchronize if on_gpu else lambda: None,
            ranges=self.ranges,
        )
        self.clock.on_untaken = self._report_nothing
        if self.window is not None:
            self.clock.on_start = self.window.before
        if levers.collects_in_iteration(self.levers):
            self.clock.first_of_iteration = gc.collect

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """Attach the hooks while the block runs; what they wrapped is put back in any case."""
        watch = ImportWatch()
        roles = wrappers(self.clock, self._report, self._train)
        attachment = Attachment(watch, self.patches, roles)
        version = self.case.engine_version
        if version not in ISAACLAB_HOOKS or version not in self.trainer.HOOKS:
            raise LaunchError(f"no hooks for Isaac Lab {version}; there are hooks for {', '.join(ISAACLAB_HOOKS)}")
        with watch, self.patches, self._cleanup:
            attachment.attach(ISAACLAB_HOOKS[version])
            attachment.attach(self.trainer.HOOKS[version])
            attachment.attach_collectives(self.clock)
            if self.case.device == "cpu":
                from paceline.bench.trainers.isaaclab import use_gloo

                use_gloo(watch, self.patches)
                self.trainer.adapt_to_cpu(watch, self.patches)
            if not self.trainer.COUNTS_OPTIMIZER_STEPS:
                watch.on_import("torch.optim.optimizer", self._count_optimizer_steps)
            yield

    def fail(self, error: BaseException) -> None:
        """End the record as failed, unless it has ended."""
        if not self.file.has_header and not self.file.ended:
            self.file.header(self._identity() | {"problem": None})
        self.file.end("failed", self._elapsed(), one_line(error))

    def finish(self) -> None:
        """End the record as failed if the trainer returned without ever training (a hook that never attached)."""
        if not self.file.ended:
            self.fail(LaunchError("Isaac Lab's training entry returned without having trained"))

    def _count_optimizer_steps(self, module: ModuleType) -> None:
        # The count of the busiest optimiser: a trainer may step further ones (RND) beside it.
        counts: dict[int, int] = {}

        def count(optimizer: Any, args: Any, kwargs: Any) -> None:
            if self.clock.optimizer_steps == 0:
                counts.clear()
            steps = counts[id(optimizer)] = counts.get(id(optimizer), 0) + 1
            if steps > self.clock.optimizer_steps:
                self.clock.optimizer_steps = steps

        self._cleanup.callback(module.register_optimizer_step_post_hook(count).remove)

    def _train(self, trainer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], train: Callable[[], Any]) -> Any:
        """Write the header, train, write the end."""
        try:
            self._begin(trainer, args, kwargs)
            result = train()
            if self.clock.ended:
                self._report_nothing()
        except BaseException as error:
            self.fail(error)
            raise
        finally:
            if self.window is not None:
                self.window.close()
        self._end()
        return result

    def _begin(self, trainer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Read back what the trainer is about to do, write the header, refuse what the case does not ask for."""
        problem = self.trainer.read_back(trainer, args, kwargs)
        levers.train(self.levers)
        effective = levers.effective(self.levers, self.trainer.options(trainer))
        self._write_header(problem, effective)
        self._check(problem)
        levers.check(self.levers, effective)

    def _end(self) -> None:
        """End the record of a trainer that has returned."""
        if self.file.iterations == self.case.iterations:
            self.file.end("completed", self._elapsed())
        else:
            self.file.end(
                "failed",
                self._elapsed(),
                f"the trainer stopped after {self.file.iterations} of {self.case.iterations} iterations",
            )

    def _max_iterations(self) -> int:
        """Return the number of iterations that the trainer must have been told."""
        return self.case.iterations

    def _report(self, owner: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Write the row of the iteration that has just ended; runs outside the time of any iteration."""
        self._row(self.trainer.statistics(owner, args, kwargs, result))

    def _report_nothing(self) -> None:
        """Write the row of an iteration that the trainer says nothing about: rsl_rl 3 logs on rank 0 alone."""
        self._row(Statistics(reward=None, episode_length=None, reported_iteration_time_s=None))

    def _row(self, statistics: Statistics) -> None:
        self.statistics = statistics
        times = self.clock.take()
        allocated, used = self._memory()
        self.file.iteration(
            (
                times.iteration,
                int(times.sync),
                int(times.warmup),
                times.start - self.origin,
                times.iteration_time_s,
                times.collection_time_s,
                times.env_step_time_s,
                times.physics_time_s,
                times.inference_time_s,
                times.update_time_s,
                times.communication_time_s,
                times.collectives,
                self.case.num_envs_per_rank * self.case.horizon,
                statistics.reward,
                statistics.episode_length,
                allocated,
                used,
                times.optimizer_steps,
                statistics.reported_iteration_time_s,
            )
        )
        self._check_optimizer_steps(times)

    def _check(self, problem: Problem) -> None:
        """Raise LaunchError if the trainer does something else than the case asks for."""
        case = self.case
        expected = {
            "num_envs_per_rank": case.num_envs_per_rank,
            "horizon": case.horizon,
            "num_minibatches": case.num_minibatches,
            "minibatch_size_per_rank": case.minibatch_size_per_rank,
            "num_epochs": case.num_epochs,
            "max_iterations": self._max_iterations(),
            "env_seed": case.seed + self.rank,
        }
        wrong = [
            f"{name} is {getattr(problem, name)}, the case says {value}"
            for name, value in expected.items()
            if getattr(problem, name) != value
        ]
        if not problem.device.startswith(case.device):
            wrong.append(f"the device is {problem.device}, the case says {case.device}")
        threads = hardware.thread_facts()["torch"]
        if threads != case.threads_per_rank:
            wrong.append(f"torch uses {threads} threads, the case says {case.threads_per_rank}")
        if self.world_size != case.world_size:
            wrong.append(f"world_size is {self.world_size}, the case says {case.world_size}")
        if wrong:
            raise LaunchError(f"{case.trainer} does not do what case.json asks for: {'; '.join(wrong)}")

    def _check_optimizer_steps(self, times: IterationTimes) -> None:
        expected = self.case.optimizer_steps_per_iteration
        if times.optimizer_steps != expected:
            raise LaunchError(
                f"iteration {times.iteration} made {times.optimizer_steps} optimiser steps, the case says {expected}"
            )

    def _identity(self) -> dict[str, Any]:
        local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return {
            "case_id": self.case.case_id,
            "attempt": self.run.attempt,
            "rank": self.rank,
            "local_rank": self.local_rank,
            "node_rank": int(os.environ.get("GROUP_RANK", "0")),
            "world_size": self.world_size,
            "local_world_size": local_world_size,
            "num_nodes": self.world_size // local_world_size,
            "node": hardware.node_name(),
            "hostname": platform.node(),
            "pid": os.getpid(),
            "clock_origin_unix_s": self.origin_unix,
        }

    def _write_header(self, problem: Problem, effective: dict[str, Any]) -> None:
        import torch

        device = hardware.device_facts(problem.device)
        self._rank_mark = f"rank={self.rank} world={self.world_size} local={self.local_rank} gpu_uuid={device['uuid']}"
        if self.ranges is not None:
            self.ranges.mark(self._rank_mark)
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.file.header(
            self._identity()
            | {
                "seed": problem.env_seed,
                "trainer_seed": torch.initial_seed(),
                "problem": {
                    "num_envs_per_rank": problem.num_envs_per_rank,
                    "horizon": problem.horizon,
                    "num_minibatches": problem.num_minibatches,
                    "minibatch_size_per_rank": problem.minibatch_size_per_rank,
                    "num_epochs": problem.num_epochs,
                    "optimizer_steps_per_iteration": problem.num_minibatches * problem.num_epochs,
                    "global_batch": problem.num_envs_per_rank * problem.horizon * self.world_size,
                    "max_iterations": problem.max_iterations,
                },
                "device": device,
                "versions": hardware.versions(),
                "cpu": hardware.cpu_facts(),
                "threads": hardware.thread_facts(),
                "backend": torch.distributed.get_backend() if distributed else "none",
                "slurm": hardware.slurm_facts(),
                "nvtx": self.ranges is not None,
                "profiler": self.profiler,
                "levers": {"asked": self.levers.asked, "effective": effective},
            }
        )

    def _profiling(self) -> tuple[AnyRanges | None, ProfileWindow | None]:
        """Return the ranges and the profile window of this run, None for what it has not."""
        case, cuda = self.case, self.case.device == "cuda"
        if case.kind != "profile":
            text = os.environ.get("PACELINE_PROFILE_WINDOW") if cuda else None
            return nvtx_ranges(None, cuda), ProfileWindow.from_text(text, meet=_meet, opened=self._window_opened)
        self.profiler = profiler.chosen(self.run)
        recorder: Recorder = CudaProfilerApi() if cuda else NoRecorder()
        ranges: AnyRanges | None = None
        if self.profiler == "torch":
            output = profiler.kineto_file(self.run, self.rank)
            recorder = TorchProfiler(output, self.rank, self.world_size, cuda)
            ranges = AnnotatedRanges()
        else:
            ranges = nvtx_ranges(True, cuda)
        if ranges is not None:
            ranges = WindowRanges(ranges)
        return ranges, ProfileWindow.from_text(case.profile_window, recorder, _meet, self._window_opened)

    def _window_opened(self, is_open: bool) -> None:
        """Switch the ranges of the window, and say in its capture which rank this process is."""
        if isinstance(self.ranges, WindowRanges):
            self.ranges.on = is_open
        if self.ranges is not None and is_open:
            self.ranges.mark(self._rank_mark)

    def _memory(self) -> tuple[int | None, int | None]:
        """Return peak bytes of torch's allocator in the iteration, and bytes in use on the device (CPU: resident)."""
        if self.case.device != "cuda":
            return None, hardware.resident_bytes()
        import torch

        allocated = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        free, total = torch.cuda.mem_get_info()
        return allocated, total - free

    def _elapsed(self) -> float:
        return time.perf_counter() - self.origin


def _meet() -> None:
    """Return when all ranks are here and their devices have completed."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
        token = torch.zeros(1, device=device)
        torch.distributed.all_reduce(token)
        token.item()


def _synchronize() -> None:
    import torch

    torch.cuda.synchronize()
