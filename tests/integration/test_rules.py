"""Rules through the real service: in every answer and the log, replaced while it runs, in force when Redis is gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from recsys.rules.reading import read_rules
from recsys.store.schema import EXPOSURES
from tests.integration.test_service import SURFACES, ask, eventually, ids, without_redis
from tests.shop import logged, publish_tiny_shop, running_service

RULES = """
[[rules]]
name = "no-bread"
kind = "exclude"
reason = "legal"
items = { category = "BAKERY" }

[[rules]]
name = "hero"
kind = "pin"
item_id = "item-07"
position = 1
when = { surfaces = ["home", "trending"] }

[[rules]]
name = "two-per-shelf"
kind = "cap"
by = "category"
at_most = 2
when = { surfaces = ["home", "trending"] }

[[rules]]
name = "not-again"
kind = "not_bought"
days = 10_000
replenishable = { category = "DAIRY > MILK" }
when = { surfaces = ["similar"] }
"""
BREAD = {f"item-{n:02}" for n in range(13, 19)}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ruled")
    publish_tiny_shop(folder)
    (folder / "rules.toml").write_text(RULES)
    return folder


@pytest.fixture(scope="module")
def client(data_dir: Path) -> Iterator[httpx.Client]:
    rules = {"RECSYS_RULES": str(data_dir / "rules.toml"), "RECSYS_RELOAD_SECONDS": "0.1"}
    with running_service(data_dir, environment=rules) as url, httpx.Client(base_url=url, timeout=10) as client:
        yield client


@pytest.fixture(autouse=True)
def as_written(client: httpx.Client, data_dir: Path) -> Iterator[None]:
    yield
    (data_dir / "rules.toml").write_text(RULES)
    version = read_rules(data_dir / "rules.toml").version
    eventually(lambda: ask(client)["rules"] == version)


@pytest.mark.parametrize("surface", SURFACES)
def test_every_surface_obeys_and_says_which_rules(client: httpx.Client, data_dir: Path, surface: str) -> None:
    for user in ("household-01", "household-02", "nobody"):
        answer = ask(client, user_id=user, surface=surface, item_id="item-03", cart="item-05", k=20)
        assert answer["rules"] == read_rules(data_dir / "rules.toml").version
        assert not BREAD & set(ids(answer))
        assert len(set(ids(answer))) == len(ids(answer)) == 20 - answer["shortfall"]


@pytest.mark.parametrize("surface", ["home", "trending"])
def test_a_pin_names_its_rule_and_a_cap_holds(client: httpx.Client, surface: str) -> None:
    answer = ask(client, user_id="household-01", surface=surface, k=12)
    assert ids(answer)[0] == "item-07"
    assert [item.get("rules") for item in answer["items"]] == [["hero"], *[None] * 11]
    shelves = [item["category"] for item in answer["items"]]
    assert answer["shortfall"] == 0 and max(map(shelves.count, shelves)) == 2


def test_a_filter_and_the_cart_are_stronger_than_a_pin(client: httpx.Client) -> None:
    assert "item-07" not in ids(ask(client, category="PRODUCE", k=5))
    assert "item-07" not in ids(ask(client, cart="item-07", k=5))
    assert "item-07" not in ids(ask(client, exclude_item_ids="item-07", k=5))


def test_a_rule_reads_the_history_on_a_surface_that_does_not(client: httpx.Client) -> None:
    question = {"surface": "similar", "item_id": "item-20", "user_id": "buyer", "k": 49}
    before = ids(ask(client, **question))
    for item in ("item-21", "item-02"):
        event = {"event_id": f"b-{item}", "type": "purchase", "user_id": "buyer", "item_id": item}
        assert client.post("/events", json=event).json()["accepted"] == 1
    after = ids(ask(client, **question))
    assert "item-21" in before and [item for item in before if item != "item-21"] == after  # milk is bought again


def test_what_a_dry_run_needs_is_in_the_log(client: httpx.Client, data_dir: Path) -> None:
    version = read_rules(data_dir / "rules.toml").version
    answer = ask(client, user_id="household-03", cart="item-01", region="north", max_price_cents=300, k=3)

    def exposures() -> list[dict[str, Any]]:
        return [row for row in logged(data_dir, EXPOSURES) if row["request_id"] == answer["request_id"]]

    eventually(lambda: len(exposures()) == 1)
    (record,) = exposures()
    assert record["rules"] == version
    assert record["moved_by"] == {"item-07": ["hero"]}
    assert record["request"] == {"k": 3, "cart": ["item-01"], "region": "north", "filters": {"max_price_cents": 300}}


def test_new_rules_are_in_the_next_answers_and_bad_ones_are_refused(client: httpx.Client, data_dir: Path) -> None:
    path = data_dir / "rules.toml"
    path.write_text('[[rules]]\nname = "fruit"\nkind = "only"\nitems = { category = "PRODUCE > FRUIT" }\n')
    version = read_rules(path).version
    eventually(lambda: ask(client)["rules"] == version)
    assert {item["category"] for item in ask(client, k=20)["items"]} == {"PRODUCE > FRUIT"}
    assert ask(client, k=20)["shortfall"] == 14
    path.write_text('[[rules]]\nname = "fruit"\nkind = "onyl"\n')
    eventually(
        lambda: "recsys_rules_stale{" in (text := client.get("/metrics").text) and 'stale{shop="default"} 1.0' in text
    )
    assert "recsys_rules_refused_total{" in client.get("/metrics").text
    assert ask(client)["rules"] == version
    path.write_text(RULES)
    eventually(lambda: 'stale{shop="default"} 0.0' in client.get("/metrics").text)


def test_an_item_that_changes_is_judged_anew(client: httpx.Client) -> None:
    # Into the forbidden category, and out of it.
    item = {"title": "COLA", "category": "BAKERY > BREAD", "brand": "National", "price_cents": 100}
    assert "item-43" in ids(ask(client, surface="cart", cart="item-44", k=49))
    client.put("/items/item-43", json=item)
    assert "item-43" not in ids(ask(client, surface="cart", cart="item-44", k=49))
    client.put("/items/item-43", json={**item, "category": None})
    assert "item-43" not in ids(ask(client, surface="cart", cart="item-44", k=49))  # it may be bread: legal
    client.put("/items/item-43", json={**item, "category": "GROCERY > DRINKS"})
    assert "item-43" in ids(ask(client, surface="cart", cart="item-44", k=49))


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize(
    "parameters",
    [
        {"user_id": "nobody"},
        {"item_id": "no such item"},
        {"k": 100},
        {"category": "NO SUCH SHELF"},
        {"category": "BAKERY"},
        {"min_price_cents": 148, "max_price_cents": 148},
        {"k": 1},
        {"session_id": "never seen", "region": "atlantis", "segments": "age=none", "cart": "no such item"},
    ],
)
def test_odd_requests_are_answered_or_say_what_is_missing(
    client: httpx.Client, surface: str, parameters: dict[str, Any]
) -> None:
    asked = {"item_id": "item-03", "k": 12, **parameters, "surface": surface}
    answer = ask(client, **asked)
    assert len(set(ids(answer))) == len(ids(answer)) == asked["k"] - answer["shortfall"]
    assert not BREAD & set(ids(answer))
    if parameters.get("category") is not None:
        assert ids(answer) == []
    if "min_price_cents" in parameters and surface != "buy_again":
        assert ids(answer) == ["item-07"]  # 7 x 7 + 99


def test_outcomes_are_counted(client: httpx.Client) -> None:
    ask(client, cart="item-07", k=5)
    text = client.get("/metrics").text
    assert 'recsys_rules_total{outcome="unmet",rule="hero",shop="default"}' in text
    assert 'recsys_rules_total{outcome="applied",rule="no-bread",shop="default"}' in text


def test_a_service_does_not_start_with_rules_that_cannot_be(tmp_path: Path) -> None:
    publish_tiny_shop(tmp_path)
    (tmp_path / "rules.toml").write_text('[[rules]]\nname = "x"\nkind = "boost"\nitems = { brand = "y" }')
    rules = {"RECSYS_RULES": str(tmp_path / "rules.toml")}
    with (
        pytest.raises(RuntimeError, match=r"rules.toml: rule 'x': factor: is missing"),
        running_service(tmp_path, environment=rules),
    ):
        pass


def test_rules_hold_without_redis(tmp_path: Path) -> None:
    publish_tiny_shop(tmp_path)
    (tmp_path / "rules.toml").write_text(RULES)
    rules = {"RECSYS_RULES": str(tmp_path / "rules.toml")}
    with (
        running_service(tmp_path, environment=rules) as url,
        httpx.Client(base_url=url, timeout=10) as client,
        without_redis(tmp_path),
    ):
        for surface in SURFACES:
            answer = ask(client, user_id="household-01", surface=surface, item_id="item-03", k=12)
            assert not BREAD & set(ids(answer)) and len(ids(answer)) + answer["shortfall"] == 12
            assert answer["shortfall"] == 0 or surface == "buy_again"
        home = ask(client, user_id="household-01", k=12)
        assert (home["rung"], home["degraded"], ids(home)[0]) == ("simple", True, "item-07")
        similar = ask(client, user_id="household-01", surface="similar", item_id="item-03", k=12)
        assert (similar["served_by"], similar["degraded"]) == ("similar", True)
        assert 'outcome="skipped",rule="not-again"' in client.get("/metrics").text
