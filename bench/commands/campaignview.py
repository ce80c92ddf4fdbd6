"""What a person sees of a campaign: a live page on a terminal, plain lines in a log, and alerts."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from paceline.bench.campaign import OpenCampaign, Start
from paceline.bench.display import Screen, bar
from paceline.bench.notify import Notifier
from paceline.bench.status import UNFINISHED
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from paceline.analysis.alerts import Alert
    from paceline.analysis.campaign import Joined

_REFRESH_S = 2.0
_LOG_EVERY_S = 30.0


class View(Screen):
    """Shows a campaign. Call ``show`` whenever something may have changed."""

    def __init__(self, console: Console, opened: OpenCampaign, notifier: Notifier | None = None) -> None:
        from paceline.analysis.campaign import CampaignReader

        super().__init__(console, refresh_per_second=2)
        self._opened = opened
        self._notifier = notifier or Notifier(opened.folder)
        self._reader = CampaignReader(opened.folder.path)
        self._shown_at = self._logged_at = float("-inf")
        self._logged: tuple[Any, ...] = ()

    def show(self, starts: Sequence[Start]) -> None:
        """Bring the picture up to date, at most every two seconds; say alerts that are new."""
        now = time.monotonic()
        if now - self._shown_at < _REFRESH_S:
            return
        self._shown_at = now
        joined = self._reader.read()
        alerts = self._alerts(joined, starts)
        for alert in self._notifier.raise_alerts([(alert.rule, alert.reason) for alert in alerts]):
            self.say(f"ALERT {alert[0]}: {alert[1]}")
        if self._live is not None:
            self._live.update(Group(*self._page(joined, starts, alerts)))
            return
        state = _state(starts)
        key = (len(starts), state)
        if key != self._logged[:2] or (now - self._logged_at >= _LOG_EVERY_S and self._logged[2:] != (joined.done,)):
            self._logged, self._logged_at = (*key, joined.done), now
            self.say(self._line(joined, starts))

    def page(self, starts: Sequence[Start]) -> None:
        """Print the whole picture once."""
        joined = self._reader.read()
        alerts = self._alerts(joined, starts)
        self._notifier.raise_alerts([(alert.rule, alert.reason) for alert in alerts])
        for part in self._page(joined, starts, alerts):
            self._console.print(part, soft_wrap=True)

    def finish(self, starts: Sequence[Start]) -> int:
        """Say how it ended; return 0 if a goal was reached, 1 if not. The last line is where the checkpoints are."""
        from paceline.bench import campaigndriver

        self._shown_at = float("-inf")
        joined = self._reader.read()
        done = campaigndriver.completed(self._opened, starts)
        self.say(self._line(joined, starts))
        if not done and starts:
            last = next(
                (s for s in reversed(starts) if s.state not in UNFINISHED and s.start_iteration is not None), starts[-1]
            )
            reason = ": ".join(part for part in (last.cause, last.message) if part) or last.state
            goal = self._opened.case.iterations
            self.say(f"stopped at iteration {joined.done} of {goal}: {reason} (log: {last.run.train_log})")
            self.say(f"`paceline resume {self._opened.folder.path}` goes on from the newest checkpoint")
        folder = self._opened.folder.checkpoints if done else self._opened.folder.trainer
        print(folder)
        return 0 if done else 1

    # ------------------------------------------------------------------------------------------------------- pictures

    def _alerts(self, joined: Joined, starts: Sequence[Start]) -> list[Alert]:
        from paceline.analysis import alerts

        running = any(start.state == "running" for start in starts)
        gpus = self._gpus(starts) if running else []
        now = alerts.Now(
            unix_s=time.time(),
            running=running,
            gpu_temperatures_c=tuple(g["temperature_c"] for g in gpus if g.get("temperature_c") is not None),
            disk_free_bytes=shutil.disk_usage(self._opened.folder.path).free,
        )
        return alerts.alerts(joined, now)

    def _gpus(self, starts: Sequence[Start]) -> list[dict[str, Any]]:
        from paceline.analysis.campaign import newest_sample

        files = starts[-1].run.samples_files() if starts else []
        running = [start for start in starts if start.state == "running"]
        files = running[-1].run.samples_files() if running else files
        return [gpu for path in files for gpu in newest_sample(path).get("gpus", [])]

    def _line(self, joined: Joined, starts: Sequence[Start]) -> str:
        from paceline.analysis import outlook as pace

        parts = [f"{self._opened.campaign.name}: {_state(starts)}"]
        parts.append(f"iteration {joined.done} of {_goal(joined)}")
        ahead = pace.outlook(joined)
        if ahead is not None and any(start.state == "running" for start in starts):
            parts.append(f"about {_duration(ahead.left_s)} left")
        for name, values in (("reward", joined.reward), ("episode length", joined.episode_length)):
            if (value := pace.newest(values)) is not None:
                parts.append(f"{name} {value:.4g}")
        if (fps := pace.median_of_newest(joined.fps)) is not None:
            parts.append(f"{fps:,.0f} steps/s")
        if joined.goal is not None:
            parts.append(f"goal reached: {joined.goal}")
        return ", ".join(parts)

    def _page(self, joined: Joined, starts: Sequence[Start], alerts: Sequence[Alert]) -> list[Any]:
        from paceline.analysis import outlook as pace

        opened = self._opened
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(justify="left", style="dim", no_wrap=True)
        table.add_column(justify="left")
        case = opened.case
        ranks = (
            f"{case.world_size} {'GPU' if case.device == 'cuda' else 'CPU rank'}{'s' if case.world_size > 1 else ''}"
        )
        table.add_row("training", f"{case.task}, {case.trainer}, {case.num_envs:,} environments on {ranks}")
        table.add_row("state", _state(starts) + (f", goal reached: {joined.goal}" if joined.goal else ""))
        goal = _goal_iterations(joined)
        share = f" ({100 * joined.done / goal:.1f} %)" if goal < 10_000_000 else ""
        table.add_row("progress", Text(f"{joined.done:,} of {_goal(joined)}{share}  ") + bar(joined.done / goal))
        ahead = pace.outlook(joined)
        if ahead is not None:
            table.add_row(
                "left",
                f"{_duration(ahead.left_s)} (95 %: {_duration(ahead.left_low_s)} to {_duration(ahead.left_high_s)}), "
                f"by {ahead.limited_by}, without waiting in the queue",
            )
        table.add_row(
            "trained",
            f"{_duration(joined.trained_s)} in {len(joined.starts)} starts, {joined.lost_iterations} iterations lost",
        )
        for name, values in (
            ("reward", joined.reward),
            ("episode length", joined.episode_length),
            ("terrain level", joined.terrain_level),
            ("learning rate", joined.learning_rate),
            *((f"loss {name}", values) for name, values in joined.losses.items()),
        ):
            if (value := pace.newest(values)) is not None:
                table.add_row(name, Text(f"{value:<12.5g}") + Text(pace.sparkline(values), style="cyan"))
        if (fps := pace.median_of_newest(joined.fps)) is not None:
            expected = joined.campaign.expected_fps
            table.add_row(
                "throughput",
                f"{fps:,.0f} steps/s" + (f" ({100 * fps / expected:.0f} % of expected)" if expected else ""),
            )
        for gpu in self._gpus(starts):
            used = gpu.get("memory_used_bytes")
            memory = f", {used / 2**30:.1f} GiB" if used is not None else ""
            table.add_row("GPU", f"{gpu.get('temperature_c')} °C{memory}, {gpu.get('util_pct')} % busy")
        table.add_row("disk free", f"{shutil.disk_usage(opened.folder.path).free / 1e9:,.0f} GB")
        saved = joined.checkpoints()
        if saved:
            last = saved[-1]
            newest = f"{last['file']} ({_size(last['size_bytes'])}, {_duration(time.time() - last['t_unix_s'])} ago)"
            table.add_row("checkpoints", f"{len(saved)} written, newest {newest}")
        lines: list[Any] = [Text(f"{opened.campaign.name} in {opened.folder.path}", style="bold"), table]
        lines += [Text(f"ALERT {alert.rule}: {alert.reason}", style="bold red") for alert in alerts]
        return lines


def _state(starts: Sequence[Start]) -> str:
    """Return the state of the start that matters: the running one, or the newest that has begun; and what waits."""
    begun = [start for start in starts if start.state != "queued"]
    waiting = len(starts) - len(begun)
    ahead = f", {waiting} waiting in the queue" if waiting else ""
    if not begun:
        return f"not started{ahead}"
    current: Start | None = next((start for start in begun if start.state == "running"), None)
    if current is None:  # what was cancelled before it began, because the goal was reached, says nothing
        current = next((start for start in reversed(begun) if start.start_iteration is not None), begun[-1])
        current = next((start for start in reversed(begun) if start.state == "completed"), current)
    return f"start {begun.index(current) + 1} {current.state}{ahead}"


def _goal_iterations(joined: Joined) -> int:
    frames = joined.campaign.frames
    return min(joined.case.iterations, -(-frames // joined.case.global_batch) if frames else joined.case.iterations)


def _goal(joined: Joined) -> str:
    campaign, goal = joined.campaign, _goal_iterations(joined)
    parts = [f"{goal:,} iterations"] if goal < 10_000_000 else []
    if campaign.reward is not None:
        parts.append(f"reward {campaign.reward:g}")
    if campaign.hours is not None:
        parts.append(f"{campaign.hours:g} h")
    return " or ".join(parts)


def _size(count: float) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.0f} kB"


def _duration(seconds: float) -> str:
    minutes = max(0.0, seconds) / 60
    if minutes < 1:
        return f"{max(0.0, seconds):.0f} s"
    if minutes < 90:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h" if minutes < 60 * 72 else f"{minutes / 1440:.1f} days"
