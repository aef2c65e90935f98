"""Pages through the real service: nothing twice, k items while there are any, each widget as /recommend answers it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis

from recsys.store.database import database_url, opened
from recsys.store.schema import EXPOSURES
from service.replay import from_log, open_live
from tests.integration.test_rules import BREAD, RULES
from tests.integration.test_service import SURFACES, ask, eventually, ids, without_redis
from tests.shop import logged, publish_tiny_shop, running_service

N_ITEMS = 49
Page = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    publish_tiny_shop(folder)
    return folder


@pytest.fixture(scope="module")
def client(data_dir: Path) -> Iterator[httpx.Client]:
    with running_service(data_dir) as url, httpx.Client(base_url=url, timeout=10) as client:
        yield client


def compose(client: httpx.Client, *widgets: dict[str, Any], **shared: Any) -> Page:
    response = client.post("/page", json={**shared, "widgets": widgets})
    assert response.status_code == 200, response.text
    page = response.json()
    assert page["page_id"] and list(page["widgets"]) == [widget["name"] for widget in widgets]
    answers: Page = page["widgets"]
    return answers


def shown(page: Page) -> list[str]:
    return [item for answer in page.values() for item in ids(answer)]


def without_ids(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "request_id"}


@pytest.mark.parametrize("surface", SURFACES)
def test_the_first_widget_is_the_answer_of_recommend(client: httpx.Client, surface: str) -> None:
    question = {"user_id": "household-01", "item_id": "item-03", "cart": ["item-05"]}
    page = compose(client, {"name": "first", "surface": surface, "k": 5}, {"name": "then", "k": 5}, **question)
    alone = client.post("/recommend", json={**question, "surface": surface, "k": 5}).json()
    assert without_ids(page["first"]) == without_ids(alone)
    assert page["then"]["surface"] == "similar"
    assert page["first"]["request_id"] != page["then"]["request_id"]


def test_a_later_widget_is_the_answer_without_what_was_shown(client: httpx.Client) -> None:
    page = compose(client, {"name": "top", "k": 8}, {"name": "hot", "surface": "trending", "k": 8}, user_id="nobody")
    alone = ask(client, user_id="nobody", surface="trending", k=8, exclude_item_ids=ids(page["top"]))
    assert without_ids(page["hot"]) == without_ids(alone)


def test_no_random_page_repeats_an_item_or_is_short_before_the_catalogue_is(client: httpx.Client) -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        n = int(rng.integers(1, 11))
        sizes, surfaces = rng.integers(1, 15, n).tolist(), rng.choice(SURFACES, n).tolist()
        widgets = [{"name": f"w{i}", "surface": surfaces[i], "k": sizes[i]} for i in range(n)]
        shopper = f"household-{rng.integers(60):02}"  # a third are strangers
        page = compose(client, *widgets, user_id=shopper, item_id="item-03", cart=["item-05", "item-09"])
        items = shown(page)
        assert len(items) == len(set(items)) and not {"item-03", "item-05", "item-09"} & set(items)
        left = N_ITEMS - 3
        for surface, k, answer in zip(surfaces, sizes, page.values(), strict=True):
            assert len(answer["items"]) == k - answer["shortfall"]
            if surface != "buy_again":
                assert len(answer["items"]) == min(k, left)
            left -= len(answer["items"])


def test_when_the_catalogue_runs_dry_the_last_widgets_say_so(client: httpx.Client) -> None:
    three = ({"name": "a", "k": 40}, {"name": "b", "surface": "trending", "k": 40}, {"name": "c", "k": 3})
    page = compose(client, *three)
    assert [len(answer["items"]) for answer in page.values()] == [40, 9, 0]
    assert [answer["shortfall"] for answer in page.values()] == [0, 31, 3]


def test_a_widget_overrides_the_page(client: httpx.Client) -> None:
    page = compose(
        client,
        {"name": "page's", "k": 6},
        {"name": "own", "k": 6, "filters": {"category": "BAKERY"}},
        {"name": "none", "k": 40, "filters": {}},
        {"name": "like it", "k": 3, "item_id": "item-20"},
        filters={"category": "DAIRY"},
    )
    assert {item["category"].split(" > ")[0] for item in page["page's"]["items"]} == {"DAIRY"}
    assert {item["category"] for item in page["own"]["items"]} == {"BAKERY > BREAD"}
    assert page["none"]["shortfall"] == 40 - (N_ITEMS - 12)
    assert page["like it"]["surface"] == "similar" and page["like it"]["shortfall"] == 3


@pytest.mark.parametrize(
    ("widgets", "field", "words"),
    [
        ([], "widgets", "at least 1"),
        ([{"name": f"w{n}"} for n in range(11)], "widgets", "at most 10"),
        ([{"name": "top"}, {"name": "top"}], "widgets.top", "same name"),
        ([{"name": "top"}, {"name": "low", "k": 0}], "widgets.low.k", "greater than or equal to 1"),
        ([{"name": "top", "k": 101}], "widgets.top.k", "at most 100"),
        ([{"name": "top", "surface": "cellar"}], "widgets.top.surface", "home"),
        ([{"name": "top", "surface": "similar"}], "widgets.top", "needs an item_id"),
        ([{"name": "top", "user_id": "1"}], "widgets.top.user_id", "unknown name"),
        ([{"name": "top", "filters": {"min_price_cents": -1}}], "widgets.top.filters.min_price_cents", "equal to 0"),
        ([{"k": 3}], "widgets.0.name", "required"),
        (["top"], "widgets.0", "Widget"),
        ("top", "widgets", "tuple"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_the_widgets_name(
    client: httpx.Client, widgets: Any, field: str, words: str
) -> None:
    response = client.post("/page", json={"widgets": widgets})
    assert response.status_code == 422
    assert [problem["field"] for problem in response.json()["errors"]] == [field]
    assert field in response.json()["detail"] and words in response.json()["detail"]


def test_the_documentation_has_an_example_that_works(client: httpx.Client) -> None:
    route = client.get("/openapi.json").json()["paths"]["/page"]["post"]
    example = route["requestBody"]["content"]["application/json"]["example"]
    page = client.post("/page", json=example).json()
    assert page.keys() == route["responses"]["200"]["content"]["application/json"]["example"].keys()
    assert list(page["widgets"]) == [widget["name"] for widget in example["widgets"]]


def test_bodies_that_are_none(client: httpx.Client) -> None:
    assert client.post("/page", content=b"{").status_code == 400
    assert client.post("/page", content=b"x" * 10_000_000).status_code == 413
    assert client.post("/page", content=b'"text"').status_code == 422
    assert client.post("/page", json={}).json()["errors"][0]["field"] == "widgets"


def test_the_shopper_is_read_once_and_only_where_a_widget_needs_it(client: httpx.Client, data_dir: Path) -> None:
    store = redis.Redis(unix_socket_path=str(data_dir / "redis" / "redis.sock"))

    def reads() -> int:
        return int(store.info("commandstats").get("cmdstat_mget", {}).get("calls", 0))

    before = reads()
    personal = [
        {"name": f"w{n}", "surface": surface, "k": 3} for n, surface in enumerate(("home", "buy_again", "home"))
    ]
    compose(client, *personal, user_id="household-01")
    assert reads() == before + 1
    compose(client, {"name": "hot", "surface": "trending"}, user_id="household-01")
    assert reads() == before + 1


def test_each_widget_is_an_exposure_of_its_own_that_a_dry_run_can_ask_again(
    client: httpx.Client, data_dir: Path
) -> None:
    body = {"user_id": "household-07", "widgets": [{"name": "top", "k": 4}, {"name": "again", "surface": "buy_again"}]}
    page = client.post("/page", json=body).json()

    def exposures() -> list[dict[str, Any]]:
        return [row for row in logged(data_dir, EXPOSURES) if row["page_id"] == page["page_id"]]

    eventually(lambda: len(exposures()) == 2)
    top, again = exposures()
    answers = page["widgets"]
    assert [top["request_id"], again["request_id"]] == [answers[name]["request_id"] for name in ("top", "again")]
    assert [top["widget"], again["widget"]] == ["top", "again"]
    assert (top["shown_before"], again["shown_before"]) == ([], ids(answers["top"]))
    assert [item for item, *_ in again["items"]] == ids(answers["again"])
    with opened(database_url(data_dir)) as engine:
        last = from_log(engine, open_live(data_dir, None), 1)[0].request
    assert list(last.filters.exclude_item_ids) == ids(answers["top"])


def test_without_redis_the_personal_widgets_are_degraded(tmp_path: Path) -> None:
    publish_tiny_shop(tmp_path)
    with running_service(tmp_path) as url, httpx.Client(base_url=url, timeout=10) as client:
        widgets = ({"name": "top", "k": 5}, {"name": "hot", "surface": "trending", "k": 5})
        with without_redis(tmp_path):
            page = compose(client, *widgets, user_id="household-01")
        assert (page["top"]["served_by"], page["top"]["degraded"], len(page["top"]["items"])) == ("popularity", True, 5)
        assert page["hot"]["degraded"] is False and len(set(shown(page))) == 10


def test_every_widget_obeys_the_rules(tmp_path: Path) -> None:
    publish_tiny_shop(tmp_path)
    (tmp_path / "rules.toml").write_text(RULES)
    rules = {"RECSYS_RULES": str(tmp_path / "rules.toml")}
    with running_service(tmp_path, environment=rules) as url, httpx.Client(base_url=url, timeout=10) as client:
        rest = {"name": "c", "surface": "new_arrivals", "k": 40}
        page = compose(client, {"name": "a", "k": 8}, {"name": "b", "k": 8}, rest, user_id="nobody")
    items = shown(page)
    assert len(items) == len(set(items)) and not BREAD & set(items)
    assert ids(page["a"])[0] == "item-07"  # pinned; shown once, not again
    for name in ("a", "b"):
        shelves = [item["category"] for item in page[name]["items"]]
        assert page[name]["shortfall"] == 0 and max(map(shelves.count, shelves)) <= 2
    assert len(page["c"]["items"]) == N_ITEMS - len(BREAD) - 16
