"""The real service over real HTTP with a real Redis, on a tiny shop: what it answers, and what it does when things fail."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
from rich.console import Console

from pipelines.ingest import ingest_log
from recsys.dataset import Dataset
from recsys.publish import publish, rollback
from recsys.store.database import database_url
from recsys.store.schema import EVENTS
from tests.factories import make_catalogue, without_availability
from tests.shop import logged, publish_tiny_shop, running_service, tiny_dataset, write_tiny_bundle

SURFACES = ("home", "similar", "bought_together", "cart", "buy_again", "trending", "new_arrivals")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    publish_tiny_shop(folder)
    return folder


@pytest.fixture(scope="module")
def client(data_dir: Path) -> Iterator[httpx.Client]:
    with running_service(data_dir) as url, httpx.Client(base_url=url, timeout=10) as client:
        yield client


def ask(client: httpx.Client, **parameters: Any) -> dict[str, Any]:
    answer = client.get("/recommend", params=parameters)
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def eventually(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


@pytest.mark.parametrize("surface", SURFACES)
def test_every_surface_answers_with_reasons(client: httpx.Client, surface: str) -> None:
    answer = ask(client, user_id="household-01", surface=surface, item_id="item-03", cart="item-05", k=5)
    assert answer["surface"] == surface
    assert answer["degraded"] is False and answer["phase"] == 1 and answer["currency"] == "USD"
    assert [item["rank"] for item in answer["items"]] == list(range(1, len(answer["items"]) + 1))
    assert len(answer["items"]) + answer["shortfall"] == 5
    for item in answer["items"]:
        assert item["reason"] and item["source"] and item["title"] and isinstance(item["score"], int | float)
    assert not {"item-03", "item-05"} & set(ids(answer))
    assert len(set(ids(answer))) == len(ids(answer))


def test_get_and_post_are_the_same_question(client: httpx.Client) -> None:
    got = ask(client, user_id="household-02", k=6, category="DAIRY")
    posted = client.post(
        "/recommend", json={"user_id": "household-02", "k": 6, "filters": {"category": "DAIRY"}}
    ).json()
    assert ids(got) == ids(posted)
    assert {item["category"] for item in got["items"]} <= {"DAIRY > MILK", "DAIRY > CHEESE"}


def test_filters_hold_on_every_item(client: httpx.Client) -> None:
    answer = ask(client, k=40, min_price_cents=150, max_price_cents=250, brand="National", exclude_item_ids="item-10")
    assert answer["items"]
    assert all(150 <= item["price_cents"] <= 250 and item["brand"] == "National" for item in answer["items"])
    assert "item-10" not in ids(answer)
    bought = {item["item_id"] for item in ask(client, user_id="household-03", surface="buy_again", k=40)["items"]}
    assert not bought & set(ids(ask(client, user_id="household-03", only_new="true", k=40)))


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"k": 0}, "greater than or equal to 1"),
        ({"k": 101}, "at most 100"),
        ({"k": "many"}, "integer"),
        ({"surface": "cellar"}, "home"),
        ({"surface": "similar"}, "needs an item_id"),
        ({"usr": "1"}, "unknown name"),
        ({"user_id": ""}, "at least 1"),
        ({"user_id": "x" * 257}, "at most 256"),
        ({"min_price_cents": -1}, "greater than or equal to 0"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(client: httpx.Client, parameters: dict[str, Any], words: str) -> None:
    answer = client.get("/recommend", params=parameters)
    assert answer.status_code == 422
    assert words in answer.json()["detail"]


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"user_id": "nobody"},
        {"session_id": "never seen"},
        {"item_id": "no such item"},
        {"surface": "cart", "cart": "no such item"},
        {"user_id": "Zoë \u0000 ' OR 1=1 <script>"},
        {"k": 100},
    ],
)
def test_strangers_are_answered(client: httpx.Client, parameters: dict[str, Any]) -> None:
    answer = ask(client, **parameters)
    wanted = parameters.get("k", 12)
    assert len(answer["items"]) == min(wanted, 49)
    assert answer["shortfall"] == wanted - len(answer["items"])
    assert bool(answer["warnings"]) == ("item_id" in parameters)


def test_nothing_eligible_is_an_empty_answer_that_says_so(client: httpx.Client) -> None:
    answer = ask(client, category="NO SUCH SHELF", k=7)
    assert (answer["items"], answer["shortfall"]) == ([], 7)


@pytest.mark.parametrize("path", ["/recommend", "/events"])
def test_bodies_that_are_none(client: httpx.Client, path: str) -> None:
    assert client.post(path, content=b"{").status_code == 400
    assert client.post(path, content=b"x" * 10_000_000).status_code == 413
    chunks = iter([b"x" * 1_000_000] * 10)
    assert client.post(path, content=chunks).status_code == 413  # without a length announced
    assert client.post(path, content=b'"text"').status_code in (400, 422)
    assert client.post(path, content=b"\xff\xfe").status_code == 400


def event(number: str, **fields: Any) -> dict[str, Any]:
    return {"event_id": number, "type": "view", "session_id": "s", "item_id": "item-07", **fields}


def test_a_verdict_for_each_event(client: httpx.Client) -> None:
    events = [
        event("v1"),
        event("v1"),
        event("v2", type="teleport"),
        event("v3", occurred_at="2100-01-01T00:00:00Z"),
        event("v4", session_id=None),
        event("v5", item_id="brand new"),
        event("v6", quantity=0),
        "not an event",
    ]
    answer = client.post("/events", json={"events": events})
    assert answer.status_code == 200
    verdicts = [verdict["verdict"] for verdict in answer.json()["verdicts"]]
    assert verdicts == ["accepted", "duplicate", "rejected", "rejected", "rejected", "accepted", "rejected", "rejected"]
    reasons = [verdict["reason"] or "" for verdict in answer.json()["verdicts"]]
    for reason, words in zip(
        reasons[2:], ("type", "future", "user_id or a session_id", "catalogue", "quantity"), strict=False
    ):
        assert words in reason
    again = client.post("/events", json=event("v1")).json()
    assert again["duplicate"] == 1
    assert client.post("/events", json=event("v7", type="teleport")).status_code == 422
    assert client.post("/events", json=[event(f"n{n}") for n in range(1_001)]).status_code == 400
    assert client.post("/events", json=[event(f"n{n}") for n in range(1_000)]).json()["accepted"] == 1_000
    assert client.post("/events", json=[]).status_code == 400


def test_a_retry_without_an_id_counts_once_if_it_says_when(client: httpx.Client) -> None:
    one = {"type": "cart", "user_id": "retry", "item_id": "item-01", "occurred_at": "2024-01-01T00:00:00Z"}
    assert [client.post("/events", json=one).json()["accepted"] for _ in range(2)] == [1, 0]


def test_the_next_request_after_an_accepted_event_sees_it(client: httpx.Client) -> None:
    def buy(number: int) -> None:
        shopper, item = f"fresh-{number}", f"item-{1 + number % 48:02}"
        taken = client.post("/events", json=event(f"f{number}", type="purchase", user_id=shopper, item_id=item)).json()
        assert taken["accepted"] == 1
        assert ids(ask(client, user_id=shopper, surface="buy_again")) == [item]

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(buy, range(200)))


def test_items_search_and_docs(client: httpx.Client) -> None:
    found = client.get("/items/item-01").json()
    assert (found["available"], found["currency"]) == (True, "USD")
    assert client.get("/items/i/0 0").json()["item_id"] == "i/0 0"
    assert client.get("/items/nothing").status_code == 404
    titles = [item["title"] for item in client.get("/search", params={"q": "cheese"}).json()["items"]]
    assert set(titles) == {"CREAM CHEESE 8 OZ", "SHREDDED CHEESE"}
    assert {item["title"] for item in client.get("/search", params={"q": "8 oz cream"}).json()["items"]} == {
        "CREAM CHEESE 8 OZ"
    }
    assert client.get("/search").json() == {"currency": "USD", "items": []}
    schema = client.get("/openapi.json").json()
    assert {"user_id", "k", "category"} <= {p["name"] for p in schema["paths"]["/recommend"]["get"]["parameters"]}
    assert "recsys_answers_total" in client.get("/metrics").text
    assert client.get("/health/live").status_code == 200


def pid_of(words: str) -> int:
    """The one process whose command line holds these words."""
    listed = subprocess.run(["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    (pid,) = (int(line.split()[0]) for line in listed.splitlines() if words in line)
    return pid


def redis_pid(data_dir: Path) -> int:
    return pid_of(f"unixsocket:{(data_dir / 'redis' / 'redis.sock').resolve()}")


@contextmanager
def without_redis(data_dir: Path) -> Iterator[int]:
    """The embedded Redis does not answer while the block runs; one that ended would be started again. Gives its process."""
    pid = redis_pid(data_dir)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        with suppress(ProcessLookupError):  # killed meanwhile
            os.kill(pid, signal.SIGCONT)


def test_without_redis_a_cheaper_rung_answers_and_events_wait_for_it(tmp_path: Path) -> None:
    publish_tiny_shop(tmp_path)
    with running_service(tmp_path) as url, httpx.Client(base_url=url, timeout=10) as client:
        before = ask(client, user_id="household-02", k=5)
        assert before["rung"] == "full"
        with without_redis(tmp_path) as first:
            cheaper_rungs_answer(client, before)
            assert client.post("/events", json=event("late", type="purchase", user_id="w")).json()["accepted"] == 1
            os.kill(first, signal.SIGKILL)
        eventually(lambda: ids(ask(client, user_id="w", surface="buy_again")) == ["item-07"])
        assert redis_pid(tmp_path) != first  # the service has started another one, and stops it too
        assert client.post("/events", json=event("late", type="purchase", user_id="w")).json()["duplicate"] == 1
    with pytest.raises(ValueError, match="not enough values"):
        redis_pid(tmp_path)
    assert [row["event_id"] for row in logged(tmp_path, EVENTS)] == ["late"]


def cheaper_rungs_answer(client: httpx.Client, before: dict[str, Any]) -> None:
    """To shoppers of whom nothing can be read, and as ever where nothing has to be; `before` was household-02's answer."""
    answer = ask(client, user_id="household-03", k=5)
    assert (answer["served_by"], answer["degraded"], answer["rung"]) == ("popularity", True, "simple")
    assert len(answer["items"]) == 5
    again = ask(client, user_id="household-02", k=5)
    assert (again["served_by"], again["degraded"], again["rung"]) == ("phase1", True, "remembered")
    assert ids(again) == ids(before)
    assert client.patch("/items", json={"filter": {"item_ids": ids(before)[:1]}, "set": {"available": False}})
    assert ids(ask(client, user_id="household-02", k=5))[:4] == ids(before)[1:]
    explained = ask(client, user_id="household-02", k=2, explain=True)
    assert (explained["rung"], [bool(item["explanation"]) for item in explained["items"]]) == (
        "popular",
        [True, True],
    )
    similar = ask(client, surface="similar", item_id="item-03")
    assert (similar["degraded"], similar["served_by"]) == (False, "similar")
    assert client.get("/health/ready").status_code == 200


