"""Phase 3 through the real service: chances, places that the ranker took, and what a stranger gets."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from recsys.publish import publish
from tests.integration.test_service import SURFACES, ask
from tests.shop import running_service, tiny_dataset, write_tiny_bundle


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("phase3")
    shop = tiny_dataset(np.random.default_rng(0))
    publish(folder / "bundles", write_tiny_bundle(folder, shop, phase=3, with_chances=True).name)
    with running_service(folder) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


@pytest.mark.parametrize("surface", SURFACES)
def test_every_surface_answers_with_reasons(client: httpx.Client, surface: str) -> None:
    answer = ask(client, user_id="household-01", surface=surface, item_id="item-05", cart="item-08", k=5)
    assert answer["phase"] == 3 and len(answer["items"]) == 5 and answer["shortfall"] == 0
    assert all(item["reason"] for item in answer["items"])
    assert all(0 < item["confidence"] < 1 for item in answer["items"])
    assert surface == "home" or not any(item["enhanced"] for item in answer["items"])


def test_home_says_how_likely_a_purchase_is_and_which_places_the_ranker_took(client: httpx.Client) -> None:
    items = ask(client, user_id="household-01", k=20)["items"]
    assert all(0 < item["confidence"] < 1 for item in items)
    chances = [item["confidence"] for item in items if item["enhanced"]]
    assert chances
    assert chances[0] == max(chances)  # the best stays first; those behind it may change places for diversity


@pytest.mark.parametrize("surface", ["similar", "bought_together", "cart"])
def test_beside_an_item_stands_first_what_of_it_the_shopper_buys(client: httpx.Client, surface: str) -> None:
    beside = {"surface": surface, "item_id": "item-05", "cart": "item-08", "k": 6}
    stranger = [item["item_id"] for item in ask(client, **beside)["items"]]
    wanted = stranger[-1]
    who = f"newcomer-{surface}"
    event = {"event_id": f"own-{surface}", "type": "purchase", "session_id": "s", "user_id": who, "item_id": wanted}
    assert client.post("/events", json=event).json()["accepted"] == 1
    answer = ask(client, user_id=who, **beside)
    assert answer["items"][0]["item_id"] == wanted and answer["items"][0]["source"] == "buy_again"
    assert {item["item_id"] for item in answer["items"]} == set(stranger)


def test_a_stranger_gets_the_simple_answer(client: httpx.Client) -> None:
    items = ask(client, region="north", k=5)["items"]
    assert len(items) == 5
    assert not any(item["enhanced"] for item in items)
    assert all(0 < item["confidence"] < 1 for item in items)


def test_what_is_switched_off_is_in_no_answer(client: httpx.Client) -> None:
    best = ask(client, user_id="household-01", k=3)["items"][0]["item_id"]
    assert client.delete(f"/items/{best}").status_code == 200
    shown = ask(client, user_id="household-01", k=20)["items"]
    assert best not in {item["item_id"] for item in shown}
