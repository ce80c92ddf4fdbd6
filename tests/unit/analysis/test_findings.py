"""docs/findings.md is what its records give, and the records that it names are small."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from paceline.analysis import findings_text
from paceline.analysis.findings import (
    DOCUMENT,
    FIGURES,
    MANIFEST,
    README,
    digest,
    fill,
    main,
    make,
    read_manifest,
    stale,
)
from paceline.analysis.load import load_study
from paceline.analysis.report import Analysis
from paceline.bench.errors import RecordError
from paceline.bench.record import Case
from paceline.bench.rundir import StudyDir, read_json

from tests.synthetic import Recipe, write_study
from tests.unit.analysis.test_tuning_results import tuning_study

ROOT = Path(__file__).resolve().parents[3]
MAX_RECORDS_BYTES = 5_000_000


def test_the_committed_findings_are_what_the_records_give() -> None:
    assert stale(ROOT, make(ROOT)) == [], "`make findings` writes them again; read the difference"


def test_the_records_are_small() -> None:
    manifest = read_manifest(ROOT / MANIFEST)
    places = {ROOT / entry.folder for entry in manifest.entries}  # traces are no records: test_real_captures.py
    others = [entry for entries in manifest.others.values() for entry in entries]
    for entry in others:
        pairs = [side for pair in entry.get("pairs", ()) for side in (pair["a"], pair["b"])]
        places |= {ROOT / folder for folder in entry.get("folders") or pairs or [entry["folder"]]}
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*")) if file.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_RECORDS_BYTES


def test_the_use_of_a_core_by_ranks_is_that_of_their_samples() -> None:
    """Against a reading of the files by hand: one run a size, whose kept samples all lie in its iterations."""
    folder = ROOT / "tests/data/h200/strong_ant_rsl_rl_other_host"
    lines = findings_text.section(
        next(entry for entry in read_manifest(ROOT / MANIFEST).entries if entry.folder.endswith("_other_host")),
        Analysis(load_study(folder)),
        {},
    ).splitlines()
    head, _, *rows = lines[next(n for n, line in enumerate(lines) if "CPU use of a rank" in line) :]
    column = [cell.strip() for cell in head.split("|")].index("CPU use of a rank, % of a core")
    shown = {int(cells[1]): float(cells[column]) for cells in (row.split("|") for row in rows[:3])}
    for run in StudyDir(folder).all_runs():
        case = Case.from_json(read_json(run.case_json))
        ranks = [[json.loads(line) for line in path.read_text().splitlines()] for path in run.rank_files()]
        kept = [line for line in ranks[0] if isinstance(line, list) and not line[2]]
        begin_s = ranks[0][0]["clock_origin_unix_s"] + kept[0][3]
        header, *samples = (json.loads(line) for line in run.samples_files()[0].read_text().splitlines())
        late = [s for s in samples if "t_s" in s and header["clock_origin_unix_s"] + s["t_s"] >= begin_s]
        used = [rank["cpu_pct"] for sample in late for rank in sample["ranks"]]
        if case.kind != "warmup":
            assert shown[case.world_size] == pytest.approx(sum(used) / len(used), abs=0.06)


def test_figures_are_pictures() -> None:
    files = sorted((ROOT / FIGURES).glob("*"))
    assert files
    for path in files:
        start = path.read_bytes()[:200]
        assert start.startswith(b"\x89PNG") if path.suffix == ".png" else b"<svg" in start
    assert "1.26" in (ROOT / FIGURES / "strong_ant_rsl_rl-speedup.svg").read_text()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with one study."""
    (tmp_path / "docs").mkdir()
    shutil.copytree(ROOT / "tests/data/h200/strong_ant_rsl_rl", tmp_path / "records")
    manifest = (ROOT / MANIFEST).read_text().partition("\n  - name: strong_ant_rsl_rl_other_host")[0] + "\n"
    (tmp_path / MANIFEST).write_text(manifest.replace("tests/data/h200/strong_ant_rsl_rl", "records"))
    (tmp_path / README).write_text("# R\n<!-- findings:headline -->\n<!-- /findings -->\nown\n")
    end = "<!-- /findings -->\n"
    text = f"# F\n<!-- findings:summary -->\nto be replaced\n{end}own\n<!-- findings:studies -->\n{end}"
    text += f"<!-- findings:traces -->\n{end}"
    (tmp_path / DOCUMENT).write_text(text)
    return tmp_path


