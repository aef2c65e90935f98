"""The doctor: what the tables support today, surface by surface, what is missing, and how much more is needed.

Thresholds are the published minima of paid services where there are any, and say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb
from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from pipelines.check import check_table
from pipelines.ingest import connect
from pipelines.reading import quoted
from recsys.events import IDLE_DAYS
from recsys.tables import INTERACTIONS, ITEMS

AS_MODELS_SEE: Final = f"""
    WITH days AS (
        SELECT DATE_TRUNC('day', occurred_at) AS day, MIN(occurred_at) AS first, MAX(occurred_at) AS last
        FROM all_interactions GROUP BY day
    ), gaps AS (
        SELECT day, EPOCH(first) - LAG(EPOCH(last)) OVER (ORDER BY day) AS seconds FROM days
    ), idle AS (
        SELECT day, SUM(CASE WHEN seconds > {IDLE_DAYS} * 86400 THEN seconds - 86400 ELSE 0 END) OVER (ORDER BY day) AS seconds
        FROM gaps
    )
    SELECT all_interactions.* REPLACE (occurred_at - TO_SECONDS(idle.seconds) AS occurred_at)
    FROM all_interactions JOIN idle ON idle.day = DATE_TRUNC('day', occurred_at)
"""
"""The interactions without the months in which nothing happened, as `recsys.dataset.close_gaps` has them."""
RECENT: Final = "occurred_at >= (SELECT MAX(occurred_at) FROM interactions) - INTERVAL '30' DAY"


@dataclass(frozen=True, slots=True)
class Check:
    """One figure that a surface needs."""

    surface: str
    what: str
    sql: str
    """Selects the figure as one number."""
    needed: float
    source: str
    """Where the threshold comes from."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A check and what was measured."""

    check: Check
    measured: float

    @property
    def missing(self) -> float:
        """How much more is needed, 0 where enough is there."""
        return max(0.0, self.check.needed - self.measured)


CHECKS: Final = (
    Check("personal (home)", "interactions", "SELECT COUNT(*) FROM interactions", 1_000, "Amazon Personalize"),
    Check(
        "personal (home)",
        "shoppers with at least 2 interactions",
        "SELECT COUNT(*) FROM (SELECT user_id FROM interactions WHERE user_id IS NOT NULL GROUP BY user_id HAVING COUNT(*) >= 2)",
        25,
        "Amazon Personalize",
    ),
    Check(
        "similar",
        "interactions in the last 30 days",
        f"SELECT COUNT(*) FROM interactions WHERE {RECENT}",
        10_000,
        "Algolia",
    ),
    Check(
        "bought together, cart",
        "orders of at least 2 products in the last 30 days",
        "SELECT COUNT(*) FROM (SELECT COALESCE(order_id, session_id) AS o FROM interactions "
        f"WHERE event_type = 'purchase' AND {RECENT} GROUP BY o HAVING COUNT(DISTINCT item_id) >= 2)",
        1_000,
        "Algolia",
    ),
    Check(
        "buy again",
        "share of purchases (%) of something the shopper had bought before",
        "SELECT COALESCE(100.0 * AVG(CASE WHEN again THEN 1 ELSE 0 END), 0) FROM (SELECT occurred_at > MIN(occurred_at) "
        "OVER (PARTITION BY user_id, item_id) AS again FROM interactions WHERE event_type = 'purchase' AND user_id IS NOT NULL)",
        5,
        "ours",
    ),
    Check(
        "trending",
        "interactions in the last 7 days",
        "SELECT COUNT(*) FROM interactions WHERE occurred_at >= (SELECT MAX(occurred_at) FROM interactions) - INTERVAL '7' DAY",
        1_000,
        "ours",
    ),
    Check(
        "new arrivals, cold start",
        "share of items (%) with a category",
        "SELECT COALESCE(100.0 * COUNT(category) / NULLIF(COUNT(*), 0), 0) FROM items",
        80,
        "ours",
    ),
    Check(
        "new arrivals, cold start",
        "share of items (%) with a title of their own",
        "SELECT COALESCE(100.0 * AVG(CASE WHEN title <> item_id THEN 1 ELSE 0 END), 0) FROM items",
        80,
        "ours",
    ),
)


def examine(data_dir: Path) -> list[Finding]:
    """Measure every check on the tables.

    Raises:
        TableError: the tables are missing or break their declaration.
    """
    connection = connect()
    for table in (INTERACTIONS, ITEMS):
        path = data_dir / "tables" / f"{table.name}.parquet"
        check_table(connection, table, path)
        connection.execute(f"CREATE VIEW all_{table.name} AS SELECT * FROM read_parquet({quoted(str(path))})")
    connection.execute(f"CREATE VIEW interactions AS {AS_MODELS_SEE}")
    connection.execute("CREATE VIEW items AS SELECT * FROM all_items")
    return [Finding(check, _measure(connection, check.sql)) for check in CHECKS]


def _measure(connection: duckdb.DuckDBPyConnection, sql: str) -> float:
    row = connection.execute(sql).fetchone()
    return float(row[0]) if row else 0.0


def doctor(data_dir: Path) -> Group:
    """The findings as a table for people, and one line that sums them up."""
    findings = examine(data_dir)
    table = RichTable(title="What the data supports")
    for column in ("surface", "what counts", "measured", "needed", "threshold of", "verdict"):
        table.add_column(column)
    for finding in findings:
        check = finding.check
        verdict = "[red]" + f"{finding.missing:,.0f} more[/red]" if finding.missing else "[green]enough[/green]"
        table.add_row(
            check.surface, check.what, f"{finding.measured:,.0f}", f"{check.needed:,.0f}", check.source, verdict
        )
    lacking = sorted({finding.check.surface for finding in findings if finding.missing})
    summary = (
        f"Below the threshold: {', '.join(lacking)}. These surfaces answer all the same, from their own models; with more data they "
        "answer better."
        if lacking
        else "Every surface is supported."
    )
    return Group(table, Text(summary))
