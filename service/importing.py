"""`recsys events import` and `recsys events tail`: files into the database as the API would take them, and what became of events."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

import orjson
from prometheus_client import CollectorRegistry

from recsys.errors import UserError
from recsys.privacy.pseudonyms import Pseudonyms
from recsys.privacy.tombstones import Tombstones
from recsys.store.database import database_url, exists, open_database, opened
from recsys.store.migrate import upgrade, version
from recsys.store.reading import latest_verdicts
from recsys.store.schema import HEAD, Origin
from service.embedded_redis import socket_url
from service.event_log import EventLog
from service.events import Intake
from service.judging import REJECTED, EventsError, parse_body
from service.metrics import Metrics
from service.schemas import MAX_EVENTS
from service.session_store import SessionStore
from service.settings import Settings

EXAMPLES: Final = 5
FOLLOW_SECONDS: Final = 0.5
MOST_LINES: Final = 1_000
"""At a time, while following."""


@dataclass(slots=True)
class Import:
    """What became of a file's lines."""

    verdicts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    """Of what was rejected: line and reason."""


def import_events(settings: Settings, file: Path) -> Import:
    """Take a file of JSON lines into the database, each line a body as `POST /events` takes it.

    Where the service's Redis is there too, its histories know the events at once; else when the service starts next.

    Raises:
        UserError: the file or the database cannot be used.
    """
    if not file.is_file():
        raise UserError(f"{file} is no file")
    return asyncio.run(_import(settings, file))


async def _import(settings: Settings, file: Path) -> Import:
    engine = open_database(database_url(settings.data_dir, settings.database_url))
    upgrade(engine)
    metrics = Metrics(settings.shop, CollectorRegistry())
    log = EventLog(engine, on_lost=metrics.lost, on_unmatched=metrics.unmatched)
    store = SessionStore(
        settings.redis_url or socket_url(settings.data_dir / "redis"),
        shop=settings.shop,
        timeout_ms=1_000,
        retry_ms=60_000,
        history_events=settings.history_events,
        history_days=settings.history_days,
    )
    tombstones = Tombstones(settings.data_dir, Pseudonyms(settings.data_dir, settings.privacy_key))
    tombstones.check()
    intake, done = Intake(store, log, metrics, time.time, tombstones), Import()
    await log.start()
    try:
        for number, contents in _bodies(file, done):
            verdicts = await intake.take(None, contents, Origin.IMPORT)
            done.verdicts.update(verdict.verdict for verdict in verdicts)
            reasons = (f"line {number} on: {verdict.reason}" for verdict in verdicts if verdict.verdict == REJECTED)
            done.examples += islice(reasons, EXAMPLES - len(done.examples))
    finally:
        await log.stop()
        await store.close()
    return done


def _bodies(file: Path, done: Import) -> Iterator[tuple[int, list[Any]]]:
    """Some events at a time, with the number of the first line that they stand in."""
    first, waiting = 1, list[Any]()
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                contents = parse_body(line)
            except EventsError as error:
                done.verdicts[REJECTED] += 1
                if len(done.examples) < EXAMPLES:
                    done.examples.append(f"line {number}: {error}")
                continue
            if len(waiting) + len(contents) > MAX_EVENTS:
                yield first, waiting
                first, waiting = number, []
            waiting += contents
    if waiting:
        yield first, waiting


def tail(settings: Settings, number: int, *, follow: bool, rejected: bool) -> Iterator[str]:
    """The latest verdicts as lines, oldest first; then, if wanted, those that come, without end.

    Raises:
        UserError: there is no database yet.
    """
    url = database_url(settings.data_dir, settings.database_url)
    kinds = (REJECTED,) if rejected else ()
    with opened(url) as engine:
        if not exists(url) or version(engine) != HEAD:
            raise UserError(
                "there is no log yet, or one of another version: `recsys serve` makes it, `recsys db upgrade` too"
            )
        rows, last = latest_verdicts(engine, number, kinds=kinds), 0
        while True:
            yield from map(as_line, rows)
            if not follow:
                return
            last = rows[-1]["number"] if rows else last
            time.sleep(FOLLOW_SECONDS)
            rows = latest_verdicts(engine, MOST_LINES, after=last, kinds=kinds)


def as_line(row: dict[str, Any]) -> str:
    """A verdict as one line of a terminal: characters that would steer it are written out."""
    at = row["at"].isoformat(timespec="milliseconds")
    reason = f": {row['reason']}" if row["reason"] else ""
    line = f"{at} {row['verdict']:<9} {row['event_id'] or '-'}{reason}  {row['body']}"
    return "".join(char if char.isprintable() else orjson.dumps(char).decode()[1:-1] for char in line)
