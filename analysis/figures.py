"""The report's charts as files for a paper, SVG and PDF in light colours, and its main table as LaTeX."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paceline.analysis import tables
from paceline.analysis.chartstyle import LIGHT
from paceline.bench.errors import RecordError

if TYPE_CHECKING:
    from paceline.analysis.report import Analysis

FORMATS = ("svg", "pdf")
_VARIABLE = re.compile(r"var\(--(\w+)\)")


def fixed(spec: dict[str, Any], width: int = 480) -> dict[str, Any]:
    """Return a chart with colours in place of CSS variables, and with a width of its own (pixels)."""
    text = _VARIABLE.sub(lambda match: LIGHT[match.group(1)], json.dumps(spec))
    return {**json.loads(text), "width": width, "autosize": {"type": "pad"}}


def write_figures(analysis: Analysis, folder: Path, formats: tuple[str, ...] = FORMATS) -> list[Path]:
    """Write every chart of the report as ``<section>-<number>.<format>``, and scaling.tex; return the paths.

    Raises:
        RecordError: A format that is not in FORMATS, or a folder that cannot be written.
    """
    import vl_convert
    from paceline.analysis.page import chart_specs

    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise RecordError(f"figures: no format {unknown[0]!r}; allowed are {', '.join(FORMATS)}")
    charts = [part for group in chart_specs(analysis, legends=True).values() for part in group]
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for chart in charts:
            spec = fixed(chart["spec"])
            for name in formats:
                path = folder / f"{chart['id']}.{name}"
                if name == "svg":
                    path.write_text(vl_convert.vegalite_to_svg(spec), encoding="utf-8")
                else:
                    path.write_bytes(vl_convert.vegalite_to_pdf(spec))
                written.append(path)
        table = folder / "scaling.tex"
        table.write_text(tables.latex(tables.scaling(analysis.rows, analysis.loaded.kind, analysis.device)), "utf-8")
        written.append(table)
    except OSError as error:
        raise RecordError(f"{folder}: figures cannot be written ({error.strerror})") from error
    return written
