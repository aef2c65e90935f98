"""Tables: the raw files through staging and marts, one SQL file for each table, checked as they are written."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import duckdb
import orjson
from rich.console import Console

from pipelines.check import check_table
from pipelines.ingest import connect, read_catalogue_bytes, read_state
from pipelines.mapping import Attribution
from pipelines.reading import quoted
from recsys.errors import UserError
from recsys.events import EVENT_WEIGHT
from recsys.tables import RAW_TABLES, TABLES

HERE: Final = Path(__file__).parent
STAGING: Final = (
    "stg_logins",
    "stg_events",
    "stg_unique_events",
    "stg_returns",
    "stg_kept_events",
    "stg_sessions",
    "stg_items",
)
CLOCK_SKEW: Final = timedelta(minutes=5)
"""An event may be this far ahead of the run that reads it."""


class RejectedShareError(UserError):
    """More lines were unusable than the mapping allows."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What came in and what became of it."""

    shop: str
    currency: str
    fingerprint: str
    """SHA-256 over the tables."""
    rows: int
    accepted: int
    duplicates: int
    returns: int
    """Lines that say that something came back."""
    returned: int
    """Purchases that came back whole."""
    quarantined: dict[str, int]
    """Lines by reason."""
    outcomes: dict[str, int]
    """Events credited to an answer; those that name one which came more than five minutes later, and those whose answer is unknown."""
    since: int
    """Unix second of the first interaction, 0 without any."""
    until: int
    """Unix second just after the last one."""
    catalogue_bytes: int
    """So many bytes of the catalogue API's log are in here."""
    log_until: float
    """Unix time at which the service received the last event that is in here, 0 without any."""


def build_tables(
    data_dir: Path, console: Console, *, memory_limit: str = "2GB", threads: int = 2, as_of: datetime | None = None
) -> Summary:
    """Build every table of `recsys.tables.TABLES` from `raw/`; all of them appear, or none.

    `as_of` is the moment after which an event lies in the future (now, by default). Where nothing has changed since
    the last build, nothing is done.

    Raises:
        RejectedShareError: too many lines are unusable; the tables have not changed.
        UserError: nothing was ingested.
        TableError: a table breaks its declaration; the tables have not changed.
    """
    state = read_state(data_dir)
    raw = sorted((data_dir / "raw").glob("*.parquet"))
    if state is None or not raw:
        raise UserError(f"{data_dir / 'raw'} is empty: run `recsys ingest` first")
    key = _key(raw, state)
    tables = data_dir / "tables"
    known = _built_before(tables, key)
    if known is not None:
        console.print(f"tables are up to date: {known.accepted:,} interactions")
        return known
    draft = data_dir / ".tables-draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    connection = connect(memory_limit, threads, draft / "spill")
    try:
        _open_inputs(connection, raw, state, as_of or datetime.now(UTC))
        _stage(connection, draft, console)
        counts = _count(connection)
        _refuse_too_many(connection, counts, state["shop"]["max_rejected_share"])
        for table in TABLES:
            _mart(connection, table.name, table.order_by, draft, console)
            check_table(connection, table, draft / f"{table.name}.parquet")
        summary = _summary(connection, state["shop"], counts, draft, read_catalogue_bytes(data_dir))
    finally:
        connection.close()
    for stage in draft.glob("stg_*.parquet"):
        stage.unlink()
    shutil.rmtree(draft / "spill", ignore_errors=True)
    (draft / "summary.json").write_bytes(orjson.dumps({"key": key, **asdict(summary)}, option=orjson.OPT_INDENT_2))
    _replace(draft, tables)
    _print(summary, console)
    return summary


def _key(raw: Sequence[Path], state: dict[str, Any]) -> str:
    """Changes whenever an input or the SQL does."""
    digest = hashlib.sha256(orjson.dumps(state))
    sources = [*HERE.glob("staging/*.sql"), *HERE.glob("marts/*.sql"), Path(__file__)]
    for path in sorted(sources):
        digest.update(path.read_bytes())
    for path in raw:
        digest.update(f"{path.name}|{path.stat().st_size}|{path.stat().st_mtime_ns}".encode())
    return digest.hexdigest()


