"""The demo's page in Chromium: streams arrive, and their handlers end when a reader goes."""

from __future__ import annotations

import re
from typing import Dict

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from natsbridge._web.worker import TOPICS

from .chromium import Demo

SOON = 1000.0  # milliseconds within which a handler has to end: generous, and far less than any heartbeat or pause


def start(page: Page, kind: str = "Talkative") -> Locator:
    """Start a stream; its card."""
    page.get_by_text(kind, exact=True).click()
    page.get_by_role("button", name="Start a stream").click()
    card = page.locator(".card").first
    expect(card.locator(".word").nth(2)).to_be_attached()
    return card


def number_of(card: Locator) -> str:
    return str(card.get_by_role("heading").inner_text()).rpartition(" ")[2]


def row(page: Page, number: str) -> Dict[str, Locator]:
    cells = page.locator("#handlers tr", has=page.get_by_role("rowheader", name=number, exact=True)).get_by_role("cell")
    return {"handler": cells.nth(0), "client": cells.nth(1), "late": cells.nth(2)}


def expect_end(page: Page, number: str, client: str) -> None:
    """The table says that the handler ended, why, and that it was soon."""
    cells = row(page, number)
    expect(cells["client"]).to_have_text(f"{client} cancelled")
    expect(cells["handler"]).to_contain_text("ran ")
    expect(cells["late"]).to_contain_text(" ms")
    found = re.fullmatch(r"([\d,]+) ms|under 1 ms", cells["late"].inner_text())
    assert found
    assert float((found[1] or "0").replace(",", "")) < SOON
    expect(page.get_by_role("status")).to_contain_text(f"Its handler in the worker ended {found[0]} later.")


def test_the_page_has_room_in_every_window(page: Page) -> None:
    card = start(page)
    card.get_by_role("button", name="Stop stream").click()
    expect_end(page, number_of(card), "stopped by you")
    start(page)
    for width in (320, 390, 768, 1024, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"at {width} it has to be scrolled sideways"
        cut_off = page.locator(".scroller").evaluate("box => box.scrollWidth - box.clientWidth")
        assert cut_off <= 0 or width == 320, f"at {width} the table has to be"


def test_all_that_can_be_used_has_a_name_and_can_be_reached(page: Page) -> None:
    start(page)
    usable = page.locator("button:visible:enabled, a:visible, input, summary, [tabindex='0']")
    reached = set()
    for _ in range(usable.count() + 5):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.outerHTML.slice(0, 60)"))
    for element in usable.all():
        assert element.aria_snapshot().strip() not in ("", "- button", "- link", "- radio", "- region"), element
    # One radio button of a group is reached with Tab, the other with the arrow keys.
    assert len(reached - {page.evaluate("document.body.outerHTML.slice(0, 60)")}) >= usable.count() - 1


def test_several_streams_run_side_by_side(page: Page) -> None:
    cards = [start(page) for _ in range(3)]
    expect(page.locator("#running")).to_have_text("3 handlers")
    expect(page.locator("#open-streams")).to_have_text("3 streams")
    expect(page.locator(".card[data-state=running]")).to_have_count(3)
    for card in cards:
        number = number_of(card)
        expect(row(page, number)["handler"]).to_contain_text("running ")
        expect(row(page, number)["client"]).to_have_text("on this page")


@pytest.mark.parametrize("kind", ["Talkative", "Silent"])
def test_a_stop_button_stops_the_handler(page: Page, kind: str) -> None:
    card = start(page, kind)
    number = number_of(card)
    if kind == "Silent":
        expect(card.locator(".pill")).to_have_text("silent")
    card.get_by_role("button", name=f"Stop stream {number}").click()
    expect_end(page, number, "stopped by you")
    expect(card.locator(".pill")).to_have_text("stopped")
    expect(card.locator(".note")).to_contain_text("Handler ended after ")
    expect(page.locator("#running")).to_have_text("0 handlers")


@pytest.mark.parametrize("kind", ["Talkative", "Silent"])
def test_a_closed_tab_stops_the_handler(page: Page, context: BrowserContext, kind: str) -> None:
    page.get_by_text(kind, exact=True).click()
    with context.expect_page() as opened:
        page.get_by_role("link", name="Open one in a tab").click()
    tab = opened.value
    expect(tab.locator(".word").nth(2)).to_be_attached()
    number = number_of(tab.locator(".card"))
    expect(tab).to_have_title(f"Stream {number}: close me")
    if kind == "Silent":
        expect(tab.locator(".pill")).to_have_text("silent")
    expect(row(page, number)["client"]).to_have_text("in its tab")
    tab.close()
    expect_end(page, number, "tab closed")


def test_a_page_that_is_left_stops_its_handlers(page: Page, context: BrowserContext, demo: Demo) -> None:
    numbers = [number_of(start(page)) for _ in range(2)]
    page.reload()
    for number in numbers:
        expect(row(page, number)["client"]).to_have_text("page left cancelled")
        expect(row(page, number)["late"]).to_contain_text(" ms")


def test_no_more_streams_than_a_browser_has_connections(page: Page) -> None:
    for _ in range(5):
        start(page)
    expect(page.get_by_role("button", name="Start a stream")).to_be_disabled()
    expect(page.locator("#hint")).to_contain_text("Browsers allow six connections")
    tab_link = page.get_by_role("link", name="Open one in a tab")
    expect(tab_link).to_have_attribute("aria-disabled", "true")
    tab_link.click(force=True)
    page.get_by_role("button", name="Stop stream").first.click()
    expect(page.get_by_role("button", name="Start a stream")).to_be_enabled()
    assert len(page.context.pages) == 1


def test_a_killed_worker_is_told_of(page: Page) -> None:
    card = start(page)
    number = number_of(card)
    page.get_by_role("button", name="Kill it").click()
    status = page.get_by_role("status")
    expect(status).to_contain_text("is dead, and 1 answer with it")
    expect(row(page, number)["client"]).to_have_text("lost its worker killed")
    expect(card.locator(".pill")).to_have_text("broken")
    expect(card.locator(".note")).to_contain_text("The worker is gone before its answer was complete")
    expect(page.locator("#running")).to_have_text("0 handlers")
    expect(page.get_by_role("button", name="Kill it")).to_be_enabled()
    start(page)
    expect(page.locator("#running")).to_have_text("1 handler")


def test_a_restarted_server_loses_no_word(page: Page) -> None:
    card = start(page)
    page.get_by_role("button", name="Restart it").click()
    expect(page.get_by_role("status")).to_contain_text("nats-server is back, and 1 stream went on without losing a word")
    expect(card.locator(".pill")).to_have_text("complete", timeout=40_000)
    (topic,) = [topic for topic in TOPICS if topic.question == card.locator(".question").inner_text()]
    assert card.locator(".text").inner_text().split() == topic.answer.split()
    expect(row(page, number_of(card))["client"]).to_have_text("read it all completed")
    expect(row(page, number_of(card))["late"]).to_have_text("–")


def test_a_gateway_that_is_gone_is_told_of(browser: Browser) -> None:
    demo = Demo()
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(demo.url)
        card = start(page)
        assert demo.stop() == 0
        expect(page.get_by_role("status")).to_contain_text("The gateway does not answer")
        expect(card.locator(".pill")).to_have_text("broken")
        expect(page.get_by_role("button", name="Start a stream")).to_be_disabled()
