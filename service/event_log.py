"""The log of events and exposures in the database: an event is committed before it is acknowledged.

One thread writes. All events that wait when it is free share one transaction, and so one sync to disk. Exposures, verdicts and logins are
written a moment later in transactions of their own; no answer waits for them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import orjson
from interlock import CircuitOpenError
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionError
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from recsys.store.database import reading, writing
from recsys.store.reading import events_by_id, known_requests
from recsys.store.writing import Row, insert_events, insert_exposures, insert_merges, insert_renders, insert_verdicts
from service.breakers import breaker

FLUSH_SECONDS: Final = 0.2
COMMIT_SECONDS: Final = 5.0
"""So long does who sends an event wait for the database."""
MAX_WAITING: Final = 1_000
"""Batches that wait for the writer; more are not taken."""
MAX_BUFFERED: Final = 100_000
"""Exposures kept while the database cannot be written; beyond that they are counted as lost."""
VERDICTS_A_FLUSH: Final = 200
"""Of each kind, the latest: under heavy load the debugger sees a sample."""
BODY: Final = 2_000
"""Characters of an event that are kept with its verdict."""
UNMATCHED_SECONDS: Final = 5.0
"""So long after a render its exposure must be there: another worker may be about to write it."""
ATTEMPTS: Final = 4
UNAVAILABLE: Final = (OperationalError, NoConnectionError)
"""The database is locked, full, away, or gives no connection: later it may take the same."""

logger = logging.getLogger(__name__)
Insert = Callable[[Connection, Sequence[Row]], None]
T = TypeVar("T")
R = TypeVar("R")


class EventLogError(Exception):
    """The log could not be written."""


class NoDatabaseError(EventLogError):
    """The database is away, locked or full: later it may take the same."""


class LateError(NoDatabaseError):
    """It is not written yet. It may still be."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that are to be durable together."""

    events: Sequence[Row] = ()
    renders: Sequence[Row] = ()


@dataclass(frozen=True, slots=True)
class Stored:
    """What the database said to a batch."""

    fresh: list[bool]
    """For each event of the batch whether it is new."""
    fresh_renders: list[bool]
    known: list[Row] = field(default_factory=list)
    """The events as they were stored before, for those that are not new."""


@dataclass(slots=True)
class _Later:
    """What is written soon."""

    exposures: list[Row] = field(default_factory=list)
    merges: list[Row] = field(default_factory=list)
    verdicts: dict[str, deque[Row]] = field(default_factory=lambda: defaultdict(lambda: deque(maxlen=VERDICTS_A_FLUSH)))

    def __bool__(self) -> bool:
        return bool(self.exposures or self.merges or self.verdicts)


