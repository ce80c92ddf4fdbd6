"""The sections of docs/findings.md about one GPU: environment sweeps, GPU models, physics engines.

docs/findings.yaml lists them under ``sweeps``, ``gpus`` and ``engines``; each entry names its record folders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from paceline.analysis.changes import Change
from paceline.analysis.figures import fixed
from paceline.analysis.tables import Column, Table, markdown
from paceline.analysis.units import known, show
from paceline.bench.errors import RecordError

Spec = dict[str, Any]
_KEYS = {
    "sweeps": ("name", "folder", "title", "host", "date", "command", "published", "note"),
    "gpus": ("name", "folders", "reference", "title", "host", "date", "command", "note"),
    "engines": ("name", "pairs", "title", "host", "date", "command", "note"),
}
KINDS = tuple(_KEYS)
_ENGINE_NAMES = {"newton_mjwarp": "Newton", "ovphysx": "PhysX"}


def check(kind: str, entries: Any, where: Path) -> list[Mapping[str, Any]]:
    """Return the manifest's entries of one kind; RecordError if they have not exactly the keys of their kind."""
    expected = _KEYS[kind]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise RecordError(f"{where}: {kind}: expected a list of keys and values")
    for number, entry in enumerate(entries, start=1):
        wrong = sorted(set(entry) ^ set(expected))
        if wrong:
            raise RecordError(
                f"{where}: {kind}, entry {number}: {wrong[0]!r} is missing or unknown (keys: {', '.join(expected)})"
            )
    return entries


def sections(kind: str, entries: Sequence[Mapping[str, Any]], root: Path) -> tuple[str, dict[str, Spec]]:
    """Return the text of all sections of one kind, and their figures by name.

    Figures stand in the text as ``<!-- figure NAME -->``; the caller puts the picture there.
    """
    make: Callable[[Mapping[str, Any], Path], tuple[list[str], dict[str, Spec]]]
    make = {"sweeps": sweep_section, "gpus": gpu_section, "engines": engine_section}[kind]
    texts: list[str] = []
    charts: dict[str, Spec] = {}
    for entry in entries:
        parts, own = make(entry, root)
        texts.append("\n\n".join([f"### {entry['title']}", *parts, str(entry["note"]).strip()]))
        charts |= own
    return "\n\n".join(texts), charts


def figure(name: str) -> str:
    """Return what stands for a figure until its hash is known."""
    return f"<!-- figure {name} -->"


def sweep_section(entry: Mapping[str, Any], root: Path) -> tuple[list[str], dict[str, Spec]]:
    """Return the section of one environment sweep, the published curves beside it."""
    from paceline.analysis import sweepreport
    from paceline.analysis.sweepcharts import charts
    from paceline.analysis.sweeptables import all_tables

    analysis = sweepreport.analyse_folder(root / entry["folder"])
    tables = all_tables(analysis)
    study = [f"task `{analysis.facts['task']}`", f"trainer {analysis.facts['trainer']}"]
    parts = [
        _origin(entry, [*study, f"physics {analysis.facts['physics']}"], analysis.provenance, [entry["folder"]]),
        f"**{sweepreport.headline(analysis)}**",
        "\n".join(f"- {text}" for text in sweepreport.details(analysis)),
    ]
    for name in ("points", "resources", "excluded", "recommendation"):
        if name in tables:
            parts += [f"{tables[name].title}:", markdown(tables[name])]
    drawn = {f"{entry['name']}-throughput": group for group in charts(analysis)["throughput"]}
    drawn |= {f"{entry['name']}-memory": group for group in charts(analysis)["resources"][:1]}
    parts += [figure(name) for name in drawn]
    parts += _beside(analysis.points, entry["published"], root)
    return parts, {name: fixed(spec) for name, spec in drawn.items()}


def gpu_section(entry: Mapping[str, Any], root: Path) -> tuple[list[str], dict[str, Spec]]:
    """Return the section of one GPU comparison."""
    from paceline.analysis import gpureport
    from paceline.analysis.gpucharts import charts
    from paceline.analysis.gputables import all_tables

    comparison = gpureport.compare_sources([root / folder for folder in entry["folders"]], entry["reference"])
    tables = all_tables(comparison)
    parts = [_origin(entry, [], {}, entry["folders"]), f"**{gpureport.headline(comparison)}**"]
    for name in ("throughput", "per_unit", "phases", "gains", "specifications"):
        if name in tables:
            parts += [f"{tables[name].title}:", markdown(tables[name])]
    notes = [*comparison.checks, *comparison.notes]
    parts += ["\n".join(f"- {note}" for note in notes)] if notes else []
    drawn = {f"{entry['name']}-throughput": chart for chart in charts(comparison).get("throughput", [])[:1]}
    parts += [figure(name) for name in drawn]
    return parts, {name: fixed(spec) for name, spec in drawn.items()}


