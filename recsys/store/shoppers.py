"""All rows of one shopper, in every table: to be shown to them, or deleted.

A row is theirs that names them, and one of a session without a user while the session was theirs (`recsys.store.reading.owner_at`). No index is kept
for this: the tables are read once, without a lock, and rows are deleted by their numbers.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson
from sqlalchemy import Connection, Engine, Table, delete, or_, select

from recsys.store.database import reading, writing
from recsys.store.reading import logins_of
from recsys.store.schema import EVENTS, EXPOSURES, MERGES, METADATA, RENDERS, VERDICTS
from recsys.store.writing import Row, in_parts

ALWAYS: Final = datetime(1, 1, 1)
NEVER: Final = datetime(9999, 12, 31)
Periods = Sequence[tuple[datetime, datetime]]
"""From when until when, the end not included, a session was a user's."""

WHEN: Final = {EVENTS: "received_at", EXPOSURES: "occurred_at", RENDERS: "received_at", MERGES: "since", VERDICTS: "at"}
"""For each table when a row came to be known."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What the database holds of a user."""

    sessions: Mapping[str, Periods]
    rows: Mapping[str, Sequence[Row]]
    """By table, in the order of their numbers."""


def footprint(engine: Engine, user_id: str, until: datetime = NEVER) -> Footprint:
    """Everything of a user that became known until a moment, UTC."""
    with reading(engine) as connection:
        sessions = sessions_of(connection, user_id)
        events = list(_theirs(connection, EVENTS, user_id, sessions, until))
        exposures = list(_theirs(connection, EXPOSURES, user_id, sessions, until))
        renders = {row["number"]: row for row in _theirs(connection, RENDERS, user_id, sessions, until)}
        renders |= {row["number"]: row for row in _named(connection, RENDERS, exposures, "request_id")}
        merges = _rows(connection, select(MERGES).where(MERGES.c.user_id == user_id, MERGES.c.since <= until))
        ids = {row["event_id"] for row in events}
        verdicts = [
            row
            for row in _rows(connection, select(VERDICTS).where(VERDICTS.c.at <= until).order_by(VERDICTS.c.number))
            if row["event_id"] in ids or speaks_of(row["body"], user_id, sessions)
        ]
    found = (events, exposures, [renders[number] for number in sorted(renders)], list(merges), verdicts)
    return Footprint(sessions, {table.name: rows for table, rows in zip(WHEN, found, strict=True)})


def users_of(engine: Engine) -> list[str]:
    """Everybody whom the database names."""
    found = set[str]()
    with reading(engine) as connection:
        for table in (EVENTS, EXPOSURES, RENDERS, MERGES):
            names = select(table.c.user_id).where(table.c.user_id.is_not(None)).distinct()
            found.update(connection.execute(names).scalars())
    return sorted(found)


def sessions_of(connection: Connection, user_id: str) -> dict[str, Periods]:
    """When each session that ever was the user's was so. What one did before anybody logged in is the first's."""
    names = set(connection.execute(select(MERGES.c.session_id).where(MERGES.c.user_id == user_id)).scalars())
    found: dict[str, Periods] = {}
    for session, logins in logins_of(connection, names).items():
        starts = [ALWAYS, *(since for since, _ in logins[1:]), NEVER]
        found[session] = [(starts[n], starts[n + 1]) for n, (_, user) in enumerate(logins) if user == user_id]
    return found


def within(periods: Periods, moment: datetime) -> bool:
    """Whether a moment lies in one of them."""
    return any(start <= moment < end for start, end in periods)


def delete_rows(engine: Engine, numbers: Mapping[str, Collection[int]]) -> None:
    """Delete rows by table and number. SQLite overwrites what they held, in the file and in its log."""
    with writing(engine) as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA secure_delete = ON")
        for name, some in numbers.items():
            table = METADATA.tables[name]
            for part in in_parts(sorted(some)):
                connection.execute(delete(table).where(table.c.number.in_(part)))
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            connection.connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


_NAMES: Final = re.compile(r'"(user_id|session_id|ga_session_id|client_id)":("(?:[^"\\]|\\.)*"|-?[0-9.]+)')


def speaks_of(body: str, user_id: str, sessions: Collection[str]) -> bool:
    """Whether an event as it came in, ours or GA4's and perhaps cut off, names a user; or nobody, and one of their sessions."""
    named: dict[str, set[str]] = {}
    for name, value in _NAMES.findall(body):
        named.setdefault(name, set()).add(str(orjson.loads(value)) if value.startswith('"') else value)
    if users := named.get("user_id"):
        return user_id in users
    clients, visits = named.get("client_id", set()), {*named.get("session_id", ()), *named.get("ga_session_id", ())}
    said = clients | visits | {f"{client}.{visit}" for client in clients for visit in visits}
    return not said.isdisjoint(sessions)


def _theirs(
    connection: Connection, table: Table, user_id: str, sessions: Mapping[str, Periods], until: datetime
) -> Iterator[Row]:
    """Rows that name the user, and those of nobody in a session that was theirs then."""
    when = table.c[WHEN[table]]
    parts = list(in_parts(sorted(sessions))) or [[]]
    for part in parts:
        anonymous = (table.c.user_id.is_(None)) & table.c.session_id.in_(part)
        wanted = or_(table.c.user_id == user_id, anonymous) if part is parts[0] else anonymous
        for row in _rows(connection, select(table).where(wanted, when <= until).order_by(table.c.number)):
            if row["user_id"] is not None or within(sessions[row["session_id"]], row[WHEN[table]]):
                yield row


def _named(connection: Connection, table: Table, rows: Sequence[Row], key: str) -> Iterator[Row]:
    """Rows that have the key of one of those."""
    for part in in_parts(sorted({row[key] for row in rows})):
        yield from _rows(connection, select(table).where(table.c[key].in_(part)))


def _rows(connection: Connection, statement: Any) -> Iterator[Row]:
    found = connection.execute(statement)
    names = list(map(str, found.keys()))
    return (dict(zip(names, row, strict=True)) for row in found)
