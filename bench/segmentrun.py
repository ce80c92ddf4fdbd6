"""One rank's part in a campaign: resumes, saves without leaving half files, stops between iterations. Scope: rank.

Between two iterations every rank asks whether to stop. Rank 0 decides (a signal, a goal) and tells the others through
the store that torch.distributed met at: no rank can be two iterations ahead of rank 0, so all stop at the same one.
"""

from __future__ import annotations

import contextlib
import importlib
import shutil
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from paceline.bench.campaignfile import Campaign, CampaignDir, training_jsonl
from paceline.bench.measurement import Measurement
from paceline.bench.metrics import Metrics
from paceline.bench.record import Case
from paceline.bench.rundir import RunDir
from paceline.bench.saving import Saver
from paceline.bench.segment import Segment, goal_reached
from paceline.bench.trainers.isaaclab import Trainer
from paceline.bench.trainlog import TrainLog

_STOP_KEY = "paceline/stop_before"


class StopTraining(Exception):
    """Ends the trainer's loop between two iterations."""


class SegmentMeasurement(Measurement):
    """The measurement of one rank in one start of a campaign."""

    def __init__(
        self,
        case: Case,
        run: RunDir,
        trainer: Trainer,
        campaign_dir: CampaignDir,
        campaign: Campaign,
        segment: Segment,
        applied: Any = None,
    ) -> None:
        super().__init__(case, run, trainer, applied)
        self.resume: Any = importlib.import_module(f"paceline.bench.trainers.{case.trainer}_resume")
        self.campaign_dir, self.campaign, self.segment = campaign_dir, campaign, segment
        self.clock.iteration = segment.start_iteration
        self.clock.warmup_iterations = segment.start_iteration + case.warmup_iterations
        self._profile_window = self.clock.on_start
        self.clock.on_start = self._between
        self.goal = goal_reached(campaign, case, segment.start_iteration, segment.spent_s, None)
        self.signal: str | None = None
        self._stopped: str | None = None
        self._rewards: deque[float] = deque(maxlen=campaign.reward_window)
        self._agent: Any = None
        self._log: TrainLog | None = None
        self.saver = Saver(campaign_dir, campaign, self._facts, self._event, self._is_last)
        self._metrics: Metrics | None = None

    # -------------------------------------------------------------------------------------------- around the training

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """Attach the hooks, make saving whole, and take signals while the block runs."""
        import torch

        with super().attached():
            if self.rank == 0:
                self._log = TrainLog(training_jsonl(self.run.path))
                self._log.header(
                    {"start_iteration": self.segment.start_iteration, "resumed_from": self.segment.checkpoint}
                )
                self._metrics = Metrics.start(self.campaign.metrics_port, self.campaign.name)
            self.patches.replace(torch, "save", self.saver.whole)
            for wrapped in self.resume.SUMMARY_WRITERS:
                self._continue_curves(*wrapped)
            try:
                yield
            finally:
                if self._log is not None:
                    self._log.close()

    def finish_without_training(self) -> None:
        """Write the record of a start that finds a goal of the campaign reached."""
        if self.rank == 0:
            self.saver.keep_finals()
        self.file.header(self._identity() | {"problem": None})
        self.file.end("completed", self._elapsed(), goal=self.goal)

    def _train(self, trainer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], train: Callable[[], Any]) -> Any:
        def until_stopped() -> Any:
            previous = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
            try:
                return train()
            except StopTraining:
                self.resume.flush(trainer)
                return None
            finally:
                for number, handler in previous.items():
                    signal.signal(number, handler)

        return super()._train(trainer, args, kwargs, until_stopped)

    def _begin(self, trainer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._agent = trainer
        self.resume.resumed(trainer, self.segment.start_iteration)
        super()._begin(trainer, args, kwargs)

    def _max_iterations(self) -> int:
        return int(self.resume.max_iterations(self.case, self.segment.start_iteration))

    def _identity(self) -> dict[str, Any]:
        resumed = Path(self.segment.checkpoint).name if self.segment.checkpoint else None
        return super()._identity() | {"start_iteration": self.segment.start_iteration, "resumed_from": resumed}

    def _end(self) -> None:
        done = self.clock.iteration
        if done == self.case.iterations:
            self.goal = "iterations"
        if self.rank == 0 and self._log is not None:
            self._log.event(
                "stop", {"reason": self.goal or self._stopped or "the trainer returned", "next_iteration": done}
            )
        if self.goal is not None:
            if self.rank == 0:
                self.saver.keep_finals()
            self.file.end("completed", self._elapsed(), goal=self.goal)
        elif self._stopped is not None:
            self.file.end("interrupted", self._elapsed(), f"stopped ({self._stopped}) before iteration {done}")
        else:
            super()._end()

    # --------------------------------------------------------------------------------------------- between iterations

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number).name

    def _report(self, owner: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        super()._report(owner, args, kwargs, result)
        if self.rank != 0:
            return
        statistics = self.statistics
        assert statistics is not None and self._log is not None
        values = {
            "reward": statistics.reward,
            "episode_length": statistics.episode_length,
            **self.resume.trained(owner, args, kwargs, result),
            "disk_free_bytes": shutil.disk_usage(self.run.path).free,
        }
        self._log.iteration(self.clock.iteration - 1, values)
        if self._metrics is not None:
            self._metrics.show(self.clock.iteration, self.case, statistics.reported_iteration_time_s, values)
        if statistics.reward is not None:
            self._rewards.append(statistics.reward)
        full = len(self._rewards) == self.campaign.reward_window
        reward = sum(self._rewards) / len(self._rewards) if full else None
        trained = self.segment.spent_s + self._elapsed()
        self.goal = self.goal or goal_reached(self.campaign, self.case, self.clock.iteration, trained, reward)

    def _between(self, iteration: int) -> None:
        """Stop here if that was agreed; raises StopTraining."""
        if self._profile_window is not None:
            self._profile_window(iteration)
        reason = self.goal or self.signal
        if self.world_size == 1:
            if reason is not None:
                self._stop(iteration, reason)
            return
        from torch.distributed.distributed_c10d import _get_default_store

        store = _get_default_store()
        if store.check([_STOP_KEY]):
            before, _, agreed = store.get(_STOP_KEY).decode().partition(" ")
            if iteration >= int(before):
                self._stop(iteration, agreed)
        elif self.rank == 0 and reason is not None:
            store.set(_STOP_KEY, f"{iteration + 1} {reason}")

    def _stop(self, iteration: int, reason: str) -> None:
        self._stopped = reason
        if reason not in ("SIGTERM", "SIGINT"):
            self.goal = reason
        if self.rank == 0:
            print(f"paceline: stopping before iteration {iteration} ({reason})", file=sys.stderr, flush=True)
            self.resume.save_now(self._agent)
        raise StopTraining

    def _is_last(self) -> bool:
        return self.goal is not None or self.clock.iteration >= self.case.iterations

    def _facts(self, path: Path) -> dict[str, Any]:
        """Return what is noted about a checkpoint that is being written."""
        return {
            "trainer": self.case.trainer,
            "task": self.case.task,
            "next_iteration": self.clock.iteration,
            "numbered": path.name != self.resume.unnumbered_checkpoint(self._agent),
            "reward": sum(self._rewards) / len(self._rewards) if self._rewards else None,
            "case_id": self.case.case_id,
            "attempt": self.run.attempt,
        }

    def _event(self, name: str, values: Mapping[str, Any]) -> None:
        if self._log is not None:
            self._log.event(name, values)

    def _continue_curves(self, module: str, frames_per_step: bool) -> None:
        """Tell TensorBoard that points beyond the resumed one, from before a crash, are void."""
        start = self.segment.start_iteration * (self.case.global_batch if frames_per_step else 1)
        if start == 0:
            return
        with contextlib.suppress(ImportError):
            writer = __import__(module, fromlist=["SummaryWriter"]).SummaryWriter

            def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
                def init(writer: Any, *args: Any, **kwargs: Any) -> None:
                    original(writer, *args, **{"purge_step": start, **kwargs})

                return init

            self.patches.replace(writer, "__init__", wrap)
