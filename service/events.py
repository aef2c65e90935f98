"""Events on their way in: a verdict for each, durable and in the histories before it is given."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson
from pydantic import ValidationError

from recsys.ranking import NO_ITEM
from service.bundles import LiveBundle
from service.event_log import EventLog, EventLogError
from service.metrics import Metrics
from service.schemas import MAX_EVENTS, Event, in_words
from service.session_store import LiveEvent, SessionStore

ACCEPTED: Final = "accepted"
DUPLICATE: Final = "duplicate"
REJECTED: Final = "rejected"
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


def parse_body(body: bytes) -> list[Any]:
    """The events of a body: one object, a list, or `{"events": [...]}`.

    Raises:
        EventsError: it is not JSON, of another shape, or holds too many.
    """
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise EventsError(f"the body is not JSON: {error}") from error
    if isinstance(content, dict):
        content = content["events"] if set(content) == {"events"} else [content]
    if not isinstance(content, list):
        raise EventsError('send one event, a list of events, or {"events": [...]}')
    if not content:
        raise EventsError("there is no event in the body")
    if len(content) > MAX_EVENTS:
        raise EventsError(f"{len(content):,} events at once are too many: send at most {MAX_EVENTS:,}")
    return content


class Intake:
    """Judges events, makes them durable, and puts them where the next request sees them."""

    def __init__(self, store: SessionStore, log: EventLog, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._store = store
        self._log = log
        self._metrics = metrics
        self._clock = clock

    async def take(self, live: LiveBundle, contents: Sequence[Any]) -> list[Verdict]:
        """A verdict for each, in order."""
        now = datetime.fromtimestamp(self._clock(), UTC)
        judged = [self._judge(content, now) for content in contents]
        good = [event for event in judged if isinstance(event, Event)]
        outcomes = iter(await self._store_all(good, now))
        verdicts = [next(outcomes) if isinstance(event, Event) else event for event in judged]
        verdicts = [self._note(live, event, verdict) for event, verdict in zip(judged, verdicts, strict=True)]
        for kind in (ACCEPTED, DUPLICATE, REJECTED):
            self._metrics.judged(kind, sum(verdict.verdict == kind for verdict in verdicts))
        return verdicts

    def _judge(self, content: Any, now: datetime) -> Event | Verdict:
        """The event, complete with id and time, or why it is none."""
        given = content.get("event_id") if isinstance(content, dict) else None
        known = given if isinstance(given, str) else None
        try:
            event = Event.model_validate(content)
        except ValidationError as error:
            return Verdict(known, REJECTED, in_words(error))
        occurred = event.occurred_at or now
        if occurred.tzinfo is None:
            occurred = occurred.replace(tzinfo=UTC)
        if not EARLIEST <= occurred <= now + FUTURE:
            when = "in the future" if occurred > now else "before 1990"
            return Verdict(known, REJECTED, f"occurred_at lies {when}: {occurred.isoformat()}")
        return event.model_copy(
            update={"occurred_at": occurred.astimezone(UTC), "event_id": event.event_id or _derived_id(event)}
        )

    async def _store_all(self, events: Sequence[Event], now: datetime) -> list[Verdict]:
        """On disk first: an event that is lost after its id was taken could never be sent again."""
        if not events:
            return []
        try:
            await self._log.append([_line(event, now) for event in events])
        except EventLogError:
            return [Verdict(event.event_id, REJECTED, "could not be stored: send it again") for event in events]
        new = await self._store.append(
            [
                LiveEvent(
                    str(event.event_id), event.type, event.item_id, event.user_id, event.session_id, now.timestamp()
                )
                for event in events
            ]
        )
        return [
            Verdict(
                event.event_id, ACCEPTED if fresh else DUPLICATE, None if fresh else "this event_id was sent before"
            )
            for event, fresh in zip(events, new, strict=True)
        ]

    @staticmethod
    def _note(live: LiveBundle, event: Event | Verdict, verdict: Verdict) -> Verdict:
        if isinstance(event, Event) and verdict.verdict == ACCEPTED and live.catalogue.row(event.item_id) == NO_ITEM:
            return Verdict(verdict.event_id, ACCEPTED, "the item is not in the catalogue yet")
        return verdict


def _derived_id(event: Event) -> str:
    """With a time of its own an event is known by its content, so that a retry counts once; else each one is new."""
    if event.occurred_at is None:
        return uuid.uuid4().hex
    return hashlib.blake2b(event.model_dump_json().encode(), digest_size=16).hexdigest()


def _line(event: Event, now: datetime) -> bytes:
    return orjson.dumps({"kind": "event", **event.model_dump(), "received_at": now})
