"""Pictures of a running shop for the documentation: `python -m tests.browser.screenshots http://127.0.0.1:8000`."""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import Page, ViewportSize

from tests.browser.chromium import chromium

IMAGES = Path("docs/img")
DESKTOP = ViewportSize(width=1280, height=900)
PHONE = ViewportSize(width=390, height=844)
READY = ".row:not([aria-busy]) .card:not(.skeleton)"


def save(page: Page, name: str) -> None:
    """One picture, once every row stands and no toast hides anything."""
    page.wait_for_selector(READY)
    page.wait_for_selector(".toast", state="detached")
    IMAGES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=IMAGES / f"{name}.png")
    print(IMAGES / f"{name}.png")


def take_pictures(url: str) -> None:
    """Home, product, cart and home on a phone, as the first demonstration shopper."""
    with chromium() as browser:
        page = browser.new_page(viewport=DESKTOP, color_scheme="light")
        page.goto(url)
        page.click("details.shopper summary")
        page.click("#shoppers li:nth-child(2) button")
        page.wait_for_selector("text=Welcome back")
        save(page, "storefront")
        page.click('.row[data-surface="home"] .card a')
        page.wait_for_selector(".offer h1")
        save(page, "product")
        page.click(".add-form button")
        page.locator(READY).nth(1).get_by_role("button", name="Add").click()
        page.click(".cart-link")
        page.wait_for_selector("#checkout")
        save(page, "cart")
        page.set_viewport_size(PHONE)
        page.click(".brand")
        page.wait_for_selector("text=Welcome back")
        save(page, "storefront-phone")


if __name__ == "__main__":
    take_pictures(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000")
