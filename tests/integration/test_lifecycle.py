"""Bundles that come and go under a real service: trials, canaries, guardrails, shadows, and answers made again from the log."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from typer.testing import CliRunner

from recsys.cli import app
from recsys.errors import UserError
from recsys.ledger import read_ledger
from recsys.publish import end, live_version, publish, publish_shadow, rollback, traffic_share
from recsys.store.database import database_url, opened
from service.retrace import Retraced, retrace
from service.shadow_table import read_comparisons
from tests.factories import without_availability
from tests.integration.test_service import ask, eventually, ids
from tests.shop import running_service, tiny_dataset, write_tiny_bundle

RULES = """
[[rules]]
name = "no-bread"
kind = "exclude"
items = { category = "BAKERY > BREAD" }
when = { surfaces = ["home"] }

[[rules]]
name = "lemons-first"
kind = "pin"
item_id = "item-23"
position = 1
when = { surfaces = ["home"] }
"""
HOUSEHOLDS = [f"household-{n:02}" for n in range(40)]


def write_sold_out(data_dir: Path) -> str:
    """A bundle that is whole and answers nothing."""
    full = tiny_dataset(np.random.default_rng(0))
    return write_tiny_bundle(data_dir, without_availability(full, range(full.n_items))).name


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lifecycle")
    publish(folder / "bundles", write_tiny_bundle(folder, phase=1).name)
    (folder / "rules.toml").write_text(RULES)
    return folder


@pytest.fixture(scope="module")
def client(data_dir: Path) -> Iterator[httpx.Client]:
    environment = {"RECSYS_RULES": str(data_dir / "rules.toml"), "RECSYS_RELOAD_SECONDS": "0.2"}
    with running_service(data_dir, 1, environment) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def again(data_dir: Path, answer: dict[str, Any]) -> Retraced:
    """An answer made again, once it is in the log."""
    found: list[Retraced] = []

    def look() -> bool:
        try:
            with opened(database_url(data_dir, None)) as engine:
                found.append(retrace(data_dir, engine, answer["request_id"], rules=data_dir / "rules.toml"))
        except UserError:
            return False
        return True

    eventually(look)
    return found[-1]


def test_an_answer_is_made_again_as_it_was_whatever_came_later(client: httpx.Client, data_dir: Path) -> None:
    client.post("/events", json={"type": "cart", "user_id": "household-07", "item_id": "item-40"})
    client.post("/events", json={"type": "view", "session_id": "s-7", "item_id": "item-41"})
    first = ask(client, user_id="household-07", session_id="s-7", k=6)  # which joins the session
    second = ask(client, user_id="household-07", k=6, min_price_cents=120, cart="item-20")
    client.post("/events", json={"type": "purchase", "user_id": "household-07", "item_id": "item-30"})
    client.patch("/items", json={"filter": {"item_ids": ids(first)[1:3]}, "set": {"available": False}})
    for answer in (first, second):
        found = again(data_dir, answer)
        assert found.is_equal and found.doubts == ()
        assert list(found.items) == ids(answer)
    client.patch("/items", json={"filter": {"item_ids": ids(first)[1:3]}, "set": {"available": True}})


def test_it_says_why_an_item_was_not_shown(client: httpx.Client, data_dir: Path) -> None:
    client.patch("/items", json={"filter": {"item_ids": ["item-11"]}, "set": {"available": False}})
    answer = ask(client, user_id="household-02", k=4, cart="item-05", max_price_cents=400, exclude_item_ids="item-08")
    found = again(data_dir, answer)
    assert found.is_equal
    assert found.moved_by == {"item-23": ("lemons-first",)}
    assert set(found.removed) == {"no-bread"} and int(found.removed["no-bread"].sum()) == 6
    assert found.why("item-23").startswith("shown at rank 1")
    assert found.why("nothing") == "not in the catalogue"
    assert found.why("item-11") == "not available"
    assert found.why("item-05") == "it is in the cart"
    assert found.why("item-08") == "filtered: exclude_item_ids"
    assert found.why("item-47") == "filtered: max_price_cents"  # 99 + 7 * 47 cents are 428
    assert found.why("item-13") == "removed by rule 'no-bread'"
    shown = set(ids(answer))
    below = next(one for one in found.candidates if one.item_id not in shown and one.rank is not None and one.rank > 20)
    assert found.why(below.item_id).startswith("candidate at rank ") and "of which 4 are shown" in found.why(
        below.item_id
    )
    first = found.candidates[0]
    assert first.place == 1 and all(one.sources or one.rank for one in found.candidates[1:])
    client.patch("/items", json={"filter": {"item_ids": ["item-11"]}, "set": {"available": True}})


def test_it_says_what_a_page_and_the_surface_leave_out(client: httpx.Client, data_dir: Path) -> None:
    widgets = [{"name": name, "surface": "similar", "item_id": "item-03", "k": 4} for name in ("one", "two")]
    page = client.post("/page", json={"user_id": "household-04", "widgets": widgets}).json()["widgets"]
    found = again(data_dir, page["two"])
    assert found.is_equal
    assert found.why("item-03") == "it is the item whose page is shown"
    assert found.why(ids(page["one"])[0]) == "shown before on the page, by an earlier widget"


def test_the_command_line_makes_an_answer_again(client: httpx.Client, data_dir: Path) -> None:
    answer = ask(client, user_id="household-05", k=3)
    again(data_dir, answer)
    arguments = ["replay", answer["request_id"], "--data-dir", str(data_dir), "--item", "item-13"]
    environment = {"RECSYS_RULES": str(data_dir / "rules.toml")}
    told = orjson.loads(CliRunner().invoke(app, [*arguments, "--json"], env=environment).stdout)
    assert told["equal"] is True and [one["item_id"] for one in told["items"]] == ids(answer)
    assert told["why"] == {"item-13": "removed by rule 'no-bread'"}
    assert told["rules"] == {"no-bread": "applied", "lemons-first": "applied"}
    printed = CliRunner().invoke(app, arguments, env=environment).stdout
    assert "equal to what was logged" in printed and "item-13: removed by rule 'no-bread'" in printed
    without = orjson.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert any("the rules of then" in doubt for doubt in without["doubts"])


def test_a_bundle_that_answers_nothing_to_what_was_asked_is_refused(client: httpx.Client, data_dir: Path) -> None:
    bundles = data_dir / "bundles"
    live = live_version(bundles)
    asked = [ask(client, user_id=user, k=12) for user in HOUSEHOLDS]
    again(data_dir, asked[-1])  # the log holds them
    publish(bundles, write_sold_out(data_dir))
    eventually(lambda: 'recsys_bundles_refused_total{reason="empty",shop="default"} 1.0' in client.get("/metrics").text)
    assert ask(client)["model_version"] == live
    assert " empty" in client.get("/health/ready").json()["bundle"]
    rollback(bundles, reason="sold out")
    eventually(lambda: client.get("/health/ready").json()["bundle"] == "ok")


def test_a_canary_is_tagged_and_a_shadow_is_compared(client: httpx.Client, data_dir: Path) -> None:
    bundles = data_dir / "bundles"
    live, new = live_version(bundles), write_tiny_bundle(data_dir, phase=1, spare=5).name
    publish(bundles, new, canary=0.5)
    publish_shadow(bundles, new, 1.0)
    arms = {"canary": new, "control": live}
    eventually(lambda: ask(client, user_id="household-00")["arms"] != {})
    seen = set()
    for user in HOUSEHOLDS:
        answer = ask(client, user_id=user, k=3)
        (arm,) = answer["arms"].values()
        assert answer["model_version"] == arms[arm] and list(answer["arms"]) == [f"canary-{new}"]
        assert ask(client, user_id=user, k=3)["arms"] == answer["arms"]
        seen.add(arm)
    assert seen == {"canary", "control"}
    assert (
        f'recsys_arm_answers_total{{arm="canary",degraded="false",experiment="canary-{new}"'
        in client.get("/metrics").text
    )

    def compared() -> bool:
        ask(client, user_id="household-00", surface="trending")
        ask(client, surface="trending")  # of whom nothing is known gets what is live
        return 'recsys_shadow_requests_total{outcome="compared",shop="default"}' in client.get("/metrics").text

    eventually(compared)
    found = read_comparisons(data_dir / "shadow" / f"{new}.jsonl")
    assert {one["outcome"] for one in found} == {"compared"}
    assert all(one["overlap"] == 1.0 and one["live"] == live for one in found)
    assert "user_id" not in found[0]
    end(bundles, "shadow")
    assert rollback(bundles, reason="enough") == live
    eventually(lambda: ask(client, user_id="household-00")["arms"] == {})


def test_a_guardrail_ends_a_canary_once_in_every_worker(tmp_path: Path) -> None:
    bundles = tmp_path / "bundles"
    live = publish(bundles, write_tiny_bundle(tmp_path, phase=1).name)
    bad = write_sold_out(tmp_path)
    environment = {
        "RECSYS_SMOKE_REQUESTS": "0",
        "RECSYS_GUARDRAIL_ANSWERS": "30",
        "RECSYS_RELOAD_SECONDS": "0.2",
    }
    with running_service(tmp_path, 2, environment) as url:
        publish(bundles, bad, canary=0.5, reason="a try")

        def ended() -> bool:
            for n in range(50):
                ask_of(url, n)
            return traffic_share(bundles, "canary") is None

        eventually(ended)
        eventually(lambda: all(ask_of(url, n)["model_version"] == live for n in range(40)))
        assert all(ask_of(url, n)["arms"] == {} for n in range(40))
        assert (
            'recsys_guardrail_rollbacks_total{guardrail="empty",shop="default"} 1.0' in httpx.get(f"{url}/metrics").text
        )
    last = read_ledger(bundles)[-1]
    assert [entry.action for entry in read_ledger(bundles)] == ["publish", "canary", "canary ended"]
    assert (last.by, last.version) == ("guardrail", bad) and last.reason.startswith("empty: 1 for 0 of control")
    printed = CliRunner().invoke(app, ["ledger", "--json", "--data-dir", str(tmp_path)]).stdout.splitlines()
    assert [orjson.loads(line)["by"] for line in printed][-1] == "guardrail"


def ask_of(url: str, n: int) -> dict[str, Any]:
    """The answer to one of many shoppers, on a connection of its own, so that every worker is met."""
    with urllib.request.urlopen(f"{url}/recommend?user_id=u{n}&k=3", timeout=30) as response:
        answer: dict[str, Any] = orjson.loads(response.read())
    return answer
