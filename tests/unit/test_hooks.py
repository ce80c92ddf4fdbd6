"""Hooks on toy modules: attached at import, restored afterwards; phase times that add up."""

from __future__ import annotations

import importlib
import inspect
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from paceline.bench.errors import LaunchError
from paceline.bench.trainers import rl_games, rsl_rl
from paceline.profiling.brackets import collective, wrappers
from paceline.profiling.clock import IterationClock, IterationTimes
from paceline.profiling.hooks import ISAACLAB_HOOKS, Attachment, Hook
from paceline.profiling.patches import ImportWatch, Patches
from paceline.profiling.phases import split_iteration
from paceline.profiling.ranges import WindowRanges
from paceline.profiling.window import ProfileWindow

# A trainer in the manner of rsl_rl. Its "work" moves a clock that only it moves, so every time is known exactly.
TOY = """
now = 0.0

def work(seconds):
    global now
    now += seconds

class Simulator:
    def step(self):
        work(3.0)

class Env:
    def __init__(self):
        self.simulator = Simulator()
    def step(self):
        work(0.25)            # observations and rewards
        self.simulator.step()

def all_reduce():
    work(1.0)

class Algorithm:
    def act(self):
        work(0.5)
    def compute_returns(self):
        work(0.125)
    def step(self):
        work(0.0625)
    def update(self):
        import toy_trainer
        for _ in range(2):
            work(2.0)
            toy_trainer.all_reduce()
            self.step()
        return {"loss": 1.0}

class Runner:
    def __init__(self):
        self.env, self.algorithm = Env(), Algorithm()
    def log(self, loss):
        work(10.0)            # writing logs: in no iteration
    def learn(self, iterations):
        self.env.step()       # a reset: in no iteration
        for _ in range(iterations):
            for _ in range(4):
                self.algorithm.act()
                self.env.step()
            self.algorithm.compute_returns()
            self.log(self.algorithm.update())
        return "learnt"
"""

HOOKS = (
    Hook("toy_trainer", "Simulator", "step", "physics"),
    Hook("toy_trainer", "Env", "step", "env_step"),
    Hook("toy_trainer", "Algorithm", "act", "inference"),
    Hook("toy_trainer", "Algorithm", "compute_returns", "update_start"),
    Hook("toy_trainer", "Algorithm", "update", "iteration_end"),
    Hook("toy_trainer", "Algorithm", "step", "optimizer_step"),
    Hook("toy_trainer", "Runner", "log", "report_before"),
    Hook("toy_trainer", "Runner", "learn", "training"),
)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "toy_trainer.py").write_text(textwrap.dedent(TOY))
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield "toy_trainer"
    sys.modules.pop("toy_trainer", None)


class Measured:
    """The toy with hooks attached, and what they reported."""

    def __init__(self, warmup: int = 0, sync_every: int = 0, ranges: Any = None) -> None:
        self.rows: list[IterationTimes] = []
        self.synchronized: list[float] = []
        self.calls: list[str] = []
        self.module: ModuleType | None = None
        self.clock = IterationClock(
            warmup_iterations=warmup,
            sync_every=sync_every,
            synchronize=self._synchronize,
            ranges=ranges,
            now=lambda: float(sys.modules["toy_trainer"].now),
        )

    def _synchronize(self) -> None:
        self.synchronized.append(self.clock.now())

    def report(self, owner: Any, args: Any, kwargs: Any, result: Any) -> None:
        self.rows.append(self.clock.take())

    def train(self, trainer: Any, args: Any, kwargs: Any, train: Any) -> Any:
        self.calls.append("start")
        result = train()
        self.calls.append("end")
        return result

    def run(self, iterations: int) -> Any:
        patches = Patches()
        with ImportWatch() as watch, patches:
            attachment = Attachment(watch, patches, wrappers(self.clock, self.report, self.train))
            attachment.attach(HOOKS)
            assert "toy_trainer" in watch.waiting()
            watch.on_import("toy_trainer", lambda module: patches.replace(module, "all_reduce", collective(self.clock)))
            self.module = importlib.import_module("toy_trainer")
            assert watch.waiting() == []
            return self.module.Runner().learn(iterations)