def engine_section(entry: Mapping[str, Any], root: Path) -> tuple[list[str], dict[str, Spec]]:
    """Return the section that holds physics engines against one another, task by task."""
    from paceline.analysis import gpureport
    from paceline.analysis.compare import compare_paths

    rows: list[dict[str, Any]] = []
    for pair in entry["pairs"]:
        found = compare_paths(root / pair["a"], root / pair["b"], allow=("physics",))
        cases = [gpureport.compare_sources([root / pair[side]]).cases[0] for side in ("a", "b")]
        change = found.points[0]
        for case, rate, other in zip(cases, (change.a_fps, change.b_fps), (None, change), strict=True):
            rows.append(_engine_row(case, rate, other))
    columns = (
        Column("task", "Task", "text"),
        Column("engine", "Physics", "text"),
        Column("repeats", "n", "plain"),
        Column("total_fps", "Frames/s", "fps", bounds=True),
        Column("ratio", "Against Newton", "ratio", bounds=True),
        Column("verdict", "Verdict", "text"),
        Column("physics_us_per_frame", "Physics \u00b5s", "number"),
        Column("inference_us_per_frame", "Inference \u00b5s", "number"),
        Column("update_us_per_frame", "Update \u00b5s", "number"),
        Column("frames_per_j", "Frames per joule", "number"),
    )
    folders = [pair[side] for pair in entry["pairs"] for side in ("a", "b")]
    return [_origin(entry, [], {}, folders), markdown(Table("engines", "Engines", columns, tuple(rows)))], {}


def _engine_row(case: Mapping[str, Any], rate: float | None, change: Change | None) -> dict[str, Any]:
    physics = str(case["physics"])
    row = {**case, "total_fps": rate, "engine": _ENGINE_NAMES.get(physics, physics), "verdict": "reference"}
    row |= {"ratio": None, "ratio_low": None, "ratio_high": None}
    if change is not None:
        names = ("ratio", "ratio_low", "ratio_high")
        for name, value in zip(names, (change.change, change.low, change.high), strict=True):
            row[name] = None if value is None else 1.0 + value
        row["verdict"] = {"better": "faster", "worse": "slower"}.get(change.verdict, change.verdict)
    return row


def _beside(points: Sequence[Mapping[str, Any]], published: Sequence[Mapping[str, str]], root: Path) -> list[str]:
    """Return the measured curve beside published ones, by number of environments; nothing without any."""
    rows: dict[int, dict[str, Any]] = {
        point["num_envs_per_rank"]: {"envs": point["num_envs_per_rank"], "here": point["total_fps"]} for point in points
    }
    columns = [Column("envs", "Environments", "count"), Column("here", "Frames/s here", "fps")]
    left_out: list[str] = []
    for number, table in enumerate(published):
        columns.append(Column(f"p{number}", f"{table['what']}, frames/s", "text"))
        for row in _published(root / table["file"], table["gpu"]):
            envs, rate = row["num_envs_per_rank"], show(row["total_fps"], "fps")
            rows.setdefault(envs, {"envs": envs})[f"p{number}"] = f"({rate})" if row["excluded"] else rate
            left_out += [f"{envs:,}: {row['excluded']}"] if row["excluded"] else []
    if not published:
        return []
    sources = ", ".join(sorted({f"[{table['file']}](../{table['file']})" for table in published}))
    text = f"Beside published curves (one run per point; {sources})"
    text += f"; in brackets what is left out there ({'; '.join(left_out)}):" if left_out else ":"
    return [text, markdown(Table("beside", "Beside", tuple(columns), tuple(row for _, row in sorted(rows.items()))))]


def _published(path: Path, gpu: str) -> list[dict[str, Any]]:
    """Return the rows of one GPU's sweep in a table that state a throughput; RecordError if the GPU is not in it."""
    from paceline.analysis import sweepreport

    found = {str(analysis.facts["gpu_model"]): analysis for analysis in sweepreport.analyse_csv(path)}
    if gpu not in found:
        raise RecordError(f"{path}: no GPU {gpu!r} (it has {', '.join(found)})")
    return [row for row in found[gpu].rows if known(row["total_fps"])]


def _origin(
    entry: Mapping[str, Any], facts: Sequence[str], provenance: Mapping[str, Any], folders: Sequence[str]
) -> str:
    """Return when, where and how it was measured, and where the records are."""
    versions = provenance.get("versions", {})
    names = ("isaaclab", "newton", "ovphysx", "warp", "torch", "rsl_rl")
    named = [f"{name} {', '.join(versions[name])}" for name in names if name in versions]
    named += [f"code {commit[:12]}" for commit in versions.get("paceline_commit", [])]
    driver = provenance.get("hardware", {}).get("driver", [])
    where = [f"{entry['date']}", str(entry["host"]), *(f"driver {text}" for text in driver), *named]
    records = ", ".join(f"[{folder}](../{folder})" for folder in dict.fromkeys(folders))
    how = "; ".join([f"`{entry['command']}`", ", ".join(facts)]) if facts else f"`{entry['command']}`"
    return f"{', '.join(where)}.\n{how}. Records: {records}."
