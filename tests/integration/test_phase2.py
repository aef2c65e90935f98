"""Phase 2 through the real service: items that nobody has bought, new arrivals, and places."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import httpx
import numpy as np
import pytest

from recsys.dataset import SECONDS_PER_DAY
from recsys.publish import publish
from tests.integration.test_service import SURFACES, ask
from tests.shop import running_service, tiny_dataset, write_tiny_bundle

UNSOLD = "item-03"
"""Soy milk, which only tastes like the other milk."""
UNSOLD_ROW = 3


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("phase2")
    shop = tiny_dataset(np.random.default_rng(0))
    listed = np.full(shop.n_items, shop.until - 20 * SECONDS_PER_DAY)
    shop = replace(
        shop,
        events=shop.events.take(shop.events.item != UNSOLD_ROW),
        catalogue=replace(shop.catalogue, listed_second=listed),
    )
    publish(folder / "bundles", write_tiny_bundle(folder, shop, phase=2).name)
    with running_service(folder) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


@pytest.mark.parametrize("surface", SURFACES)
def test_every_surface_answers_with_reasons(client: httpx.Client, surface: str) -> None:
    answer = ask(client, user_id="household-01", surface=surface, item_id="item-05", cart="item-08", k=5)
    assert answer["phase"] == 2 and len(answer["items"]) == 5 and answer["shortfall"] == 0
    assert all(item["reason"] for item in answer["items"])


def test_an_item_that_was_never_sold_has_similar_ones_of_its_kind(client: httpx.Client) -> None:
    items = ask(client, surface="similar", item_id=UNSOLD, k=3)["items"]
    assert {item["source"] for item in items} == {"similar_content"}
    assert items[0]["category"] == "DAIRY > MILK"
    assert items[0]["reason"].startswith(("Same type", "Same brand", "Much like")) and "SOY MILK" in items[0]["reason"]


def test_new_arrivals_are_ranked_for_who_asks(client: httpx.Client) -> None:
    answers = [ask(client, user_id=f"household-{n:02}", surface="new_arrivals", k=8)["items"] for n in range(8)]
    assert {item["source"] for items in answers for item in items} >= {"new_arrivals_for_you"}
    assert len({tuple(item["item_id"] for item in items) for items in answers}) > 1
    stranger = ask(client, surface="new_arrivals", k=3)
    assert [item["source"] for item in stranger["items"]] == ["new_arrivals"] * 3


def test_a_stranger_is_answered_from_where_they_are(client: httpx.Client) -> None:
    answers = {region: ask(client, region=region, k=20) for region in ("north", "south")}
    north, south = ([item["item_id"] for item in answer["items"]] for answer in answers.values())
    assert north != south
    assert not answers["north"]["warnings"]


def test_an_unknown_region_is_named_and_changes_nothing(client: httpx.Client) -> None:
    plain, odd = ask(client, k=10), ask(client, region="atlantis", k=10)
    assert odd["warnings"] == ["region 'atlantis' is not known yet"]
    assert [item["item_id"] for item in odd["items"]] == [item["item_id"] for item in plain["items"]]


def test_an_event_may_say_where_it_happened(client: httpx.Client) -> None:
    event = {"type": "view", "item_id": UNSOLD, "session_id": "s", "region": "north"}
    assert client.post("/events", json=event).json()["accepted"] == 1
    assert client.post("/events", json={**event, "region": ""}).status_code == 422
