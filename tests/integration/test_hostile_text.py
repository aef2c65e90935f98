"""Ids of any Unicode and strings of every trade's attacks, in every field of every route: kept as they are, or refused, never a server error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from tests.integration.test_service import ask, eventually, ids
from tests.shop import publish_tiny_shop, running_service

HOSTILE = {
    "sql": "1'; DROP TABLE events; --",
    "sql, quoted": '" OR ""="',
    "redis": "x\r\nFLUSHALL\r\n",
    "redis, key": "default:u:household-01",
    "lua": "']] redis.call('FLUSHALL') --[[",
    "markup": '<img src=x onerror="window.hacked=true">',
    "script end": "</script><script>window.hacked=true</script>",
    "template": "{{7*7}}${7*7}<%= 7*7 %>#{7*7}",
    "format": "%s%n%d{0.__class__}",
    "log": "x\n2026-11-26 00:00:00 ERROR forged: line",
    "ansi": "\x1b[2J\x1b]0;title\x07",
    "path": "../../../../etc/passwd",
    "path, encoded": "%2e%2e%2fmetrics%00",
    "command": "$(touch hacked)`touch hacked`|touch hacked",
    "lookup": "${jndi:ldap://127.0.0.1/a}",
    "json": '","user_id":"household-01',
    "prototype": "__proto__",
    "question": "a?b=c&d#e;f",
    "right to left": "\u202eabc\u202d",
    "zero width": "a\u200b\u200d\ufeffb",
    "combining": "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍",
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈",
    "beyond": "\U0010ffff\ufffe\ue000",
    "look-alike": "hοuseһold-01",
    "unnormalised": "e\u0301 \u00e9 \u212b",
    "line": "a\u2028b\u2029c\x85d",
    "cjk": "商品一覧・ｶﾅ",
    "infinity": "1e999",
    "null": "null",
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    publish_tiny_shop(folder)
    return folder


@pytest.fixture(scope="module")
def client(data_dir: Path) -> Iterator[httpx.Client]:
    with running_service(data_dir) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_question_may_hold_any_text(client: httpx.Client, text: str) -> None:
    plain = ids(ask(client, k=5))
    for name in ("user_id", "session_id", "region", "segments", "cart", "exclude_item_ids"):
        assert len(ids(ask(client, k=5, **{name: text}))) == 5
        body = {"k": 5, name: text} if name not in ("segments", "cart") else {"k": 5, name: [text]}
        if name != "exclude_item_ids":
            answer = client.post("/recommend", json=body)
            assert answer.status_code == 200 and len(answer.json()["items"]) == 5
    assert ids(ask(client, k=5, category=text)) == [] == ids(ask(client, k=5, brand=text))
    assert client.get("/search", params={"q": text}).json()["items"] == []
    assert client.get("/recommend", params={text: "1"}).status_code == 422
    for name in ("surface", "k", "explain", "min_price_cents", "only_new"):
        assert client.get("/recommend", params={name: text}).status_code == 422
    assert ids(ask(client, k=5)) == plain


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_an_event_of_any_text_comes_back_as_it_was(client: httpx.Client, text: str) -> None:
    event = {
        "type": "view",
        "item_id": "item-09",
        "event_id": text,
        "user_id": text,
        "session_id": text,
        "order_id": text,
        "region": text,
    }
    answer = client.post("/events", json=event)
    (verdict,) = answer.json()["verdicts"]
    assert (verdict["verdict"], verdict["event_id"]) == ("accepted", text.strip())
    assert client.post("/events", json=event).json()["duplicate"] == 1
    assert len(ids(ask(client, user_id=text, surface="home", k=5))) == 5
    for name in ("type", "surface", "occurred_at", "quantity", "price_cents"):
        assert client.post("/events", json={**event, name: text}).status_code == 422


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_an_item_of_any_text_comes_back_as_it_was(client: httpx.Client, text: str) -> None:
    path, stripped = f"/items/{quote(text, safe='')}", text.strip()
    item = {
        "title": text,
        "description": text,
        "brand": text,
        "category": text,
        "image_url": text,
        "attributes": {text: text},
    }
    put = client.put(path, json={**item, "item_id": text, "price_cents": 5})
    assert put.status_code in (200, 201), put.text
    read = client.get(f"/items/{quote(stripped, safe='')}").json()
    assert read["item_id"] == stripped and read["title"] == stripped and read["brand"] == stripped
    changed = client.patch("/items", json={"filter": {"item_ids": [text]}, "set": {"available": False}})
    assert changed.json() == {"changed": 1}
    assert client.delete(f"/items/{quote(stripped, safe='')}").status_code == 200


def test_nothing_was_run_and_no_log_line_forged(client: httpx.Client, data_dir: Path) -> None:
    assert not Path("hacked").exists() and not (data_dir / "hacked").exists()
    lines = (data_dir / "service.log").read_text().splitlines()
    assert not any(line.startswith("2026-11-26 00:00:00 ERROR forged") for line in lines)
    stored = client.get("/events/verdicts", params={"limit": 1000}).json()["verdicts"]
    assert len([one for one in stored if one["verdict"] == "accepted"]) >= len(HOSTILE)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b'"\\ud800"',
        b'{"user_id": "\\ud800"}',
        b'{"user_id": "a\\u0000b", "type": "view", "item_id": "\\u0000"}',
        b"[" * 100_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b'{"k": ' + b"9" * 5_000 + b"}",
        b'{"k": 1e999}',
        b'{"k": NaN}',
        b'{"k": 1, "k": 2, "filters": {"min_price_cents": 1e300}}',
        b'{"widgets": [{"name": "\\u0000", "k": 1}]}',
        b'{"events": [[[[[]]]]]}',
        b'{"filter": {"min_price_cents": 99999999999999999999}, "set": {"price_factor": 1e-300}}',
    ],
)
def test_a_body_of_anything_is_answered(client: httpx.Client, body: bytes) -> None:
    for method, path in (
        ("POST", "/recommend"),
        ("POST", "/page"),
        ("POST", "/events"),
        ("POST", "/items"),
        ("PATCH", "/items"),
        ("PUT", "/items/x"),
    ):
        answer = client.request(method, path, content=body)
        assert answer.status_code < 500, (method, path, answer.text)
        assert answer.json() is not None


@pytest.mark.parametrize(
    "query",
    [
        "user_id=%FF%FE",
        "user_id=%00",
        "%00=1",
        "k=%31",
        "&&&==",
        "k=1&k=2",
        "user_id",
        "cart=" * 500,
        "user_id=%F0%9F",
        "k=0x10",
        "k=１２",
    ],
)
def test_a_query_of_anything_is_answered(client: httpx.Client, query: str) -> None:
    assert client.get(f"/recommend?{query}").status_code in (200, 422)
    assert client.get(f"/search?{query}").status_code in (200, 422)
    assert client.get(f"/events/verdicts?{query}").status_code in (200, 422)


def test_histories_of_hostile_names_are_their_own(client: httpx.Client) -> None:
    """No text reaches another's history, whatever it looks like in Redis' keys."""

    def shown(user: str) -> str:
        return str(ask(client, user_id=user, surface="buy_again", k=1)["items"])

    client.post("/events", json={"type": "purchase", "item_id": "item-30", "user_id": "u:victim"})
    eventually(lambda: "item-30" in shown("u:victim"))
    for other in ("victim", "u:u:victim", "u:victim ".strip() + "\u200b", "U:VICTIM", "u%3Avictim"):
        assert "item-30" not in shown(other)
