"""What a shopper may ask of the running shop, and how long it keeps what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime
from typing import Final

from sqlalchemy import Engine

from recsys.bundle import Bundle
from recsys.events import EVENT_TYPES
from recsys.privacy.deletions import Deletions, Receipt
from recsys.privacy.export import Line, as_json, header, of_database
from recsys.privacy.tombstones import Tombstones, utc_text
from recsys.publish import bundle_versions
from recsys.ranking import NO_ITEM
from recsys.store.retention import Periods, retain
from service.erasing import Eraser
from service.event_log import utc
from service.settings import Settings
from service.traces import Sessions, Traces

PRIVACY_SECONDS: Final = 60.0
"""Between two looks at what is pending or has been kept for long enough."""
PLACES: Final = ("database", "redis")
FILES: Final = ("log", "raw", "tables")
"""What only a command reads: a serving process has no library for it."""


class Privacy:
    """Consent apart, which never comes so far: deletion, export and retention of what the service holds."""

    def __init__(
        self,
        engine: Engine,
        deletions: Deletions,
        tombstones: Tombstones,
        settings: Settings,
        clock: Callable[[], float],
    ) -> None:
        """`settings.redis_url` must be given."""
        assert settings.redis_url is not None
        self.deletions = deletions
        self.tombstones = tombstones
        self.engine = engine
        self._settings = settings
        self._clock = clock
        self._traces = Traces(settings.redis_url, settings.shop)
        self._retained: date | None = None
        self._eraser = Eraser(engine, deletions, self._traces, clock)

    async def follow(self) -> None:
        """Know whom others have deleted."""
        self.tombstones.follow()

    async def look(self) -> None:
        """Go on with deletions that are pending; and once a day delete what has been kept for long enough."""
        await asyncio.to_thread(self._eraser.look)
        today = utc(self._clock()).date()
        if today != self._retained:
            await asyncio.to_thread(self.retain)
            self._retained = today

    def retain(self) -> dict[str, int]:
        """Delete what the database has kept for long enough; how many rows, by table. One worker at a time."""
        with self.deletions.locked("live"):
            return retain(self.engine, periods(self._settings), utc(self._clock()))

    def delete(self, user_id: str) -> Receipt:
        """Delete a shopper from what the running service holds; files follow. See `service.erasing.Eraser`."""
        return self._eraser.delete(user_id)

    def resume(self) -> None:
        """Go on with deletions that were broken off."""
        self._eraser.look()

    def export(self, user_id: str, bundles: Iterable[Bundle], files: Iterable[Line] | None = None) -> bytes:
        """All that is known of a shopper, as JSON lines; `files` are the lines of what this process cannot read itself.

        What of the bundles on disk is not among `bundles` is named as left out.
        """
        bundles = list(bundles)
        read = {bundle.version for bundle in bundles}
        others = set(bundle_versions(self.deletions.data_dir / "bundles")) - read
        places = (*PLACES, *map(_place, sorted(read)), *(() if files is None else FILES))
        without = (*(FILES if files is None else ()), *map(_place, sorted(others)))
        return as_json(self._lines(user_id, bundles, header(user_id, utc_text(self._clock()), places, without), files))

    def _lines(self, user_id: str, bundles: list[Bundle], first: Line, files: Iterable[Line] | None) -> Iterator[Line]:
        yield first
        found, lines = of_database(self.engine, user_id)
        yield from lines
        seconds = {session: [(0.0, 1e12)] for session in found.sessions}
        yield from self._recent(user_id, {**self._traces.sessions(user_id), **seconds}, bundles)
        for bundle in bundles:
            yield from known(bundle, user_id)
        yield from files or ()
        for receipt in self.deletions.of(user_id):
            yield {"kind": "deletion", "receipt": receipt.receipt, "at": receipt.at}

    def _recent(self, user_id: str, sessions: Sessions, bundles: list[Bundle]) -> Iterator[Line]:
        for key, records in self._traces.histories(user_id, sessions):
            rows = bundles[0].catalogue.rows_of_hashes(records["item"]) if bundles else [NO_ITEM] * len(records)
            for record, row in zip(records, rows, strict=True):
                yield {
                    "kind": "recent",
                    "history": "user" if key.startswith("u:") else f"session:{key[2:]}",
                    "item_id": None if row == NO_ITEM else bundles[0].catalogue.item_id(int(row)),
                    "item_hash": f"{int(record['item']):016x}",
                    "event_type": EVENT_TYPES[int(record["type"])],
                    "received_at": datetime.fromtimestamp(float(record["received"]), UTC),
                }


def _place(version: str) -> str:
    return f"bundles/{version}"


def known(bundle: Bundle, user_id: str) -> Iterator[Line]:
    """What a bundle knows of a user."""
    histories, version = bundle.histories, bundle.version
    history = histories.of(user_id)
    for item, code, age in zip(history.items, history.event_types, history.age_days, strict=True):
        yield {
            "kind": "known",
            "model_version": version,
            "item_id": bundle.catalogue.item_id(int(item)),
            "event_type": EVENT_TYPES[int(code)],
            "age_days": round(float(age), 3),
        }
    if histories.index.row(user_id) >= 0:
        region, segments = histories.traits_of(user_id)
        yield {
            "kind": "profile",
            "model_version": version,
            "region_code": region,
            "segment_codes": segments.tolist(),
        }


def periods(settings: Settings) -> Periods:
    """How long what is kept, as the settings say."""
    return Periods(
        events=settings.retain_events_days,
        exposures=settings.retain_exposures_days,
        sessions=settings.retain_sessions_days,
        replays=settings.retain_replays_days,
        verdicts=settings.retain_verdicts_days,
    )
