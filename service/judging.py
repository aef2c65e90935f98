"""What comes in becomes events, each complete with its id and time, or a verdict that says why it is none."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson
from pydantic import ValidationError

from recsys.events import RENDER
from recsys.store.schema import Origin
from service.ga4 import Ga4Error, is_ga4, size, to_ours, unpacked
from service.schemas import MAX_EVENTS, MAX_GA4_ITEMS, Event, Render, in_words

ACCEPTED: Final = "accepted"
DUPLICATE: Final = "duplicate"
REJECTED: Final = "rejected"
IGNORED: Final = "ignored"
VERDICTS: Final = (ACCEPTED, DUPLICATE, REJECTED, IGNORED)
FUTURE: Final = timedelta(minutes=5)
EARLIEST: Final = datetime(1990, 1, 1, tzinfo=UTC)


class EventsError(Exception):
    """The body as a whole cannot be read; the message says why."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one event."""

    event_id: str | None
    verdict: str
    reason: str | None = None


_REFUSED: Final = Verdict(None, IGNORED, "consent is refused: nothing of it is kept")
_NEITHER: Final = Verdict(None, REJECTED, "consent: must be true or false; nothing of it is kept")


@dataclass(frozen=True, slots=True)
class Judged:
    """One event as it came in, and what it is."""

    content: Any
    """As it came in, parsed."""
    found: Event | Render | Verdict
    """Complete with id and time; or why it is none."""
    origin: Origin


def parse_body(body: bytes) -> list[Any]:
    """The events of a body: one object, a list, `{"events": [...]}`, beside which `consent` may stand for all, or GA4's.

    Raises:
        EventsError: it is not JSON, of another shape, or holds too many.
    """
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise EventsError(f"the body is not JSON: {error}") from error
    if isinstance(content, dict):
        if is_ga4(content):
            content = unpacked(content)
        else:
            content = _unpacked(content) if "events" in content and set(content) <= {"events", "consent"} else [content]
    if not isinstance(content, list):
        raise EventsError('send one event, a list of events, or {"events": [...]}')
    if not content:
        raise EventsError("there is no event in the body")
    if len(content) > MAX_EVENTS:
        raise EventsError(f"{len(content):,} events at once are too many: send at most {MAX_EVENTS:,}")
    items = sum(map(size, content))
    if items > MAX_GA4_ITEMS:
        raise EventsError(f"{items:,} items at once are too many: send at most {MAX_GA4_ITEMS:,}")
    return content


def _unpacked(content: dict[str, Any]) -> Any:
    """The events of `{"events": [...]}`, each with what the body says of consent."""
    events = content.pop("events")
    if not content or not isinstance(events, list):
        return events
    return [{**content, **one} if isinstance(one, dict) else content for one in events]


def consents(content: Any) -> bool | None:
    """Whether who did it agrees that it is kept, which they do where nothing is said; None where it is neither yes nor no.

    GA4's `{"ad_user_data": ..., "ad_personalization": ...}` is a refusal where either is DENIED.
    """
    said = content.get("consent", True) if isinstance(content, dict) else True
    if isinstance(said, dict):
        return "DENIED" not in said.values()
    return said if isinstance(said, bool) else None


def judge(contents: Sequence[Any], now: datetime, origin: Origin = Origin.API) -> list[Judged]:
    """What each is, in order; one of GA4 with several items is several. `now` is in UTC, `origin` that of our own shape."""
    return [judged for content in contents for judged in _judge_each(content, now, origin)]


def _judge_each(content: Any, now: datetime, origin: Origin) -> Iterator[Judged]:
    agreed = consents(content)
    if agreed is not True:
        yield Judged(content, _NEITHER if agreed is None else _REFUSED, origin)
        return
    if isinstance(content, dict) and "consent" in content:
        content = {name: value for name, value in content.items() if name != "consent"}
    if not is_ga4(content):
        yield Judged(content, _judge(content, now), origin)
        return
    where = Origin.IMPORT if origin is Origin.IMPORT else Origin.GA4
    try:
        for one in to_ours(content):
            yield Judged(content, _judge(one, now), where)
    except Ga4Error as error:
        yield Judged(content, Verdict(None, REJECTED, str(error)), where)


def _judge(content: Any, now: datetime) -> Event | Render | Verdict:
    given = content.get("event_id") if isinstance(content, dict) else None
    known = given if isinstance(given, str) else None
    model = Render if isinstance(content, dict) and content.get("type") == RENDER else Event
    try:
        event: Event | Render = model.model_validate(content)
    except ValidationError as error:
        return Verdict(known, REJECTED, in_words(error))
    occurred = event.occurred_at or now
    if occurred.tzinfo is None:
        occurred = occurred.replace(tzinfo=UTC)
    if not EARLIEST <= occurred <= now + FUTURE:
        when = "in the future" if occurred > now else "before 1990"
        return Verdict(known, REJECTED, f"occurred_at lies {when}: {occurred.isoformat()}")
    event_id = event.event_id or (event.request_id if isinstance(event, Render) else _derived_id(event))
    return event.model_copy(update={"occurred_at": occurred.astimezone(UTC), "event_id": event_id})


def _derived_id(event: Event) -> str:
    """With a time of its own an event is known by its content, so that a retry counts once; else each one is new."""
    if event.occurred_at is None:
        return uuid.uuid4().hex
    return hashlib.blake2b(event.model_dump_json().encode(), digest_size=16).hexdigest()
