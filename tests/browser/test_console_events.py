"""The event debugger in a browser: what came in shows with its verdict, as text, and new ones come by themselves."""

from __future__ import annotations

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.shop import MARKUP

pytestmark = pytest.mark.browser


def test_events_show_with_their_verdicts_as_text(page: Page, shop_url: str) -> None:
    events = [
        {"event_id": MARKUP, "type": "teleport", "item_id": MARKUP, "session_id": "s"},
        {"event_id": "good", "type": "view", "item_id": "item-03", "session_id": "s"},
    ]
    httpx.post(f"{shop_url}/events", json=events)
    page.goto(f"{shop_url}/console/events")
    bad = page.locator("tr.rejected", has_text="teleport")
    expect(bad).to_have_count(1)
    expect(bad.locator("td").nth(2)).to_have_text(MARKUP)
    expect(bad.locator("td").nth(3)).to_contain_text("type: Input should be 'view'")
    expect(page.locator("tr.accepted", has_text='"event_id":"good"')).to_have_count(1)
    httpx.post(f"{shop_url}/events", json=events[1])
    expect(page.locator("tbody tr").first).to_have_class("duplicate")
    page.get_by_label("only what was rejected").check()
    expect(page.locator("tr.accepted")).to_have_count(0)
    expect(bad).to_have_count(1)
    assert page.evaluate("window.hacked") is None
