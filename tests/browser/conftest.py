"""The running service and a fresh page for every browser test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page

from tests.browser.chromium import chromium, find_chromium
from tests.shop import publish_tiny_shop, running_service

PATIENCE_MS = 10_000
CAUSED_BY_THE_TEST = ("net::ERR_FAILED", "404 (Not Found)", "422 (Unprocessable", "503 (Service Unavailable)")
"""What Chromium itself prints when a test has the network fail or asks for what is not there."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests."""
    if find_chromium() is None and not os.environ.get("CI"):
        pytest.skip("Chromium is not installed: browser tests need it (make browser)")
    with chromium() as running:
        yield running


@pytest.fixture(scope="session")
def shop_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the real service, on a tiny shop."""
    data_dir = tmp_path_factory.mktemp("shop")
    publish_tiny_shop(data_dir)
    with running_service(data_dir) as url:
        yield url


@pytest.fixture
def page(browser: Browser, shop_url: str) -> Iterator[Page]:
    """A page of a new visitor. At the end: no error in the console, and nothing asked of any other address."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, service_workers="block")
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    complaints: list[str] = []
    elsewhere: list[str] = []

    def note(message: ConsoleMessage) -> None:
        expected = any(cause in message.text for cause in CAUSED_BY_THE_TEST)
        if message.type in ("error", "warning") and not expected:
            complaints.append(message.text)

    page.on("console", note)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(shop_url) else elsewhere.append(request.url))
    yield page
    page.unroute_all(behavior="ignoreErrors")  # an answer may still be on its way
    context.close()
    assert complaints == []
    assert elsewhere == []
