"""Shoppers who were deleted stay out of what an export brings again."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import duckdb

from pipelines.reading import quoted
from recsys.privacy.tombstones import Tombstones


def keep_out(connection: duckdb.DuckDBPyConnection, draft: Path, tombstones: Tombstones) -> None:
    """Take rows of deleted shoppers out of a raw file of events or users that nobody reads yet.

    Events of before their deletion go, those of after it are of a new shopper. A user export says nothing of time: its row goes.
    """
    source = f"read_parquet({quoted(str(draft))})"
    columns = {name for name, *_ in connection.execute(f"DESCRIBE FROM {source}").fetchall()}
    if "user_id" not in columns or len(tombstones) == 0:
        return
    users = connection.execute(f"SELECT DISTINCT user_id FROM {source} WHERE user_id IS NOT NULL").fetchall()
    gone = [(user, until) for (user,) in users if (until := tombstones.deleted_until(user)) is not None]
    if not gone:
        return
    connection.execute("CREATE OR REPLACE TEMP TABLE gone (user_id VARCHAR, until_at TIMESTAMP)")
    connection.executemany(
        "INSERT INTO gone VALUES (?, ?)",
        [(user, datetime.fromtimestamp(until, UTC).replace(tzinfo=None)) for user, until in gone],
    )
    later = "f.occurred_at > gone.until_at" if "occurred_at" in columns else "FALSE"
    kept = draft.with_suffix(".kept")
    connection.execute(
        f"""COPY (
            SELECT f.* FROM {source} AS f LEFT JOIN gone ON gone.user_id = f.user_id
            WHERE gone.user_id IS NULL OR {later}
        ) TO {quoted(str(kept))} (FORMAT parquet, COMPRESSION zstd)"""
    )
    kept.replace(draft)
