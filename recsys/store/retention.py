"""Rows that are kept for so long and no longer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Select,
    Table,
    Text,
    and_,
    cast,
    delete,
    not_,
    null,
    select,
    update,
)

from recsys.store.database import writing
from recsys.store.schema import EVENTS, EXPOSURES, MERGES, RENDERS, VERDICTS

EXPIRED: Final = {"expired": True}
"""Stands in place of a request that is kept no longer: nobody takes it for one."""
EXPIRED_TEXT: Final = '{"expired":true}'
_AT_ONCE: Final = 2_000
"""Rows in one transaction: who writes events waits no longer than for that."""


@dataclass(frozen=True, slots=True)
class Periods:
    """Days that each kind is kept; 0: for ever."""

    events: int = 0
    """Events; and logins, once nothing is left of their sessions."""
    exposures: int = 0
    """Answers, and what clients say of having shown them."""
    sessions: int = 0
    """Both, where they are of a session that nobody ever logged in to."""
    replays: int = 0
    """What of an answer is only needed to ask for it again: the cart, region, segments and filters that came with the request, and what the page showed before."""
    verdicts: int = 0
    """Events as they came in, in the debugger."""


def retain(engine: Engine, periods: Periods, now: datetime) -> dict[str, int]:
    """Delete what is older than its period at a moment, UTC without zone; how many rows, by table, of replays how many were cut.

    A period counts whole days (UTC), as the log's files do.
    """
    removed = dict.fromkeys(("events", "exposures", "renders", "merges", "verdicts", "replays"), 0)
    for table, condition in _expired(periods, now):
        removed[table.name] += _in_turns(engine, table, condition, delete(table))
    if periods.replays:
        empty = {"request": EXPIRED, "shown_before": null(), "moved_by": null()}
        whole = cast(EXPOSURES.c.request, Text) != EXPIRED_TEXT
        kept = and_(EXPOSURES.c.occurred_at < cutoff(now, periods.replays), whole)
        removed["replays"] = _in_turns(engine, EXPOSURES, kept, update(EXPOSURES).values(empty))
    return removed


def cutoff(now: datetime, days: int) -> datetime:
    """The start of the first day that is kept."""
    return datetime.combine(now.date() - timedelta(days=days), time())


def _expired(periods: Periods, now: datetime) -> Iterator[tuple[Table, ColumnElement[bool]]]:
    """For each table what is to go."""
    if periods.events:
        yield EVENTS, EVENTS.c.received_at < cutoff(now, periods.events)
    if periods.exposures:
        yield EXPOSURES, EXPOSURES.c.occurred_at < cutoff(now, periods.exposures)
        yield RENDERS, RENDERS.c.received_at < cutoff(now, periods.exposures)
    if periods.sessions:
        before = cutoff(now, periods.sessions)
        for table, when in ((EVENTS, "received_at"), (EXPOSURES, "occurred_at"), (RENDERS, "received_at")):
            yield table, and_(table.c[when] < before, _of_nobody(table))
    if periods.events:
        # What is left of a session must go on to say whose it is.
        used = [select(table.c.session_id).where(table.c.session_id.is_not(None)) for table in (EVENTS, EXPOSURES)]
        unused = and_(*(MERGES.c.session_id.not_in(some) for some in used))
        yield MERGES, and_(MERGES.c.since < cutoff(now, periods.events), unused)
    if periods.verdicts:
        yield VERDICTS, VERDICTS.c.at < cutoff(now, periods.verdicts)


def _of_nobody(table: Table) -> ColumnElement[bool]:
    """Rows of a session to which nobody has logged in."""
    logged_in: Select[Any] = select(MERGES.c.session_id)
    return and_(table.c.user_id.is_(None), table.c.session_id.is_not(None), not_(table.c.session_id.in_(logged_in)))


def _in_turns(engine: Engine, table: Table, condition: ColumnElement[bool], statement: Any) -> int:
    """Run a statement on the rows that fit, some at a time; how many."""
    done = 0
    while True:
        with writing(engine) as connection:
            numbers = _some(connection, table, condition)
            if not numbers:
                return done
            if engine.dialect.name == "sqlite":
                connection.exec_driver_sql("PRAGMA secure_delete = ON")
            connection.execute(statement.where(table.c.number.in_(numbers)))
        done += len(numbers)


def _some(connection: Connection, table: Table, condition: ColumnElement[bool]) -> list[int]:
    return list(connection.execute(select(table.c.number).where(condition).limit(_AT_ONCE)).scalars())
