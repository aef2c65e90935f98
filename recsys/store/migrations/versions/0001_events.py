"""Events, exposures, renders, verdicts and merges."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _number() -> sa.Column[int]:
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column("number", kind, primary_key=True, autoincrement=True)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "events",
        _number(),
        sa.Column("event_id", sa.Text(), nullable=False, unique=True),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("item_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text()),
        sa.Column("session_id", sa.Text()),
        sa.Column("occurred_at", sa.DateTime(), nullable=False),
        sa.Column("received_at", sa.DateTime(), nullable=False),
        sa.Column("quantity", sa.Integer(), nullable=False),
        sa.Column("price_cents", sa.BigInteger()),
        sa.Column("order_id", sa.Text()),
        sa.Column("request_id", sa.Text()),
        sa.Column("surface", sa.Text()),
        sa.Column("region", sa.Text()),
        sa.Column("origin", sa.Text(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_received_at", "events", ["received_at"])
    op.create_table(
        "exposures",
        _number(),
        sa.Column("request_id", sa.Text(), nullable=False, unique=True),
        sa.Column("occurred_at", sa.DateTime(), nullable=False),
        sa.Column("user_id", sa.Text()),
        sa.Column("session_id", sa.Text()),
        sa.Column("surface", sa.Text(), nullable=False),
        sa.Column("served_by", sa.Text(), nullable=False),
        sa.Column("model_version", sa.Text(), nullable=False),
        sa.Column("phase", sa.Integer()),
        sa.Column("degraded", sa.Boolean(), nullable=False),
        sa.Column("page_id", sa.Text()),
        sa.Column("widget", sa.Text()),
        sa.Column("rules", sa.Text()),
        sa.Column("plan", sa.Text()),
        sa.Column("arms", sa.JSON(), nullable=False),
        sa.Column("seconds", sa.Float()),
        sa.Column("items", sa.JSON(), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("moved_by", sa.JSON()),
        sa.Column("shown_before", sa.JSON()),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_exposures_occurred_at", "exposures", ["occurred_at"])
    op.create_table(
        "renders",
        _number(),
        sa.Column("request_id", sa.Text(), nullable=False, unique=True),
        sa.Column("rendered_at", sa.DateTime(), nullable=False),
        sa.Column("received_at", sa.DateTime(), nullable=False),
        sa.Column("user_id", sa.Text()),
        sa.Column("session_id", sa.Text()),
        sa.Column("items", sa.JSON()),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "verdicts",
        _number(),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("event_id", sa.Text()),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("body", sa.Text(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_verdicts_verdict", "verdicts", ["verdict", "number"])
    op.create_table(
        "merges",
        _number(),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_merges_session_id", "merges", ["session_id", "number"])
