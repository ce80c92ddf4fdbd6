"""Findings of a check-up: one line each, ok, warning or failure, with what to do about it; and how they are shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from paceline.bench.errors import RecordError
from paceline.bench.rundir import RunDir, read_json

if TYPE_CHECKING:
    from rich.console import Console

State = Literal["ok", "warning", "failure"]
_STYLES: dict[State, tuple[str, str]] = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failure": ("✗", "bold red")}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found."""

    check: str
    """Name of the check, such as ``partition``."""
    state: State
    text: str
    """What is so, one line."""
    fix: str | None = None
    """What to do about it, one line; None where there is nothing to do."""
    node: str | None = None
    """The node it was found on; None on the login node."""

    def to_json(self) -> dict[str, Any]:
        """Return the finding as one object of ``--format json``."""
        return asdict(self)


def from_json(rows: Iterable[Mapping[str, Any]], node: str | None = None) -> list[Finding]:
    """Return the findings that a node check printed; ones of an unknown state count as warnings."""
    return [
        Finding(
            check=str(row.get("check", "?")),
            state=row["state"] if row.get("state") in _STYLES else "warning",
            text=str(row.get("text", "")),
            fix=row.get("fix"),
            node=row.get("node") or node,
        )
        for row in rows
    ]


def of_run(run: RunDir) -> list[Finding]:
    """Return what the check of its nodes found before a run trained: each node, then all of them."""
    found: list[Finding] = []
    for path in sorted(run.doctor_files(), key=lambda path: path == run.doctor_json("allreduce")):
        try:
            data = read_json(path)
        except (OSError, RecordError):
            continue
        if isinstance(data.get("findings"), list):
            found += from_json([row for row in data["findings"] if isinstance(row, dict)], data.get("node"))
    return found


def complaints(run: RunDir) -> list[str]:
    """Return one line for each warning and failure of a run's node check, failures first, with what to do."""
    found = [finding for finding in of_run(run) if finding.state != "ok"]
    return [
        f"{finding.state} on {finding.node or 'its node'}: {finding.check}: {finding.text}"
        + (f" → {finding.fix}" if finding.fix else "")
        for finding in sorted(found, key=lambda finding: finding.state)
    ]


def exit_code(findings: Sequence[Finding]) -> int:
    """Return 1 if anything failed, else 0: warnings do not stop a study."""
    return 1 if any(finding.state == "failure" for finding in findings) else 0


def summary(findings: Sequence[Finding]) -> str:
    """Return one line: how many are of which state."""
    counts = {state: sum(finding.state == state for finding in findings) for state in _STYLES}
    words = {"ok": "ok", "warning": "warnings" if counts["warning"] != 1 else "warning",
             "failure": "failures" if counts["failure"] != 1 else "failure"}  # fmt: skip
    return ", ".join(f"{count} {words[state]}" for state, count in counts.items() if count) or "nothing checked"


def show(console: Console, findings: Sequence[Finding], title: str = "") -> None:
    """Print the findings: mark, check, text, and below it the fix. Colours only on a terminal."""
    from rich.table import Table
    from rich.text import Text

    if title:
        console.print(Text(title, style="bold"))
    nodes = len({finding.node for finding in findings}) > 1
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    if nodes:
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        mark, style = _STYLES[finding.state]
        text = Text(finding.text)
        if finding.fix and finding.state != "ok":
            text.append(f"\n→ {finding.fix}", style="dim" if finding.state == "warning" else "")
        row = [Text(mark, style=style), Text(finding.check, style=style if finding.state == "failure" else "")]
        table.add_row(*row, *([Text(finding.node or "here", style="dim")] if nodes else []), text)
    console.print(table)
