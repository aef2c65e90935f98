"""Google Analytics 4's e-commerce events, as a tag manager or the Measurement Protocol sends them, in our own shape.

Two bodies are read: the Measurement Protocol's `{client_id, user_id, timestamp_micros, events: [{name, params}]}`, and a single
`{name or event, params or ecommerce, ...}`. See https://developers.google.com/analytics/devguides/collection/ga4/ecommerce.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import orjson

from recsys.events import RENDER, RETURN, EventType

NAMES: Final = {
    "view_item": EventType.VIEW,
    "select_item": EventType.CLICK,
    "add_to_cart": EventType.CART,
    "purchase": EventType.PURCHASE,
    "refund": RETURN,
    "view_item_list": RENDER,
}
"""GA4's names of what we know."""
REQUEST_ID: Final = re.compile(r"[0-9a-f]{13,32}")
"""What our own request ids look like: an `item_list_id` of another kind is a list of the shop's."""
MAX_MICROS: Final = 253_402_300_799_000_000
_NAME: Final = ("name", "event")
_DETAILS: Final = ("params", "ecommerce")
_COUNTED_ONCE: Final = ("purchase", "refund")
"""By the order's number, whenever they are sent."""

Content = dict[str, Any]


class Ga4Error(ValueError):
    """A GA4 event that says nothing to us; the message says why."""


def is_ga4(content: object) -> bool:
    """Whether a body, or one event of it, is in the shape of GA4 rather than in ours."""
    if not isinstance(content, dict) or "type" in content:
        return False
    if any(isinstance(content.get(name), str) for name in _NAME):
        return True
    return isinstance(content.get("events"), list) and bool({"client_id", "user_id"} & content.keys())


def unpacked(content: Content) -> list[Content]:
    """The single events of a body, each with what the body says of all."""
    if not isinstance(content.get("events"), list):
        return [content]
    around = {name: value for name, value in content.items() if name != "events"}
    return [{**around, **one} if isinstance(one, dict) else {**around, "name": None} for one in content["events"]]


def size(content: object) -> int:
    """How many events it may become."""
    if not isinstance(content, dict) or not is_ga4(content):
        return 1
    items = _params(content).get("items")
    return max(1, len(items)) if isinstance(items, list) else 1


def to_ours(content: Content) -> list[Content]:
    """One GA4 event as events in our shape, one for each item.

    Ids are made of what the event says, an order's of its `transaction_id` and items, so that a retry counts once.

    Raises:
        Ga4Error: it is none that we know, or lacks what it needs.
    """
    name = next((content[key] for key in _NAME if isinstance(content.get(key), str)), None)
    if name not in NAMES:
        raise Ga4Error(f"the GA4 event {name!r} is not one of {', '.join(NAMES)}")
    params = _params(content)
    who = _who(content, params)
    around = {**who, "occurred_at": _time(content, params)}
    items = params.get("items")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise Ga4Error(f"{name}: params.items is to be a list of items")
    if name == "view_item_list":
        return [_render(content, params, items, around)]
    if not items:
        raise Ga4Error(f"{name}: params.items is empty")
    order = _text(params.get("transaction_id"))
    copies: Counter[str] = Counter()
    ours = []
    for item in items:
        item_id = _text(item.get("item_id"))
        copies[item_id or ""] += 1
        key = [name, item_id, copies[item_id or ""]]
        if name in _COUNTED_ONCE and order:
            # A second refund of an item differs by what came back.
            key += [order] if name == "purchase" else [order, item.get("quantity"), around["occurred_at"]]
        else:
            # One body has one time: two carts of an item differ by what was put there.
            key += [around, params.get("session_id"), content.get("event_id"), item.get("quantity"), item.get("price")]
        list_id = _text(item.get("item_list_id")) or _text(params.get("item_list_id"))
        event = {
            **around,
            "type": NAMES[name],
            "item_id": item_id,
            "quantity": item.get("quantity"),
            "price_cents": _cents(item.get("price")),
            "order_id": order,
            "request_id": list_id if list_id and REQUEST_ID.fullmatch(list_id) else None,
        }
        if around["occurred_at"] is not None or (order and name in _COUNTED_ONCE) or content.get("event_id"):
            event["event_id"] = _hash(key)
        ours.append({name: value for name, value in event.items() if value is not None})
    return ours


def _render(content: Content, params: Content, items: list[Content], around: Content) -> Content:
    """A list was shown: one of ours, where its id is that of an answer."""
    ids = {_text(source.get("item_list_id")) for source in (params, *items)} - {None}
    ours = sorted(one for one in ids if one and REQUEST_ID.fullmatch(one))
    if len(ours) != 1:
        raise Ga4Error(
            f"view_item_list: item_list_id {', '.join(map(repr, sorted(filter(None, ids)))) or None} is no request_id of an answer"
        )
    shown = [_text(item.get("item_id")) for item in items]
    event = {
        "type": RENDER,
        "request_id": ours[0],
        "items": shown or None,
        "event_id": content.get("event_id"),
        **around,
    }
    return {name: value for name, value in event.items() if value is not None}


def _params(content: Content) -> Content:
    """What the event says of itself, beside its name."""
    for key in _DETAILS:
        if isinstance(found := content.get(key), dict):
            return found
    return content


def _who(content: Content, params: Content) -> dict[str, str | None]:
    """The user, and the visit: a session's number is only one of a client's."""
    client, visit = _text(content.get("client_id")), _text(params.get("session_id") or params.get("ga_session_id"))
    visit = visit or _text(content.get("session_id"))
    session = ".".join(part for part in (client, visit) if part)
    return {"user_id": _text(content.get("user_id") or params.get("user_id")), "session_id": session or None}


def _time(content: Content, params: Content) -> str | None:
    """When it happened, ISO 8601.

    Raises:
        Ga4Error: it cannot be read.
    """
    micros = content.get("timestamp_micros") or params.get("timestamp_micros")
    if micros is None:
        return None
    try:
        number = int(str(micros))
    except ValueError:
        number = -1
    if not 0 <= number <= MAX_MICROS:
        raise Ga4Error(f"timestamp_micros: {micros!r} is no number of microseconds since 1970")
    seconds, rest = divmod(number, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest).isoformat()


def _cents(price: object) -> int | None:
    """A price in the currency's main unit, as cents.

    Raises:
        Ga4Error: it is no price.
    """
    if price is None:
        return None
    try:
        cents = (Decimal(str(price)) * 100).to_integral_value()
        if isinstance(price, bool) or not cents.is_finite() or not 0 <= cents <= 10**12:
            raise InvalidOperation
    except ArithmeticError as error:
        raise Ga4Error(f"price: {price!r} is no price") from error
    return int(cents)


def _text(value: object) -> str | None:
    """An id, which GA4 may send as a number."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    return str(value).strip() or None


def _hash(key: list[Any] | Mapping[str, Any]) -> str:
    """An id made of what an event says.

    Raises:
        Ga4Error: it is nested too deeply.
    """
    try:
        return hashlib.blake2b(orjson.dumps(["ga4", key]), digest_size=16).hexdigest()
    except TypeError as error:
        raise Ga4Error("event_id, session_id, quantity and price are to be text or numbers, not nested") from error