def test_an_acknowledged_event_survives_the_death_of_the_service(tmp_path: Path) -> None:
    publish_tiny_shop(tmp_path)
    acknowledged = []
    with running_service(tmp_path) as url, httpx.Client(base_url=url, timeout=10) as client:
        numbers = [f"k{number}" for number in range(50)]
        acknowledged += [number for number in numbers if client.post("/events", json=event(number)).json()["accepted"]]
        os.kill(pid_of(f"--port {url.rsplit(':', 1)[1]} "), signal.SIGKILL)
    orphan = redis_pid(tmp_path)
    assert acknowledged == [row["event_id"] for row in logged(tmp_path, EVENTS)]
    ingest_log(database_url(tmp_path), tmp_path, Console(quiet=True))
    ingested = pl.read_parquet(tmp_path / "raw" / "event_log.events.parquet")
    assert sorted(ingested["event_id"]) == sorted(acknowledged)
    # The next service takes the orphaned Redis over, with its histories, and stops it in the end.
    with running_service(tmp_path) as url, httpx.Client(base_url=url, timeout=10) as client:
        assert redis_pid(tmp_path) == orphan
        assert client.post("/events", json=event("k0")).json()["duplicate"] == 1
    with pytest.raises(ValueError, match="not enough values"):
        redis_pid(tmp_path)


