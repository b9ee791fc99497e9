"""Fixtures of the tests in a real browser, which needs playwright and a Chromium: they run where ``NATSBRIDGE_BROWSER=1``.

``tox -e browser`` sets it and installs both, if it can. Where there is no Chromium the tests are skipped, but fail when
``CI`` is set.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Iterator, List

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page

    from .chromium import Demo

WANTED = os.environ.get("NATSBRIDGE_BROWSER") == "1"

collect_ignore_glob: List[str] = [] if WANTED else ["test_*.py"]


def pytest_report_header() -> str:
    return "browser: " + ("wanted" if WANTED else "left out unless named; set NATSBRIDGE_BROWSER=1 to run all of it")


@pytest.fixture(scope="session")
def demo() -> Iterator[Demo]:
    """The demo that all tests share."""
    from .chromium import Demo

    demo = Demo()
    yield demo
    assert demo.stop() == 0


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    from playwright.sync_api import expect, sync_playwright

    from .chromium import launch

    expect.set_options(timeout=20_000)
    with sync_playwright() as playwright:
        browser = launch(playwright)
        if browser is None:
            problem = "there is no Chromium: install Debian's package chromium, or name one in NATSBRIDGE_CHROMIUM"
            if os.environ.get("CI"):
                pytest.fail(problem)
            pytest.skip(problem)
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A window with nothing in it. No page of it may write an error to the console, or leave a request unanswered."""
    problems: List[str] = []

    def on_console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            problems.append(f"console: {message.text}")

    def on_page(page: Page) -> None:
        page.on("pageerror", lambda error: problems.append(f"exception: {error}"))

    with browser.new_context(reduced_motion="reduce") as context:
        context.set_default_timeout(20_000)
        context.on("console", on_console)
        context.on("page", on_page)
        yield context
    assert problems == []


@pytest.fixture
def page(context: BrowserContext, demo: Demo) -> Iterator[Page]:
    """The demo's page, connected. Its streams are stopped with the test."""
    page = context.new_page()
    page.goto(demo.url)
    page.wait_for_function("!document.getElementById('start').disabled")
    yield page
    if not page.is_closed():
        page.goto("about:blank")
