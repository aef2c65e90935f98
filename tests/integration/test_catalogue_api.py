"""The catalogue API through the real service: two workers, one log, and what the next training makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import polars as pl
import pytest
from rich.console import Console

from pipelines.ingest import ingest_catalogue_log, read_catalogue_bytes
from recsys.publish import publish
from recsys.tables import CATALOGUE_LOG
from tests.shop import publish_tiny_shop, running_service, write_tiny_bundle

SURFACES = ("home", "similar", "bought_together", "cart", "buy_again", "trending", "new_arrivals")
SPARE = 60
OAT_MILK = {"title": "OAT MILK", "category": "DAIRY > MILK", "brand": "National", "price_cents": 199}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("catalogue")
    publish(folder / "bundles", write_tiny_bundle(folder, phase=2, spare=SPARE).name)
    return folder


@pytest.fixture(scope="module")
def url(data_dir: Path) -> Iterator[str]:
    with running_service(data_dir, workers=2) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


def everywhere(url: str, path: str, n: int = 12, **parameters: Any) -> list[dict[str, Any]]:
    """The same question over new connections, so that every worker answers some."""
    answers = []
    for _ in range(n):
        response = httpx.get(f"{url}{path}", params=parameters, timeout=30)
        assert response.status_code == 200, response.text
        answers.append(response.json())
    return answers


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def test_a_new_item_is_in_the_next_answer_of_every_worker(client: httpx.Client, url: str) -> None:
    put = client.put("/items/oat/milk", json=OAT_MILK)
    assert put.status_code == 201
    assert put.json() == {"item_id": "oat/milk", "verdict": "added", "reason": None, "warnings": []}
    for answer in everywhere(url, "/items/oat/milk"):
        assert answer["title"] == "OAT MILK" and answer["available"] is True and answer["price_cents"] == 199
    for answer in everywhere(url, "/search", q="oat milk"):
        assert ids(answer) == ["oat/milk"]
    for answer in everywhere(url, "/recommend", surface="new_arrivals", k=4):
        assert ids(answer)[0] == "oat/milk"
    for user in ("household-01", "household-02"):
        for k in (1, 12):
            answer = everywhere(url, "/recommend", 1, surface="new_arrivals", user_id=user, k=k)[0]
            assert ids(answer)[0] == "oat/milk" and answer["items"][0]["source"] == "new_arrivals_for_you"
    for answer in everywhere(url, "/recommend", user_id="household-01", category="DAIRY > MILK", k=10):
        found = {item["item_id"]: item for item in answer["items"]}
        assert found["oat/milk"]["source"] == "content"
        assert found["oat/milk"]["reason"].startswith(("Same", "Much like"))


def test_a_new_item_has_similar_products_and_is_a_history_that_answers(client: httpx.Client) -> None:
    client.put("/items/oat-2", json=OAT_MILK)
    items = client.get("/recommend", params={"surface": "similar", "item_id": "oat-2", "k": 3}).json()["items"]
    assert items[0]["source"] == "similar_content" and items[0]["category"] == "DAIRY > MILK"
    event = {"type": "purchase", "item_id": "oat-2", "user_id": "somebody-new"}
    assert client.post("/events", json=event).json()["verdicts"][0]["reason"] is None
    again = client.get("/recommend", params={"surface": "buy_again", "user_id": "somebody-new", "k": 3}).json()
    assert ids(again) == ["oat-2"]


def test_a_new_item_is_on_the_pages_of_items_like_it(client: httpx.Client, url: str) -> None:
    asked = {"surface": "similar", "item_id": "item-04", "k": 12}
    assert "oat-page" not in ids(everywhere(url, "/recommend", 1, **asked)[0])
    client.put("/items/oat-page", json=OAT_MILK)
    for answer in everywhere(url, "/recommend", **asked):
        found = {item["item_id"]: item for item in answer["items"]}
        assert found["oat-page"]["source"] == "similar_content"
        assert found["oat-page"]["reason"].endswith("HALF & HALF") and len(found) == 12
    assert client.get("/recommend", params={**asked, "k": 3}).json()["items"][2]["item_id"].startswith("item-")


def test_two_new_items_know_each_other_in_whichever_order_they_joined(client: httpx.Client) -> None:
    alike = {"title": "SOY MILK CREAMER", "category": "DAIRY > MILK"}
    client.put("/items/twin-a", json=alike)
    client.get("/recommend", params={"item_id": "twin-a", "k": 3})
    client.put("/items/twin-b", json=alike)
    assert ids(client.get("/recommend", params={"item_id": "twin-a", "k": 3}).json())[0] == "twin-b"
    assert ids(client.get("/recommend", params={"item_id": "twin-b", "k": 3}).json())[0] == "twin-a"


def test_what_is_deleted_and_put_again_is_new_again(client: httpx.Client) -> None:
    client.put("/items/again", json=OAT_MILK)
    client.post("/items", json=[{"item_id": f"later-{n}", **OAT_MILK} for n in range(3)])
    arrivals = {"surface": "new_arrivals", "k": 4}
    assert "again" not in ids(client.get("/recommend", params=arrivals).json())
    client.delete("/items/again")
    client.put("/items/again", json=OAT_MILK)
    assert ids(client.get("/recommend", params=arrivals).json())[0] == "again"
    assert "again" in ids(client.get("/recommend", params={**arrivals, "user_id": "household-01", "k": 12}).json())


@pytest.mark.parametrize("how", ["delete", "filter", "put"])
def test_what_is_switched_off_is_never_recommended_again(client: httpx.Client, url: str, how: str) -> None:
    gone = {"delete": "item-05", "filter": "item-06", "put": "item-07"}[how]
    asked: dict[str, Any] = {"user_id": "household-05", "item_id": "item-08", "cart": "item-09", "k": 100}
    assert any(gone in ids(everywhere(url, "/recommend", 1, surface=s, **asked)[0]) for s in SURFACES)
    if how == "delete":
        assert client.delete(f"/items/{gone}").json() == {"item_id": gone, "verdict": "deleted"}
    elif how == "filter":
        body = {"filter": {"item_ids": [gone, "nobody"]}, "set": {"available": False}}
        assert client.patch("/items", json=body).json() == {"changed": 1, "unknown_item_ids": ["nobody"]}
    else:
        assert client.put(f"/items/{gone}", json={**OAT_MILK, "available": False}).json()["verdict"] == "updated"
    for surface in SURFACES:
        for answer in everywhere(url, "/recommend", 6, surface=surface, **asked):
            assert gone not in ids(answer), surface
    assert all(answer["available"] is False for answer in everywhere(url, f"/items/{gone}", 4))


def test_a_price_is_changed_by_filter_and_filters_know_it(client: httpx.Client, url: str) -> None:
    before = {item: client.get(f"/items/{item}").json()["price_cents"] for item in ("item-13", "item-14", "item-20")}
    category = client.get("/items/item-13").json()["category"]
    body = {"filter": {"category": category}, "set": {"price_factor": 10}}
    assert client.patch("/items", json=body).json()["changed"] == 6
    for answer in everywhere(url, "/items/item-13", 4):
        assert answer["price_cents"] == 10 * before["item-13"]
    assert client.get("/items/item-20").json()["price_cents"] == before["item-20"]
    answer = everywhere(url, "/recommend", 1, min_price_cents=10 * before["item-13"] - 100, k=20)[0]
    assert {item["category"] for item in answer["items"]} == {category}
    assert all(item["price_cents"] >= 10 * before["item-13"] - 100 for item in answer["items"])


def test_a_batch_has_a_verdict_for_each(client: httpx.Client) -> None:
    items = [
        {"item_id": "b-1", **OAT_MILK},
        {"item_id": "b-2", "price_cents": -1},
        {"item_id": "b-3", "colour": "red"},
        {"item_id": "b-4", "category": "TOYS>  >TRAINS ", "price_cents": 10**12},
        {"title": "nameless"},
        {"item_id": "b-5", "title": "未知"},
        17,
    ]
    answer = client.post("/items", json={"items": items})
    assert answer.status_code == 200
    verdicts = answer.json()["verdicts"]
    assert [v["verdict"] for v in verdicts] == [
        "added",
        "rejected",
        "rejected",
        "added",
        "rejected",
        "added",
        "rejected",
    ]
    assert verdicts[1]["reason"] == "price_cents: Input should be greater than or equal to 0"
    assert verdicts[2]["reason"] == "colour: unknown name"
    warnings = " ".join(verdicts[3]["warnings"])
    for odd in ("no title", "'TOYS > TRAINS' is new", "100 times"):
        assert odd in warnings
    assert verdicts[5]["warnings"] == [
        "it has no category",
        "nothing in its content is known from other items: it is only a new arrival",
    ]
    assert client.get("/items/b-4").json()["title"] == "b-4"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("PATCH", "/items", {"filter": {}, "set": {"available": False}}, 422, "empty filter"),
        ("PATCH", "/items", {"filter": {"brand": "x"}, "set": {}}, 422, "say what to change"),
        ("PATCH", "/items", {"filter": {"brand": "x"}, "set": {"price_cents": 1, "price_factor": 2}}, 422, "not both"),
        ("PUT", "/items/a", {"item_id": "b"}, 422, "the path says 'a'"),
        ("PUT", "/items/a", {"attributes": {str(n): n for n in range(65)}}, 422, "attributes"),
        ("PUT", "/items/a", ["a"], 422, "dictionary"),
        ("POST", "/items", [], 400, "no item"),
        ("POST", "/items", [{"item_id": "a"}] * 1_001, 400, "at most 1,000"),
        ("POST", "/items", [{"item_id": ""}], 422, "item_id"),
        ("PUT", "/items/a", {"price_cents": "249"}, 422, "price_cents: must be a whole number, without quotes"),
        ("PUT", "/items/a", {"price_cents": True}, 422, "price_cents: must be a whole number, without quotes"),
        (
            "PATCH",
            "/items",
            {"filter": {"brand": "x"}, "set": {"price_cents": "1"}},
            422,
            "set.price_cents: must be a whole",
        ),
        ("PATCH", "/items", {"filter": {"brand": "x"}, "set": {"price_factor": "2"}}, 422, "must be a number, without"),
        ("PATCH", "/items", {"filter": {"min_price_cents": True}, "set": {"available": True}}, 422, "must be a whole"),
        ("PUT", "/items/a", {"attributes": {"x": "y" * 1_001}}, 422, '"attributes.x: must be text of at most 1,000'),
        ("PUT", "/items/a", {"attributes": {"x": {"y": 1}}}, 422, '"attributes.x: must be text of at most 1,000'),
        ("PUT", "/items/a", {"attributes": {"x": [1, None]}}, 422, '"attributes.x: must be text of at most 1,000'),
        ("PUT", "/items/a", {"attributes": {"x": [1] * 65}}, 422, '"attributes.x: must be text of at most 1,000'),
        ("PUT", "/items/a", {"attributes": {"": 1}}, 422, '"attributes.: String should have at least 1 character'),
        ("DELETE", "/items/nobody", None, 404, "not in the catalogue"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(
    client: httpx.Client, method: str, path: str, body: Any, status: int, says: str
) -> None:
    response = client.request(method, path, json=body) if body is not None else client.request(method, path)
    assert response.status_code == status
    assert says in response.text


def test_a_body_that_is_no_json_is_refused(client: httpx.Client) -> None:
    for method, path in (("PUT", "/items/a"), ("POST", "/items"), ("PATCH", "/items")):
        assert client.request(method, path, content=b"{").status_code == 400


def test_many_writers_lose_nothing(url: str, data_dir: Path) -> None:
    def put(number: int) -> int:
        return httpx.put(
            f"{url}/items/w-{number % 20}", json={**OAT_MILK, "price_cents": number}, timeout=30
        ).status_code

    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(put, range(200)))
    assert statuses.count(201) == 20 and statuses.count(200) == 180
    lines = [orjson.loads(line) for line in (data_dir / CATALOGUE_LOG).read_bytes().splitlines()]
    last = {line["item"]["item_id"]: line["item"]["price_cents"] for line in lines if line["kind"] == "item"}
    for number in range(20):
        assert {a["price_cents"] for a in everywhere(url, f"/items/w-{number}", 4)} == {last[f"w-{number}"]}


def test_metrics_count_the_changes(client: httpx.Client) -> None:
    text = client.get("/metrics").text
    assert 'recsys_items_changed_total{shop="default",verdict="added"}' in text
    assert "recsys_items_waiting" in text


def test_changes_survive_a_restart_and_reach_the_next_bundle(tmp_path: Path) -> None:
    publish(tmp_path / "bundles", write_tiny_bundle(tmp_path, phase=2, spare=2).name)
    log = tmp_path / CATALOGUE_LOG
    with running_service(tmp_path) as url, httpx.Client(base_url=url, timeout=30) as client:
        answer = client.post("/items", json=[{"item_id": f"new-{n}", **OAT_MILK} for n in range(3)]).json()
        assert [verdict["verdict"] for verdict in answer["verdicts"]] == ["added", "added", "waiting"]
        assert "next training" in answer["verdicts"][2]["reason"]
        assert client.get("/items/new-2").json()["title"] == "OAT MILK"
        client.delete("/items/item-05")
        client.patch("/items", json={"filter": {"item_ids": ["item-06"]}, "set": {"price_cents": 5}})
    with log.open("ab") as file:
        file.write(b'{"kind": "item", "item": {"item_id": "to')  # a crash in the middle of a line
    with running_service(tmp_path) as url, httpx.Client(base_url=url, timeout=30) as client:
        assert client.get("/items/new-1").json()["title"] == "OAT MILK"
        assert client.get("/items/item-05").json()["available"] is False
        assert client.put("/items/new-0", json={**OAT_MILK, "title": "RENAMED"}).json()["verdict"] == "updated"
        assert client.get("/items/new-0").json()["title"] == "RENAMED"

    ingest_catalogue_log(tmp_path, Console(quiet=True))
    changes = pl.read_parquet(tmp_path / "raw" / "catalogue_log.changes.parquet")
    assert changes["item_id"].to_list() == ["item-05", "item-06", "new-0", "new-1", "new-2"]
    assert changes["is_whole"].to_list() == [False, False, True, True, True]
    assert changes.filter(item_id="new-0")["title"].item() == "RENAMED"
    assert changes.filter(item_id="item-05")["available"].item() is False
    assert changes.filter(item_id="item-06")["price_cents"].item() == 5
    assert read_catalogue_bytes(tmp_path) == log.stat().st_size


def test_without_content_items_join_as_new_arrivals(tmp_path: Path) -> None:
    publish(tmp_path / "bundles", write_tiny_bundle(tmp_path, phase=1, spare=5).name)
    with running_service(tmp_path) as url, httpx.Client(base_url=url, timeout=30) as client:
        client.put("/items/oat", json=OAT_MILK)
        answer = client.get("/recommend", params={"surface": "new_arrivals", "user_id": "household-01", "k": 4}).json()
        assert ids(answer)[0] == "oat" and answer["items"][0]["reason"] == "New here"
        similar = client.get("/recommend", params={"item_id": "oat", "k": 3}).json()
        assert {item["category"] for item in similar["items"]} == {"DAIRY > MILK"}


def test_a_bundle_without_room_still_knows_prices_and_availability(tmp_path: Path) -> None:
    publish_tiny_shop(tmp_path)
    with running_service(tmp_path) as url, httpx.Client(base_url=url, timeout=30) as client:
        assert client.put("/items/oat", json=OAT_MILK).json()["verdict"] == "waiting"
        assert client.delete("/items/oat").status_code == 200
        assert client.get("/items/oat").json()["available"] is False
        assert np.isin("oat", ids(client.get("/recommend", params={"k": 100}).json())).item() is False


def test_what_was_deleted_comes_back_by_a_put_alone(client: httpx.Client) -> None:
    everything = {"filter": {"category": "DAIRY > MILK"}, "set": {"available": True}}
    client.put("/items/gone", json=OAT_MILK)
    client.delete("/items/gone")
    assert client.patch("/items", json=everything).json()["changed"] >= 1
    assert client.get("/items/gone").json()["available"] is False
    named = {"filter": {"item_ids": ["gone"]}, "set": {"available": True}}
    assert client.patch("/items", json=named).json() == {"changed": 0}
    client.put("/items/gone", json=OAT_MILK)
    assert client.get("/items/gone").json()["available"] is True


def test_a_factor_leaves_an_item_without_a_price_without_one(client: httpx.Client) -> None:
    client.put("/items/unpriced", json={**OAT_MILK, "price_cents": None})
    halve = {"filter": {"item_ids": ["unpriced"]}, "set": {"price_factor": 0.4, "available": True}}
    assert client.patch("/items", json=halve).json() == {"changed": 1, "without_price": 1}
    assert client.get("/items/unpriced").json()["price_cents"] is None


def test_a_price_that_would_be_too_high_is_the_highest_and_the_answer_says_so(client: httpx.Client) -> None:
    client.post(
        "/items", json=[{"item_id": "dear", **OAT_MILK, "price_cents": 10**11}, {"item_id": "cheap", **OAT_MILK}]
    )
    raised = {"filter": {"item_ids": ["dear", "cheap"]}, "set": {"price_factor": 20}}
    answer = client.patch("/items", json=raised).json()
    assert answer["changed"] == 2
    assert answer["warnings"] == [
        "1 prices would be above 1,000,000,000,000 cents, the most there is, and are that now"
    ]
    assert [client.get(f"/items/{item}").json()["price_cents"] for item in ("dear", "cheap")] == [10**12, 20 * 199]
    client.delete("/items/dear")


def test_attributes_are_kept_as_they_were_given(client: httpx.Client, data_dir: Path) -> None:
    given = {"tags": ["a", 1, 2.5, True], "n": 3, "organic": False, "size": "1 L"}
    assert client.put("/items/told", json={**OAT_MILK, "attributes": given}).status_code == 201
    last = orjson.loads((data_dir / CATALOGUE_LOG).read_bytes().splitlines()[-1])
    assert orjson.dumps(last["item"]["attributes"]) == orjson.dumps(given)


def test_a_put_says_what_the_item_is_now(client: httpx.Client) -> None:
    client.put("/items/plain", json=OAT_MILK)
    client.put("/items/plain", json={"title": "OAT MILK"})
    now = client.get("/items/plain").json()
    assert (now["price_cents"], now["brand"], now["category"]) == (None, None, None)


def test_a_new_item_that_content_cannot_place_is_a_new_arrival_for_everybody(client: httpx.Client) -> None:
    client.put("/items/strange", json={"title": "qqqq wwww", "attributes": {"flavour": "zzz"}})
    for who in ({"user_id": "household-01"}, {}):
        answer = client.get("/recommend", params={**who, "surface": "new_arrivals", "k": 6}).json()
        assert "strange" in ids(answer)
    warned = client.put("/items/oat-3", json={**OAT_MILK, "attributes": {"flavour": "zzz"}}).json()["warnings"]
    assert warned == ["not known from other items, so of no use: flavour"]


def test_lines_that_are_no_change_are_passed_over_by_the_service_and_the_tables(tmp_path: Path) -> None:
    odd = [b"[1]", b"5", b'{"x":1}', b'{"kind":"zzz"}', b'{"kind":"item","item":{"item_id":5}}', b"{torn"]
    at = "2026-01-01T00:00:00+00:00"
    item = {"item_id": "late", "title": "LATE MILK", "description": None, "category": "DAIRY > MILK", "brand": None}
    item |= {"price_cents": 2**63, "image_url": None, "attributes": {}, "available": True}
    odd.append(orjson.dumps({"kind": "item", "changed_at": at, "item": item}))
    good = orjson.dumps({"kind": "item", "changed_at": at, "item": {**item, "price_cents": 100}})
    publish(tmp_path / "bundles", write_tiny_bundle(tmp_path, phase=2, spare=5).name)
    log = tmp_path / CATALOGUE_LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"\n".join([*odd, good]) + b"\n")
    with running_service(tmp_path) as url:
        assert httpx.get(f"{url}/items/late").json()["price_cents"] == 100
        assert ids(httpx.get(f"{url}/recommend", params={"surface": "new_arrivals", "k": 4}).json())[0] == "late"
    ingest_catalogue_log(tmp_path, Console(quiet=True))
    assert "late" in pl.read_parquet(tmp_path / "raw" / "catalogue_log.changes.parquet")["item_id"].to_list()
