"""Events on their way in: a verdict for each, durable and in the histories before it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from recsys.privacy.tombstones import Tombstones
from recsys.ranking import NO_ITEM
from recsys.store.schema import Origin
from recsys.store.writing import Row
from service.bundles import LiveBundle
from service.event_log import Batch, EventLog, EventLogError, LateError, Stored, received, unix, utc
from service.healing import live_event
from service.judging import ACCEPTED, DUPLICATE, IGNORED, REJECTED, VERDICTS, Judged, Verdict, consents, judge
from service.metrics import Metrics
from service.schemas import Event, Render
from service.session_store import LiveEvent, SessionStore

AGAIN: Final = "could not be stored: send it again"
"""Of an event that is as it should be."""


class Intake:
    """Judges events, makes them durable, and puts them where the next request sees them."""

    def __init__(
        self,
        store: SessionStore,
        log: EventLog,
        metrics: Metrics,
        clock: Callable[[], float],
        tombstones: Tombstones,
    ) -> None:
        self._store = store
        self._tombstones = tombstones
        self._log = log
        self._metrics = metrics
        self._clock = clock

    async def take(
        self, live: LiveBundle | None, contents: Sequence[Any], origin: Origin = Origin.API
    ) -> list[Verdict]:
        """A verdict for each, in order; without a bundle none says whether the catalogue has the item."""
        now = self._clock()
        judged = [self._unless_deleted(one) for one in judge(contents, datetime.fromtimestamp(now, UTC), origin)]
        events = [one for one in judged if isinstance(one.found, Event)]
        renders = [one for one in judged if isinstance(one.found, Render)]
        outcomes = await self._store_all(events, renders, now)
        verdicts = [outcomes[id(one)] if not isinstance(one.found, Verdict) else one.found for one in judged]
        verdicts = [_note(live, one.found, verdict) for one, verdict in zip(judged, verdicts, strict=True)]
        for one, verdict in zip(judged, verdicts, strict=True):
            if verdict.verdict != IGNORED and consents(one.content):
                self._log.judged(now, verdict.event_id, verdict.verdict, verdict.reason, one.content)
        for kind in VERDICTS:
            self._metrics.judged(kind, sum(verdict.verdict == kind for verdict in verdicts))
        return verdicts

    def _unless_deleted(self, one: Judged) -> Judged:
        """The same; ignored where it is of before the deletion of the shopper who did it."""
        if not isinstance(one.found, Event) or one.found.user_id is None or one.found.occurred_at is None:
            return one
        until = self._tombstones.deleted_until(one.found.user_id)
        if until is None or one.found.occurred_at.timestamp() > until:
            return one
        return replace(one, found=Verdict(one.found.event_id, IGNORED, "it is of before the shopper was deleted"))

    async def _store_all(self, events: Sequence[Judged], renders: Sequence[Judged], now: float) -> dict[int, Verdict]:
        """In the database first, which knows what is new; then in the histories, also what is known: they may lack it.

        The verdicts by `id` of the judged.
        """
        if not events and not renders:
            return {}
        moment = utc(now)
        rows = [_event_row(one, received(number, moment)) for number, one in enumerate(events)]
        shown = [_render_row(one, received(number, moment)) for number, one in enumerate(renders)]
        try:
            stored = await self._log.append(Batch(rows, shown))
        except EventLogError as error:
            if isinstance(error, LateError):
                self._store.note_behind(now)  # if it is stored after all, healing puts it into the histories
            return {id(one): Verdict(_id_of(one), REJECTED, AGAIN) for one in (*events, *renders)}
        await self._store.append(self._for_histories(rows, stored, now))
        fresh = zip((*events, *renders), (*stored.fresh, *stored.fresh_renders), strict=True)
        return {id(one): _verdict(one, new=new) for one, new in fresh}

    def _for_histories(self, rows: Sequence[Row], stored: Stored, now: float) -> list[LiveEvent]:
        new = [row for row, fresh in zip(rows, stored.fresh, strict=True) if fresh]
        oldest = now - self._store.history_seconds
        known = [row for row in stored.known if unix(row["received_at"]) >= oldest]
        return [event for row in (*known, *new) if (event := live_event(row)) is not None]


def _verdict(one: Judged, *, new: bool) -> Verdict:
    if new:
        return Verdict(_id_of(one), ACCEPTED)
    sent = "this answer was confirmed before" if isinstance(one.found, Render) else "this event_id was sent before"
    return Verdict(_id_of(one), DUPLICATE, sent)


def _id_of(one: Judged) -> str | None:
    return one.found.event_id


def _note(live: LiveBundle | None, found: Event | Render | Verdict, verdict: Verdict) -> Verdict:
    known = live is None or not isinstance(found, Event) or live.catalogue.row(found.item_id) != NO_ITEM
    if known or verdict.verdict != ACCEPTED:
        return verdict
    return Verdict(verdict.event_id, ACCEPTED, "the item is not in the catalogue yet")


def _naive(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=None)


def _event_row(one: Judged, moment: datetime) -> Row:
    row = one.found.model_dump()  # type: ignore[union-attr]
    return {**row, "occurred_at": _naive(row["occurred_at"]), "received_at": moment, "origin": one.origin}


def _render_row(one: Judged, moment: datetime) -> Row:
    row = one.found.model_dump(exclude={"type", "event_id", "occurred_at"})  # type: ignore[union-attr]
    return {**row, "rendered_at": _naive(one.found.occurred_at), "received_at": moment}  # type: ignore[union-attr]
