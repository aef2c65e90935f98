"""Writing to the database: every row once, however often it is sent."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Table, delete, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from recsys.store.schema import EVENTS, EXPOSURES, MERGES, RENDERS, VERDICTS, Origin

T = TypeVar("T")
Row = dict[str, Any]
"""A row of a table, by column name."""

VERDICTS_KEPT: Final = 10_000
"""Of each kind of verdict."""
_AT_ONCE: Final = 500
"""Values in one IN (...)."""


def insert_new(connection: Connection, table: Table, key: str, rows: Sequence[Row]) -> set[str]:
    """Insert the rows whose key the table does not hold yet; the keys of those that were inserted.

    All rows name the same columns. Of equal keys the first row stands.
    """
    if not rows:
        return set()
    statement = _insert_unknown(connection, table, key).returning(table.c[key])
    return set(connection.execute(statement, list(rows)).scalars())


def _insert_unknown(connection: Connection, table: Table, key: str) -> postgresql.Insert | sqlite.Insert:
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement: postgresql.Insert | sqlite.Insert = dialect.insert(table)
    return statement.on_conflict_do_nothing(index_elements=[key])


def insert_exposures(connection: Connection, rows: Sequence[Row]) -> None:
    """Insert new exposures. Which were new nobody asks, which is cheaper."""
    connection.execute(_insert_unknown(connection, EXPOSURES, "request_id"), list(rows))


def insert_events(connection: Connection, rows: Sequence[Row]) -> set[str]:
    """Insert new events and who their sessions belong to; the ids that were new."""
    fresh = insert_new(connection, EVENTS, "event_id", rows)
    told = [
        row for row in rows if row["session_id"] is not None and row["user_id"] is not None and row["event_id"] in fresh
    ]
    insert_merges(
        connection,
        (
            {"session_id": row["session_id"], "user_id": row["user_id"], "since": row["received_at"]}
            for row in told
            if row["origin"] != Origin.IMPORT
        ),
    )
    # An import is of the past: it does not say whose a session is that somebody has logged in to since.
    imported = [
        {"session_id": row["session_id"], "user_id": row["user_id"], "since": row["occurred_at"]}
        for row in told
        if row["origin"] == Origin.IMPORT
    ]
    owners = owner_of(connection, {login["session_id"] for login in imported})
    insert_merges(
        connection,
        (one for one in imported if one["session_id"] not in owners or owners[one["session_id"]][1] <= one["since"]),
    )
    return fresh


def insert_renders(connection: Connection, rows: Sequence[Row]) -> set[str]:
    """Insert new renders; the request ids that were new."""
    return insert_new(connection, RENDERS, "request_id", rows)


def insert_merges(connection: Connection, logins: Iterable[Row]) -> None:
    """Keep of logins those that change who a session belongs to; one that is written late counts from when it was."""
    logins = list(logins)
    owners = owner_of(connection, {login["session_id"] for login in logins})
    changes = []
    for login in logins:
        session, found = login["session_id"], (login["user_id"], login["since"])
        known = owners.get(session)
        if known is None or known[0] != found[0]:
            changes.append(login)
        if known is None or (known[1] <= found[1] and known[0] != found[0]):
            owners[session] = found
    if changes:
        connection.execute(insert(MERGES), changes)


def owner_of(connection: Connection, sessions: Collection[str]) -> dict[str, tuple[str, datetime]]:
    """Who each of these sessions belongs to now, and since when; those that nobody has logged in to are missing."""
    found: dict[str, tuple[str, datetime]] = {}
    for some in in_parts(sorted(sessions)):
        statement = select(MERGES.c.session_id, MERGES.c.user_id, MERGES.c.since).where(MERGES.c.session_id.in_(some))
        rows = connection.execute(statement.order_by(MERGES.c.since, MERGES.c.number))
        found |= {row.session_id: (row.user_id, row.since) for row in rows}
    return found


def insert_verdicts(connection: Connection, rows: Sequence[Row]) -> None:
    """Add verdicts, and drop those of the same kind that have become too many."""
    connection.execute(insert(VERDICTS), list(rows))
    number, verdict = VERDICTS.c.number, VERDICTS.c.verdict
    for kind in {row["verdict"] for row in rows}:
        oldest = select(number).where(verdict == kind).order_by(number.desc()).offset(VERDICTS_KEPT - 1).limit(1)
        last = connection.execute(oldest).scalar()
        if last is not None:
            connection.execute(delete(VERDICTS).where(verdict == kind, number < last))


def in_parts(values: Sequence[T]) -> Iterable[Sequence[T]]:
    """So many at a time as one statement takes."""
    return (values[start : start + _AT_ONCE] for start in range(0, len(values), _AT_ONCE))
