"""The step of a deletion that is done in the database, and how all steps follow each other."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Engine

from recsys.privacy.deletions import Deletions, Order
from recsys.store.shoppers import ALWAYS, NEVER, Footprint, Periods, delete_rows, footprint


def erase_rows(engine: Engine, deletions: Deletions, name: str) -> None:
    """Delete a shopper's rows from every table of the database; done again it finds what came late."""
    order = deletions.order(name)
    found = footprint(engine, order.user_id, deletions.receipt(name).until)
    # What the other steps need of the rows must be kept before these are gone.
    deletions.know(name, _with(order, found))
    counts = {f"database/{table}": len(rows) for table, rows in found.rows.items()}
    with deletions.removing(name, counts):
        if any(counts.values()):
            delete_rows(engine, {table: [row["number"] for row in rows] for table, rows in found.rows.items()})


def _with(order: Order, found: Footprint) -> Order:
    """The order, and what the database says of where else to look."""
    sessions = {session: list(periods) for session, periods in order.sessions.items()}
    for session, periods in found.sessions.items():
        sessions[session] = sorted({*((start, end) for start, end in sessions.get(session, [])), *_as_seconds(periods)})
    return Order(
        order.user_id,
        order.at,
        sessions,
        sorted({*order.event_ids, *(row["event_id"] for row in found.rows["events"])}),
        sorted({*order.request_ids, *(row["request_id"] for row in found.rows["exposures"])}),
    )


def _as_seconds(periods: Periods) -> list[tuple[float, float]]:
    def seconds(moment: datetime) -> float:
        if moment in (ALWAYS, NEVER):
            return 0.0 if moment == ALWAYS else 1e12
        return moment.replace(tzinfo=UTC).timestamp()

    return [(seconds(start), seconds(end)) for start, end in periods]
