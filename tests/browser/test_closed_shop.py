"""A service with keys in a real browser: the storefront has its key, staff give theirs, and hostile text does nothing on any page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from service.keys import Role, create_key
from tests.browser.conftest import PATIENCE_MS
from tests.shop import publish_tiny_shop, running_service

pytestmark = pytest.mark.browser

NOW = datetime(2026, 11, 26, tzinfo=UTC)
ATTACKS = (
    '<img src=x onerror="window.hacked = true">',
    '"><svg/onload="window.hacked = true">',
    "</title></script><script>window.hacked = true</script>",
    "javascript:window.hacked = true",
    "' onmouseover='window.hacked = true' x='",
)


@dataclass(frozen=True)
class Closed:
    """A service with keys."""

    url: str
    keys: dict[Role, str]

    def ask(self, method: str, path: str, content: object = None) -> httpx.Response:
        """As an admin."""
        headers = {"authorization": f"Bearer {self.keys[Role.ADMIN]}"}
        return httpx.request(method, self.url + path, json=content, headers=headers).raise_for_status()


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Closed]:
    folder: Path = tmp_path_factory.mktemp("closed")
    publish_tiny_shop(folder)
    keys = {role: create_key(folder / "keys.json", str(role), role, NOW) for role in Role}
    with running_service(folder, environment={"RECSYS_STOREFRONT_KEY": keys[Role.WIDGET]}) as url:
        yield Closed(url, keys)


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """A page of a new visitor, who may have a password."""
    contexts: list[BrowserContext] = []

    def visit(password: str | None = None) -> Page:
        credentials = None if password is None else {"username": "any", "password": password}
        context = browser.new_context(http_credentials=credentials, service_workers="block")  # type: ignore[arg-type]
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        return context.new_page()

    yield visit
    for context in contexts:
        context.close()


def test_a_shopper_is_served_with_the_storefronts_key(closed: Closed, visit: Callable[..., Page]) -> None:
    page, asked = visit(), list[str]()
    page.on("request", lambda request: asked.append(request.headers.get("authorization", "") + " " + request.url))
    page.goto(closed.url)
    card = page.locator(".card:not(.skeleton)").first
    expect(card).to_be_visible()
    with page.expect_response(lambda response: response.url.endswith("/events")) as answered:
        card.locator("a").first.click()
    assert answered.value.status == 200
    of_recommend = [line for line in asked if "/recommend?" in line]
    assert of_recommend and all(line.startswith(f"Bearer {closed.keys[Role.WIDGET]} ") for line in of_recommend)
    page.click("details.shopper summary")  # the list of shoppers is not for everybody; the field still works
    page.fill("#user-id", "household-05")
    page.click("#shopper-form button")
    expect(page.locator("#shopper-name")).to_have_text("household-05")
    expect(page.locator(".card:not(.skeleton)").first).to_be_visible()


def test_staff_see_the_console_with_their_key_as_password(closed: Closed, visit: Callable[..., Page]) -> None:
    closed.ask("POST", "/events", {"event_id": "seen", "type": "view", "item_id": "item-03", "session_id": "s"})
    refused = visit(closed.keys[Role.WIDGET]).goto(f"{closed.url}/console/events/")
    assert refused is not None and refused.status == 403
    page = visit(closed.keys[Role.ADMIN])
    page.goto(f"{closed.url}/console/events/")
    expect(page.locator("tr.accepted", has_text='"event_id":"seen"')).to_have_count(1)


def test_the_documentation_works_under_its_policy(closed: Closed, visit: Callable[..., Page]) -> None:
    page, complaints = visit(closed.keys[Role.ADMIN]), list[str]()
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto(f"{closed.url}/docs")
    expect(page.locator("#operations-answers-recommend_get_recommend_get")).to_be_visible()
    expect(page.get_by_role("button", name="Authorize")).to_be_visible()
    assert complaints == []


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_text_is_text_on_every_page(closed: Closed, visit: Callable[..., Page], attack: str) -> None:
    item_id = f"hostile {attack}"
    item = {"title": f"{attack} milk", "brand": attack, "category": f"DAIRY > {attack}", "description": attack}
    closed.ask(
        "PUT", f"/items/{quote(item_id, safe='')}", {**item, "image_url": attack, "attributes": {attack: attack}}
    )
    closed.ask("POST", "/events", {"type": "purchase", "item_id": item_id, "user_id": attack, "event_id": attack})
    page = visit()
    page.goto(closed.url)
    page.click("details.shopper summary")
    page.fill("#user-id", attack)
    page.click("#shopper-form button")
    expect(page.locator("#shopper-name")).to_have_text(attack)
    expect(page.locator(".card:not(.skeleton)").first).to_be_visible()
    for place in (
        f"#/item/{quote(item_id, safe='')}",
        f"#/search?q={quote(attack)}",
        f"#/category?path={quote('DAIRY > ' + attack)}",
        f"#/{quote(attack)}",
    ):
        page.goto(f"{closed.url}/{place}")
        expect(page.locator("main > *").first).to_be_attached()
        expect(page.locator("main [aria-busy]")).to_have_count(0)
        assert page.evaluate("window.hacked") is None, place
        assert (
            page.locator(
                "main script, main [onerror], main [onload], main [onmouseover], a[href^='javascript:']"
            ).count()
            == 0
        )
    expect(page.locator("#shopper-name")).to_have_text(attack)
    console = visit(closed.keys[Role.ADMIN])
    console.goto(f"{closed.url}/console/events/")
    expect(console.locator("tr.accepted", has_text="hostile").first).to_be_visible()
    assert console.evaluate("window.hacked") is None
