"""Reading the database: what has come since, whose an event is, and the latest verdicts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Engine, Select, Table, func, select, text, tuple_

from recsys.store.database import reading, writing
from recsys.store.schema import EVENTS, EXPOSURES, MERGES, VERDICTS
from recsys.store.writing import Row, in_parts

CHUNK: Final = 5_000


def watermark(engine: Engine, table: Table) -> int:
    """The last number that was given, such that no row with a lower one can still appear; 0 where none was. It never falls.

    SQLite has one writer at a time. PostgreSQL gives numbers before it commits: the lock is granted when every writer who
    may hold one has finished, and is let go at once. The row of that number may be deleted, so its counter is asked.
    """
    if engine.dialect.name != "postgresql":
        with reading(engine) as connection:
            statement = text("SELECT seq FROM sqlite_sequence WHERE name = :name")
            return connection.execute(statement, {"name": table.name}).scalar() or 0
    with writing(engine) as connection:
        connection.execute(text(f"LOCK TABLE {table.name} IN SHARE MODE"))
        counter = connection.execute(select(func.pg_get_serial_sequence(table.name, "number"))).scalar_one()
        statement = text(f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {counter}")
        return int(connection.execute(statement).scalar_one())


def rows_between(engine: Engine, table: Table, after: int, until: int) -> Iterator[list[Row]]:
    """Rows with `after < number <= until` by number, some thousands at a time."""
    while after < until:
        statement = (
            select(table).where(table.c.number > after, table.c.number <= until).order_by(table.c.number).limit(CHUNK)
        )
        with reading(engine) as connection:
            rows = _rows(connection, statement)
        if not rows:
            return
        yield rows
        after = rows[-1]["number"]


def events_since(engine: Engine, moment: datetime, at_most: int) -> Iterator[list[Row]]:
    """Events received since a moment, the latest `at_most` of them, by number, with the user whose they are.

    An anonymous event has the user that its session belonged to, where there is one.
    """
    number = EVENTS.c.number
    with reading(engine) as connection:
        first = connection.execute(select(func.min(number)).where(EVENTS.c.received_at >= moment)).scalar()
        last = connection.execute(select(func.max(number))).scalar() or 0
    if first is None:
        return
    for rows in rows_between(engine, EVENTS, max(first - 1, last - at_most), last):
        with reading(engine) as connection:
            yield with_owners(connection, rows)


def events_by_id(connection: Connection, event_ids: Collection[str]) -> list[Row]:
    """Stored events, with the user whose they are."""
    rows: list[Row] = []
    for some in in_parts(sorted(event_ids)):
        rows += _rows(connection, select(EVENTS).where(EVENTS.c.event_id.in_(some)).order_by(EVENTS.c.number))
    return with_owners(connection, rows)


def with_owners(connection: Connection, rows: Sequence[Row]) -> list[Row]:
    """The same events; an anonymous one whose session belonged to a user when it was received has that `user_id`."""
    anonymous = {row["session_id"] for row in rows if row["user_id"] is None}
    logins = logins_of(connection, anonymous)
    if not logins:
        return list(rows)
    return [
        {**row, "user_id": owner_at(logins[row["session_id"]], row["received_at"])}
        if row["user_id"] is None and row["session_id"] in logins
        else row
        for row in rows
    ]


def logins_of(connection: Connection, sessions: Collection[str]) -> dict[str, list[tuple[datetime, str]]]:
    """When each of these sessions came to belong to whom, in order."""
    found: dict[str, list[tuple[datetime, str]]] = {}
    for some in in_parts(sorted(sessions)):
        statement = select(MERGES.c.session_id, MERGES.c.since, MERGES.c.user_id).where(MERGES.c.session_id.in_(some))
        for session, since, user in connection.execute(statement.order_by(MERGES.c.since, MERGES.c.number)):
            found.setdefault(session, []).append((since, user))
    return found


def owner_at(logins: Sequence[tuple[datetime, str]], moment: datetime) -> str:
    """The user of the last login until a moment; of the first, where all came later."""
    return next((user for since, user in reversed(logins) if since <= moment), logins[0][1])


def latest_exposures(engine: Engine, chunk: int = CHUNK) -> Iterator[Row]:
    """All exposures, the latest first, read `chunk` at a time."""
    key = tuple_(EXPOSURES.c.occurred_at, EXPOSURES.c.number)
    statement = select(EXPOSURES).order_by(EXPOSURES.c.occurred_at.desc(), EXPOSURES.c.number.desc()).limit(chunk)
    rows: list[Row] = []
    while True:
        further = statement.where(key < tuple_(rows[-1]["occurred_at"], rows[-1]["number"])) if rows else statement
        with reading(engine) as connection:
            rows = _rows(connection, further)
        if not rows:
            return
        yield from rows


def exposure(engine: Engine, request_id: str) -> Row | None:
    """One answer; None where there is none."""
    with reading(engine) as connection:
        return next(iter(_rows(connection, select(EXPOSURES).where(EXPOSURES.c.request_id == request_id))), None)


def events_of(engine: Engine, user_id: str | None, session_id: str | None) -> list[Row]:
    """All events of a user, also those of sessions that belong to them, and of a session, by number."""
    sessions = set() if session_id is None else {session_id}
    rows: dict[int, Row] = {}
    with reading(engine) as connection:
        if user_id is not None:
            sessions |= set(
                connection.execute(select(MERGES.c.session_id).where(MERGES.c.user_id == user_id)).scalars()
            )
            rows |= {row["number"]: row for row in _rows(connection, select(EVENTS).where(EVENTS.c.user_id == user_id))}
        for some in in_parts(sorted(sessions)):
            found = _rows(connection, select(EVENTS).where(EVENTS.c.session_id.in_(some)))
            rows |= {row["number"]: row for row in found}
    return [rows[number] for number in sorted(rows)]


def known_requests(connection: Connection, request_ids: Collection[str]) -> set[str]:
    """Those of the request ids of which there is an exposure."""
    found: set[str] = set()
    for some in in_parts(sorted(request_ids)):
        found |= set(
            connection.execute(select(EXPOSURES.c.request_id).where(EXPOSURES.c.request_id.in_(some))).scalars()
        )
    return found


def latest_verdicts(engine: Engine, limit: int, *, after: int = 0, kinds: Iterable[str] = ()) -> list[Row]:
    """The latest verdicts with a number above `after`, oldest first; only of some kinds where any is given."""
    statement = select(VERDICTS).where(VERDICTS.c.number > after).order_by(VERDICTS.c.number.desc()).limit(limit)
    wanted = tuple(kinds)
    if wanted:
        statement = statement.where(VERDICTS.c.verdict.in_(wanted))
    with reading(engine) as connection:
        return _rows(connection, statement)[::-1]


def count(engine: Engine, table: Table) -> int:
    """Rows of a table."""
    with reading(engine) as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def _rows(connection: Connection, statement: Select[Any]) -> list[Row]:
    found = connection.execute(statement)
    names = list(map(str, found.keys()))  # SQLAlchemy's own kind of text is no key for JSON
    return [dict(zip(names, row, strict=True)) for row in found]
