"""The words and tables of docs/findings.md about one study, all from its analysis."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paceline.analysis.curves import curves
from paceline.analysis.ingest import read_any
from paceline.analysis.limits import Limits, limits
from paceline.analysis.summary import window_unix_s
from paceline.analysis.tables import Column, Table, losses, markdown, scaling
from paceline.analysis.tuning_report import METHOD, tuning_table
from paceline.analysis.units import known, ranks, show
from paceline.bench.errors import RecordError

if TYPE_CHECKING:
    from paceline.analysis.findings import Entry
    from paceline.analysis.report import Analysis

_VERSIONS = ("isaaclab", "newton", "ovphysx", "warp", "torch", "nccl", "rsl_rl", "rl_games")
PART_NAMES = {
    "physics": "physics",
    "environment": "environment without physics (actions, observations, rewards, resets)",
    "inference": "inference",
    "rollout_rest": "rest of the roll-out",
    "update": "update without communication",
    "communication": "communication, waiting included",
    "rest": "spread between ranks",
    "iteration": "iteration",
}


def summary(studies: Sequence[tuple[Entry, Analysis]]) -> str:
    """Return one row per scaling study: its largest size, speed-up and efficiency."""
    rows = []
    for entry, analysis in studies:
        row = _largest(analysis)
        if row is not None and not analysis.tuning:
            rows.append(
                {
                    **row,
                    "study": f"[{entry.title}](#{anchor(entry.title)})",
                    "physics": analysis.loaded.study.get("physics"),
                    "one_fps": next(r["total_fps"] for r in analysis.rows if known(r["total_fps"])),
                }
            )
    columns = (
        Column("world_size", "GPUs", "plain"),
        Column("repeats", "n", "plain"),
        Column("one_fps", "Frames/s on the smallest", "fps"),
        Column("total_fps", "Frames/s", "fps", bounds=True),
        Column("speedup", "Speed-up", "ratio", bounds=True),
        Column("efficiency", "Efficiency %", "percent", bounds=True),
        Column("energy_j_per_million_frames", "J per million frames", "number"),
    )
    table = markdown(Table("summary", "Summary", columns, tuple(rows))).splitlines()
    named = ["| Study " + table[0], "|---" + table[1]]
    named += [f"| {row['study']} {line}" for row, line in zip(rows, table[2:], strict=True)]
    return "\n".join(named)


def section(entry: Entry, analysis: Analysis, figures: Mapping[str, str]) -> str:
    """Return the section of one study.

    Args:
        entry: What the manifest says.
        analysis: Of its records.
        figures: Hash of what each figure draws, by name.
    """
    device = analysis.device
    parts = [f"### {entry.title}", _origin(entry, analysis), f"**{analysis.verdict.headline}**"]
    if analysis.tuning:
        parts += ["\n".join(f"- {text}" for text in analysis.verdict.details)]
        parts += [markdown(tuning_table(analysis.tuning, device)), METHOD]
    else:
        table = markdown(scaling(analysis.rows, analysis.loaded.kind, device))
        parts += [table, _published(entry, analysis)]
        parts += [figure(name, key) for name, key in figures.items()]
        parts += ["Points of efficiency lost, by part (they sum to the loss):", markdown(losses(analysis.rows, device))]
        found = limits_of(analysis) if analysis.loaded.kind == "strong" else None
        parts += _limits(found, analysis) if found is not None else []
        parts += [_energy(analysis)]
    if entry.note:
        parts.append(entry.note.strip())
    return "\n\n".join(part for part in parts if part)


def headline(entry: Entry, analysis: Analysis) -> str:
    """Return the README's sentence and figure."""
    study = analysis.loaded.study
    envs = study.get("num_envs") if analysis.loaded.kind == "strong" else study.get("num_envs_per_rank")
    size = f"{envs:,} environments {'in all' if analysis.loaded.kind == 'strong' else 'per GPU'}"
    sizes = ", ".join(str(row["world_size"]) for row in analysis.rows if known(row["total_fps"]))
    return (
        f"`{study.get('task')}`, {size}, {study.get('trainer')}, on {sizes} \u00d7 {_gpu(analysis)}: "
        f"{analysis.verdict.headline}\n"
        f"[docs/findings.md](docs/findings.md) says where the rest goes, with the records.\n\n"
        f"![{entry.title}](docs/images/findings/{entry.name}-speedup.png)"
    )


