"""Makes docs/findings.md and its figures from records: every table, figure and number in it, and the README's headline.

    python -m paceline.analysis.findings [--check] [ROOT]         `make findings`

docs/findings.yaml lists the record folders. The documents keep their own text; what stands between

    <!-- findings:NAME -->  and  <!-- /findings -->

is replaced: ``summary`` (one row per study), ``studies`` (one section each), ``traces`` (launches and idle time in
profiles), ``sweeps``, ``gpus`` and ``engines`` (one GPU: findings_gpus.py), ``headline`` (the README's).

Figures go to docs/images/findings/, as SVG and PNG, and the document names the
hash of what each of them draws: the same records give the same document on any machine, while the pixels of a figure
depend on its fonts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from paceline.analysis import findings_gpus, findings_traces
from paceline.analysis.figures import fixed
from paceline.analysis.findings_text import figure, headline, section, summary
from paceline.analysis.load import load_study
from paceline.analysis.report import Analysis
from paceline.bench.errors import PacelineError, RecordError

SCHEMA = "paceline.findings/1"
MANIFEST, DOCUMENT, README = Path("docs/findings.yaml"), Path("docs/findings.md"), Path("README.md")
FIGURES = Path("docs/images/findings")
CHARTS = ("speedup", "efficiency", "parts")
_KEYS = {"name": True, "folder": True, "title": True, "host": True, "date": True, "command": True}
_OPTIONAL = ("note", "published")
_PNG_SCALE = 1.6


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One study of the manifest."""

    name: str
    folder: str
    title: str
    host: str
    """The machine, in words that the records do not hold."""
    date: str
    command: str
    note: str = ""
    """What to make of it: Markdown."""
    published: tuple[Mapping[str, Any], ...] = ()
    """Published tables to stand beside: ``what`` it is, ``file``, and the file's ``path``."""


@dataclass(frozen=True)
class Manifest:
    """What the findings are made of."""

    entries: tuple[Entry, ...]
    headline: str
    """Name of the study in the README."""
    traces: tuple[Mapping[str, Any], ...]
    """Captures of a profiler: ``title``, ``captures`` (files by label), ``paths``, ``ranges`` to show, ``note``."""
    others: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """What was measured on one GPU, by kind: ``sweeps``, ``gpus``, ``engines``."""


@dataclass(frozen=True)
class Made:
    """What findings consist of: text by file, and chart specifications by name of the figure."""

    texts: dict[Path, str]
    charts: dict[str, dict[str, Any]] = field(default_factory=dict)


