"""The report's files: the same numbers everywhere, safe with hostile text, whatever state a study is in."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from paceline.analysis.bundle import javascript
from paceline.analysis.load import load_study
from paceline.analysis.page import html
from paceline.analysis.report import Analysis, report_data, terminal_table, write_report
from paceline.bench.errors import RecordError
from paceline.bench.rundir import StudyDir

from tests.synthetic import Recipe, case_of, write_failure, write_run, write_study, write_study_yaml

HOSTILE = "</script><script>alert('x')</script> & <b>bold</b> | [link](http://example.invalid) `code`"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_study(folder, Recipe(world_sizes=(1, 2, 4), iterations=40))
    write_report(folder)
    return folder


class Page(HTMLParser):
    """Collects the cells of every table by table name, and everything that a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.keys: dict[str, list[str]] = {}
        self.fetched: list[str] = []
        self.scripts = 0
        self.numbers: dict[str, str] = {}
        self._table = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.scripts += tag == "script"
        if values.get("id", "").startswith("table-"):
            self._table = values["id"].removeprefix("table-")
            self.tables[self._table], self.keys[self._table] = [], []
        if tag == "th":
            self.keys[self._table].append(values["data-key"])
        if tag == "tr":
            self.tables.setdefault(self._table, []).append([])
        if tag == "td":
            self.tables[self._table][-1].append(values["data-value"])
        if tag == "div" and values.get("class") == "number":
            self.numbers[values["data-key"]] = values.get("data-value", "")
        self.fetched += [values[name] for name in ("src", "href") if name in values]


