"""Events over real HTTP into both databases, with a real Redis: what is said of each, what is kept, and who knows it next."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
import polars as pl
import pytest
import redis
from rich.console import Console

from pipelines.ingest import ingest, ingest_log
from pipelines.run import build_tables
from recsys import cli
from recsys.store.database import database_url as url_of
from recsys.store.schema import EVENTS, EXPOSURES, MERGES, RENDERS
from service.embedded_redis import socket_url
from tests.integration.test_service import ask, eventually, ids, redis_pid
from tests.killing import Ordeal, Served
from tests.postgres import database
from tests.shop import logged, publish_tiny_shop, running_service

QUIET = Console(quiet=True)


@dataclass(frozen=True)
class Running:
    """A service that runs on one of the databases."""

    client: httpx.Client
    data_dir: Path
    url: str | None

    def post(self, *events: Any) -> list[str]:
        """Send events; their verdicts."""
        answer = self.client.post("/events", json=list(events)).json()
        return [verdict["verdict"] for verdict in answer["verdicts"]]

    def again(self, **parameters: Any) -> list[str]:
        """What a shopper may buy again: all that they bought of late."""
        return sorted(ids(ask(self.client, surface="buy_again", **parameters)))

    def rows(self, table: Any) -> list[dict[str, Any]]:
        return logged(self.data_dir, table, self.url)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    data_dir = tmp_path_factory.mktemp("shop")
    publish_tiny_shop(data_dir)
    with contextlib.ExitStack() as stack:
        url = None
        if request.param == "postgresql":
            url = stack.enter_context(database(request.getfixturevalue("cluster"), "events"))
        environment = {} if url is None else {"DATABASE_URL": url}
        address = stack.enter_context(running_service(data_dir, environment=environment))
        client = stack.enter_context(httpx.Client(base_url=address, timeout=20))
        yield Running(client, data_dir, url)


def bought(event_id: str, item: int, **who: str) -> dict[str, Any]:
    return {"event_id": event_id, "type": "purchase", "item_id": f"item-{item:02}", **who}


def test_an_id_counts_once_however_it_is_sent(shop: Running, tmp_path: Path) -> None:
    one, two, three = (bought(f"once-{n}", n, user_id="once") for n in (1, 2, 3))
    assert shop.post(one) == ["accepted"]
    assert shop.post(one, two, two) == ["duplicate", "accepted", "duplicate"]
    lines = tmp_path / "events.jsonl"
    lines.write_bytes(b"\n".join(map(orjson.dumps, (one, three, [two, three], {"type": "view"}))) + b"\n{torn\n")
    done = recsys(shop, "events", "import", str(lines))
    assert "1 accepted, 3 duplicate, 2 rejected" in done and "line 5: the body is not JSON" in done
    assert shop.post(three) == ["duplicate"]
    rows = [row for row in shop.rows(EVENTS) if row["user_id"] == "once"]
    assert [(row["event_id"], row["origin"]) for row in rows] == [
        ("once-1", "api"),
        ("once-2", "api"),
        ("once-3", "import"),
    ]
    assert shop.again(user_id="once") == ["item-01", "item-02", "item-03"]


def test_an_order_of_ga4_counts_once(shop: Running) -> None:
    items = [{"item_id": f"item-{n:02}", "price": 1.99, "quantity": n} for n in (4, 5)]
    body = {
        "client_id": "c",
        "user_id": "ga",
        "events": [{"name": "purchase", "params": {"transaction_id": "T1", "items": items}}],
    }
    for expected in ("accepted", "duplicate"):
        answer = shop.client.post("/events", json=body).json()
        assert [verdict["verdict"] for verdict in answer["verdicts"]] == [expected] * 2
    rows = [row for row in shop.rows(EVENTS) if row["order_id"] == "T1"]
    assert [(row["item_id"], row["quantity"], row["price_cents"], row["origin"]) for row in rows] == [
        ("item-04", 4, 199, "ga4"), ("item-05", 5, 199, "ga4"),
    ]  # fmt: skip
    assert shop.again(user_id="ga") == ["item-04", "item-05"]
    answer = shop.client.post("/events", json={"name": "scroll", "client_id": "c"})
    assert answer.status_code == 422 and "'scroll' is not one of" in answer.json()["verdicts"][0]["reason"]


def test_what_a_shopper_hides_or_returns_is_kept_and_is_no_interest(shop: Running) -> None:
    hidden, returned = (
        {"type": kind, "item_id": "item-06", "user_id": "hider", "event_id": kind} for kind in ("hide", "return")
    )
    assert shop.post(hidden, returned, hidden) == ["accepted", "accepted", "duplicate"]
    assert shop.again(user_id="hider") == []
    assert [row["type"] for row in shop.rows(EVENTS) if row["user_id"] == "hider"] == ["hide", "return"]


def test_a_render_confirms_an_exposure(shop: Running) -> None:
    answer = ask(shop.client, user_id="\0 seen", k=3)
    render = {"type": "render", "request_id": answer["request_id"], "items": ids(answer)[:2]}
    assert shop.post(render, render, {"type": "render", "request_id": "nobody's"}) == [
        "accepted",
        "duplicate",
        "accepted",
    ]
    found = {row["request_id"]: row for row in shop.rows(RENDERS)}
    assert found[answer["request_id"]]["items"] == ids(answer)[:2] and found["nobody's"]["items"] is None
    eventually(lambda: any(row["request_id"] == answer["request_id"] for row in shop.rows(EXPOSURES)))
    (exposure,) = [row for row in shop.rows(EXPOSURES) if row["request_id"] == answer["request_id"]]
    assert exposure["items"] == [[item["item_id"], item["source"], 1.0, None] for item in answer["items"]]
    assert (exposure["user_id"], exposure["phase"], exposure["arms"], exposure["request"]) == (
        "\ufffd seen",
        1,
        {},
        {"k": 3},
    )
    eventually(lambda: 'recsys_renders_unmatched_total{shop="default"} 1.0' in shop.client.get("/metrics").text)


def test_what_a_session_did_is_its_users_once(shop: Running) -> None:
    assert shop.post(bought("m1", 10, session_id="m")) == ["accepted"]
    assert shop.again(user_id="mia") == []
    # An event with both: from here on the session is hers, whatever names it.
    assert shop.post(bought("m2", 11, session_id="m", user_id="mia")) == ["accepted"]
    assert shop.again(user_id="mia") == ["item-10", "item-11"]
    assert shop.post(bought("m3", 12, session_id="m"), bought("m2", 11, session_id="m", user_id="mia")) == [
        "accepted",
        "duplicate",
    ]
    assert shop.again(user_id="mia", session_id="elsewhere") == ["item-10", "item-11", "item-12"]
    assert shop.again(session_id="m") == ["item-10", "item-11", "item-12"]
    # Another user logs in: what comes then is theirs, what was stays where it is.
    assert (
        shop.post(bought("m4", 13, session_id="m", user_id="noa"), bought("m5", 14, session_id="m")) == ["accepted"] * 2
    )
    assert shop.again(user_id="noa") == ["item-13", "item-14"]
    assert shop.again(user_id="mia") == ["item-10", "item-11", "item-12"]
    assert [(row["user_id"]) for row in shop.rows(MERGES) if row["session_id"] == "m"] == ["mia", "noa"]
    with redis.Redis.from_url(socket_url(shop.data_dir / "redis")) as client:
        assert len(client.get("default:u:mia") or b"") == 3 * 17  # each once


def test_a_request_with_both_is_a_login_too(shop: Running) -> None:
    assert shop.post(bought("r1", 20, session_id="r")) == ["accepted"]
    assert shop.again(session_id="r", user_id="ria") == ["item-20"]
    assert shop.post(bought("r2", 21, session_id="r")) == ["accepted"]
    assert shop.again(user_id="ria") == ["item-20", "item-21"]
    eventually(lambda: any(row["user_id"] == "ria" for row in shop.rows(MERGES)))
    page = {"user_id": "rob", "session_id": "r3", "widgets": [{"name": "hot", "surface": "trending"}]}
    assert shop.post(bought("r4", 22, session_id="r3")) == ["accepted"]
    assert shop.client.post("/page", json=page).status_code == 200
    assert shop.again(user_id="rob") == ["item-22"]


def test_the_debugger_says_what_became_of_events(shop: Running) -> None:
    markup = "<img src=x>\x1b[31m" + "x" * 3_000
    shop.post({"type": "teleport", "event_id": "bad", "note": markup})

    def bad() -> list[dict[str, Any]]:
        found = shop.client.get("/events/verdicts", params={"rejected": True}).json()["verdicts"]
        return [row for row in found if row["event_id"] == "bad"]

    eventually(lambda: bool(bad()))
    row = bad()[0]
    assert (
        row["verdict"] == "rejected"
        and "type: " in row["reason"]
        and markup[:11] in row["body"]
        and len(row["body"]) == 2_000
    )
    assert row["at"].endswith("Z")
    latest = shop.client.get("/events/verdicts", params={"after": row["number"] - 1, "limit": 1}).json()["verdicts"]
    assert latest[0]["number"] >= row["number"]
    printed = recsys(shop, "events", "tail", "-n", "1000", "--rejected")
    assert "rejected  bad: type: " in printed and "\x1b" not in printed and "accepted " not in printed
    page = shop.client.get("/console/events", follow_redirects=True)
    assert page.status_code == 200 and "events.js" in page.text
    assert recsys(shop, "db", "status").splitlines()[1] == "version 0001, up to date"


def recsys(shop: Running, *arguments: str) -> str:
    """What a command prints, run beside the service."""
    output = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
        pytest.raises(SystemExit) as stopped,
    ):
        given = [] if shop.url is None else ["--database", shop.url]
        patch.setattr("sys.argv", ["recsys", *arguments, "--data-dir", str(shop.data_dir), *given])
        patch.setattr(cli.log, "console", Console(file=output, width=200))
        cli.main()
    assert stopped.value.code in (0, None), output.getvalue()
    return output.getvalue()


def test_an_emptied_redis_is_filled_again(shop: Running) -> None:
    events = [bought(f"f{n}", 30 + n, user_id="fay") for n in range(3)]
    assert (
        shop.post(*events, bought("f4", 34, session_id="f"), bought("f5", 35, session_id="f", user_id="fay"))
        == ["accepted"] * 5
    )
    expected = [f"item-{n}" for n in (30, 31, 32, 34, 35)]
    assert shop.again(user_id="fay") == expected
    with redis.Redis.from_url(socket_url(shop.data_dir / "redis")) as client:
        before = client.get("default:u:fay")
        client.flushall()
        eventually(lambda: client.get("default:u:fay") == before, seconds=60)
    assert shop.again(user_id="fay") == expected
    assert shop.post(events[0]) == ["duplicate"]
    assert shop.again(user_id="fay") == expected


def test_the_tables_have_each_event_once_and_anonymous_ones_of_their_user(shop: Running, tmp_path: Path) -> None:
    lines = [
        bought("t1", 40, session_id="t"),
        bought("t2", 41, session_id="t", user_id="tia"),
        bought("t3", 42, session_id="t"),
    ]
    lines += [bought("t4", 43, session_id="t", user_id="udo"), {**bought("t5", 40, session_id="t"), "type": "view"}]
    lines += [
        {**bought("t6", 41, user_id="tia"), "type": "return"},
        {**bought("t7", 42, user_id="tia"), "type": "hide"},
    ]
    assert shop.post(*lines) == ["accepted"] * 7
    export = tmp_path / "orders.csv"
    export.write_text("item,at,user\nold item,2024-01-01,old user\n")
    mapping = tmp_path / "shop.toml"
    mapping.write_text(
        '[shop]\nname = "t"\n[[events]]\nsource = "orders"\nfiles = "orders.csv"\nevent_type = "purchase"\n'
        '[events.columns]\nitem_id = "item"\ntimestamp = "at"\nuser_id = "user"\n'
    )
    ingest(mapping, shop.data_dir, QUIET)
    built = []
    for _ in range(2):
        ingest_log(url_of(shop.data_dir, shop.url), shop.data_dir, QUIET)
        summary = build_tables(shop.data_dir, QUIET)
        built.append(pl.read_parquet(shop.data_dir / "tables" / "interactions.parquet").filter(source="event_log"))
    assert summary.quarantined == {} and summary.duplicates == 0
    assert built[0].equals(built[1])
    mine = built[0].filter(pl.col("session_id") == "t").sort("event_id")
    # t2 came back whole.
    assert mine.select("event_id", "user_id").rows() == [("t1", "tia"), ("t3", "tia"), ("t4", "udo"), ("t5", "udo")]
    stored = [row for row in shop.rows(EVENTS) if row["type"] not in ("hide", "return")]
    assert set(built[0]["event_id"]) == {row["event_id"] for row in stored} - {"t2"}


def test_events_that_came_while_redis_was_away_are_added(tmp_path: Path) -> None:
    publish_tiny_shop(tmp_path)
    with running_service(tmp_path) as url, httpx.Client(base_url=url, timeout=20) as client:
        shop = Running(client, tmp_path, None)
        os.kill(redis_pid(tmp_path), signal.SIGSTOP)
        try:
            assert (
                shop.post(bought("w1", 1, session_id="w"), bought("w2", 2, session_id="w", user_id="wim"))
                == ["accepted"] * 2
            )
            eventually(lambda: 'recsys_histories_behind{shop="default"} 1.0' in client.get("/metrics").text)
        finally:
            os.kill(redis_pid(tmp_path), signal.SIGCONT)
        eventually(lambda: shop.again(user_id="wim") == ["item-01", "item-02"], seconds=60)
        eventually(lambda: 'recsys_histories_behind{shop="default"} 0.0' in client.get("/metrics").text, seconds=60)


def test_a_service_that_starts_on_an_empty_redis_knows_what_was_acknowledged(tmp_path: Path) -> None:
    publish_tiny_shop(tmp_path)
    with running_service(tmp_path) as url, httpx.Client(base_url=url, timeout=20) as client:
        assert Running(client, tmp_path, None).post(bought("b1", 7, user_id="bea")) == ["accepted"]
    time.sleep(0.1)
    for path in (tmp_path / "redis").rglob("*"):
        if path.is_file():
            path.unlink()
    with running_service(tmp_path) as url, httpx.Client(base_url=url, timeout=20) as client:
        shop = Running(client, tmp_path, None)
        eventually(lambda: shop.again(user_id="bea") == ["item-07"], seconds=60)


def test_killed_at_random_moments_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    publish_tiny_shop(tmp_path)
    found = Ordeal(Served(tmp_path, 2, None), tmp_path, None, seed=0).run(kills=5, seconds=(0.2, 1.0))
    assert found.kills == 5 and len(found.acknowledged) > 100
    assert found.lost_at_kill == set()
    assert found.lost == found.doubled == {"database": 0, "histories": 0, "tables": 0}
