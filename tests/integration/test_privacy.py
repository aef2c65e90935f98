"""A shopper's rights on the real service: consent, export, deletion with a receipt, on both databases, with a real Redis and the chain around it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
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
from sqlalchemy import Table

from recsys.publish import live_version
from recsys.store.schema import EXPOSURES, METADATA, VERDICTS
from service.embedded_redis import socket_url
from tests.integration.test_service import ask, eventually, ids
from tests.postgres import database
from tests.shop import logged, publish_tiny_shop, running_service

RECSYS = (sys.executable, "-c", "from recsys.cli import main; main()")
ANNA = "anna@example.org"
BEN = "ben@example.org"


@dataclass(frozen=True)
class Shop:
    """A service that runs on one of the databases, and its commands."""

    client: httpx.Client
    data_dir: Path
    url: str | None

    def post(self, *events: dict[str, Any]) -> list[str]:
        answer = self.client.post("/events", json=list(events)).json()
        return [verdict["verdict"] for verdict in answer["verdicts"]]

    def rows(self, table: Table) -> list[dict[str, Any]]:
        return logged(self.data_dir, table, self.url)

    def traces(self, who: str) -> list[str]:
        """Where a text is found: rows of the database, keys and values of Redis, the files of the data folder."""
        found = [table.name for table in METADATA.sorted_tables for row in self.rows(table) if who in str(row)]
        store = redis.Redis.from_url(socket_url(self.data_dir / "redis"))
        for key in store.scan_iter("*"):
            value = store.get(key) if store.type(key) == b"string" else b""
            if who.encode() in key + (value or b""):
                found.append(key.decode())
        store.close()
        for path in self.data_dir.rglob("*"):
            if path.is_file() and not {"redis", "pg"} & set(path.relative_to(self.data_dir).parts):
                holds = (
                    who in str(pl.read_parquet(path).rows())
                    if path.suffix == ".parquet"
                    else who.encode() in path.read_bytes()
                )
                found += [str(path.relative_to(self.data_dir))] if holds else []
        return found


def environment(url: str | None) -> dict[str, str]:
    """Of a command on one of the databases, whatever is set here."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "DATABASE_URL")}
    return inherited | ({} if url is None else {"DATABASE_URL": url})


