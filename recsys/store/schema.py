"""The tables of the database: events, exposures, renders, verdicts and merges.

Every table has a serial `number`, in the order of commits as far as a reader sees it (`recsys.store.reading.watermark`). Times are UTC
without zone, money is integer cents. A change here needs a migration; a test compares the two.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
)

HEAD: Final = "0001"
"""The migration that makes these tables."""

METADATA: Final = MetaData()


class Origin(StrEnum):
    """How an event came in."""

    API = "api"
    GA4 = "ga4"
    IMPORT = "import"


def _number() -> Column[int]:
    """Never given twice, also not after a deletion."""
    return Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)


def _json(name: str, *, nullable: bool = True) -> Column[object]:
    return Column(name, JSON(none_as_null=True), nullable=nullable)


EVENTS: Final = Table(
    "events",
    METADATA,
    _number(),
    Column("event_id", Text, nullable=False, unique=True),  # the idempotency key
    Column("type", Text, nullable=False),
    Column("item_id", Text, nullable=False),
    Column("user_id", Text),
    Column("session_id", Text),
    Column("occurred_at", DateTime, nullable=False),
    Column("received_at", DateTime, nullable=False),
    Column("quantity", Integer, nullable=False),
    Column("price_cents", BigInteger),
    Column("order_id", Text),
    Column("request_id", Text),
    Column("surface", Text),
    Column("region", Text),
    Column("origin", Text, nullable=False),
    Index("ix_events_received_at", "received_at"),
    sqlite_autoincrement=True,
)
"""One accepted event of a shopper with an item, `hide` and `return` included."""

EXPOSURES: Final = Table(
    "exposures",
    METADATA,
    _number(),
    Column("request_id", Text, nullable=False, unique=True),
    Column("occurred_at", DateTime, nullable=False),
    Column("user_id", Text),
    Column("session_id", Text),
    Column("surface", Text, nullable=False),
    Column("served_by", Text, nullable=False),
    Column("model_version", Text, nullable=False),
    Column("phase", Integer),
    Column("degraded", Boolean, nullable=False),
    Column("page_id", Text),
    Column("widget", Text),
    Column("rules", Text),  # version of the rules that the answer obeys
    Column("plan", Text),  # version of the experiments that placed the shopper
    _json("arms", nullable=False),  # experiment to [arm, unit]
    Column("seconds", Float),  # that the answer took, without the network
    _json("items", nullable=False),  # [item_id, source, propensity or null, team or null], the first on top
    _json("request", nullable=False),  # what was asked beside who asked where
    _json("moved_by"),  # item to the rules that moved it
    _json("shown_before"),  # items that the page's earlier widgets show
    Index("ix_exposures_occurred_at", "occurred_at"),
    sqlite_autoincrement=True,
)
"""One answer of the service."""

RENDERS: Final = Table(
    "renders",
    METADATA,
    _number(),
    Column("request_id", Text, nullable=False, unique=True),
    Column("rendered_at", DateTime, nullable=False),
    Column("received_at", DateTime, nullable=False),
    Column("user_id", Text),
    Column("session_id", Text),
    _json("items"),  # ids of those that were really shown; null: all
    sqlite_autoincrement=True,
)
"""One answer of which a client says that a shopper really saw it."""

VERDICTS: Final = Table(
    "verdicts",
    METADATA,
    _number(),
    Column("at", DateTime, nullable=False),
    Column("event_id", Text),
    Column("verdict", Text, nullable=False),
    Column("reason", Text),
    Column("body", Text, nullable=False),
    Index("ix_verdicts_verdict", "verdict", "number"),
    sqlite_autoincrement=True,
)
"""A ring of the latest verdicts of each kind, with the event as it came in: for debugging, not for counting."""

MERGES: Final = Table(
    "merges",
    METADATA,
    _number(),
    Column("session_id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("since", DateTime, nullable=False),
    Index("ix_merges_session_id", "session_id", "number"),
    sqlite_autoincrement=True,
)
"""One change of who a session belongs to. What it did before the first belongs to the first."""
