"""What a person sees while a study runs: a live table on a terminal, plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from paceline.bench.status import UNFINISHED, CaseStatus, summary
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from typing_extensions import Self

_STYLES = {
    "completed": "green",
    "running": "cyan",
    "queued": "yellow",
    "failed": "red",
    "interrupted": "red",
    "lost": "red",
    "cancelled": "magenta",
    "missing": "dim",
}


class Screen:
    """A live picture on a terminal, plain lines in a log. Use as a context manager."""

    def __init__(self, console: Console, refresh_per_second: float) -> None:
        self._console = console
        live = Live(console=console, refresh_per_second=refresh_per_second, transient=True)
        self._live = live if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print one line that stays."""
        self._console.print(Text(text), soft_wrap=True)


class Display(Screen):
    """Shows the state of cases. Call ``show`` whenever something may have changed."""

    def __init__(self, console: Console, title: str, log_every_s: float = 15.0) -> None:
        super().__init__(console, refresh_per_second=4)
        self._title = title
        self._log_every_s = log_every_s
        self._last: dict[str, tuple[str, int]] = {}
        self._last_line_s = 0.0
        self._start_s = time.monotonic()

    def show(self, statuses: Sequence[CaseStatus]) -> None:
        """Bring the picture up to date."""
        if self._live is not None:
            self._live.update(self._table(statuses))
        else:
            self._log(statuses)

    def _table(self, statuses: Sequence[CaseStatus]) -> Table:
        elapsed = time.monotonic() - self._start_s
        table = Table(
            title=f"{self._title}   {elapsed // 60:.0f}:{elapsed % 60:02.0f}",
            title_justify="left",
            box=None,
            padding=(0, 2, 0, 0),
        )
        for name, justify in (("case", "left"), ("state", "left"), ("iterations", "right"), ("", "left")):
            table.add_column(name, justify=justify)  # type: ignore[arg-type]
        for status in statuses:
            table.add_row(
                case_label(status),
                Text(status.state, style=_STYLES[status.state]),
                f"{status.iterations_done}/{status.case.iterations}" if status.attempt else "",
                _detail(status),
            )
        return table

    def _log(self, statuses: Sequence[CaseStatus]) -> None:
        now = time.monotonic()
        periodic = now - self._last_line_s >= self._log_every_s
        for status in statuses:
            key = f"{status.case.case_id}"
            before = self._last.get(key, ("missing", -1))
            current = (status.state, status.iterations_done)
            changed = before[0] != current[0]
            if changed or (periodic and status.state == "running" and before[1] != current[1]):
                self._last[key] = current
                self._last_line_s = now
                detail = f" {status.iterations_done}/{status.case.iterations} iterations" if status.attempt else ""
                extra = f": {note(status)}" if note(status) else ""
                self._console.print(
                    Text(f"[{now - self._start_s:6.0f} s] {case_label(status)}: {status.state}{detail}{extra}"),
                    soft_wrap=True,
                )

    def close(self, statuses: Sequence[CaseStatus]) -> None:
        """Say how it ended, one line."""
        elapsed = time.monotonic() - self._start_s
        self.say(f"{self._title}: {summary(statuses)} after {elapsed // 60:.0f} min {elapsed % 60:02.0f} s")


def case_label(status: CaseStatus) -> str:
    """Return how a case is called in tables: its size and repeat."""
    case = status.case
    if case.kind == "warmup":
        return "warm-up (fills the kernel cache)"
    unit = "GPU" if case.device == "cuda" else "CPU rank"
    plural = "s" if case.world_size > 1 else ""
    nodes = f" on {case.num_nodes} nodes" if case.num_nodes > 1 else ""
    if case.kind == "profile":
        return f"{case.world_size} {unit}{plural}{nodes}, profiled"
    if case.kind == "sweep":
        again = f", repeat {case.repeat + 1}" if case.repeat else ""
        return f"{case.num_envs_per_rank:,} environments{again}"
    if case.kind == "gpus":
        where = ", ".join(filter(None, (case.gpu_type, *(value for _, value in case.placement))))
        return f"{where or unit}: {case.world_size} {unit}{plural}{nodes}, repeat {case.repeat + 1}"
    levers = "".join(f", {name}={value}" for name, value in case.levers)
    return f"{case.world_size} {unit}{plural}{nodes}, repeat {case.repeat + 1}{levers}"


def note(status: CaseStatus) -> str:
    """Return the cause of a run that did not complete, or the job that holds one that may."""
    if status.state in UNFINISHED:
        return f"job {status.job_id}" if status.job_id else ""
    return ": ".join(part for part in (status.cause, status.message) if part)


def _detail(status: CaseStatus) -> Text:
    if status.state == "running":
        return bar(status.iterations_done / status.case.iterations)
    return Text(note(status), style="dim", overflow="ellipsis")


def bar(share: float, width: int = 24) -> Text:
    """Return a bar of which a share is done."""
    filled = round(width * min(1.0, share))
    return Text("━" * filled, style="cyan") + Text("━" * (width - filled), style="bright_black")