def read_manifest(path: Path) -> Manifest:
    """Return what a manifest says; RecordError if it is not valid."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RecordError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or not isinstance(data.get("studies"), list):
        raise RecordError(f"{path}: expected schema: {SCHEMA}, headline and a list of studies")
    entries = []
    for number, values in enumerate(data["studies"], start=1):
        where = f"{path}: study {number}"
        if not isinstance(values, dict):
            raise RecordError(f"{where}: expected keys and values")
        missing = [key for key in _KEYS if not values.get(key)]
        unknown = [key for key in values if key not in (*_KEYS, *_OPTIONAL)]
        if missing or unknown:
            problem = f"{missing[0]} is missing" if missing else f"unknown key {unknown[0]!r}"
            raise RecordError(f"{where}: {problem} (keys: {', '.join((*_KEYS, *_OPTIONAL))})")
        published = values.get("published") or []
        if not all(isinstance(table, dict) and {"what", "file"} == set(table) for table in published):
            raise RecordError(f"{where}: published: expected a list of what and file")
        tables = tuple({**table, "path": path.parents[1] / table["file"]} for table in published)
        texts = {key: str(value) for key, value in values.items() if key != "published"}
        entries.append(Entry(**texts, published=tables))
    names = [entry.name for entry in entries]
    twice = {name for name in names if names.count(name) > 1 or not re.fullmatch(r"[a-z0-9_]+", name)}
    if twice:
        raise RecordError(f"{path}: {sorted(twice)[0]!r}: names are lower-case letters, digits and _, each once")
    if data.get("headline") not in names:
        raise RecordError(f"{path}: headline is {data.get('headline')!r}; it must be one of {', '.join(names)}")
    found = findings_traces.check(data.get("traces") or [], path)
    others = {kind: findings_gpus.check(kind, data[kind], path) for kind in findings_gpus.KINDS if data.get(kind)}
    return Manifest(tuple(entries), str(data["headline"]), found, others)


def make(root: Path) -> Made:
    """Return what the records below a checkout make of its documents and figures; nothing is written."""
    manifest = read_manifest(root / MANIFEST)
    charts: dict[str, dict[str, Any]] = {}
    sections, analyses = [], []
    for entry in manifest.entries:
        analysis = Analysis(load_study(root / entry.folder))
        own = _charts(entry.name, analysis)
        charts |= own
        analyses.append((entry, analysis))
        sections.append(section(entry, analysis, {name: digest(spec) for name, spec in own.items()}))
    chosen = next(item for item in analyses if item[0].name == manifest.headline)
    blocks = {"summary": summary(analyses), "studies": "\n\n".join(sections)}
    blocks["traces"] = "\n\n".join(map(findings_traces.section, manifest.traces))
    for kind, entries in manifest.others.items():
        text, own = findings_gpus.sections(kind, entries, root)
        charts |= own
        for name, spec in own.items():
            text = text.replace(findings_gpus.figure(name), figure(name, digest(spec)))
        blocks[kind] = text
    texts = {
        DOCUMENT: fill((root / DOCUMENT).read_text(encoding="utf-8"), blocks, DOCUMENT),
        README: fill((root / README).read_text(encoding="utf-8"), {"headline": headline(*chosen)}, README),
    }
    return Made(texts, charts)


def _charts(name: str, analysis: Analysis) -> dict[str, dict[str, Any]]:
    from paceline.analysis.page import chart_specs

    if analysis.tuning:
        return {}
    groups = chart_specs(analysis, legends=True)
    return {
        f"{name}-{group}" + (f"-{number}" if number else ""): fixed(chart["spec"])
        for group in CHARTS
        for number, chart in enumerate(groups.get(group, []))
    }


def digest(spec: Mapping[str, Any]) -> str:
    """Return a short hash of what a figure draws; digits beyond those that a pixel shows do not count."""
    text = json.dumps(spec, sort_keys=True)
    text = re.sub(r"-?\d+\.\d+(e-?\d+)?", lambda match: f"{float(match.group()):.5g}", text)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def fill(text: str, blocks: Mapping[str, str], where: Path) -> str:
    """Return a document with the given blocks between their markers; RecordError if a marker is missing."""
    for name, block in blocks.items():
        pattern = re.compile(rf"<!-- findings:{name} -->\n.*?<!-- /findings -->", re.S)
        if len(pattern.findall(text)) != 1:
            raise RecordError(f"{where}: expected one <!-- findings:{name} --> ... <!-- /findings -->")
        head, tail = pattern.split(text)[0], pattern.split(text)[-1]
        text = f"{head}<!-- findings:{name} -->\n{block}\n<!-- /findings -->{tail}"
    return text


def stale(root: Path, made: Made) -> list[str]:
    """Return what of a checkout is not as its records make it, one sentence each; empty if all is."""
    out = [f"{path} is not what the records give" for path, text in made.texts.items() if _read(root / path) != text]
    names = {f"{name}.{kind}" for name in made.charts for kind in ("svg", "png")}
    have = {path.name for path in (root / FIGURES).glob("*")}
    out += [f"{FIGURES / name} is missing" for name in sorted(names - have)]
    return out + [f"{FIGURES / name} belongs to no study" for name in sorted(have - names)]


def write(root: Path, made: Made) -> None:
    """Write the documents, and the figures whose content is new or that are missing."""
    import vl_convert

    folder = root / FIGURES
    folder.mkdir(parents=True, exist_ok=True)
    before = _read(root / DOCUMENT)
    for name, spec in made.charts.items():
        files = [folder / f"{name}.{kind}" for kind in ("svg", "png")]
        if digest(spec) in before and all(path.exists() for path in files):
            continue
        files[0].write_text(vl_convert.vegalite_to_svg(spec), encoding="utf-8")
        files[1].write_bytes(vl_convert.vegalite_to_png(spec, scale=_PNG_SCALE))
    for path in folder.glob("*"):
        if path.stem not in made.charts:
            path.unlink()
    for path, text in made.texts.items():
        (root / path).write_text(text, encoding="utf-8")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the findings, or say with ``--check`` whether they are as the records give them (exit code 1 if not)."""
    parser = argparse.ArgumentParser(
        prog="python -m paceline.analysis.findings", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if something is not current")
    parser.add_argument("root", nargs="?", type=Path, default=Path(), metavar="ROOT", help="checkout (default: .)")
    options = parser.parse_args(arguments)
    try:
        made = make(options.root)
        if options.check:
            found = stale(options.root, made)
            print("\n".join(found) or "the findings are as the records give them")
            return 1 if found else 0
        write(options.root, made)
    except PacelineError as error:
        print(f"paceline: {error}", file=sys.stderr)
        return 2
    print(f"{options.root / DOCUMENT}: {len(made.charts)} figures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