def run(shop: Shop, *arguments: str) -> str:
    """What a command prints, which must succeed."""
    command = [*RECSYS, *arguments, "--data-dir", str(shop.data_dir)]
    done = subprocess.run(command, env=environment(shop.url), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    data_dir = tmp_path_factory.mktemp("shop")
    publish_tiny_shop(data_dir)
    with contextlib.ExitStack() as stack:
        url = None
        if request.param == "postgresql":
            url = stack.enter_context(database(request.getfixturevalue("cluster"), "privacy"))
        environment = {"RECSYS_PRIVACY_API": "true"} | ({} if url is None else {"DATABASE_URL": url})
        address = stack.enter_context(running_service(data_dir, environment=environment))
        yield Shop(stack.enter_context(httpx.Client(base_url=address, timeout=30)), data_dir, url)


def bought(event_id: str, item: int, **who: Any) -> dict[str, Any]:
    return {"event_id": event_id, "type": "purchase", "item_id": f"item-{item:02}", **who}


def test_refused_consent_leaves_nothing_behind(shop: Shop) -> None:
    who = {"user_id": "refuser", "session_id": "refusing-session"}
    answer = ask(shop.client, **who, consent="false", k=5)
    stranger = ask(shop.client, k=5)
    assert answer["consent"] is False and "consent is refused" in answer["warnings"][0]
    assert ids(answer) == ids(stranger) and "consent" not in stranger
    page = shop.client.post("/page", json={**who, "consent": False, "widgets": [{"name": "a"}, {"name": "b"}]}).json()
    assert [widget["consent"] for widget in page["widgets"].values()] == [False, False]
    known = ask(shop.client, user_id="household-03", consent="false", surface="buy_again", k=5)
    assert "household-03" not in str(known) and known["degraded"] is False
    assert not any("You bought" in item["reason"] for item in known["items"])
    refused = [
        bought("refused-1", 3, **who, consent=False),
        {"type": "render", "request_id": answer["request_id"], "consent": False, **who},
        {"consent": False, "nonsense": "refuser"},
        bought("refused-2", 3, **who, consent="maybe"),
        {"name": "view_item", "consent": {"ad_personalization": "DENIED"}, "user_id": "refuser", "params": {"items": [{"item_id": "item-01"}]}},
    ]  # fmt: skip
    verdicts = shop.client.post("/events", json=refused).json()
    assert (verdicts["ignored"], verdicts["rejected"], verdicts["accepted"]) == (4, 1, 0)
    assert (
        shop.client.post("/events", json={"consent": False, "events": [bought("refused-3", 3, **who)]}).json()[
            "ignored"
        ]
        == 1
    )
    assert shop.post(bought("refused-4", 4, user_id="witness")) == ["accepted"]
    eventually(lambda: any(row["event_id"] == "refused-4" for row in shop.rows(VERDICTS)))
    time.sleep(0.5)  # what is written later than events would be there by now
    assert shop.traces("refus") == shop.traces("refused-4") and shop.traces("refuser") == []
    assert "refuser" not in shop.client.get("/metrics").text


def test_consent_that_is_given_later_starts_afresh(shop: Shop) -> None:
    shop.post(bought("later-1", 11, user_id="later", consent=False))
    assert shop.post(bought("later-2", 12, user_id="later", consent=True)) == ["accepted"]
    assert ids(ask(shop.client, user_id="later", surface="buy_again", consent="true")) == ["item-12"]


def live_as(shop: Shop, user: str, tag: str) -> None:
    """Everything that a shopper may leave behind: an anonymous start, a login, answers, renders, rejected events."""
    session = f"{tag}-session"
    assert shop.post(bought(f"{tag}-1", 20, session_id=session)) == ["accepted"]
    anonymous = ask(shop.client, session_id=session, k=3)
    assert shop.post(bought(f"{tag}-2", 21, session_id=session, user_id=user)) == ["accepted"]
    answer = ask(shop.client, user_id=user, session_id=session, k=3)
    for one in (anonymous, answer):
        shop.post({"type": "render", "request_id": one["request_id"], "session_id": session})
    shop.post({"event_id": f"{tag}-3", "type": "wish", "user_id": user, "item_id": "item-01"})
    eventually(lambda: len([row for row in shop.rows(EXPOSURES) if row["session_id"] == session]) == 2)
    eventually(lambda: any(row["event_id"] == f"{tag}-3" for row in shop.rows(VERDICTS)))


def test_a_shopper_is_shown_everything(shop: Shop) -> None:
    live_as(shop, BEN, "shown")
    answer = shop.client.post("/privacy/export", json={"user_id": BEN})
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [orjson.loads(line) for line in answer.content.splitlines()]
    assert lines[0]["kind"] == "export" and lines[0]["without"] == ["log", "raw", "tables"]
    assert lines[0]["places"] == ["database", "redis", f"bundles/{live_version(shop.data_dir / 'bundles')}"]
    kinds = [line["kind"] for line in lines]
    assert {kind: kinds.count(kind) for kind in ("event", "exposure", "render", "login")} == {
        "event": 2, "exposure": 2, "render": 2, "login": 1,
    }  # fmt: skip
    assert {line["event_id"] for line in lines if line["kind"] == "verdict"} >= {"shown-1", "shown-2", "shown-3"}
    recent = {(line["history"], line["item_id"], line["event_type"]) for line in lines if line["kind"] == "recent"}
    assert recent == {(who, f"item-{n}", "purchase") for who in ("user", "session:shown-session") for n in (20, 21)}
    known = [
        orjson.loads(line)
        for line in shop.client.post("/privacy/export", json={"user_id": "household-05"}).content.splitlines()
    ]
    assert len([line for line in known if line["kind"] == "known"]) > 20 and known[-1]["kind"] == "profile"
    assert shop.client.post("/privacy/export", json={"user_id": "x" * 300}).status_code == 422


def test_a_bundle_that_cannot_be_read_is_named_and_keeps_nobody_from_an_export(shop: Shop) -> None:
    live, old = live_version(shop.data_dir / "bundles"), "20200101T000000-phase1-00000000"
    manifest = shop.data_dir / "bundles" / old / "manifest.json"
    manifest.parent.mkdir()
    manifest.write_text('{"format": 1}')  # of an older program
    lines = [orjson.loads(line) for line in run(shop, "privacy", "export", "household-05").splitlines()]
    assert lines[0]["places"] == ["database", "redis", f"bundles/{live}", "log", "raw", "tables"]
    assert lines[0]["without"] == [f"bundles/{old}"]
    assert any(line["kind"] == "known" and line["model_version"] == live for line in lines)
    shutil.rmtree(manifest.parent)


def test_a_deleted_shopper_is_gone_and_a_stranger_when_they_come_back(shop: Shop) -> None:
    live_as(shop, ANNA, "gone")
    assert shop.traces(ANNA) and shop.traces("gone-")
    answer = shop.client.post("/privacy/deletions", json={"user_id": ANNA})
    receipt = answer.json()
    assert answer.status_code == 200 and receipt["pending"] == ["files"] and ANNA not in answer.text
    counts = {place: count for place, count in receipt["removed"].items() if count}
    assert counts == {
        "database/events": 2, "database/exposures": 2, "database/renders": 2, "database/merges": 1,
        "database/verdicts": 5, "redis/histories": 4, "redis/logins": 1, "redis/event_ids": 2,
    }  # fmt: skip
    assert ids(ask(shop.client, user_id=ANNA, surface="buy_again")) == []
    assert orjson.loads(run(shop, "privacy", "resume"))["pending"] == []
    eventually(lambda: [row for row in shop.rows(EXPOSURES) if row["user_id"] == ANNA] != [])  # asked just now
    (exposure,) = [row for row in shop.rows(EXPOSURES) if row["user_id"] == ANNA]
    # What came before the deletion does not come back; what comes now is a new shopper's.
    old, now = "2020-01-01T00:00:00Z", {"user_id": ANNA, "session_id": "gone-session"}
    assert shop.post(bought("gone-9", 22, user_id=ANNA, occurred_at=old), bought("back-1", 23, **now)) == [
        "ignored",
        "accepted",
    ]
    assert ids(ask(shop.client, **now, surface="buy_again")) == ["item-23"]
    again = shop.client.post("/privacy/deletions", json={"user_id": ANNA}).json()
    assert again["removed"]["database/events"] == 1 and again["receipt"] != receipt["receipt"]
    run(shop, "privacy", "resume")
    time.sleep(0.5)
    assert shop.traces(ANNA) == [] and shop.traces("gone-") == [] and exposure["session_id"] is None
    assert ANNA not in shop.client.get("/metrics").text


def test_who_is_unknown_gets_a_receipt_of_zeros(shop: Shop) -> None:
    receipt = shop.client.post("/privacy/deletions", json={"user_id": "nobody at all"}).json()
    assert set(receipt["removed"].values()) == {0} and receipt["bundles"] == []
    found = shop.client.get(f"/privacy/receipts/{receipt['receipt']}").json()
    assert found["shopper"] == receipt["shopper"] and found["at"] == receipt["at"]
    assert shop.client.get("/privacy/receipts/none").status_code == 404


def test_a_shopper_of_the_bundle_is_a_stranger_at_once(shop: Shop) -> None:
    before = ask(shop.client, user_id="household-07", surface="buy_again", k=5)
    assert ids(before)
    receipt = shop.client.post("/privacy/deletions", json={"user_id": "household-07"}).json()
    assert ids(ask(shop.client, user_id="household-07", surface="buy_again", k=5)) == []
    assert ids(ask(shop.client, user_id="household-07", k=5)) == ids(ask(shop.client, k=5))
    run(shop, "privacy", "resume")
    done = orjson.loads(run(shop, "privacy", "receipts", receipt["receipt"]))
    assert done["pending"] == [] and len(done["bundles"]) == 1 and done["first_model"] is None
    shown = [one["user_id"] for one in shop.client.get("/demo/shoppers").json()["shoppers"]]
    assert shown and "household-07" not in shown


def test_what_is_logged_names_nobody(shop: Shop) -> None:
    """Redis and the database refuse, requests and events are wrong in every way: the log tells of it, and of nobody."""
    who = {"user_id": "secret-user", "session_id": "secret-session"}
    assert shop.post(bought("secret-1", 1, **who), {**bought("secret-2", 1, **who), "price_cents": 2**70}) == [
        "accepted",
        "rejected",
    ]
    shop.client.get("/recommend", params={**who, "k": "many"})
    shop.client.post("/page", json={**who, "widgets": [{"name": "a", "surface": "cellar"}]})
    shop.client.post("/privacy/deletions", json={**who})
    shop.client.post("/recommend", content=b'{"user_id": "secret-user",')
    store = redis.Redis.from_url(socket_url(shop.data_dir / "redis"))
    store.set("default:u:secret-user", b"too short")
    store.sadd("default:s:secret-other", "no string")
    shop.post(bought("secret-3", 2, user_id="secret-user", session_id="secret-other"))
    ask(shop.client, user_id="secret-user", session_id="secret-other")
    store.delete("default:s:secret-other")
    store.close()
    deleted = shop.client.post("/privacy/deletions", json={"user_id": "secret-user"}).json()
    text = (shop.data_dir / "service.log").read_text()
    assert f"shopper {deleted['shopper']} is deleted" in text
    assert "secret" not in text and "secret" not in shop.client.get("/metrics").text
