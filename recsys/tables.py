"""The tables that `pipelines` writes and everything else reads: their columns, grain and key.

A table is one Parquet file, `<data>/tables/<name>.parquet`. `pipelines.check` verifies a file against its
declaration after writing and before reading. Money is integer cents, times are UTC without zone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CATALOGUE_LOG: Final = "catalogue/changes.jsonl"
"""Below the data directory: what the catalogue API was told. The service writes it, `recsys tables` reads it."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its DuckDB type and what it means."""

    name: str
    type: str
    meaning: str
    nullable: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table: one row per `grain`, unique in `key`, stored in the order of `order_by`."""

    name: str
    grain: str
    key: tuple[str, ...]
    order_by: tuple[str, ...]
    columns: tuple[Column, ...]


def _c(name: str, type_: str, meaning: str, *, nullable: bool = False) -> Column:
    return Column(name, type_, meaning, nullable)


RAW_EVENTS: Final = Table(
    "raw_events",
    grain="one line of a source, as text; the only table that a source dialect touches",
    key=(),
    order_by=(),
    columns=(
        _c("source", "VARCHAR", "name of the source in its mapping"),
        _c("event_id", "VARCHAR", "the source's own id of the event", nullable=True),
        _c(
            "event_type",
            "VARCHAR",
            "already mapped to view, click, cart, purchase or return; else as found",
            nullable=True,
        ),
        _c("user_id", "VARCHAR", "null for an anonymous session", nullable=True),
        _c("session_id", "VARCHAR", "the source's own session, if it has one", nullable=True),
        _c("item_id", "VARCHAR", "", nullable=True),
        _c("order_id", "VARCHAR", "order, invoice or basket", nullable=True),
        _c("quantity", "VARCHAR", "", nullable=True),
        _c("price", "VARCHAR", "of one unit, in the currency's main unit", nullable=True),
        _c(
            "occurred_at",
            "TIMESTAMP",
            "parsed by the source's own format and zone; null when unreadable",
            nullable=True,
        ),
        _c("occurred_at_text", "VARCHAR", "as found", nullable=True),
        _c("received_at", "TIMESTAMP", "when our own service took it; null for imports", nullable=True),
        _c("request_id", "VARCHAR", "the answer that the event follows from", nullable=True),
        _c("surface", "VARCHAR", "where the item was met", nullable=True),
        _c("region", "VARCHAR", "where the shopper was: a store, a town, a country", nullable=True),
        _c("line", "VARCHAR", "the line as found, where it could not be split into columns", nullable=True),
    ),
)

RAW_ITEMS: Final = Table(
    "raw_items",
    grain="one line of a catalogue, as text",
    key=(),
    order_by=(),
    columns=(
        _c("item_id", "VARCHAR", "", nullable=True),
        _c("title", "VARCHAR", "", nullable=True),
        _c("description", "VARCHAR", "", nullable=True),
        _c("category", "VARCHAR", "path from the broadest level down, joined by ' > '", nullable=True),
        _c("brand", "VARCHAR", "", nullable=True),
        _c("price", "VARCHAR", "in the currency's main unit", nullable=True),
        _c("image_url", "VARCHAR", "", nullable=True),
        _c("attributes", "VARCHAR", "JSON object", nullable=True),
        _c("available", "VARCHAR", "true, false, or null where the catalogue does not say", nullable=True),
        _c("listed_at", "TIMESTAMP", "", nullable=True),
    ),
)

RAW_CHANGES: Final = Table(
    "raw_changes",
    grain="one item that the catalogue API was told of: what it said last",
    key=("item_id",),
    order_by=("item_id",),
    columns=(
        _c("item_id", "VARCHAR", ""),
        _c("first_at", "TIMESTAMP", "when it was first told of"),
        _c("changed_at", "TIMESTAMP", "when it was last told of"),
        _c("is_whole", "BOOLEAN", "false where only the price or the availability was changed: the rest is null here"),
        _c("title", "VARCHAR", "", nullable=True),
        _c("description", "VARCHAR", "", nullable=True),
        _c("category", "VARCHAR", "path from the broadest level down, joined by ' > '", nullable=True),
        _c("brand", "VARCHAR", "", nullable=True),
        _c("price_cents", "BIGINT", "", nullable=True),
        _c("image_url", "VARCHAR", "", nullable=True),
        _c("attributes", "VARCHAR", "JSON object", nullable=True),
        _c("available", "BOOLEAN", "", nullable=True),
    ),
)

RAW_USERS: Final = Table(
    "raw_users",
    grain="one line of a user export, as text",
    key=(),
    order_by=(),
    columns=(
        _c("user_id", "VARCHAR", "", nullable=True),
        _c("attributes", "VARCHAR", "JSON object", nullable=True),
    ),
)

RAW_EXPOSURES: Final = Table(
    "raw_exposures",
    grain="one item of one answer in the service's log",
    key=(),
    order_by=(),
    columns=(
        _c("request_id", "VARCHAR", "", nullable=True),
        _c("item_id", "VARCHAR", "", nullable=True),
        _c("position", "INTEGER", "from 1", nullable=True),
        _c("occurred_at", "TIMESTAMP", "", nullable=True),
        _c("user_id", "VARCHAR", "", nullable=True),
        _c("session_id", "VARCHAR", "", nullable=True),
        _c("surface", "VARCHAR", "", nullable=True),
        _c("source", "VARCHAR", "model that put the item there", nullable=True),
        _c("served_by", "VARCHAR", "", nullable=True),
        _c("model_version", "VARCHAR", "", nullable=True),
        _c("degraded", "BOOLEAN", "", nullable=True),
        _c("phase", "INTEGER", "", nullable=True),
        _c("page_id", "VARCHAR", "", nullable=True),
        _c("seconds", "DOUBLE", "that the answer took", nullable=True),
        _c("propensity", "DOUBLE", "chance of the item at its place, given the arm", nullable=True),
        _c("team", "VARCHAR", "of an interleaved answer, the bundle that put the item there", nullable=True),
    ),
)

RAW_RENDERS: Final = Table(
    "raw_renders",
    grain="one item that a client says was seen, or all of an answer's",
    key=(),
    order_by=(),
    columns=(
        _c("request_id", "VARCHAR", ""),
        _c("rendered_at", "TIMESTAMP", ""),
        _c("item_id", "VARCHAR", "null: all items of the answer", nullable=True),
    ),
)

RAW_ARMS: Final = Table(
    "raw_arms",
    grain="one answer and one experiment that it was part of",
    key=(),
    order_by=(),
    columns=(
        _c("request_id", "VARCHAR", ""),
        _c("experiment", "VARCHAR", ""),
        _c("arm", "VARCHAR", ""),
        _c("unit", "VARCHAR", "what was randomised: user:<id> or session:<id>"),
    ),
)

RAW_MERGES: Final = Table(
    "raw_merges",
    grain="one change of who a session of the service's log belongs to",
    key=("number",),
    order_by=("number",),
    columns=(
        _c("number", "BIGINT", "order in which they became known"),
        _c("session_id", "VARCHAR", ""),
        _c("user_id", "VARCHAR", ""),
        _c("since", "TIMESTAMP", ""),
    ),
)

RAW_TABLES: Final = {
    "events": RAW_EVENTS,
    "items": RAW_ITEMS,
    "changes": RAW_CHANGES,
    "users": RAW_USERS,
    "exposures": RAW_EXPOSURES,
    "renders": RAW_RENDERS,
    "arms": RAW_ARMS,
    "merges": RAW_MERGES,
}
"""What `recsys ingest` writes, `raw/<source>.<kind>.parquet`, by kind."""

INTERACTIONS: Final = Table(
    "interactions",
    grain="one accepted event of a shopper with an item",
    key=("event_id",),
    order_by=("occurred_at", "event_id"),
    columns=(
        _c("event_id", "VARCHAR", "idempotency key: the source's own, else a hash of the event's content"),
        _c("occurred_at", "TIMESTAMP", ""),
        _c("received_at", "TIMESTAMP", "when our own service took it; null for imports", nullable=True),
        _c("user_id", "VARCHAR", "null for an anonymous session", nullable=True),
        _c("session_id", "VARCHAR", "the source's own, else derived: a gap of 30 minutes ends a session"),
        _c("item_id", "VARCHAR", ""),
        _c("event_type", "VARCHAR", "view, click, cart or purchase"),
        _c("weight", "FLOAT", "evidence of interest, recsys.events.EVENT_WEIGHT"),
        _c("quantity", "INTEGER", "units, returned ones taken off"),
        _c("price_cents", "BIGINT", "of one unit", nullable=True),
        _c("order_id", "VARCHAR", "", nullable=True),
        _c("request_id", "VARCHAR", "the answer that the event follows from", nullable=True),
        _c("surface", "VARCHAR", "where the item was met", nullable=True),
        _c("region", "VARCHAR", "where the shopper was: a store, a town, a country", nullable=True),
        _c("source", "VARCHAR", ""),
    ),
)

ITEMS: Final = Table(
    "items",
    grain="one item that the catalogue lists or that an event names",
    key=("item_id",),
    order_by=("item_id",),
    columns=(
        _c("item_id", "VARCHAR", ""),
        _c("title", "VARCHAR", "the item id where the catalogue has none"),
        _c("description", "VARCHAR", "", nullable=True),
        _c("category", "VARCHAR", "path from the broadest level down, joined by ' > '", nullable=True),
        _c("brand", "VARCHAR", "", nullable=True),
        _c(
            "price_cents",
            "BIGINT",
            "the catalogue's, else the one last paid",
            nullable=True,
        ),
        _c("listed_price_cents", "BIGINT", "the catalogue's own", nullable=True),
        _c("image_url", "VARCHAR", "", nullable=True),
        _c("attributes", "VARCHAR", "JSON object of everything else the catalogue says", nullable=True),
        _c("available", "BOOLEAN", "may be recommended"),
        _c(
            "listed_at",
            "TIMESTAMP",
            "the catalogue's, else the first event; null when neither",
            nullable=True,
        ),
    ),
)

USERS: Final = Table(
    "users",
    grain="one shopper that an event or a user export names",
    key=("user_id",),
    order_by=("user_id",),
    columns=(
        _c("user_id", "VARCHAR", ""),
        _c("attributes", "VARCHAR", "JSON object of what the user export says", nullable=True),
        _c("first_seen_at", "TIMESTAMP", "", nullable=True),
        _c("last_seen_at", "TIMESTAMP", "", nullable=True),
    ),
)

SESSIONS: Final = Table(
    "sessions",
    grain="one visit",
    key=("session_id",),
    order_by=("started_at", "session_id"),
    columns=(
        _c("session_id", "VARCHAR", ""),
        _c("user_id", "VARCHAR", "", nullable=True),
        _c("started_at", "TIMESTAMP", ""),
        _c("ended_at", "TIMESTAMP", ""),
        _c("events", "BIGINT", ""),
        _c("items", "BIGINT", "different ones"),
        _c("purchases", "BIGINT", "purchase events"),
        _c("revenue_cents", "BIGINT", ""),
    ),
)

BASKETS: Final = Table(
    "baskets",
    grain="one item of one order",
    key=("order_id", "item_id"),
    order_by=("purchased_at", "order_id", "item_id"),
    columns=(
        _c("order_id", "VARCHAR", "the source's own, else the session"),
        _c("item_id", "VARCHAR", ""),
        _c("user_id", "VARCHAR", "", nullable=True),
        _c("session_id", "VARCHAR", ""),
        _c("purchased_at", "TIMESTAMP", "of the order's first line"),
        _c("quantity", "BIGINT", ""),
        _c("revenue_cents", "BIGINT", ""),
    ),
)

USER_ITEMS: Final = Table(
    "user_items",
    grain="one shopper and one item they met",
    key=("user_id", "item_id"),
    order_by=("user_id", "item_id"),
    columns=(
        _c("user_id", "VARCHAR", ""),
        _c("item_id", "VARCHAR", ""),
        _c("first_at", "TIMESTAMP", ""),
        _c("last_at", "TIMESTAMP", ""),
        _c("views", "BIGINT", ""),
        _c("clicks", "BIGINT", ""),
        _c("carts", "BIGINT", ""),
        _c("purchases", "BIGINT", ""),
        _c("quantity", "BIGINT", "units bought"),
        _c("weight", "DOUBLE", "sum of event weights, halved every 90 days up to the last event of all"),
    ),
)

ITEM_DAYS: Final = Table(
    "item_days",
    grain="one item on one day (UTC)",
    key=("day", "item_id"),
    order_by=("day", "item_id"),
    columns=(
        _c("day", "DATE", ""),
        _c("item_id", "VARCHAR", ""),
        _c("views", "BIGINT", ""),
        _c("clicks", "BIGINT", ""),
        _c("carts", "BIGINT", ""),
        _c("purchases", "BIGINT", ""),
        _c("quantity", "BIGINT", ""),
        _c("revenue_cents", "BIGINT", ""),
    ),
)

EXPOSURES: Final = Table(
    "exposures",
    grain="one item shown in one answer",
    key=("request_id", "item_id"),
    order_by=("occurred_at", "request_id", "position"),
    columns=(
        _c("request_id", "VARCHAR", ""),
        _c("item_id", "VARCHAR", ""),
        _c("position", "INTEGER", "from 1"),
        _c("occurred_at", "TIMESTAMP", ""),
        _c("user_id", "VARCHAR", "", nullable=True),
        _c("session_id", "VARCHAR", "", nullable=True),
        _c("surface", "VARCHAR", ""),
        _c("source", "VARCHAR", "model that put the item there"),
        _c("served_by", "VARCHAR", ""),
        _c("model_version", "VARCHAR", ""),
        _c("degraded", "BOOLEAN", ""),
        _c("phase", "INTEGER", "of the bundle that answered", nullable=True),
        _c("page_id", "VARCHAR", "", nullable=True),
        _c("seconds", "DOUBLE", "that the answer took, without the network", nullable=True),
        _c("propensity", "DOUBLE", "chance of the item at its place, given the arm; null where unknown", nullable=True),
        _c("team", "VARCHAR", "of an interleaved answer, the bundle that put the item there", nullable=True),
        _c("is_seen", "BOOLEAN", "a client confirmed that it was rendered"),
    ),
)

ASSIGNMENTS: Final = Table(
    "assignments",
    grain="one answer and one experiment that it was part of",
    key=("request_id", "experiment"),
    order_by=("experiment", "request_id"),
    columns=(
        _c("request_id", "VARCHAR", ""),
        _c("experiment", "VARCHAR", ""),
        _c("arm", "VARCHAR", ""),
        _c("unit", "VARCHAR", "what was randomised: user:<id> or session:<id>"),
    ),
)

OUTCOMES: Final = Table(
    "outcomes",
    grain="one event that follows from an item seen in an answer: the answer that it names, else the last one before it",
    key=("event_id",),
    order_by=("occurred_at", "event_id"),
    columns=(
        _c("event_id", "VARCHAR", ""),
        _c("occurred_at", "TIMESTAMP", ""),
        _c("event_type", "VARCHAR", "click, cart, purchase, hide or return"),
        _c("order_id", "VARCHAR", "", nullable=True),
        _c("revenue_cents", "BIGINT", "of a purchase, returned units taken off"),
        _c("request_id", "VARCHAR", ""),
        _c("item_id", "VARCHAR", ""),
        _c("position", "INTEGER", "at which the item was seen"),
        _c("seconds_since", "BIGINT", "from the answer to the event"),
        _c("is_named", "BOOLEAN", "the event itself names the answer"),
    ),
)

SURFACE_DAYS: Final = Table(
    "surface_days",
    grain="one surface, arm and phase on one day (UTC) of the answers; outcomes count on the day of their answer",
    key=("day", "surface", "experiment", "arm", "phase"),
    order_by=("day", "surface", "experiment", "arm", "phase"),
    columns=(
        _c("day", "DATE", ""),
        _c("surface", "VARCHAR", ""),
        _c("experiment", "VARCHAR", "empty: all answers, in experiments or not"),
        _c("arm", "VARCHAR", "empty: all answers"),
        _c("phase", "INTEGER", "0 where unknown"),
        _c("answers", "BIGINT", ""),
        _c("degraded_answers", "BIGINT", "these count nowhere else"),
        _c("seen_answers", "BIGINT", "of which a client says that a shopper saw them"),
        _c("exposures", "BIGINT", "items seen"),
        _c("clicks", "BIGINT", ""),
        _c("ctr", "DOUBLE", "clicks per exposure", nullable=True),
        _c("carts", "BIGINT", ""),
        _c("orders", "BIGINT", "different ones"),
        _c("conversion", "DOUBLE", "orders per answer seen", nullable=True),
        _c("revenue_cents", "BIGINT", "attributed"),
        _c("order_value_cents", "DOUBLE", "revenue per order", nullable=True),
        _c("returns", "BIGINT", "purchases attributed and sent back"),
        _c("hides", "BIGINT", "items that the shopper hid"),
        _c("ignored_repeats", "BIGINT", "exposures of an item that the shopper had seen three times and never touched"),
    ),
)

_SUMS: Final = {
    "exposures": "items seen, of answers that were not degraded",
    "clicks": "that follow from them",
    "carts": "items put in the cart that follow from them",
    "orders": "that follow from them",
    "revenue_cents": "of those orders",
    "returns": "items of those orders, sent back",
    "total_orders": "all, whether they follow from an exposure or not",
    "total_revenue_cents": "of all orders",
}
_ANSWERS: Final = {
    "answers": "to the unit's requests",
    "errors": "answers that were degraded",
    "latency_ms": "sum over answers",
}

EXPERIMENT_UNITS: Final = Table(
    "experiment_units",
    grain="one randomisation unit in one arm of one experiment: sums from its first exposure on",
    key=("experiment", "unit", "arm"),
    order_by=("experiment", "arm", "unit"),
    columns=(
        _c("experiment", "VARCHAR", ""),
        _c("unit", "VARCHAR", "user:<id> or session:<id>"),
        _c("arm", "VARCHAR", "where it was exposed; a unit in several arms has a row for each"),
        _c("first_at", "TIMESTAMP", "its first exposure"),
        *(_c(name, "DOUBLE", meaning, nullable=True) for name, meaning in {**_SUMS, **_ANSWERS}.items()),
        *(
            _c(
                f"pre_{name}",
                "DOUBLE",
                f"{meaning}, in the 28 days before the experiment's first exposure",
                nullable=True,
            )
            for name, meaning in _SUMS.items()
        ),
    ),
)
"""What `recsys.experiments.analysis.read_out` takes. A nullable column may be missing or null in every row, which is no data; else a null is 0."""

QUARANTINE: Final = Table(
    "quarantine",
    grain="one different line that could not be used",
    key=("source", "record"),
    order_by=("source", "reason", "record"),
    columns=(
        _c("source", "VARCHAR", ""),
        _c("reason", "VARCHAR", "what is wrong with it, the first of all reasons"),
        _c("record", "VARCHAR", "the line's fields as found, joined by ' | '"),
    ),
)

TABLES: Final = (
    INTERACTIONS,
    ITEMS,
    USERS,
    SESSIONS,
    BASKETS,
    USER_ITEMS,
    ITEM_DAYS,
    EXPOSURES,
    ASSIGNMENTS,
    OUTCOMES,
    SURFACE_DAYS,
    EXPERIMENT_UNITS,
    QUARANTINE,
)
