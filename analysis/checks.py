"""The honesty checks: everything that can be found wrong with a set of results by looking at it.

Works on any table (``Table``): a CSV file that somebody published, a study folder of Paceline's, a bundle or log of
another tool.
docs/checks.md lists every rule. A rule is a function from a table to findings; ``RULES`` names them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from paceline.analysis import check_rules_conditions as conditions
from paceline.analysis import check_rules_curve as curve
from paceline.analysis import check_rules_hardware as hardware
from paceline.analysis import check_rules_mode as mode
from paceline.analysis import check_rules_numbers as numbers
from paceline.analysis import check_rules_origin as origin
from paceline.analysis import check_rules_sharing as sharing
from paceline.analysis.finding import Finding
from paceline.analysis.table import Mode, Table

RULES: Mapping[str, Callable[[Table], Iterable[Finding]]] = {
    "F-MODE": mode.scaling_mode,
    "F-SCOPE": mode.per_rank_or_global,
    "F-BATCH": mode.batch_changed,
    "F-CONFIG": mode.configuration,
    "F-ORDER": numbers.order,
    "F-RATIO": numbers.stated_ratios,
    "F-INVALID": conditions.invalid_physics,
    "F-FOREIGN": sharing.foreign,
    "F-PROFILED": conditions.profiled,
    "F-SYNC": conditions.mixed_sync,
    "F-HW": hardware.hardware,
    "F-VERSION": hardware.versions,
    "F-DERIVED": numbers.derived,
    "F-MEAN": numbers.mean_of_rates,
    "F-MONO": curve.monotone,
    "F-SUPER": curve.superlinear,
    "F-SAT": curve.saturation,
    "F-IDENT": curve.identifiable,
    "F-DIGITS": origin.digits,
    "F-N1": origin.single_run,
    "F-RANK0": origin.rank0,
    "F-WARMUP": conditions.warm_up,
    "F-THROTTLE": conditions.throttled,
    "F-BUSY": sharing.busy,
    "F-CLOCK": hardware.clocks,
    "F-FAILED": conditions.failed,
}


def check_table(table: Table) -> list[Finding]:
    """Return what all rules find in a table, errors first."""
    found = [finding for rule in RULES.values() for finding in rule(table)]
    return sorted(found, key=lambda finding: finding.severity != "error")


def check_path(path: str | Path, mode: Mode | None = None) -> list[Finding]:
    """Return what all rules find in a file or folder; RecordError if it cannot be read.

    Args:
        path: A CSV file, a study folder, a benchmark bundle, a log, or a TensorBoard event file or folder.
        mode: Scaling mode that the caller declares for a table that does not.
    """
    from paceline.analysis.ingest import read_any

    return check_table(read_any(Path(path), mode))


def has_errors(findings: Iterable[Finding]) -> bool:
    """Return whether any finding forbids a headline number."""
    return any(finding.severity == "error" for finding in findings)


def as_text(findings: list[Finding], source: str) -> str:
    """Return the findings for a terminal: one paragraph each, and a last line that counts them."""
    if not findings:
        return f"{source}: nothing found by {len(RULES)} checks"
    lines = []
    for finding in findings:
        rows = ", ".join(str(row) for row in finding.rows[:6]) + (" ..." if len(finding.rows) > 6 else "")
        lines.append(f"{finding.severity:5}  {finding.id}  (rows {rows})")
        lines.append(f"       {finding.message}")
        lines.append(f"       -> {finding.advice}")
    errors = sum(finding.severity == "error" for finding in findings)
    lines.append(f"{source}: {errors} error(s), {len(findings) - errors} warning(s)")
    return "\n".join(lines)
