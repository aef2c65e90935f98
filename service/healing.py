"""Histories in Redis brought up to date from the database: after a crash, after Redis was away, and after it lost its memory.

Workers append what they acknowledge; this makes good what they could not. Offering an event twice changes nothing, so nobody keeps
account of single events: one key in Redis says until when the histories are complete.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from sqlalchemy import Engine

from recsys.events import EVENT_CODE, EventType
from recsys.store.reading import events_since
from recsys.store.schema import Origin
from recsys.store.writing import Row
from service.event_log import unix, utc
from service.session_store import LiveEvent, SessionStore, StoreUnavailableError

HEAL_SECONDS: Final = 2.0
"""Between two looks."""
MARGIN_SECONDS: Final = 60.0
"""Events of so long before the last good moment are offered again: a worker may have died between the database and Redis."""
LEAD_SECONDS: Final = 10
MOST_EVENTS: Final = 2_000_000
"""The latest, that are put back into an empty Redis."""
AT_ONCE: Final = 200

logger = logging.getLogger(__name__)


class Healer:
    """Keeps Redis complete. One worker at a time does it."""

    def __init__(self, engine: Engine, store: SessionStore, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._store = store
        self._clock = clock
        self._started = False

    async def look(self) -> None:
        """Add what is missing, if anything may be; Redis may be away."""
        now = self._clock()
        try:
            until = await self._store.complete_until()
            well = until is not None and now - until < 5 * HEAL_SECONDS
            if self._started and well and self._store.behind_since is None:
                await self._store.stay_complete(now)
            elif await self._store.lead(LEAD_SECONDS):
                await self._heal(until, now)
        except StoreUnavailableError:
            return  # with the next look

    async def _heal(self, until: float | None, now: float) -> None:
        """Add all that may be missing; see `SessionStore.complete_until`.

        Raises:
            StoreUnavailableError: Redis went away; what was missing may still be.
        """
        behind, self._store.behind_since = self._store.behind_since, None
        since = now - self._store.history_seconds if until is None else until - MARGIN_SECONDS
        since = since if behind is None else min(since, behind)
        try:
            added = await self._add(since)
        except Exception:
            if behind is not None:
                self._store.note_behind(behind)
            raise
        self._started = True
        if not await self._store.retire(now):
            logger.info("Redis was emptied while it was filled: the next look fills it again")
        if added:
            logger.info("%d events of the database were put into the histories", added)

    async def _add(self, since: float) -> int:
        """Offer the events received since then, oldest first; how many were new."""
        parts = iter(events_since(self._engine, utc(since), MOST_EVENTS))
        oldest, added = self._clock() - self._store.history_seconds, 0
        while (rows := await asyncio.to_thread(next, parts, None)) is not None:
            events = [event for event in map(live_event, rows) if event is not None and event.received >= oldest]
            for some in _some(events):
                added += await self._store.offer(some)
                await self._store.lead(LEAD_SECONDS, again=True)
        return added


def live_event(row: Row) -> LiveEvent | None:
    """A stored event as histories have it; None where it is no evidence of interest.

    An imported event has the age that it says it has: an import is of the past, and not something that has just happened.
    """
    if row["type"] not in EVENT_CODE:
        return None
    moment = row["occurred_at"] if row["origin"] == Origin.IMPORT else row["received_at"]
    return LiveEvent(
        row["event_id"], EventType(row["type"]), row["item_id"], row["user_id"], row["session_id"], unix(moment)
    )


def _some(events: Sequence[LiveEvent]) -> Iterator[Sequence[LiveEvent]]:
    return (events[start : start + AT_ONCE] for start in range(0, len(events), AT_ONCE))