def test_times_of_an_iteration_are_exact(toy: str) -> None:
    measured = Measured()
    assert measured.run(3) == "learnt"
    assert measured.calls == ["start", "end"]
    assert len(measured.rows) == 3
    for number, row in enumerate(measured.rows):
        assert row.iteration == number
        assert row.physics_time_s == 4 * 3.0
        assert row.env_step_time_s == 4 * 3.25
        assert row.inference_time_s == 4 * 0.5
        assert row.collection_time_s == 4 * 3.75
        assert row.communication_time_s == 2 * 1.0
        assert row.collectives == 2
        assert row.optimizer_steps == 2
        assert row.update_time_s == 0.125 + 2 * 3.0625
        assert row.iteration_time_s == row.collection_time_s + row.update_time_s
        phases = split_iteration(
            row.iteration_time_s,
            row.physics_time_s,
            row.inference_time_s,
            row.update_time_s,
            row.communication_time_s,
        )
        assert sum(phases) == row.iteration_time_s
        assert phases.other == 4 * 0.25  # observations and rewards
    # Logs (10 s) and the first reset (3.25 s) lie between the iterations.
    starts = [row.start for row in measured.rows]
    assert starts[0] == 3.25
    assert starts[1] - starts[0] == measured.rows[0].iteration_time_s + 10.0


def test_only_sync_iterations_wait_for_the_device(toy: str) -> None:
    measured = Measured(warmup=1, sync_every=2)
    measured.run(6)
    assert [row.warmup for row in measured.rows] == [True, False, False, False, False, False]
    assert [row.sync for row in measured.rows] == [False, False, True, False, True, False]
    inside = [
        any(row.start <= at <= row.start + row.iteration_time_s for at in measured.synchronized)
        for row in measured.rows
    ]
    assert inside == [row.sync for row in measured.rows]
    # Before and after: 4 actions, 4 env steps, 4 physics steps, 2 collectives; start, start of the update, end.
    assert len(measured.synchronized) == 2 * (2 * (4 + 4 + 4 + 2) + 3)


def test_everything_is_restored_even_after_a_failure(toy: str) -> None:
    measured = Measured()
    measured.run(1)
    module = measured.module
    assert module is not None
    assert not hasattr(module.all_reduce, "__wrapped__")
    for hook in HOOKS:
        assert not hasattr(getattr(getattr(module, hook.cls), hook.method), "__wrapped__"), hook
    assert not any(isinstance(finder, ImportWatch) for finder in sys.meta_path)

    patches = Patches()
    with pytest.raises(RuntimeError, match="broken"), patches:
        patches.replace(module.Simulator, "step", lambda original: lambda self: None)
        assert "lambda" in module.Simulator.step.__qualname__
        raise RuntimeError("broken")
    assert module.Simulator.step.__qualname__ == "Simulator.step"


def test_suspended_patches_come_back(toy: str) -> None:
    module = importlib.import_module(toy)

    class Child(module.Env):  # type: ignore[misc, name-defined]
        pass

    patches = Patches()
    with patches:
        patches.replace(Child, "step", lambda original: lambda self: "replaced")
        patches.suspend()
        assert "step" not in vars(Child)  # it was inherited
        patches.resume()
        assert Child().step() == "replaced"
    assert Child.step is module.Env.step


def test_importing_leaves_source_and_loader_alone(toy: str) -> None:
    with ImportWatch() as watch:
        seen: list[str] = []
        watch.on_import(toy, lambda module: seen.append(module.__name__))
        module = importlib.import_module(toy)
        watch.on_import(toy, lambda module: seen.append("at once"))
    assert seen == [toy, "at once"]
    assert "class Simulator" in inspect.getsource(module)
    assert "exec_module" not in vars(module.__loader__)


def test_two_watches_do_not_disturb_each_other(toy: str) -> None:
    seen: list[str] = []
    with ImportWatch() as first, ImportWatch() as second:
        first.on_import(toy, lambda module: seen.append("first"))
        second.on_import(toy, lambda module: seen.append("second"))
        module = importlib.import_module(toy)
    assert sorted(seen) == ["first", "second"]
    assert "exec_module" not in vars(module.__loader__)


def test_a_method_that_is_missing_is_an_error_at_import(toy: str) -> None:
    patches = Patches()
    clock = IterationClock(warmup_iterations=0, sync_every=0)
    with ImportWatch() as watch, patches:
        attachment = Attachment(watch, patches, wrappers(clock, lambda *_: None, lambda *_: None))
        attachment.attach((Hook(toy, "Env", "may_be_missing", "env_step", optional=True),))
        attachment.attach((Hook(toy, "Env", "gone", "env_step"),))
        with pytest.raises(LaunchError, match=r"toy_trainer\.Env\.gone does not exist"):
            importlib.import_module(toy)


