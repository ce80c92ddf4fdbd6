"""The trace report in a real browser: its picture, its tables, both colour schemes, a narrow window, paper."""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from pathlib import Path

import pytest
from paceline.analysis import trace, trace_report
from playwright.sync_api import Browser, sync_playwright

pytestmark = pytest.mark.browser
CAPTURE = Path(__file__).resolve().parents[1] / "data" / "nsys" / "cartpole_h200_graph.sqlite.xz"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trace")
    path = folder / "capture.sqlite"
    path.write_bytes(lzma.decompress(CAPTURE.read_bytes()))
    return trace_report.write(trace.analyse(path), folder / "report")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_page(browser: Browser, page_file: Path, scheme: str, width: int) -> None:
    """No error in the console, nothing wider than the window, and a picture whose texts stay inside their boxes."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(page_file.as_uri())
    assert page.inner_text("h1").startswith("Host-bound: the GPU idles")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.locator("svg.timeline rect").count() > 100
    outside = page.evaluate(
        """() => [...document.querySelectorAll('svg.timeline g')].filter(function (group) {
            const text = group.querySelector('text'), box = group.querySelector('rect').getBoundingClientRect();
            return text && text.getBoundingClientRect().right > box.right + 1;
        }).map(group => group.textContent)"""
    )
    assert outside == []
    ink = page.evaluate("getComputedStyle(document.querySelector('svg.timeline text')).fill")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ink != paper and (paper == "rgb(255, 255, 255)") == (scheme == "light")
    assert errors == []
    context.close()


def test_tables_sort(browser: Browser, page_file: Path) -> None:
    page = browser.new_page()
    page.goto(page_file.as_uri())
    page.click("#table-ranges th[data-key=gpu_busy_s] button")
    values = page.eval_on_selector_all(
        "#table-ranges tbody tr", "rows => rows.map(row => Number(row.cells[5].dataset.value))"
    )
    assert len(values) == 7 and values == sorted(values)
    page.close()