def _built_before(tables: Path, key: str) -> Summary | None:
    path = tables / "summary.json"
    if not path.exists():
        return None
    content = orjson.loads(path.read_bytes())
    return Summary(**content) if content.pop("key") == key else None


def _open_inputs(
    connection: duckdb.DuckDBPyConnection, raw: Sequence[Path], state: dict[str, Any], as_of: datetime
) -> None:
    """Views on the raw files, empty where a kind has none, and what else the SQL may ask for."""
    for kind, table in RAW_TABLES.items():
        files = [path for path in raw if path.name.endswith(f".{kind}.parquet")]
        if files:
            source = f"read_parquet([{', '.join(quoted(str(path)) for path in files)}])"
            columns = ", ".join(column.name for column in table.columns)
        else:
            source = "(SELECT 1) WHERE FALSE"
            columns = ", ".join(f"CAST(NULL AS {column.type}) AS {column.name}" for column in table.columns)
        connection.execute(f"CREATE VIEW raw_{kind} AS SELECT {columns} FROM {source}")
    moment = (as_of.astimezone(UTC) + CLOCK_SKEW).replace(tzinfo=None)
    complete = "TRUE" if state["complete_catalogue"] else "FALSE"
    connection.execute(
        f"CREATE TABLE run AS SELECT TIMESTAMP '{moment.isoformat(sep=' ')}' AS as_of, {complete} AS complete_catalogue"
    )
    weights = ", ".join(f"('{event_type}', {weight})" for event_type, weight in EVENT_WEIGHT.items())
    connection.execute(f"CREATE TABLE event_weights AS SELECT * FROM (VALUES {weights}) AS w(event_type, weight)")
    attribution = Attribution(**state["shop"].get("attribution", {})).model_dump(by_alias=True)
    windows = ", ".join(f"('{event_type}', {seconds})" for event_type, seconds in attribution.items())
    connection.execute(f"CREATE TABLE attribution AS SELECT * FROM (VALUES {windows}) AS a(event_type, seconds)")
    # The functions that engines spell differently; another engine registers its own.
    connection.execute("CREATE MACRO days_between(a, b) AS DATE_DIFF('day', CAST(a AS DATE), CAST(b AS DATE))")
    connection.execute("CREATE MACRO seconds_between(a, b) AS DATE_DIFF('second', a, b)")


def _stage(connection: duckdb.DuckDBPyConnection, draft: Path, console: Console) -> None:
    """Staging goes through files too: DuckDB's memory holds one step at a time."""
    for name in STAGING:
        started = time.monotonic()
        path = draft / f"{name}.parquet"
        with console.status(f"staging {name}"):
            _copy(connection, (HERE / "staging" / f"{name}.sql").read_text(), path)
            connection.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet({quoted(str(path))})")
        console.print(f"  {name}: {time.monotonic() - started:.1f} s")


def _mart(
    connection: duckdb.DuckDBPyConnection, name: str, order_by: Sequence[str], draft: Path, console: Console
) -> None:
    started = time.monotonic()
    path = draft / f"{name}.parquet"
    sql = (HERE / "marts" / f"{name}.sql").read_text()
    with console.status(f"building {name}"):
        _copy(connection, f"SELECT * FROM (\n{sql}\n) AS mart ORDER BY {', '.join(order_by)}", path)
        connection.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet({quoted(str(path))})")
    rows = connection.execute(f"SELECT COUNT(*) FROM {name}").fetchone()
    console.print(f"  {name}: {rows[0] if rows else 0:,} rows, {time.monotonic() - started:.1f} s")


def _copy(connection: duckdb.DuckDBPyConnection, sql: str, path: Path) -> None:
    connection.execute(
        f"COPY (\n{sql}\n) TO {quoted(str(path))} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 122880)"
    )


