"""Makes the README's picture of the demo's page: ``tox -e screenshot``.

It is what the page shows: streams that run, one that was stopped, two whose tabs were closed. ``--dark`` and ``--width``
are for those who work on the page. Where Inter and JetBrains Mono are installed, it is set in them.
"""

from __future__ import annotations

import argparse

from playwright.sync_api import Browser, Page, expect, sync_playwright

from .chromium import Demo, launch


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file")
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--width", type=int, default=1280)
    options = parser.parse_args()
    demo = Demo()
    try:
        with sync_playwright() as playwright:
            browser = launch(playwright)
            if browser is None:
                raise SystemExit("there is no Chromium: install it, or name one in NATSBRIDGE_CHROMIUM")
            take(browser, demo.url, options.file, dark=options.dark, width=options.width)
            browser.close()
    finally:
        demo.stop()


def take(browser: Browser, url: str, file: str, *, dark: bool, width: int) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        device_scale_factor=1,
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(url)
    lose_a_tab(page, words=20)
    start(page, words=30)
    start(page, words=60)
    page.get_by_role("button", name="Stop stream 2").click()
    start(page, words=10, kind="Silent")
    start(page, words=40)
    lose_a_tab(page, words=10)
    expect(page.get_by_role("status")).to_contain_text("Its handler in the worker ended ")
    page.mouse.move(0, 0)
    page.screenshot(path=file, full_page=True)


def start(page: Page, *, words: int, kind: str = "Talkative") -> None:
    page.get_by_text(kind, exact=True).click()
    page.get_by_role("button", name="Start a stream").click()
    expect(page.locator(".card").first.locator(".word").nth(words - 1)).to_be_attached(timeout=20_000)


def lose_a_tab(page: Page, *, words: int) -> None:
    page.get_by_text("Talkative", exact=True).click()
    link = page.get_by_role("link", name="Open one in a tab")
    expect(link).to_have_attribute("aria-disabled", "false")
    with page.context.expect_page() as opened:
        link.click()
    expect(opened.value.locator(".word").nth(words - 1)).to_be_attached(timeout=20_000)
    opened.value.close()


if __name__ == "__main__":
    main()
