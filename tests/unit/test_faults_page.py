"""docs/faults.md shows the table of classes as it is."""

from __future__ import annotations

from pathlib import Path

from paceline.bench.failures import classes

PAGE = Path(__file__).resolve().parents[2] / "docs" / "faults.md"
REPEATED = {
    "again": "again", "elsewhere": "on another node", "larger": "with larger buffers", "asked": "when asked",
    "never": "never",
}  # fmt: skip


def test_the_page_has_every_class_with_its_policy_and_advice() -> None:
    shown = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    rows = [
        f"| `{each.name}` | {each.family} | {REPEATED[each.retry]} | {each.advice} |" for each in classes().values()
    ]
    assert shown == rows
