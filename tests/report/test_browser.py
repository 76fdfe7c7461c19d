"""The page in a real browser, on a desk and on a telephone, with the network refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

EMPTY = """() => [...document.querySelectorAll('svg, img')].filter(e => {
    const box = e.getBoundingClientRect(); return box.width < 20 || box.height < 20}).length"""
WIDTHS = "() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
SMALLEST_TEXT = """() => Math.min(...[...document.querySelectorAll('svg text')].map(
    e => e.getBoundingClientRect()).filter(b => b.width).map(b => Math.min(b.width, b.height)))"""


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_is_whole_at_each_width(
    browser: Browser,
    experiment: Path,
    written: Callable[[Path], Path],
    tmp_path: Path,
    width: int,
    scheme: str,
) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 900}, offline=True, color_scheme=scheme
    )
    page = context.new_page()
    troubles: list[str] = []
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("requestfailed", lambda request: troubles.append(request.url))
    page.goto(written(experiment).as_uri())
    page.screenshot(path=tmp_path / f"report-{width}-{scheme}.png", full_page=True)

    scrolled, shown = page.evaluate(WIDTHS)
    assert scrolled <= shown, f"the page scrolls sideways: {scrolled} > {shown}"
    assert page.locator("svg").count() > 10
    assert page.evaluate(EMPTY) == 0
    assert page.evaluate(SMALLEST_TEXT) >= 5, "text in a figure is too small to be read"
    for hero in page.locator(".hero strong").all():
        box = hero.bounding_box()
        assert hero.is_visible() and box and box["x"] >= 0 and box["x"] + box["width"] <= width
    assert not troubles
    context.close()


def test_configuration_opens_on_demand(
    browser: Browser, segmentation: Path, written: Callable[[Path], Path]
) -> None:
    page = browser.new_page()
    page.goto(written(segmentation).as_uri())
    text = page.get_by_text("weight_decay: 0.05")
    assert not text.is_visible()
    page.get_by_text("optim.yaml").click()
    assert text.is_visible()
    page.close()