def _count(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    reasons = connection.execute(
        "SELECT reason, COUNT(*) FROM stg_events WHERE reason IS NOT NULL GROUP BY reason ORDER BY COUNT(*) DESC, reason"
    ).fetchall()

    def one(sql: str) -> int:
        row = connection.execute(sql).fetchone()
        return int(row[0]) if row else 0

    rows = one("SELECT COUNT(*) FROM stg_events")
    unique = one("SELECT COUNT(*) FROM stg_unique_events")
    returns = one("SELECT COUNT(*) FROM stg_unique_events WHERE event_type = 'return'")
    bought_and_looked = one("SELECT COUNT(*) FROM stg_unique_events WHERE event_type NOT IN ('return', 'hide')")
    kept = one("SELECT COUNT(*) FROM stg_kept_events")
    quarantined = {reason: int(count) for reason, count in reasons}
    return {
        "rows": rows,
        "accepted": kept,
        "duplicates": rows - sum(quarantined.values()) - unique,
        "returns": returns,
        "returned": bought_and_looked - kept,
        "quarantined": quarantined,
    }


def _refuse_too_many(connection: duckdb.DuckDBPyConnection, counts: dict[str, Any], allowed: float) -> None:
    rejected = sum(counts["quarantined"].values())
    if rejected <= allowed * max(1, counts["rows"]):
        return
    examples = connection.execute(
        "SELECT reason, MIN(record) FROM stg_events WHERE reason IS NOT NULL GROUP BY reason ORDER BY COUNT(*) DESC, reason"
    ).fetchall()
    lines = [
        f"  {counts['quarantined'][reason]:,} x {reason}, such as: {record[:160]}" for reason, record in examples[:5]
    ]
    raise RejectedShareError(
        f"{rejected:,} of {counts['rows']:,} lines cannot be used, more than the share of {allowed:.0%} that "
        "shop.max_rejected_share allows. Correct the mapping (`recsys ingest --mapping`), or allow more:\n"
        + "\n".join(lines)
    )


def _summary(
    connection: duckdb.DuckDBPyConnection,
    shop: dict[str, Any],
    counts: dict[str, Any],
    draft: Path,
    catalogue_bytes: int,
) -> Summary:
    row = connection.execute(
        "SELECT COALESCE(EPOCH(MIN(occurred_at)), 0), COALESCE(EPOCH(MAX(occurred_at)), -1), "
        "COALESCE(EPOCH(MAX(received_at)), 0) FROM interactions"
    ).fetchone() or (0, -1, 0)
    digest = hashlib.sha256()
    for table in TABLES:
        with (draft / f"{table.name}.parquet").open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return Summary(
        shop=shop["name"],
        currency=shop["currency"],
        fingerprint=digest.hexdigest(),
        since=int(row[0]),
        until=int(row[1]) + 1,
        catalogue_bytes=catalogue_bytes,
        log_until=float(row[2]),
        outcomes=_count_outcomes(connection),
        **counts,
    )


def _count_outcomes(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """See `Summary.outcomes`."""
    credited, early, unmatched = connection.execute(
        "WITH answers AS (SELECT request_id, MIN(occurred_at) AS at FROM exposures GROUP BY request_id) SELECT "
        "(SELECT COUNT(*) FROM outcomes), "
        "COUNT(*) FILTER (WHERE seconds_between(answers.at, e.occurred_at) < -300), "
        "COUNT(*) FILTER (WHERE answers.request_id IS NULL) "
        "FROM stg_unique_events AS e LEFT JOIN answers ON answers.request_id = e.request_id WHERE e.request_id IS NOT NULL"
    ).fetchone() or (0, 0, 0)
    return {"credited": credited, "early": early, "unmatched": unmatched}


def _replace(draft: Path, tables: Path) -> None:
    """Put the new tables where the old ones were."""
    old = tables.with_name(".tables-old")
    shutil.rmtree(old, ignore_errors=True)
    if tables.exists():
        tables.rename(old)
    draft.rename(tables)
    shutil.rmtree(old, ignore_errors=True)


def _print(summary: Summary, console: Console) -> None:
    console.print(
        f"{summary.rows:,} lines in: {summary.accepted:,} interactions, {summary.duplicates:,} duplicates dropped, "
        f"{summary.returns:,} returns ({summary.returned:,} purchases came back whole), "
        f"{sum(summary.quarantined.values()):,} quarantined"
    )
    if any(summary.outcomes.values()):
        told = summary.outcomes
        console.print(
            f"{told['credited']:,} outcomes of answers; {told['early']:,} events happened before the answer that they name, "
            f"{told['unmatched']:,} name an unknown one"
        )
    for reason, count in summary.quarantined.items():
        console.print(f"  quarantined, {reason}: {count:,}")