def test_asynchronous_collectives_count_their_wait() -> None:
    clock_now = [0.0]
    clock = IterationClock(warmup_iterations=0, sync_every=0, now=lambda: clock_now[0])

    def wait() -> str:
        clock_now[0] += 4.0
        return "done"

    def all_reduce(tensor: Any, async_op: bool = False) -> Any:
        clock_now[0] += 1.0
        return SimpleNamespace(wait=wait, is_completed=lambda: True) if async_op else None

    measured = collective(clock)(all_reduce)
    assert measured("outside any update") is None
    clock.start_iteration()
    clock.start_update()
    measured("blocking")
    work = measured("later", async_op=True)
    clock_now[0] += 100.0  # something else meanwhile
    assert work.wait() == "done" and work.is_completed()
    clock.end_iteration()
    row = clock.take()
    assert row.communication_time_s == 1.0 + 1.0 + 4.0
    assert row.collectives == 2


def test_a_collective_made_of_collectives_counts_once() -> None:
    clock = IterationClock(warmup_iterations=0, sync_every=0)
    wrap = collective(clock)  # one wrapper serves all functions of torch.distributed
    inner = wrap(lambda: None)
    outer = wrap(lambda: [inner(), inner()])
    clock.start_iteration()
    clock.start_update()
    outer()
    inner()
    clock.end_iteration()
    assert clock.take().collectives == 2


class RecordedRanges:
    """Keeps what would go to NVTX."""

    def __init__(self) -> None:
        self.stack: list[str] = []
        self.paths: list[str] = []
        self.payloads: list[int] = []

    def push(self, name: str, payload: int | None = None) -> None:
        self.stack.append(name)
        self.paths.append("/".join(self.stack))
        if payload is not None:
            self.payloads.append(payload)

    def pop(self) -> None:
        self.stack.pop()


def test_ranges_nest(toy: str) -> None:
    ranges = RecordedRanges()
    Measured(ranges=ranges).run(2)
    assert ranges.stack == []
    inside = [path for path in ranges.paths if path.startswith("iteration")]
    assert set(inside) == {
        "iteration",
        "iteration/rollout",
        "iteration/rollout/inference",
        "iteration/rollout/env_step",
        "iteration/rollout/env_step/physics",
        "iteration/update",
        "iteration/update/communication",
    }
    assert ranges.payloads == [0, 1]


@pytest.mark.parametrize("trainer", [rsl_rl, rl_games], ids=["rsl_rl", "rl_games"])
@pytest.mark.parametrize("version", ["3.0", "2.3"])
def test_tables_cover_every_role(trainer: Any, version: str) -> None:
    roles = {hook.role for hook in (*ISAACLAB_HOOKS[version], *trainer.HOOKS[version])}
    known = wrappers(IterationClock(warmup_iterations=0, sync_every=0), lambda *_: None, lambda *_: None)
    assert roles <= set(known)
    assert {"physics", "env_step", "inference", "update_start", "iteration_end", "training"} <= roles
    assert roles & {"report_before", "report_after"}
    assert ("optimizer_step" in roles) == trainer.COUNTS_OPTIMIZER_STEPS


class RecordedRecorder:
    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def start(self) -> None:
        self.calls.append("start")

    def stop(self) -> None:
        self.calls.append("stop")


def test_profile_window() -> None:
    calls: list[str] = []
    window = ProfileWindow.from_text(
        "2:4",
        RecordedRecorder(calls),
        meet=lambda: calls.append("meet"),
        opened=lambda is_open: calls.append("open" if is_open else "close"),
    )
    assert window is not None
    for iteration in range(6):
        window.before(iteration)
        calls.append(str(iteration))
    window.close()
    # All ranks meet before and after the start, so that none misses it, and before the stop, so that none is cut.
    assert calls == ["0", "1", "meet", "start", "open", "meet", "2", "3", "meet", "close", "stop", "4", "5"]

    # A training that ends inside the window closes it without meeting anyone: other ranks may be gone.
    calls.clear()
    window = ProfileWindow(1, 99, RecordedRecorder(calls))
    window.before(0)
    window.before(1)
    window.close()
    window.close()
    assert calls == ["start", "stop"]
    assert ProfileWindow.from_text(None) is None and ProfileWindow.from_text("") is None


def test_ranges_of_a_window() -> None:
    inner = RecordedRanges()
    ranges = WindowRanges(inner)  # type: ignore[arg-type]
    for is_open in (False, True, False):
        ranges.on = is_open
        ranges.push("iteration", 7)
        ranges.push("update")
        ranges.pop()
        ranges.pop()
    assert inner.paths == ["iteration", "iteration/update"] and inner.payloads == [7] and inner.stack == []


@pytest.mark.parametrize("text", ["5", "5:", ":5", "5:5", "6:5", "-1:5", "a:b", "1:2:3"])
def test_profile_window_that_is_none(text: str) -> None:
    with pytest.raises(LaunchError, match="must be first:last"):
        ProfileWindow.from_text(text)