def test_same_numbers_in_html_csv_and_json(study: Path) -> None:
    report = StudyDir(study).report
    page = Page((report / "index.html").read_text(encoding="utf-8"))
    with (report / "scaling.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    data = json.loads((report / "report.json").read_text())
    assert [row["world_size"] for row in table] == ["1", "2", "4"]
    for number, row in enumerate(table):
        for key, text in row.items():
            value = data["scaling"][number][key]
            assert text == ("" if value is None else str(value)), key
    compared = 0
    sized = ("scaling", "rates", "parts", "losses", "between_ranks", "resources", "serial", "learning")
    for name in sized:
        for cells in filter(None, page.tables[name]):
            row = next(row for row in table if row["world_size"] == cells[0])
            for key, cell in zip(page.keys[name], cells, strict=True):
                if key in row:
                    assert cell == row[key], (name, key)
                    compared += 1
    assert compared > 130
    for name, key_in_json in (("laws", "laws"), ("findings", "findings"), ("runs", "runs")):
        with (report / f"{name}.csv").open(newline="") as stream:
            listed = list(csv.DictReader(stream))
        assert len(listed) == len(data[key_in_json])
        for found, row in zip(data[key_in_json], listed, strict=True):
            for key, text in row.items():
                value = found[key] if not isinstance(found[key], list) else " ".join(map(str, found[key]))
                assert text == ("" if value is None else str(value)), (name, key)
        shown = [cells for cells in page.tables.get(name, []) if cells]
        assert len(shown) == len(listed)
        for cells, row in zip(shown, listed, strict=True):
            assert cells == [row[key] for key in page.keys[name]], name
    assert len(data["laws"]) == 3 and data["laws"][0]["law"] == "Amdahl" and data["laws"][0]["value"] > 0
    for key, exact in page.numbers.items():
        assert exact == table[-1][key]
    assert set(page.numbers) == {"speedup", "efficiency", "total_fps"}
    assert report_data(study)["scaling"] == data["scaling"]


NUMBER = r"-?\d[\d,]*(?:\.\d+)?"
# What the exact numbers, in SI units, are multiplied with for print: percent, milli, micro; and the prefixes of print.
SCALES = (1.0, 100.0, 1e3, 1e6, 1e-3, 1e-6, 1e-9, 1 / 3600, 2.0**-30)


def rounds_to(shown: str, exact: float) -> bool:
    """Whether a printed number is the exact one, in some unit, to the digits that it prints."""
    value = float(shown.replace(",", ""))
    last_digit = 10.0 ** -len(shown.partition(".")[2])
    return any(abs(value - exact * scale) <= 0.501 * last_digit for scale in SCALES)


def test_printed_numbers_are_the_exact_ones_rounded(study: Path) -> None:
    """What a reader sees in a cell is what the data attribute holds: in every table, intervals included."""
    report = StudyDir(study).report
    text = (report / "index.html").read_text(encoding="utf-8")
    cells = re.findall(rf'<td[^>]*data-value="(-?\d[\d.e+-]*)"[^>]*>({NUMBER})(?=<)', text)
    assert len(cells) > 250
    for exact, shown in cells:
        assert rounds_to(shown, float(exact)), (shown, exact)
    found = re.findall(rf'data-value="([\d.]+)">({NUMBER})<span class="ci">({NUMBER})\u2013({NUMBER})', text)
    with (report / "scaling.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    bounds = {
        row[name]: (float(row[f"{name}_low"]), float(row[f"{name}_high"]))
        for row in rows
        for name in row
        if f"{name}_low" in row and row[name]
    }
    with (report / "laws.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            for name, low, high in (
                ("value", "low", "high"),
                ("next_speedup", "next_speedup_low", "next_speedup_high"),
            ):
                if row[low]:
                    bounds[row[name]] = (float(row[low]), float(row[high]))
    compared = 0
    for exact, _, low, high in found:
        if exact != "1.0":  # speed-up and efficiency of the reference
            assert rounds_to(low, bounds[exact][0]) and rounds_to(high, bounds[exact][1]), (exact, low, high)
            compared += 1
    assert compared > 8


def test_charts_draw_the_numbers_of_the_table(study: Path) -> None:
    report = StudyDir(study).report
    text = (report / "index.html").read_text(encoding="utf-8")
    specs = re.search(r'<script type="application/json" id="specs">(.*?)</script>', text, re.S)
    assert specs
    charts = json.loads(specs.group(1))
    with (report / "scaling.csv").open(newline="") as stream:
        rows = {int(row["world_size"]): row for row in csv.DictReader(stream)}
    with (report / "runs.csv").open(newline="") as stream:
        rates = sorted(float(row["total_fps"]) for row in csv.DictReader(stream) if row["counts"] == "True")
    for name, scale in (("speedup", 1.0), ("efficiency", 100.0)):
        data = [layer["data"]["values"] for layer in charts[f"{name}-0"]["layer"]]
        (medians, *_) = [values for values in data if values and "low" in values[0] and len(values) == len(rows)]
        for point in medians:
            row = rows[point["world_size"]]
            for key, column in (("value", name), ("low", f"{name}_low"), ("high", f"{name}_high")):
                assert point[key] == pytest.approx(scale * float(row[column]), rel=1e-12)
            assert rounds_to(re.findall(NUMBER, point["text"])[0], float(row[name]))
        (runs,) = [values for values in data if values and "hollow" in values[0]]
        base = float(rows[1]["total_fps"]) / scale
        drawn = [point["value"] * base * (1 if name == "speedup" else point["world_size"]) for point in runs]
        assert sorted(drawn) == pytest.approx(rates, rel=1e-9)


def test_page_needs_no_network_and_stays_small(study: Path) -> None:
    path = StudyDir(study).report / "index.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert path.stat().st_size < 3_000_000
    assert sorted(set(page.fetched)) == [
        *("#scaling", "findings.csv", "laws.csv", "report.json", "report.md", "runs.csv", "scaling.csv")
    ]
    assert page.scripts == 3


def test_page_of_a_large_study_stays_small(tmp_path: Path) -> None:
    recipe = Recipe(world_sizes=(1, 2, 4, 8), repeats=3, iterations=600, warmup_iterations=50)
    write_study(tmp_path, recipe)
    assert write_report(tmp_path).stat().st_size < 2_000_000


def test_markdown_holds_the_table_and_the_verdict(study: Path) -> None:
    text = (StudyDir(study).report / "report.md").read_text(encoding="utf-8")
    data = json.loads((StudyDir(study).report / "report.json").read_text())
    assert data["verdict"]["headline"] in text
    assert f"| 4 | 16,384 | 4,096 | 524,288 | 3 | {data['scaling'][2]['total_fps']:,.0f} (" in text


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    recipe = Recipe(world_sizes=(1, 2), repeats=1, iterations=20, warmup_iterations=5, task=HOSTILE, gpu_name=HOSTILE)
    recipe.study["name"] = HOSTILE
    write_study(tmp_path, recipe)
    case = case_of(recipe, 2, 7)
    write_failure(StudyDir(tmp_path).run(case.case_id, 1), case, "error", HOSTILE)
    return tmp_path


def test_text_from_files_is_only_text(hostile: Path) -> None:
    page = write_report(hostile)
    text = page.read_text(encoding="utf-8")
    assert HOSTILE not in text
    assert "<b>bold" not in text and "<script>alert" not in text
    assert Page(text).scripts == 3
    markdown = (page.parent / "report.md").read_text(encoding="utf-8")
    assert "<script" not in markdown and "<b>" not in markdown
    assert not re.search(r"(?<!\\)\]\(http", markdown)
    rows = [line for line in markdown.splitlines() if "bold" in line and line.startswith("|")]
    assert rows and all(len(re.findall(r"(?<!\\)\|", row)) == 13 for row in rows)


def test_failures_are_listed_with_cause(tmp_path: Path) -> None:
    recipe = Recipe(world_sizes=(1, 2), repeats=2, iterations=20, warmup_iterations=5)
    write_study_yaml(tmp_path, recipe)
    folder, rng = StudyDir(tmp_path), np.random.default_rng(0)
    write_run(folder.run(case_of(recipe, 1, 0).case_id, 1), recipe, 1, 0, rng)
    write_failure(
        folder.run(case_of(recipe, 2, 0).case_id, 1), case_of(recipe, 2, 0), "oom_device", "CUDA out of memory"
    )
    write_run(folder.run(case_of(recipe, 2, 0).case_id, 2), recipe, 2, 0, rng)
    page = write_report(tmp_path)
    data = json.loads((page.parent / "report.json").read_text())
    by_status = {(row["world_size"], row["repeat"], row["attempt"]): row for row in data["runs"]}
    assert by_status[2, 0, 1]["status"] == "failed" and by_status[2, 0, 1]["cause"] == "oom_device"
    assert by_status[2, 0, 2]["counts"]
    missing = [key for key, row in by_status.items() if row["status"] == "missing"]
    assert sorted(missing) == [(1, 1, None), (2, 1, None)]
    for name in ("index.html", "report.md", "runs.csv"):
        assert "CUDA out of memory" in (page.parent / name).read_text(encoding="utf-8").replace("\\_", "_"), name
    assert data["verdict"]["tone"] == "inconclusive"
    assert any(note.startswith("n=1, no interval at world size 1, 2") for note in data["notes"])


@pytest.mark.parametrize("runs", ["none", "failed only", "one size", "no samples, no sync"])
def test_every_state_of_a_study_has_a_report(tmp_path: Path, runs: str) -> None:
    recipe = Recipe(world_sizes=(1, 2), repeats=2, iterations=20, warmup_iterations=5, device="cpu", samples=False)
    recipe.sync_every = 0
    if runs == "no samples, no sync":
        write_study(tmp_path, recipe)
    else:
        write_study_yaml(tmp_path, recipe)
    folder = StudyDir(tmp_path)
    if runs == "failed only":
        case = case_of(recipe, 1, 0)
        write_failure(folder.run(case.case_id, 1), case, "error", "no such task")
    if runs == "one size":
        for repeat in (0, 1):
            run = folder.run(case_of(recipe, 1, repeat).case_id, 1)
            write_run(run, recipe, 1, repeat, np.random.default_rng(repeat))
    page = write_report(tmp_path)
    assert page.is_file()
    headline = json.loads((page.parent / "report.json").read_text())["verdict"]["headline"]
    expected = {
        "none": "No result yet: none of 0 runs has a number that counts.",
        "failed only": "No result yet: none of 1 runs has a number that counts.",
        "one size": "Only 1 CPU rank measured",
        "no samples, no sync": "2 CPU ranks train",
    }
    assert headline.startswith(expected[runs])
    assert headline in terminal_table(load_study(tmp_path))


def test_mixed_hardware_is_named(tmp_path: Path) -> None:
    recipe = Recipe(world_sizes=(1, 2), repeats=1, iterations=20, warmup_iterations=5)
    write_study(tmp_path, recipe)
    run = StudyDir(tmp_path).run(case_of(recipe, 2, 0).case_id, 1)
    for path in run.rank_files():
        path.write_text(path.read_text().replace(recipe.gpu_name, "NVIDIA A100"))
    analysis = Analysis(load_study(tmp_path))
    message = "GPU model differs: NVIDIA H100 80GB HBM3 / NVIDIA A100: the points are not of one curve"
    assert [finding.message for finding in analysis.findings if finding.id == "F-HW"] == [message]
    assert analysis.verdict.headline == f"No verdict: {message}." and analysis.verdict.tone == "none"
    assert analysis.verdict.details[0].startswith("What the numbers alone would say: ")
    page = Page(html(analysis, "now"))
    assert page.numbers == {} and page.tables["findings"][1][:2] == ["error", "F-HW"]


def test_report_that_cannot_be_written(study: Path, tmp_path: Path) -> None:
    write_study_yaml(tmp_path, Recipe())
    (tmp_path / "report").write_text("in the way")
    with pytest.raises(RecordError, match="report cannot be written"):
        write_report(tmp_path)


def test_bundle_is_cached_and_ends_no_script_element(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = javascript()
    assert "</script" not in text and "vegaEmbed" in text
    (cached,) = (tmp_path / "paceline").iterdir()
    cached.write_text("from the cache")
    assert javascript() == "from the cache"
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/no-such-place")
    assert javascript() == text


def test_figures_are_files_of_their_own(study: Path, tmp_path: Path) -> None:
    from paceline.analysis.figures import write_figures

    analysis = Analysis(load_study(study))
    paths = write_figures(analysis, tmp_path / "figures", ("svg",))
    names = [path.name for path in paths]
    assert "speedup-0.svg" in names and "parts-1.svg" in names
    for path in paths[:-1]:
        text = path.read_text(encoding="utf-8")
        assert text.startswith("<svg") and "var(--" not in text
    table = paths[-1].read_text(encoding="utf-8")
    assert paths[-1].name == "scaling.tex" and table.count(r" \\") == 4 and r"Efficiency \%" in table
    assert table.startswith(r"\begin{tabular}{rrrrrrrrrl}") and table.isascii()
    with pytest.raises(RecordError, match="no format 'bmp'; allowed are svg, pdf"):
        write_figures(analysis, tmp_path, ("bmp",))