def limits_of(analysis: Analysis) -> Limits | None:
    """Return what limits a study, from the runs that count."""
    blocks = defaultdict(list)
    asked = analysis.loaded.runs[["repeat", "world_size"]].dropna().astype(int).sort_values("repeat")
    clean = {int(str(run)) for run, flags in analysis.summaries["flags"].items() if not flags}
    for run, size in asked["world_size"].items():
        if int(str(run)) in clean:
            blocks[int(size)].append(analysis.arrays[int(str(run))])
    return limits(blocks, {size: analysis.loaded.headers[own[0].run][0] for size, own in blocks.items()})


def anchor(title: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    kept = "".join(c for c in title.lower() if c.isalnum() or c in " -_")
    return kept.replace(" ", "-")


def _largest(analysis: Analysis) -> dict[str, Any] | None:
    measured = [row for row in analysis.rows if known(row["total_fps"])]
    return measured[-1] if measured else None


def _gpu(analysis: Analysis) -> str:
    return ", ".join(analysis.provenance["hardware"].get("device", [])).replace("NVIDIA ", "")


def _origin(entry: Entry, analysis: Analysis) -> str:
    study, found = analysis.loaded.study, analysis.provenance
    versions = [f"{name} {', '.join(found['versions'][name])}" for name in _VERSIONS if name in found["versions"]]
    unused = {"rsl_rl": "rl_games", "rl_games": "rsl_rl"}[str(study.get("trainer"))]
    versions = [text for text in versions if not text.startswith(unused)]
    lines = [
        f"{entry.date}, {entry.host}, driver {', '.join(found['hardware'].get('driver', []))}, "
        f"{', '.join(found['hardware'].get('CPU', []))}; {', '.join(versions)}; code "
        f"{', '.join(commit[:12] for commit in found['versions'].get('paceline_commit', []))}.",
        f"`{entry.command}`; task `{study.get('task')}`, trainer {study.get('trainer')}, "
        f"physics {study.get('physics')}, "
        f"{study.get('iterations')} iterations of which {study.get('warmup_iterations')} are warm-up, "
        f"{study.get('repeats')} repeats, interleaved. Records: [{entry.folder}](../{entry.folder}).",
    ]
    return "\n".join(lines)


def figure(name: str, key: str) -> str:
    """Return a figure with the hash of what it draws."""
    path = f"images/findings/{name}"
    return f"![{name.replace('-', ', ').replace('_', ' ')}]({path}.svg) <!-- {key} -->"


def _published(entry: Entry, analysis: Analysis) -> str:
    """Return published efficiencies beside the measured ones, one column per table, '' if the manifest names none."""
    if not entry.published:
        return ""
    columns = [Column("world_size", "GPUs", "plain"), Column("efficiency", "Efficiency % here", "percent", bounds=True)]
    rows: dict[int, dict[str, Any]] = {}
    for row in analysis.rows:
        if known(row["efficiency"]):
            names = ("world_size", "efficiency", "efficiency_low", "efficiency_high")
            rows[row["world_size"]] = {name: row[name] for name in names}
    for number, table in enumerate(entry.published):
        columns.append(Column(f"published_{number}", table["what"], "percent"))
        for size, value in published_efficiency(table["path"]).items():
            rows.setdefault(size, {"world_size": size})[f"published_{number}"] = value
    shown = tuple(row for size, row in sorted(rows.items()) if size > 1)
    sources = ", ".join(f"[{table['file']}](../{table['file']})" for table in entry.published)
    return f"Beside published points (total rate, one run per point, no intervals; {sources}):\n\n" + markdown(
        Table("published", "Published", tuple(columns), shown)
    )


def published_efficiency(path: Path) -> dict[int, float]:
    """Return the efficiency of the total rate by world size, of a table with one curve; RecordError if it has none."""
    found = curves(read_any(path))
    series = found[0].series("total_fps") if len(found) == 1 else None
    if series is None:
        raise RecordError(f"{path}: expected one curve with total rates")
    sizes = (round(float(size)) for size in series.world_sizes)
    return dict(zip(sizes, map(float, series.efficiency), strict=True))


def _limits(found: Limits, analysis: Analysis) -> list[str]:
    sizes = [int(row["world_size"]) for row in found.sizes]
    last = sizes[-1]
    whole = found.parts[-1]
    columns = [Column("name", "Part of an iteration", "text")]
    columns += [Column(f"s_{size}", f"{ranks(size, analysis.device)}, ms", "ms") for size in sizes]
    columns += [
        Column("ideal_s", f"Ideal on {last}, ms", "ms"),
        Column("excess_s", "Excess, ms", "ms"),
        Column("share", "Share of the excess %", "percent"),
        Column("fixed_s", "Stays at any size, ms", "ms", bounds=True),
    ]
    rows = tuple({**row, "name": PART_NAMES[row["part"]]} for row in found.parts)
    largest = sorted((row for row in found.parts[:-1] if known(row["share"])), key=lambda row: -row["share"])[:3]
    named = ", ".join(
        f"{PART_NAMES[row['part']].partition(' (')[0]} {row['share'] * 100:.0f}\u202f%" for row in largest
    )
    where, ideal = ranks(last, analysis.device), show(whole["ideal_s"], "ms")
    took, excess = show(whole[f"s_{last}"], "ms"), show(whole["excess_s"], "ms")
    text = (
        f"What limits it: an iteration takes {took} ms on {where} where ideal scaling of the one on {sizes[0]} gives "
        f"{ideal} ms (device-complete iterations). Of the excess of {excess} ms, the largest parts are {named}."
    )
    flat = [
        PART_NAMES[row["part"]].partition(" (")[0]
        for row in found.parts[:-1]
        if row["part"] not in ("communication", "rest")  # nothing to shrink
        and row[f"s_{sizes[0]}"] > 0
        and row[f"s_{last}"] >= 0.9 * row[f"s_{sizes[0]}"]
    ]
    if flat:
        text += (
            f" Shrinks by less than a tenth, although each GPU has 1/{last // sizes[0]} of the work: {', '.join(flat)}."
        )
    return [text, markdown(Table("limits", "Limits", tuple(columns), rows)), _ranks(found, analysis)]


def _ranks(found: Limits, analysis: Analysis) -> str:
    """Return the counts: collectives, bookkeeping of rank 0, use of the GPUs, threads."""
    use = {row["world_size"]: row["gpu_util_pct"] for row in analysis.rows}
    columns = (
        Column("world_size", "GPUs" if analysis.device == "cuda" else "Ranks", "plain"),
        Column("collectives", "Collectives per iteration", "plain"),
        Column("collectives_per_step", "per optimiser step", "number"),
        Column("communication_s", "Host time in them, ms", "ms"),
        Column("rank0_rollout_s", "Roll-out of rank 0 longer by, ms", "ms"),
        Column("between_rank0_s", "Between iterations, rank 0, ms", "ms"),
        Column("between_others_s", "other ranks, ms", "ms"),
        Column("gpu_use", "GPU use %", "pct"),
        Column("rank_use", "CPU use of a rank, % of a core", "pct"),
        Column("threads", "Threads per rank", "plain"),
        Column("cores", "Cores allowed", "plain"),
    )
    busy = _rank_use(analysis)
    rows = tuple(
        {**row, "gpu_use": use.get(row["world_size"]), "rank_use": busy.get(row["world_size"])} for row in found.sizes
    )
    return markdown(Table("ranks", "Counts", columns, rows))


def _rank_use(analysis: Analysis) -> dict[int, float]:
    """Return the mean CPU use of a rank's process in percent of a core, by world size, over the measured windows."""
    loaded, found = analysis.loaded, defaultdict(list)
    ranks_only = loaded.samples[loaded.samples["source"] == "rank"]
    sizes = loaded.runs["world_size"].dropna().astype(int)
    for run, flags in analysis.summaries["flags"].items():
        number = int(str(run))
        begin_s, end_s = window_unix_s(loaded, analysis.arrays[number])
        own = ranks_only[(ranks_only["run"] == number) & ranks_only["unix_s"].between(begin_s, end_s)]
        if not flags and own["cpu_pct"].notna().any():
            found[int(sizes[number])].append(float(own["cpu_pct"].mean()))
    return {size: sum(values) / len(values) for size, values in found.items()}


def _energy(analysis: Analysis) -> str:
    rows = [row for row in analysis.rows if known(row["energy_j_per_million_frames"])]
    if len(rows) < 2:
        return ""
    first, last = rows[0], rows[-1]
    ratio = last["energy_j_per_million_frames"] / first["energy_j_per_million_frames"]
    return (
        f"Energy of the GPUs: {show(first['energy_j_per_million_frames'], 'number')} J per million frames on "
        f"{ranks(first['world_size'], analysis.device)}, {show(last['energy_j_per_million_frames'], 'number')} J on "
        f"{ranks(last['world_size'], analysis.device)} ({ratio:.2f} times as much)."
    )