class EventLog:
    """Where events, renders, exposures and verdicts go."""

    def __init__(
        self,
        engine: Engine,
        *,
        on_lost: Callable[[int], None],
        on_unmatched: Callable[[int], None],
        commit_seconds: float = COMMIT_SECONDS,
    ) -> None:
        """`on_lost` is told how many exposures could not be kept, `on_unmatched` how many renders name no exposure."""
        self.engine = engine
        self._on_lost = on_lost
        self._on_unmatched = on_unmatched
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="event-log")
        self._waiting: list[tuple[Batch, asyncio.Future[Stored]]] = []
        self._later = _Later()
        self._unseen: deque[tuple[float, str]] = deque(maxlen=MAX_BUFFERED)
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._seconds = commit_seconds
        # A batch that is refused for what is in it says nothing against the database.
        self._breaker = breaker(
            "database", least=3, retry_seconds=1.0, is_away=lambda error: isinstance(error, NoDatabaseError)
        )

    async def append(self, batch: Batch) -> Stored:
        """Return once the batch is committed.

        Raises:
            LateError: it is not in time; it may still be, so that who sends it again is told that it is known.
            NoDatabaseError: it is not, nor will it be; also without a try where the database has just failed again and again.
            EventLogError: it cannot be.
        """
        if self._stopping:
            raise NoDatabaseError("the service is stopping")
        try:
            return await self._breaker.call_async(self._committed, batch)
        except CircuitOpenError as error:
            raise NoDatabaseError("the database has just failed") from error

    async def _committed(self, batch: Batch) -> Stored:
        if len(self._waiting) >= MAX_WAITING:
            raise NoDatabaseError("too many wait for the database")
        done: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
        self._waiting.append((batch, done))
        self._wake.set()
        await asyncio.wait((done,), timeout=self._seconds)
        if done.done():
            return done.result()
        done.cancel()
        if (batch, done) in self._waiting:
            self._waiting.remove((batch, done))
            raise NoDatabaseError("the database is busy")
        raise LateError("the database has not answered yet")

    def expose(self, exposure: Row) -> None:
        """Write an exposure soon: a row whose `occurred_at` is Unix time. Never blocks, never raises."""
        if len(self._later.exposures) < MAX_BUFFERED:
            self._later.exposures.append(exposure)
        else:
            self._on_lost(1)

    def judged(self, at: float, event_id: str | None, verdict: str, reason: str | None, content: Any) -> None:
        """Remember a verdict for those who look for a fault. Never blocks, never raises."""
        row = {"at": at, "event_id": event_id, "verdict": verdict, "reason": reason, "body": content}
        self._later.verdicts[verdict].append(row)

    def login(self, session_id: str, user_id: str, at: float) -> None:
        """A request came with both: the session is the user's. Never blocks, never raises."""
        if len(self._later.merges) < MAX_BUFFERED:
            self._later.merges.append({"session_id": session_id, "user_id": user_id, "since": utc(at)})

    async def start(self) -> None:
        """Begin to write."""
        self._tasks = [
            asyncio.create_task(self._commit_forever(), name="event-log commit"),
            asyncio.create_task(self._flush_forever(), name="event-log flush"),
        ]

    async def stop(self) -> None:
        """Write what is left and close."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._commit()
        await self._flush()
        self._thread.shutdown(wait=True)
        self.engine.dispose()

    # Events: committed, then acknowledged

    async def _commit_forever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await asyncio.shield(self._commit())

    async def _commit(self) -> None:
        """One transaction for everybody who waits now."""
        group, self._waiting = self._waiting, []
        if not group:
            return
        outcomes = await self._in_thread(self._store, [batch for batch, _ in group])
        now = asyncio.get_running_loop().time()
        for (batch, done), outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, Stored):
                pairs = zip(batch.renders, outcome.fresh_renders, strict=True)
                self._unseen.extend((now, row["request_id"]) for row, fresh in pairs if fresh)
            if done.done():
                continue  # who asked has gone
            if isinstance(outcome, Stored):
                done.set_result(outcome)
            else:
                done.set_exception(outcome)

    def _store(self, batches: Sequence[Batch]) -> list[Stored | EventLogError]:
        """What became of each batch. One that the database cannot hold fails alone."""
        try:
            return list(self._together(batches))
        except UNAVAILABLE as error:
            logger.exception("the database cannot be written")
            return [NoDatabaseError(str(error)) for _ in batches]
        except Exception as error:
            # Whatever it is: who waits must be told, and the others must not wait for ever.
            if len(batches) > 1:
                return [outcome for batch in batches for outcome in self._store([batch])]
            logger.exception("the database does not take a batch")
            return [EventLogError(str(error))]

    def _together(self, batches: Sequence[Batch]) -> list[Stored]:
        @_again
        def commit() -> tuple[set[str], set[str]]:
            with writing(self.engine) as connection:
                events = insert_events(connection, [row for batch in batches for row in batch.events])
                return events, insert_renders(connection, [row for batch in batches for row in batch.renders])

        events, renders = commit()
        outcomes = []
        for batch in batches:
            fresh = _first(batch.events, "event_id", events)
            known = {row["event_id"] for row, new in zip(batch.events, fresh, strict=True) if not new}
            stored: list[Row] = []
            if known:
                with reading(self.engine) as connection:
                    stored = events_by_id(connection, known)
            outcomes.append(Stored(fresh, _first(batch.renders, "request_id", renders), stored))
        return outcomes

    # The rest: written soon

    async def _flush_forever(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            try:
                await asyncio.shield(self._flush())
            except Exception:
                logger.exception("the log could not be written: it goes on with what comes next")

    async def _flush(self) -> None:
        later, self._later = self._later, _Later()
        if later:
            await self._in_thread(self._write, later)
            room = MAX_BUFFERED - len(self._later.exposures)
            self._on_lost(max(0, len(later.exposures) - room))
            self._later.exposures[:0] = later.exposures[:room]
            self._later.merges[:0] = later.merges
        until = asyncio.get_running_loop().time() - UNMATCHED_SECONDS
        due = set()
        while self._unseen and self._unseen[0][0] <= until:
            due.add(self._unseen.popleft()[1])
        if due:
            self._on_unmatched(await self._in_thread(self._unmatched, due))

    def _write(self, later: _Later) -> None:
        """Write it; exposures and logins that have to be tried again stay in `later`."""
        exposures, merges = later.exposures, later.merges
        verdicts = [_verdict(row) for rows in later.verdicts.values() for row in rows]
        verdicts.sort(key=lambda row: row["at"])
        if self._written("exposures", insert_exposures, [_exposure(row) for row in exposures]):
            later.exposures = []
        if self._written("logins", insert_merges, merges):
            later.merges = []
        self._written("verdicts", insert_verdicts, verdicts)

    def _written(self, what: str, insert: Insert, rows: Sequence[Row]) -> bool:
        """Whether there is nothing to be tried again."""
        try:
            if rows:
                self._insert(insert, rows)
        except UNAVAILABLE:
            logger.exception("%d %s could not be written yet", len(rows), what)
            return False
        except Exception:
            logger.exception("%d %s are written one by one", len(rows), what)
            self._insert_each(what, insert, rows)
        return True

    def _insert(self, insert: Insert, rows: Sequence[Row]) -> None:
        with writing(self.engine) as connection:
            insert(connection, rows)

    def _insert_each(self, what: str, insert: Insert, rows: Sequence[Row]) -> None:
        """One that the database cannot hold must not take the others with it."""
        for row in rows:
            try:
                self._insert(insert, [row])
            except Exception:
                logger.exception("one of the %s could not be written", what)
                self._on_lost(what == "exposures")

    def _unmatched(self, request_ids: set[str]) -> int:
        try:
            with reading(self.engine) as connection:
                return len(request_ids - known_requests(connection, request_ids))
        except (DBAPIError, NoConnectionError):
            logger.exception("renders could not be compared with exposures")
            return 0

    async def _in_thread(self, work: Callable[[T], R], given: T) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, given)


_again = retry(
    retry=retry_if_exception_type(OperationalError),
    stop=stop_after_attempt(ATTEMPTS),
    wait=wait_random_exponential(multiplier=0.02, max=0.5),
    reraise=True,
)
"""A database that was locked, restarted, or saw two writers in each other's way: the same transaction again."""


