"""One finding of the honesty checks: what is wrong with a set of numbers, where, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["error", "warn"]
"""``error``: no headline number may be taken from these rows. ``warn``: it must be printed beside the number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What one rule found."""

    id: str
    """Rule, such as ``F-MODE``; docs/checks.md describes each."""
    severity: Severity
    rows: tuple[int | str, ...]
    """Data rows of a table counted from 1 (the header not counted), or run names in a study folder."""
    message: str
    """One plain sentence that carries the numbers."""
    advice: str
    """What to do about it."""

    def to_json(self) -> dict[str, Any]:
        """Return the finding as ``paceline check --format json`` prints it."""
        return {
            "id": self.id,
            "severity": self.severity,
            "rows": list(self.rows),
            "message": self.message,
            "advice": self.advice,
        }
