"""The storefront in a real browser against the real service: what a shopper sees, does, and causes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, Request, Route, expect

from tests.shop import MARKUP, MARKUP_ITEM

pytestmark = pytest.mark.browser

CARD = ".card:not(.skeleton)"
HOUSEHOLD = "household-05"


def row(surface: str) -> str:
    return f'.row[data-surface="{surface}"]:not([aria-busy])'


def shown(page: Page, surface: str) -> list[str]:
    """The item ids of one row, once it stands."""
    page.wait_for_selector(f"{row(surface)}", state="attached")
    cards = page.locator(f"{row(surface)} {CARD}")
    return [card.get_attribute("data-item") or "" for card in cards.all()]


def events_of(request: Request) -> list[dict[str, Any]]:
    return list(json.loads(request.post_data or "{}")["events"])


def tells(request: Request) -> bool:
    """Whether a request says what the shopper did, and not only what was seen."""
    return request.url.endswith("/events") and any(event["type"] != "render" for event in events_of(request))


def sent(page: Page) -> list[dict[str, Any]]:
    """Grows with everything that the page says the shopper did."""
    events: list[dict[str, Any]] = []
    page.on("request", lambda r: events.extend(events_of(r)) if tells(r) else None)
    return events


def meet(page: Page, handle: Callable[[Route], None]) -> None:
    """Handle what says that the shopper did something; what was seen goes through."""
    page.route("**/events", lambda route: handle(route) if tells(route.request) else route.continue_())


def altered(change: Callable[[dict[str, Any]], None]) -> Callable[[Route], None]:
    """A route that lets the service answer and changes the answer on its way to the page."""

    def handle(route: Route) -> None:
        response = route.fetch()
        body = response.json()
        change(body)
        route.fulfill(response=response, json=body)

    return handle


def shop_as(page: Page, user_id: str) -> None:
    page.click("details.shopper summary")
    page.fill("#user-id", user_id)
    page.press("#user-id", "Enter")
    page.wait_for_selector(f"text=Welcome back, {user_id}")


def test_home_shows_rows_of_items_with_reasons(page: Page, shop_url: str) -> None:
    page.goto(shop_url)
    for surface in ("home", "trending"):
        page.wait_for_selector(f"{row(surface)} {CARD}")
        cards = page.locator(f"{row(surface)} {CARD}")
        assert cards.count() > 0
        for card in cards.all():
            assert card.locator(".title").inner_text().strip()
            assert card.locator(".reason").inner_text().strip()
        expect(page.locator(f"{row(surface)} .about")).to_contain_text("served by")
        expect(page.locator(f"{row(surface)} .about")).to_contain_text(re.compile(r"\d+ ms"))


def test_no_item_stands_twice_on_a_page(page: Page, shop_url: str) -> None:
    page.goto(shop_url)
    shop_as(page, HOUSEHOLD)
    rows = ("buy_again", "home", "trending", "new_arrivals")
    ids = [item for surface in rows for item in shown(page, surface)]
    assert ids
    assert len(ids) == len(set(ids))


def test_why_shows_the_source_of_each_recommendation(page: Page, shop_url: str) -> None:
    page.goto(shop_url)
    page.wait_for_selector(f"{row('home')} {CARD}")
    detail = page.locator(f"{row('home')} {CARD} .why").first
    expect(detail).to_be_hidden()
    page.click("#explain")
    expect(detail).to_have_text(re.compile(r".+ · score .+ · rank \d+"))
    expect(page.locator(f"{row('home')} .about .why")).to_contain_text("request")


def test_a_click_is_accepted_and_changes_the_next_page(page: Page, shop_url: str) -> None:
    events = sent(page)
    page.goto(shop_url)
    before = shown(page, "home")
    with page.expect_response("**/recommend?*surface=similar*"):
        page.click(f"{row('home')} {CARD} a")
    page.wait_for_selector(".offer h1")
    click, view = events
    assert (click["type"], view["type"]) == ("click", "view")
    assert click["item_id"] == view["item_id"] == before[0]
    assert click["surface"] == view["surface"] == "home"
    assert click["request_id"] == view["request_id"]
    assert click["request_id"]
    page.click("#explain")
    told = page.locator("#journal li").filter(has_not_text="render")
    expect(told).to_have_text([re.compile(": accepted$"), re.compile(": accepted$")])
    page.click(".brand")
    page.wait_for_selector("text=Good to see you")
    assert shown(page, "home") != before


def test_what_was_in_the_window_is_confirmed_when_the_page_is_left(page: Page, shop_url: str) -> None:
    renders: list[dict[str, Any]] = []
    answers: dict[str, dict[str, Any]] = {}
    page.on(
        "request",
        lambda r: (
            renders.extend(e for e in events_of(r) if e["type"] == "render") if r.url.endswith("/events") else None
        ),
    )
    page.on(
        "response", lambda r: answers.update({r.json()["request_id"]: r.json()}) if "/recommend?" in r.url else None
    )
    page.set_viewport_size({"width": 1280, "height": 500})
    page.goto(shop_url)
    page.wait_for_selector(row("new_arrivals"), state="attached")
    page.wait_for_load_state("networkidle")
    assert renders == []
    in_window = page.locator(f"{row('home')} {CARD}").evaluate_all(
        "cards => cards.filter(c => { const r = c.getBoundingClientRect();"
        " return r.left + r.width / 2 < innerWidth && r.top + r.height / 2 < innerHeight; }).map(c => c.dataset.item)"
    )
    with page.expect_response(lambda r: r.url.endswith("/events") and r.ok):
        page.click(f"{row('home')} {CARD} a")
    page.wait_for_selector(".offer h1")
    page.wait_for_selector(row("similar"), state="attached")
    page.wait_for_load_state("networkidle")
    seen = {answers[one["request_id"]]["surface"]: one["items"] for one in renders}
    assert "new_arrivals" not in seen and set(in_window) <= set(seen["home"])
    home = next(answer for answer in answers.values() if answer["surface"] == "home")
    assert 0 < len(seen["home"]) < len(ids := [item["item_id"] for item in home["items"]]) and set(seen["home"]) <= set(
        ids
    )


def test_the_next_page_asks_only_when_the_events_have_arrived(page: Page, shop_url: str) -> None:
    page.goto(shop_url)
    page.wait_for_selector(f"{row('home')} {CARD}")
    page.wait_for_load_state("networkidle")  # the other rows have asked too
    order: list[str] = []
    page.on("response", lambda r: order.append("event") if tells(r.request) else None)
    page.on("request", lambda r: order.append("question") if "/recommend?" in r.url else None)
    page.click(f"{row('home')} {CARD} a")
    page.wait_for_selector(f"{row('bought_together')}", state="attached")
    assert order == ["event", "event", "question", "question"]


def test_the_cart_ends_in_one_order(page: Page, shop_url: str) -> None:
    events = sent(page)
    page.goto(shop_url)
    first, second = shown(page, "home")[:2]
    page.locator(f'{row("home")} [data-item="{first}"] .add').click()
    page.click(f'{row("home")} [data-item="{second}"] a')
    page.fill("#amount", "3")
    page.click(".add-form button")
    expect(page.locator("#cart-count")).to_have_text("4")
    page.click(".cart-link")
    expect(page.locator(".line")).to_have_count(2)
    assert not {first, second} & set(shown(page, "cart"))
    page.locator(f'.line[data-item="{first}"]').get_by_role("button", name=re.compile("One more")).click()
    page.click("#checkout")
    page.wait_for_selector("text=Thank you!")
    expect(page.locator("#cart-count")).to_have_text("0")
    carted = [event for event in events if event["type"] == "cart"]
    bought = [event for event in events if event["type"] == "purchase"]
    assert [(e["item_id"], e["quantity"]) for e in carted] == [(first, 1), (second, 3)]
    assert [(e["item_id"], e["quantity"]) for e in bought] == [(first, 2), (second, 3)]
    assert len({e["order_id"] for e in bought}) == 1
    assert all(e["request_id"] and e["surface"] == "home" for e in carted + bought)
    page.click("text=To the shop")
    assert {first, second} <= set(shown(page, "buy_again"))


def test_a_lost_event_is_sent_again_under_the_same_id(page: Page, shop_url: str) -> None:
    page.goto(shop_url)
    page.wait_for_selector(f"{row('home')} {CARD}")
    tries: list[list[dict[str, Any]]] = []

    def lose_the_first(route: Route) -> None:
        tries.append(events_of(route.request))
        route.fulfill(status=503, json={"detail": "busy"}) if len(tries) == 1 else route.continue_()

    meet(page, lose_the_first)
    with page.expect_response(lambda r: tells(r.request) and r.ok):
        page.locator(f"{row('home')} .add").first.click()
    assert len(tries) == 2
    assert tries[0] == tries[1]
    assert tries[0][0]["event_id"]


def test_a_failed_checkout_keeps_the_cart_and_the_order(page: Page, shop_url: str) -> None:
    page.goto(shop_url)
    page.wait_for_selector(f"{row('home')} {CARD}")
    page.locator(f"{row('home')} .add").first.click()
    page.click(".cart-link")
    page.wait_for_selector("#checkout")
    orders = sent(page)
    meet(page, lambda route: route.abort())
    page.click("#checkout")
    page.wait_for_selector("text=Nothing is lost")
    expect(page.locator(".line")).to_have_count(1)
    page.unroute("**/events")
    page.click("#checkout")
    page.wait_for_selector("text=Thank you!")
    assert len(orders) == 3  # one, its repetition, and the second attempt
    assert len({(e["event_id"], e["order_id"]) for e in orders}) == 1


def test_an_unknown_item_gets_a_clear_message(page: Page, shop_url: str) -> None:
    events = sent(page)
    page.goto(f"{shop_url}/#/item/no%20such%20item")
    expect(page.get_by_role("heading", level=1)).to_have_text("We do not have this item")
    expect(page.locator(".notice")).to_contain_text("no such item")
    assert events == []
    page.click("text=To the shop")
    page.wait_for_selector(f"{row('home')} {CARD}")


def test_a_breadcrumb_leads_to_its_category(page: Page, shop_url: str) -> None:
    page.goto(f"{shop_url}/#/item/item-01")
    page.click('.crumbs a:has-text("Dairy")')
    expect(page.get_by_role("heading", level=1)).to_have_text("Dairy")
    dairy = {f"item-{row:02}" for row in range(1, 13)}
    found = shown(page, "home")
    assert found
    assert set(found) <= dairy | {MARKUP_ITEM}


def test_a_rejected_event_is_said(page: Page, shop_url: str) -> None:
    verdict = {"event_id": None, "verdict": "rejected", "reason": "no such thing"}
    answer = {"accepted": 0, "duplicate": 0, "rejected": 1, "verdicts": [verdict]}
    meet(page, lambda route: route.fulfill(status=422, json=answer))
    page.goto(shop_url)
    page.wait_for_selector(f"{row('home')} {CARD}")
    page.locator(f"{row('home')} .add").first.click()
    expect(page.locator(".toast.warning")).to_have_text("Not counted: no such thing")


@pytest.mark.parametrize("address", ["#/nowhere", "#/item/%E0%A4%A", "#/item/a/b"])
def test_a_mistyped_address_gets_a_clear_message(page: Page, shop_url: str, address: str) -> None:
    page.goto(f"{shop_url}/{address}")
    expect(page.get_by_role("heading", level=1)).to_have_text("There is no such page")


def test_search_finds_by_title_and_says_when_it_finds_nothing(page: Page, shop_url: str) -> None:
    page.goto(shop_url)
    page.wait_for_selector(f"{row('home')} {CARD}")
    title = page.locator(f"{row('home')} {CARD} .title").first.inner_text()
    page.fill("#q", title)
    page.press("#q", "Enter")
    expect(page.locator(".grid .card:not(.skeleton) .title").first).to_contain_text(title.split()[0])
    page.fill("#q", "zzzz qqqq")
    page.press("#q", "Enter")
    page.wait_for_selector("text=Nothing found")


def test_markup_in_a_query_stays_text(page: Page, shop_url: str) -> None:
    page.goto(shop_url)
    page.fill("#q", MARKUP)
    page.press("#q", "Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Search: {MARKUP}")
    page.wait_for_selector("main :not([aria-busy]) >> text=/Nothing found|item/")
    assert page.locator("main img, main script").count() == 0
    assert page.evaluate("window.hacked") is None


def test_a_title_of_markup_and_an_awkward_id_stay_text(page: Page, shop_url: str) -> None:
    page.goto(shop_url)
    page.fill("#q", "window.hacked")
    page.press("#q", "Enter")
    page.click(f'{CARD}[data-item="{MARKUP_ITEM}"] a')
    expect(page.locator(".offer h1")).to_have_text(MARKUP)
    assert page.locator("main img, main script").count() == 0
    assert page.evaluate("window.hacked") is None


def test_markup_anywhere_in_an_answer_stays_text(page: Page, shop_url: str) -> None:
    def poison(answer: dict[str, Any]) -> None:
        answer["served_by"] = MARKUP
        for item in answer["items"]:
            item |= {"title": MARKUP, "reason": MARKUP, "brand": MARKUP, "category": MARKUP, "source": MARKUP}

    page.route("**/recommend?*", altered(poison))
    page.route(
        "**/items/*", altered(lambda item: item.update(title=MARKUP, brand=MARKUP, category=f"{MARKUP} > {MARKUP}"))
    )
    page.goto(shop_url)
    expect(page.locator(f"{row('home')} {CARD} .title").first).to_have_text(MARKUP)
    page.click("#explain")
    page.locator(f"{row('home')} .add").first.click()
    page.click(f"{row('home')} {CARD} a")
    expect(page.locator(".offer h1")).to_have_text(MARKUP)
    page.click(".cart-link")
    expect(page.locator(".line a")).to_have_text(MARKUP)
    assert page.locator("img, main script").count() == 0
    assert page.evaluate("window.hacked") is None


def test_a_user_id_stays_text(page: Page, shop_url: str) -> None:
    page.goto(shop_url)
    page.click("details.shopper summary")
    page.fill("#user-id", MARKUP)
    page.press("#user-id", "Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Welcome back, {MARKUP}")
    page.wait_for_selector(f"{row('home')} {CARD}")
    assert page.evaluate("window.hacked") is None


def test_shopping_as_someone_else_starts_afresh(page: Page, shop_url: str) -> None:
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url) if "surface=home" in r.url else None)
    page.goto(shop_url)
    shown(page, "home")
    page.click("details.shopper summary")
    page.locator("#shoppers button").nth(1).click()
    page.wait_for_selector("text=Welcome back")
    assert shown(page, "buy_again")
    page.click("details.shopper summary")
    page.locator("#shoppers button").first.click()
    page.wait_for_selector("text=Good to see you")
    shown(page, "home")
    assert ["user_id=" in url for url in asked] == [False, True, False]
    sessions = [re.search(r"session_id=([^&]+)", url) for url in asked]
    assert len({session and session[1] for session in sessions}) == 3


def test_a_degraded_answer_says_so(page: Page, shop_url: str) -> None:
    page.route("**/recommend?*", altered(lambda answer: answer.update(degraded=True, served_by="popularity")))
    page.goto(shop_url)
    expect(page.locator(f"{row('home')} .badge")).to_have_text("degraded")
    expect(page.locator(f"{row('home')} .about")).to_contain_text("served by popularity")


def test_an_unreachable_service_is_said_clearly_and_tried_again(page: Page, shop_url: str) -> None:
    page.route("**/recommend?*", lambda route: route.abort())
    page.goto(shop_url)
    expect(page.get_by_role("heading", level=1)).to_have_text("The shop is not answering")
    page.unroute("**/recommend?*")
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector(f"{row('home')} {CARD}")


def test_one_failing_row_leaves_the_others(page: Page, shop_url: str) -> None:
    page.route("**/recommend?*surface=trending*", lambda route: route.abort())
    page.goto(shop_url)
    page.wait_for_selector(f"{row('home')} {CARD}")
    expect(page.locator(f"{row('trending')}")).to_contain_text("Could not be loaded")


def test_an_empty_catalogue_is_said(page: Page, shop_url: str) -> None:
    page.route("**/recommend?*", altered(lambda answer: answer.update(items=[])))
    page.goto(shop_url)
    page.wait_for_selector("text=Nothing to recommend yet")


@pytest.mark.parametrize("address", ["", "#/cart", "#/search?q=a"])
def test_a_narrow_phone_does_not_scroll_sideways(page: Page, shop_url: str, address: str) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(f"{shop_url}/{address}")
    page.wait_for_selector(CARD)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_landmarks_and_names_for_assistive_technology(page: Page, shop_url: str) -> None:
    page.goto(shop_url)
    page.wait_for_selector(f"{row('home')} {CARD}")
    for landmark in ("banner", "main", "contentinfo", "search"):
        expect(page.get_by_role(landmark)).to_have_count(1)
    nameless = "node => !(node.ariaLabel || node.innerText || node.labels?.length)"
    for control in page.locator("button:visible, a:visible, input:visible").all():
        assert not control.evaluate(nameless), control.evaluate("node => node.outerHTML")
    page.keyboard.press("Tab")
    expect(page.locator("a.skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()


def test_the_documentation_page_works_without_a_network(page: Page, shop_url: str) -> None:
    page.goto(f"{shop_url}/docs")
    expect(page.get_by_text("/recommend").first).to_be_visible()