def test_a_publication_and_a_rollback_are_picked_up_and_a_damaged_bundle_is_refused(tmp_path: Path) -> None:
    bundles = tmp_path / "bundles"
    first = publish_tiny_shop(tmp_path)
    with running_service(tmp_path) as url, httpx.Client(base_url=url, timeout=10) as client:
        assert ask(client)["model_version"] == first
        time.sleep(1.0)  # versions are named by the second
        second = publish_tiny_shop(tmp_path)
        eventually(lambda: ask(client)["model_version"] == second)
        rollback(bundles)
        eventually(lambda: ask(client)["model_version"] == first)
        time.sleep(1.0)
        damaged = write_tiny_bundle(tmp_path)
        victim = damaged / "arrays" / "history-items.npy"
        victim.write_bytes(victim.read_bytes()[:-4])
        (bundles / "live").write_text(damaged.name)  # as a careless hand would
        eventually(lambda: "recsys_bundles_refused_total{" in client.get("/metrics").text)
        assert ask(client)["model_version"] == first


def test_several_workers_share_one_redis_and_stop_with_it(tmp_path: Path) -> None:
    publish_tiny_shop(tmp_path)
    with running_service(tmp_path, workers=2) as url:
        for number in range(60):  # a connection for each, so that both workers are met
            shopper = f"w{number}"
            taken = httpx.post(f"{url}/events", json=event(f"w{number}", type="purchase", user_id=shopper)).json()
            assert taken["accepted"] == 1
            seen = httpx.get(f"{url}/recommend", params={"user_id": shopper, "surface": "buy_again"}).json()
            assert ids(seen) == ["item-07"]
        assert "recsys_answers_total" in httpx.get(f"{url}/metrics").text
        os.kill(pid_of(f"--port {url.rsplit(':', 1)[1]} "), signal.SIGTERM)
        eventually(lambda: not (tmp_path / "redis" / "redis.sock").exists())


@pytest.mark.parametrize("emptied", ["nothing for sale", "no items"])
def test_an_empty_catalogue_is_answered_with_a_shortfall(tmp_path: Path, emptied: str) -> None:
    full = tiny_dataset(np.random.default_rng(0))
    if emptied == "no items":
        dataset = Dataset(full.events.take(slice(0, 0)), make_catalogue(0), (), 0, 0)
    else:
        dataset = without_availability(full, range(full.n_items))
    publish(tmp_path / "bundles", write_tiny_bundle(tmp_path, dataset).name)
    with running_service(tmp_path) as url, httpx.Client(base_url=url, timeout=10) as client:
        for surface in SURFACES:
            answer = ask(client, surface=surface, item_id="item-03", cart="item-05", user_id="household-01", k=5)
            assert (answer["items"], answer["shortfall"]) == ([], 5)
