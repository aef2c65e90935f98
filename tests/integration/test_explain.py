"""`explain` of a request through the real service: sums of what is shown, on every surface, under rules, with Redis gone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from recsys.publish import publish
from tests.integration.test_service import SURFACES, ask, without_redis
from tests.shop import running_service, tiny_dataset, write_tiny_bundle

RULES = """
[[rules]]
name = "hero"
kind = "pin"
item_id = "item-07"
position = 1
when = { surfaces = ["trending"] }

[[rules]]
name = "own-brand"
kind = "boost"
items = { brand = "Private" }
factor = 3.0
when = { surfaces = ["home"] }
"""
NEW = {"title": "OAT DRINK", "category": "DAIRY > MILK", "brand": "National", "price_cents": 199}


@pytest.fixture(scope="module", params=[1, 3])
def data_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explained")
    shop = tiny_dataset(np.random.default_rng(0))
    publish(folder / "bundles", write_tiny_bundle(folder, shop, phase=request.param, spare=5).name)
    (folder / "rules.toml").write_text(RULES)
    return folder


@pytest.fixture(scope="module")
def client(data_dir: Path) -> Iterator[httpx.Client]:
    rules = {"RECSYS_RULES": str(data_dir / "rules.toml")}
    with running_service(data_dir, environment=rules) as url, httpx.Client(base_url=url, timeout=30) as client:
        assert client.put("/items/oat-1", json=NEW).status_code == 201
        yield client


def explained(client: httpx.Client, **parameters: Any) -> dict[str, Any]:
    """An answer whose explanations sum to its scores."""
    answer = ask(client, explain="true", **parameters)
    assert answer["items"]
    for item in answer["items"]:
        told = item["explanation"]
        values = [one["value"] for one in told["contributions"]]
        assert told["score"] == pytest.approx(item["score"], rel=1e-3)  # an answer rounds to four digits
        assert told["base"] + sum(values) == pytest.approx(
            told["score"], abs=1e-5 * (abs(told["base"]) + sum(map(abs, values)))
        )
        assert len(values) <= 11
        assert all(one["about"] for one in told["contributions"])
        assert told["without_cited"] is None or told["cited"] is not None
    return answer


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("user", ["household-01", "nobody"])
def test_every_surface_is_explained(client: httpx.Client, surface: str, user: str) -> None:
    asked = {"user_id": user, "surface": surface, "item_id": "item-03", "cart": "item-05", "k": 12}
    if surface == "buy_again" and user == "nobody":
        assert ask(client, explain="true", **asked)["items"] == []
        return
    answer = explained(client, **asked)
    plain = ask(client, **asked)
    shown = [{name: value for name, value in item.items() if name != "explanation"} for item in answer["items"]]
    assert shown == plain["items"]
    assert not any("explanation" in item for item in plain["items"])


def test_own_purchases_are_what_an_item_is_there_for(client: httpx.Client) -> None:
    items = explained(client, user_id="household-01", surface="buy_again", k=5)["items"]
    for item in items:
        (only,) = item["explanation"]["contributions"]
        assert (only["item_id"], only["about"]) == (item["item_id"], item["title"])
        assert item["explanation"]["cited"] == item["item_id"]
        assert item["explanation"]["without_cited"] is None  # what was never bought cannot be bought again


def test_without_what_is_cited_an_item_stands_lower_or_not_at_all(client: httpx.Client) -> None:
    items = explained(client, user_id="household-01", surface="new_arrivals", k=12, min_price_cents=1)["items"]
    items += explained(client, user_id="household-01", k=12)["items"]
    told = [item["explanation"] for item in items if item["explanation"]["cited"] is not None]
    assert told
    lower = [one["without_cited"] is None or one["without_cited"]["score"] < one["score"] for one in told]
    assert (
        np.mean(lower) >= 0.7
    )  # scores are shares of the best, which falls as well; reports/reasons.json has real shops


def test_a_pinned_item_is_there_by_a_rule(client: httpx.Client) -> None:
    first = explained(client, user_id="household-01", surface="trending", k=3)["items"][0]
    assert first["item_id"] == "item-07" and first["rules"] == ["hero"]
    # Trending knows the item too: the rule moved it, the model explains it.
    assert first["source"] == "popularity"
    assert [one["about"] for one in first["explanation"]["contributions"]] == ["how wanted it is"]


def test_an_item_that_joined_is_explained(client: httpx.Client) -> None:
    items = explained(client, user_id="household-02", surface="new_arrivals", k=12)["items"]
    (joined,) = [item for item in items if item["item_id"] == "oat-1"]
    told = joined["explanation"]
    if joined["source"] == "new_arrivals":
        assert told["contributions"][0]["about"] == "it is new here" and told["cited"] is None
    else:
        assert joined["source"] == "new_arrivals_for_you" and told["contributions"][0]["item_id"] == told["cited"]
        assert told["cited"] is not None


def test_get_and_post_explain_alike(client: httpx.Client) -> None:
    got = ask(client, user_id="household-02", k=3, explain="true")
    posted = client.post("/recommend", json={"user_id": "household-02", "k": 3, "explain": True}).json()
    assert [item["explanation"] for item in got["items"]] == [item["explanation"] for item in posted["items"]]


def test_with_redis_gone_popularity_is_explained(data_dir: Path) -> None:
    with (
        running_service(data_dir) as url,
        httpx.Client(base_url=url, timeout=30) as client,
        without_redis(data_dir),
    ):
        answer = explained(client, user_id="household-01", k=5)
    assert answer["degraded"] is True
    assert {one["about"] for item in answer["items"] for one in item["explanation"]["contributions"]} == {
        "how wanted it is"
    }


def test_explanations_wait_for_a_calmer_moment(data_dir: Path) -> None:
    crowded = {"RECSYS_MAX_INSIDE": "2"}  # whoever comes second is answered from popularity
    with running_service(data_dir, environment=crowded) as url, ThreadPoolExecutor(4) as pool:
        asked = {"user_id": "household-01", "k": "20", "explain": "true"}
        answers = list(pool.map(lambda _: httpx.get(f"{url}/recommend", params=asked, timeout=30), range(80)))
        metrics = httpx.get(f"{url}/metrics", timeout=30).text
    assert {answer.status_code for answer in answers} == {200, 429}
    refused = [answer for answer in answers if answer.status_code == 429]
    assert all(answer.headers["retry-after"] == "1" for answer in refused)
    assert any("explain: takes too long" in answer.json()["detail"] for answer in refused)
    assert f'recsys_requests_refused_total{{reason="overload",shop="default"}} {len(refused)}.0' in metrics
