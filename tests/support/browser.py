"""A real, headless Chromium for tests of the report's page."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

ARGS = (
    "--no-sandbox",  # without it Chromium does not start as root
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


def chromium_file() -> str:
    """Chromium from PASSK_CHROMIUM or the path; a test says in a sentence that there is none."""
    found = os.environ.get("PASSK_CHROMIUM") or shutil.which("chromium")
    if not found or not Path(found).is_file():
        pytest.fail(
            "no Chromium for the tests of the report's page: run `make chromium` as root, or set "
            "PASSK_CHROMIUM to the file of an installed Chromium or Chrome",
            pytrace=False,
        )
    return found


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser, closed afterwards."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_file(), args=list(ARGS))
        try:
            yield browser
        finally:
            browser.close()


class Opened:
    """The page of a file with every figure drawn, and what went wrong or over the network."""

    def __init__(self, browser: Browser, file: Path, *, place: str = "", **settings) -> None:
        settings = {"viewport": DESKTOP, "color_scheme": "light"} | settings
        self.context = browser.new_context(offline=True, **settings)
        self.page: Page = self.context.new_page()
        self.said: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri() + place)
        self.wait()

    def wait(self) -> None:
        """Until every figure is drawn."""
        self.page.wait_for_function("document.documentElement.dataset.drawn", timeout=60_000)

    def count(self, selector: str) -> int:
        return self.page.locator(selector).count()


def on_phone(browser: Browser, file: Path, width: int = PHONE["width"], **settings) -> Opened:
    viewport = PHONE | {"width": width}
    touch = {"has_touch": True, "is_mobile": True, "device_scale_factor": 2}
    return Opened(browser, file, viewport=viewport, **touch, **settings)


def wider_than_the_window(opened: Opened) -> list[str]:
    """What makes the page, or the box of a figure, scroll sideways."""
    width = opened.page.viewport_size["width"]
    scroll_width = opened.page.evaluate("document.documentElement.scrollWidth")
    right = "f.plot.querySelector('.marks').getBoundingClientRect().right"
    box = "f.plot.getBoundingClientRect().right"
    wide = opened.page.evaluate(f"figures.filter((f) => {right} > {box} + 1).map((f) => f.name)")
    return [*wide, *([f"{scroll_width} px"] if scroll_width != width else [])]


def overlapping_texts(opened: Opened) -> list[str]:
    """Pairs of texts in one figure that lie on one another, or a text that its figure cuts off."""
    pairs: list[str] = opened.page.evaluate(
        """() => figures.flatMap(({ name, plot }) => {
          const svg = plot.querySelector('svg.marks');
          if (!svg) return [];
          const frame = svg.getBoundingClientRect();
          const texts = [...svg.querySelectorAll('text')]
            .filter((text) => text.textContent.trim() && text.getAttribute('opacity') !== '0')
            .map((text) => [text.textContent, text.getBoundingClientRect()]);
          const cut = texts.filter(([, box]) => box.left < frame.left - 1
            || box.right > frame.right + 1 || box.top < frame.top - 1
            || box.bottom > frame.bottom + 1).map(([text]) => `${name}: ${text} is cut off`);
          const on = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
            && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2;
          return cut.concat(texts.flatMap(([text, box], i) => texts.slice(i + 1)
            .filter(([, other]) => on(box, other))
            .map(([other]) => `${name}: ${text} on ${other}`)));
        })"""
    )
    return pairs
