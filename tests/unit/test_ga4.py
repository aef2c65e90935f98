"""GA4's events in our shape, and the verdicts of what is none."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from recsys.store.schema import Origin
from service.ga4 import Ga4Error, to_ours
from service.judging import REJECTED, EventsError, Judged, Verdict, judge, parse_body
from service.schemas import Event, Render

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
MICROS = 1_764_000_000_000_000  # 2025-11-24T16:00:00Z
ITEMS = [
    {"item_id": "A", "item_name": "Apple", "price": 1.5, "quantity": 2, "index": 0},
    {"item_id": 7, "price": "0.99"},
    {"item_id": "A", "price": 1.25},
]


def body(name: str, *, items: Any = ITEMS, micros: int | None = MICROS, **params: Any) -> dict[str, Any]:
    """A body of the Measurement Protocol."""
    params = {"session_id": "33", "items": items, **params}
    timed = {} if micros is None else {"timestamp_micros": str(micros)}
    return {"client_id": "1.2", "user_id": "anna", **timed, "events": [{"name": name, "params": params}]}


def judged(content: Any) -> list[Judged]:
    return judge(parse_body(orjson.dumps(content)), NOW)


def events(content: Any) -> list[Event]:
    found = [one.found for one in judged(content)]
    assert all(isinstance(one, Event) for one in found), found
    return found  # type: ignore[return-value]


def reason(content: Any) -> str:
    (one,) = judged(content)
    assert isinstance(one.found, Verdict) and one.found.verdict == REJECTED
    return one.found.reason or ""


@pytest.mark.parametrize(
    ("name", "type_"),
    [("view_item", "view"), ("select_item", "click"), ("add_to_cart", "cart"), ("purchase", "purchase"), ("refund", "return")],
)  # fmt: skip
def test_each_item_is_an_event(name: str, type_: str) -> None:
    found = events(body(name, transaction_id="T1"))
    assert [(one.type, one.item_id, one.quantity, one.price_cents) for one in found] == [
        (type_, "A", 2, 150), (type_, "7", 1, 99), (type_, "A", 1, 125),
    ]  # fmt: skip
    assert {(one.user_id, one.session_id, one.order_id) for one in found} == {("anna", "1.2.33", "T1")}
    assert {one.occurred_at for one in found} == {datetime(2025, 11, 24, 16, tzinfo=UTC)}
    assert len({one.event_id for one in found}) == 3
    assert {one.origin for one in judged(body(name, transaction_id="T1"))} == {Origin.GA4}


def test_an_order_counts_once_whenever_it_is_sent() -> None:
    first = events(body("purchase", transaction_id="T1"))
    again = events(body("purchase", transaction_id="T1", micros=None, value=9.5, currency="EUR"))
    turned = events(body("purchase", transaction_id="T1", items=ITEMS[::-1]))
    assert [one.event_id for one in first] == [one.event_id for one in again]
    assert {one.event_id for one in first} == {one.event_id for one in turned}
    other = events(body("purchase", transaction_id="T2"))
    assert not {one.event_id for one in first} & {one.event_id for one in other}
    refund = events(body("refund", transaction_id="T1"))
    assert not {one.event_id for one in first} & {one.event_id for one in refund}


def test_other_events_count_once_where_they_say_when() -> None:
    first, again = (events(body("view_item")) for _ in range(2))
    assert [one.event_id for one in first] == [one.event_id for one in again]
    later = events(body("view_item", micros=MICROS + 1))
    assert not {one.event_id for one in first} & {one.event_id for one in later}
    two = [events(body("add_to_cart", micros=None))[0].event_id for _ in range(2)]
    assert two[0] != two[1]


def test_a_single_event_as_a_tag_manager_sends_it() -> None:
    for content in (
        {"event": "add_to_cart", "ecommerce": {"items": ITEMS[:1]}, "client_id": "c"},
        {"name": "add_to_cart", "params": {"items": ITEMS[:1], "ga_session_id": 5}, "client_id": "c"},
        [{"name": "add_to_cart", "items": ITEMS[:1], "user_id": "u"}],
        {"events": [{"name": "add_to_cart", "params": {"items": ITEMS[:1]}, "user_id": "u"}]},
    ):
        (one,) = events(content)
        assert (one.type, one.item_id, one.price_cents) == ("cart", "A", 150)
    assert events({"event": "view_item", "ecommerce": {"items": ITEMS}, "session_id": "x"})[0].session_id == "x"


def test_shapes_may_stand_side_by_side() -> None:
    ours = {"type": "view", "item_id": "i", "session_id": "s", "event_id": "e"}
    found = judged([ours, {"name": "view_item", "params": {"items": ITEMS[:2]}, "client_id": "c"}, 17])
    assert [type(one.found).__name__ for one in found] == ["Event", "Event", "Event", "Verdict"]
    assert [one.origin for one in found[:2]] == [Origin.API, Origin.GA4]


def test_a_list_that_was_shown_confirms_an_answer_of_ours() -> None:
    (one,) = judged(body("view_item_list", item_list_id="0123456789abc1"))
    assert isinstance(one.found, Render)
    assert (one.found.request_id, one.found.items, one.found.event_id) == (
        "0123456789abc1",
        ("A", "7", "A"),
        "0123456789abc1",
    )
    (clicked,) = events(body("select_item", items=[{**ITEMS[0], "item_list_id": "0123456789abc1"}]))
    assert clicked.request_id == "0123456789abc1"
    (clicked,) = events(body("select_item", items=ITEMS[:1], item_list_id="related_products"))
    assert clicked.request_id is None
    assert "'related_products' is no request_id" in reason(body("view_item_list", item_list_id="related_products"))
    assert "None is no request_id" in reason(body("view_item_list"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (body("page_view"), "'page_view' is not one of view_item"),
        (body("purchase", items=[]), "params.items is empty"),
        (body("purchase", items="A"), "a list of items"),
        (body("purchase", items=[{"price": 1}]), "item_id"),
        (body("purchase", items=[{"item_id": "A", "price": "cheap"}]), "'cheap' is no price"),
        (body("purchase", items=[{"item_id": "A", "price": True}]), "True is no price"),
        (body("purchase", items=[{"item_id": "A", "price": "1e999999"}]), "is no price"),
        (body("purchase", items=[{"item_id": "A", "price": "NaN"}]), "is no price"),
        (body("view_item", items=[{"item_id": "A", "quantity": 0}]), "quantity"),
        (body("view_item", items=ITEMS[:1], micros=-5), "timestamp_micros"),
        (body("view_item", items=ITEMS[:1], micros=10**30), "timestamp_micros"),
        ({"name": "view_item", "params": {"items": ITEMS[:1]}}, "user_id or a session_id"),
        ({"type": "view", "item_id": "a\0b", "session_id": "s"}, "character 0"),
        ({"type": "render", "session_id": "s"}, "request_id"),
        ({"type": "render", "request_id": "r", "item_id": "i"}, "unknown name"),
    ],
)
def test_what_is_none_is_told_why(content: Any, words: str) -> None:
    assert words in reason(content)


def test_an_event_without_its_time_says_nothing_of_others() -> None:
    with pytest.raises(Ga4Error, match="not one of"):
        to_ours({"name": None})
    with pytest.raises(EventsError, match="too many"):
        parse_body(orjson.dumps({"client_id": "c", "events": [{"name": "view_item"}] * 1_001}))


def test_an_import_keeps_its_origin() -> None:
    ours = {"type": "hide", "item_id": "i", "session_id": "s"}
    assert [one.origin for one in judge([ours, *parse_body(orjson.dumps(body("view_item")))], NOW, Origin.IMPORT)] == [
        Origin.IMPORT
    ] * 4


def test_what_is_nested_without_end_is_rejected() -> None:
    nested: Any = "x"
    for _ in range(120):
        nested = [nested]
    deep = orjson.dumps(nested).replace(b'"x"', orjson.dumps(nested)).replace(b'"x"', orjson.dumps(nested))
    items = b'[{"item_id": "A"}]'
    sent = b'{"name": "view_item", "user_id": "u", "event_id": "e", "params": {"session_id": %b, "items": %b}}' % (
        deep,
        items,
    )
    (one,) = judge(parse_body(sent), NOW)
    assert isinstance(one.found, Verdict) and "nested" in (one.found.reason or "")


def test_two_carts_of_an_item_in_one_body_are_two() -> None:
    told = [{"name": "add_to_cart", "params": {"items": [{"item_id": "A", "quantity": n}]}} for n in (1, 2, 2)]
    found = events({"client_id": "1.2", "timestamp_micros": MICROS, "events": told})
    assert len({one.event_id for one in found}) == 2


def test_a_body_of_few_events_with_many_items_is_too_large() -> None:
    def sent(items: int) -> dict[str, Any]:
        return {"client_id": "1", "events": [{"name": "purchase", "params": {"items": [{"item_id": "A"}] * items}}] * 5}

    assert len(judged(sent(1_000))) == 5_000
    with pytest.raises(EventsError, match="5,005 items at once are too many: send at most 5,000"):
        judged(sent(1_001))
