"""The table of a tuning study, and its files report/tuning.csv and report/tuning.md."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from paceline.analysis.load import Loaded
from paceline.analysis.tables import Column, Table, markdown, plain_text
from paceline.analysis.tuning import VariantResult, variants
from paceline.analysis.verdict import Verdict

METHOD = (
    "Ratio: frames/s of the variant over frames/s of the baseline, geometric mean over pairs (same world size, same "
    "repeat and seeds, run next to each other), with its 95 % interval (Student's t over the pairs). Better or worse "
    "only if the interval excludes 1. Reward: difference of the areas under the reward curve per iteration, over the "
    "same pairs; seed noise: standard deviation of that area over the baseline's repeats."
)


def tuning_table(results: Sequence[VariantResult], device: str) -> Table:
    """Return the table of variants: throughput against the baseline, and whether learning is the same."""
    columns = (
        Column("variant", "Variant", "text"),
        Column("size", "GPUs" if device == "cuda" else "Ranks", "text"),
        Column("pairs", "Pairs", "plain"),
        Column("baseline_total_fps", "Baseline frames/s", "fps"),
        Column("total_fps", "Frames/s", "fps"),
        Column("ratio", "Ratio", "precise", bounds=True),
        Column("verdict", "Verdict", "text"),
        Column("reward_difference", "Reward difference", "signed", bounds=True),
        Column("reward_seed_noise", "Seed noise", "number"),
        Column("learning", "Learning", "text"),
    )
    rows = [result.row() for result in results]
    shown = tuple({**row, "size": "all" if row["world_size"] is None else str(row["world_size"])} for row in rows)
    return Table("tuning", "Levers", columns, shown)


def tuning_markdown(loaded: Loaded, results: Sequence[VariantResult], verdict: Verdict, device: str) -> str:
    """Return the report as Markdown."""
    study = loaded.study
    lines = [f"# Levers: {plain_text(str(study.get('task')))} with {plain_text(str(study.get('trainer')))}", ""]
    lines += [f"**{plain_text(verdict.headline)}**", "", *(f"- {plain_text(text)}" for text in verdict.details), ""]
    lines += [markdown(tuning_table(results, device)), "", "| Variant | Levers |", "|---|---|"]
    for name, levers in variants(study).items():
        stated = ", ".join(f"{key}={value}" for key, value in levers) or "none"
        lines.append(f"| {plain_text(name)} | {plain_text(stated)} |")
    return "\n".join([*lines, "", METHOD, ""])


def tuning_files(loaded: Loaded, results: Sequence[VariantResult], verdict: Verdict, device: str) -> dict[str, str]:
    """Return the text of report/tuning.csv and report/tuning.md, by name."""
    return {"tuning.csv": tuning_csv(results), "tuning.md": tuning_markdown(loaded, results, verdict, device)}


def tuning_csv(results: Sequence[VariantResult]) -> str:
    """Return the rows of ``VariantResult.row`` as CSV, empty cells for what is not known."""
    rows: list[dict[str, Any]] = [result.row() for result in results]
    stream = io.StringIO()
    if rows:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return stream.getvalue()