def utc(seconds: float) -> datetime:
    """Unix time as the database has it: UTC without zone."""
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)


def unix(moment: datetime) -> float:
    """Unix time of what `utc` has made."""
    return moment.replace(tzinfo=UTC).timestamp()


def received(number: int, now: datetime) -> datetime:
    """When the event with this number in a body was received: a microsecond after the one before, so that their order stands."""
    return now + timedelta(microseconds=number)


def _first(rows: Sequence[Row], key: str, fresh: set[str]) -> list[bool]:
    """For each row whether it is the one that made its key; takes those keys out of `fresh`."""
    found = []
    for row in rows:
        found.append(row[key] in fresh)
        fresh.discard(row[key])
    return found


def _exposure(row: Row) -> Row:
    return {**row, "occurred_at": utc(row["occurred_at"]), **_printable(row, "user_id", "session_id", "widget")}


def _verdict(row: Row) -> Row:
    body = row["body"]
    text = body if isinstance(body, str) else _as_text(body)
    written = {**row, "at": utc(row["at"]), "body": text[:BODY]}
    return {**written, **_printable(written, "event_id", "reason", "body")}


def _as_text(body: Any) -> str:
    try:
        return orjson.dumps(body).decode()
    except TypeError:  # lists in lists: more can be read than can be written
        return f"({type(body).__name__} that is nested too deeply)"


def _printable(row: Mapping[str, Any], *names: str) -> Row:
    """Text without the character 0, which PostgreSQL does not hold."""
    return {name: value.replace("\0", "\ufffd") for name in names if isinstance(value := row[name], str)}
