"""Headless Chromium for the tests of a page: started once a module, watched for what no page of ours may do."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("INSCAPE_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), "")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip
WAIT = 30_000  # milliseconds

Open = Callable[..., Any]


@contextlib.contextmanager
def launched() -> Iterator[Any]:
    """A browser; the test is skipped with a reason where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the page's tests need playwright")
    if not CHROMIUM:
        pytest.skip("no Chromium here; install it, or set INSCAPE_CHROMIUM to its path")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


@contextlib.contextmanager
def watched(browser: Any, address: str) -> Iterator[Open]:
    """Opens the page; afterwards it must have said nothing on the console and asked no other host."""
    trouble: list[str] = []
    opened = []

    def open_page(part: str = "", **how: Any) -> Any:
        page = browser.new_page(**({"viewport": {"width": 1200, "height": 900}} | how))
        opened.append(page)
        page.set_default_timeout(WAIT)
        page.on(
            "console", lambda message: trouble.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on(
            "request",
            lambda request: (
                trouble.append(request.url) if not request.url.startswith((address, "data:", "blob:")) else None
            ),
        )
        page.goto(address + part)
        page.wait_for_selector("html[data-ready]")
        return page

    yield open_page
    for one in opened:
        one.close()
    assert trouble == [] or all("status of 40" in line for line in trouble), trouble


def says(page: Any, text: str) -> None:
    """Wait until the picture says this."""
    words = "[...document.querySelectorAll('#said .word')].map((word) => word.firstChild.textContent)"
    page.wait_for_function(f"text => {words}.join(' ') === text", arg=text)


def paint(page: Any, size: int = 16) -> None:
    """A broad zigzag over all channels."""
    page.locator("#all-channels").check()
    page.locator("#size").fill(str(size))
    box = page.locator("#canvas").bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    for i in range(1, 9):
        page.mouse.move(box["x"] + 20 + i * 40, box["y"] + (20 if i % 2 else box["height"] - 20), steps=4)
    page.mouse.up()
