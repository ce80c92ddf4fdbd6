"""The report in a real browser: charts, tables, colour schemes, keyboard, narrow windows, paper."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from paceline.analysis.report import write_report
from paceline.bench.rundir import StudyDir
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

from tests.synthetic import Recipe, case_of, write_failure, write_run, write_study

CHROMIUM = Path("/usr/bin/chromium")
RECORDED = Path(__file__).parents[1] / "data" / "h200" / "strong_ant_rsl_rl"

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM.is_file(), "tests of the report need Chromium (apt-get install chromium)"
    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    recipe = Recipe(world_sizes=(1, 2, 4, 8), repeats=3, iterations=40)
    write_study(folder, recipe)
    hollow = StudyDir(folder).run(case_of(recipe, 8, 3).case_id, 1)
    write_run(hollow, recipe, 8, 3, np.random.default_rng(1), throttle=True, factor=1.4)
    write_failure(
        StudyDir(folder).run(case_of(recipe, 8, 4).case_id, 1), case_of(recipe, 8, 4), "oom_device", "no memory"
    )
    return write_report(folder)


def open_page(browser: Browser, report: Path, scheme: str = "light", width: int = 1200) -> Page:
    """Return the page with its charts drawn; fails on any console message, script error or request to elsewhere."""
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})  # type: ignore[arg-type]
    page = context.new_page()
    trouble: list[str] = []

    def said(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            trouble.append(message.text)

    def asked(request: Request) -> None:
        if request.url != report.as_uri():
            trouble.append(request.url)

    page.on("console", said)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", asked)
    page.goto(report.as_uri())
    page.wait_for_function("document.documentElement.dataset.charts", timeout=60_000)
    assert page.evaluate("document.documentElement.dataset.charts") == "drawn"
    assert trouble == []
    return page


def test_charts_are_drawn(browser: Browser, report: Path) -> None:
    page = open_page(browser, report)
    charts = page.locator(".chart")
    assert charts.count() >= 16
    for chart in charts.all():
        box = chart.locator("svg").bounding_box()
        assert box and box["width"] > 200 and box["height"] > 90
    # four medians, fifteen single runs, one of them hollow
    assert page.locator("#speedup-0 .mark-text text").filter(has_text="n\u2009=\u20093").count() == 4
    hollow = page.locator("#speedup-0 path[aria-roledescription='point'][stroke='var(--c2)']")
    assert hollow.count() == 1


def overlaps(page: Page, chart: str) -> list[str]:
    """Return the pairs of texts in a chart whose boxes overlap."""
    found: list[str] = page.evaluate(
        """id => {
            const seen = t => t.textContent.trim() && t.getBoundingClientRect().width
                && getComputedStyle(t).opacity !== "0" && t.getAttribute("opacity") !== "0";
            const texts = Array.from(document.querySelectorAll(`#${id} svg text`)).filter(seen);
            const boxes = texts.map(t => [t.textContent, t.getBoundingClientRect()]);
            const found = [];
            for (let i = 0; i < boxes.length; i++) for (let j = i + 1; j < boxes.length; j++) {
                const [a, p] = boxes[i], [b, q] = boxes[j];
                const x = Math.min(p.right, q.right) - Math.max(p.left, q.left);
                const y = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
                if (x > 1 && y > 4) found.push(`${a} | ${b}`);
            }
            return found;
        }""",
        chart,
    )
    return found


@pytest.mark.parametrize("width", [1200, 400])
@pytest.mark.parametrize("source", ["simulated", "recorded"])
def test_no_texts_overlap_and_nothing_sticks_out(
    browser: Browser, report: Path, tmp_path: Path, source: str, width: int
) -> None:
    if source == "recorded":
        import shutil

        shutil.copytree(RECORDED, tmp_path / "study")
        report = write_report(tmp_path / "study")
    page = open_page(browser, report, width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for chart in page.locator(".chart").all():
        name = chart.get_attribute("id")
        assert name is not None
        assert overlaps(page, name) == [], name
        clipped = page.evaluate(
            """id => { const s = document.querySelector(`#${id} svg`).getBoundingClientRect();
                return Array.from(document.querySelectorAll(`#${id} svg text`)).filter(t => t.textContent.trim())
                    .map(t => [t.textContent, t.getBoundingClientRect()])
                    .filter(([, r]) => r.width && (r.left < s.left - 1 || r.right > s.right + 1)).map(([t]) => t); }""",
            name,
        )
        assert clipped == [], name


def column(page: Page, table: str, key: str) -> list[str]:
    found: list[str] = page.evaluate(
        """([table, key]) => { const t = document.querySelector(`#table-${table} table`);
            const i = Array.from(t.tHead.rows[0].cells).findIndex(c => c.dataset.key === key);
            return Array.from(t.tBodies[0].rows).map(r => r.cells[i].dataset.value); }""",
        [table, key],
    )
    return found


def test_tables_sort_by_mouse_and_keyboard(browser: Browser, report: Path) -> None:
    page = open_page(browser, report)
    button = page.locator("#table-runs th[data-key=total_fps] button")
    button.click()
    values = column(page, "runs", "total_fps")
    known = [float(value) for value in values if value]
    assert known == sorted(known) and len(known) == 13
    assert values[: len(known)] == [value for value in values if value]  # unknown ones come last
    button.focus()
    page.keyboard.press("Enter")
    known = [float(value) for value in column(page, "runs", "total_fps") if value]
    assert known == sorted(known, reverse=True)
    assert page.locator("#table-runs th[aria-sort]").count() == 1
    page.locator("#table-runs th[data-key=status] button").click()
    states = column(page, "runs", "status")
    assert states == sorted(states)


def test_copy_gives_csv_in_full_precision(browser: Browser, report: Path) -> None:
    page = open_page(browser, report)
    page.evaluate(
        "Object.defineProperty(navigator, 'clipboard', "
        "{value: {writeText: t => { window.copied = t; return Promise.resolve(); }}})"
    )
    page.evaluate("Object.defineProperty(window, 'isSecureContext', {value: true})")
    button = page.locator("#table-scaling .copy")
    button.click()
    page.wait_for_function("window.copied")
    rows = list(csv.DictReader(io.StringIO(page.evaluate("window.copied"))))
    with (report.parent / "scaling.csv").open(newline="") as stream:
        expected = list(csv.DictReader(stream))
    assert [row["total_fps"] for row in rows] == [row["total_fps"] for row in expected]
    assert button.text_content() == "Copied"


def luminance(colour: str) -> float:
    red, green, blue = (int(value) / 255 for value in re.findall(r"\d+", colour)[:3])
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (red, green, blue)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_schemes_reach_page_and_charts(browser: Browser, report: Path, scheme: str) -> None:
    page = open_page(browser, report, scheme)
    style = "e => getComputedStyle(e)"
    paper = page.evaluate(f"({style})(document.body).backgroundColor")
    assert (luminance(paper) < 0.2) == (scheme == "dark")
    for selector, prop, least in (
        ("h1", "color", 7.0),
        ("figcaption", "color", 4.5),
        ("th button", "color", 4.5),
        (".ci", "color", 4.5),
        ("#speedup-0 .role-axis-label text", "fill", 4.5),
        ("#speedup-0 .mark-text text", "fill", 4.5),
        ("#speedup-0 .mark-line path", "stroke", 3.0),
    ):
        found = page.evaluate(f"([s, p]) => ({style})(document.querySelector(s))[p]", [selector, prop])
        assert contrast(found, paper) >= least, (selector, found, paper)


def test_everything_is_within_reach_of_the_keyboard(browser: Browser, report: Path) -> None:
    page = open_page(browser, report)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.url.endswith("#scaling")
    reached = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.tagName"))
    assert {"BUTTON", "DIV"} <= reached
    assert page.evaluate("Array.from(document.querySelectorAll('svg')).every(s => s.closest('[id]'))")
    assert page.evaluate(
        "Array.from(document.querySelectorAll('.chart svg')).every(s => s.querySelector('[aria-label]'))"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_prints_on_white_paper(browser: Browser, report: Path, tmp_path: Path, scheme: str) -> None:
    page = open_page(browser, report, scheme)
    page.emulate_media(media="print")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert luminance(paper) > 0.9
    assert contrast(page.evaluate("getComputedStyle(document.querySelector('h1')).color"), paper) > 7
    label = page.evaluate("getComputedStyle(document.querySelector('#speedup-0 .role-axis-label text')).fill")
    assert contrast(label, paper) >= 4.5
    assert not page.locator(".copy").first.is_visible()
    pdf = page.pdf(prefer_css_page_size=True)
    assert pdf.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 14