def test_made_again_only_where_records_changed(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", str(checkout)]) == 1
    assert "docs/findings.md is not what the records give" in capsys.readouterr().out
    assert main([str(checkout)]) == 0
    assert main(["--check", str(checkout)]) == 0
    text = (checkout / DOCUMENT).read_text()
    assert "to be replaced" not in text
    assert "\nown\n" in text
    assert "efficiency 31.6\u202f%" in (checkout / README).read_text()
    figure = checkout / FIGURES / "strong_ant_rsl_rl-speedup.svg"
    figure.write_text("kept: what it draws is the same")
    (checkout / FIGURES / "stray.svg").write_text("<svg>")
    assert main([str(checkout)]) == 0
    assert figure.read_text().startswith("kept")
    assert not (checkout / FIGURES / "stray.svg").exists()
    victim = next(path for path in (checkout / "records" / "runs").glob("*/*") if (path / "rank-0003.jsonl").exists())
    shutil.rmtree(victim)
    assert main(["--check", str(checkout)]) == 1
    assert main([str(checkout)]) == 0
    assert figure.read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    folder: records\n", "", "study 1: folder is missing"),
        ("folder: records", "fodler: records", "study 1: folder is missing"),
        ("    date:", "    place: x\n    date:", "study 1: unknown key 'place'"),
        ("headline: strong_ant_rsl_rl", "headline: other", "headline is 'other'; it must be one of strong_ant_rsl_rl"),
        ("paceline.findings/1", "paceline.findings/2", "expected schema: paceline.findings/1"),
        ("name: strong_ant_rsl_rl", "name: Strong Ant", "names are lower-case letters"),
        ("studies:", "studies: [", "cannot be read"),
        ("studies:", "traces: [{file: x}]\nstudies:", "traces: expected a list of title, file or captures"),
        ("    date:", "    published: [{what: x}]\n    date:", "published: expected a list of what and file"),
    ],
)
def test_a_wrong_manifest_is_told_in_one_line(
    checkout: Path, old: str, new: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkout / MANIFEST
    path.write_text(path.read_text().replace(old, new, 1))
    assert main([str(checkout)]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_studies_of_every_kind_have_a_section(checkout: Path) -> None:
    tuning_study(checkout / "levers", repeats=3)
    write_study(checkout / "weak", Recipe(kind="weak", world_sizes=(1, 2), repeats=2, num_envs=1024))
    shutil.copyfile(ROOT / "analysis/examples/weak_scaling_ant_l40.csv", checkout / "ant.csv")
    entry = "  - {{name: {0}, folder: {0}, title: The {0}, host: here, date: 2026-01-01, command: none{1}}}\n"
    further = ", published: [{what: L40, file: ant.csv}]"
    with open(checkout / MANIFEST, "a") as stream:
        stream.write(entry.format("levers", "") + entry.format("weak", further))
    made = make(checkout)
    text = made.texts[DOCUMENT]
    levers = text.partition("### The levers")[2].partition("### The weak")[0]
    assert "| affinity | all | 6 |" in levers
    assert not any(name.startswith("levers") for name in made.charts)
    assert "[The levers]" not in text  # it is no curve
    weak = text.partition("### The weak")[2]
    assert "What limits it" not in weak
    assert "| 8 | \u2014 | 67.6 |" in weak
    assert "weak-speedup" in made.charts
    assert "[The weak](#the-weak)" in text


def test_a_document_without_its_marker_is_refused() -> None:
    with pytest.raises(RecordError, match="expected one <!-- findings:summary -->"):
        fill("# F\n", {"summary": "x"}, DOCUMENT)


def test_the_hash_of_a_figure_sees_numbers_and_not_their_last_digits() -> None:
    first = digest({"data": [0.123456789]})
    assert first == digest({"data": [0.123456788]})
    assert first != digest({"data": [0.1235]})
