"""The step of a deletion that is done in files: the log, what was ingested, and the tables, each rewritten whole or not at all.

What is looked for is gathered from all files first and kept in the deletion's order, so that a step that is broken off can be gone on with:
a file may name an answer or a session of which another file, already rewritten, said whose it is.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
import orjson

from pipelines.ingest import connect
from pipelines.reading import quoted
from recsys.ids import HashIndex
from recsys.privacy.deletions import DATABASE, FILES, Deletions, Order, Receipt
from recsys.tables import TABLES

_FOREVER: Final = 1e12
"""Unix time of what has no end."""
_WHO: Final = """(f.user_id = {user} OR (f.user_id IS NULL AND EXISTS (
    SELECT 1 FROM gone_sessions AS g WHERE g.session_id = f.session_id AND f.{when} >= g.from_at AND f.{when} < g.until_at
)))"""
_RECEIVED: Final = _WHO.replace("{when}", "received_at")
_SHOWN: Final = _WHO.replace("{when}", "occurred_at")
_NAMED: Final = "f.user_id = {user}"
_ANSWER: Final = "f.request_id IN (SELECT request_id FROM gone_requests)"
_KNOWN_AT: Final = "COALESCE(f.received_at, f.occurred_at, {until})"
_UNIT: Final = "(f.unit = 'user:' || {user} OR f.unit IN (SELECT 'session:' || session_id FROM gone_sessions))"
_WORDS: Final = r"""LIST_CONTAINS(STRING_SPLIT_REGEX(f.%s, '[\s,;|"]+'), {user})"""
# The third field of a record; or any word of a line that could not be split.
_RECORD: Final = (
    "CASE WHEN LEN(STRING_SPLIT(f.record, ' | ')) = 9 THEN STRING_SPLIT(f.record, ' | ')[3] = {user} "
    f"ELSE {_WORDS % 'record'} END"
)

THEIRS: Final[Mapping[str, str]] = {
    "log/events": _RECEIVED + " AND f.received_at <= {until}",
    "log/exposures": _SHOWN + " AND f.occurred_at <= {until}",
    "log/renders": "(" + _RECEIVED + " AND f.received_at <= {until}) OR " + _ANSWER,
    "raw/events": "(" + _RECEIVED + " AND " + _KNOWN_AT + " <= {until}) OR " + _WORDS % "line",
    "raw/exposures": _SHOWN + " AND f.occurred_at <= {until}",
    "raw/renders": _ANSWER,
    "raw/arms": _ANSWER,
    "raw/users": _NAMED,
    "raw/merges": _NAMED + " AND f.since <= {until}",
    "tables/interactions": _NAMED + " AND " + _KNOWN_AT + " <= {until}",
    "tables/users": _NAMED,
    "tables/sessions": _NAMED + " AND f.started_at <= {until}",
    "tables/baskets": _NAMED + " AND f.purchased_at <= {until}",
    "tables/user_items": _NAMED + " AND f.first_at <= {until}",
    "tables/exposures": _SHOWN + " AND f.occurred_at <= {until}",
    "tables/assignments": _ANSWER,
    "tables/outcomes": _ANSWER + " OR f.event_id IN (SELECT event_id FROM gone_events)",
    "tables/experiment_units": _UNIT + " AND f.first_at <= {until}",
    "tables/quarantine": _RECORD,
    # Last: they say whose a session was.
    "log/merges": _NAMED + " AND f.since <= {until}",
}
"""For each kind of file which rows `f` are a shopper's. The tables that are missing here name nobody."""
_WITH_EVENTS: Final = ("log/events", "raw/events", "tables/interactions")
_WITH_ANSWERS: Final = ("log/exposures", "raw/exposures", "tables/exposures")


def forget_files(deletions: Deletions, now: float) -> list[Receipt]:
    """Do the step of all deletions whose rows are gone from the database; their receipts. `now` is Unix time.

    The caller holds the lock of the files, see `Deletions.locked`.
    """
    due = [one for one in deletions.pending(FILES) if DATABASE in one.done]
    return [_forget(deletions, receipt.receipt, now) for receipt in due]


def rows_of(data_dir: Path, order: Order) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every row of a shopper in files: the file, below the data directory, and the row."""
    with connect() as connection:
        order = _gather(connection, data_dir, order)
        for path, theirs in _files(data_dir, order):
            found = connection.execute(f"SELECT f.* FROM {read_rows(path)} AS f WHERE {theirs}")
            names = [column for column, *_ in found.description or ()]
            for row in found.fetchall():
                yield str(path.relative_to(data_dir)), dict(zip(names, row, strict=True))


def _forget(deletions: Deletions, name: str, now: float) -> Receipt:
    data_dir = deletions.data_dir
    for leftover in (".tables-draft", ".tables-old"):
        shutil.rmtree(data_dir / leftover, ignore_errors=True)
    with connect() as connection:
        order = _gather(connection, data_dir, deletions.order(name))
        deletions.know(name, order)
        files = list(_files(data_dir, order))
        for path, theirs in files:
            _rewrite(connection, deletions, name, path, theirs)
    for path in sorted((data_dir / "log").glob("*.jsonl*")):
        _rewrite_old_log(deletions, name, path, order)
    if any(count for place, count in deletions.receipt(name).removed.items() if place.startswith("tables/")):
        _renew_summary(data_dir / "tables")
    bundles = _bundles_that_know(data_dir / "bundles", order.user_id, name)
    looked_at = [_name(data_dir, path) for path, _ in files if path.parent.name in ("raw", "tables")]

    def note(receipt: Receipt) -> None:
        receipt.bundles = bundles
        receipt.removed = {**dict.fromkeys(looked_at, 0), **receipt.removed}

    deletions.update(name, note)
    return deletions.finish(name, FILES, now)


def _files(data_dir: Path, order: Order) -> Iterator[tuple[Path, str]]:
    """Every file that may hold rows of a shopper, and the condition on its rows `f`."""
    literals = {"user": quoted(order.user_id), "until": f"TIMESTAMP {quoted(_plain(order.at))}"}
    for kind, condition in THEIRS.items():
        folder, name = kind.split("/")
        patterns = {"log": f"{name}/date=*/part-*.parquet", "raw": f"*.{name}.parquet", "tables": f"{name}.parquet"}
        for path in sorted((data_dir / folder).glob(patterns[folder])):
            yield path, condition.format(**literals)


def _gather(connection: duckdb.DuckDBPyConnection, data_dir: Path, order: Order) -> Order:
    """The order with the sessions, events and answers that files name; the tables `gone_...` of the connection are those."""
    order = replace(order, sessions=_sessions(connection, data_dir, order))
    connection.execute("CREATE TEMP TABLE gone_sessions (session_id VARCHAR, from_at TIMESTAMP, until_at TIMESTAMP)")
    for session, periods in order.sessions.items():
        for start, end in periods:
            connection.execute("INSERT INTO gone_sessions VALUES (?, ?, ?)", [session, _moment(start), _moment(end)])
    events = _keys(connection, data_dir, order, "event_id", _WITH_EVENTS)
    answers = _keys(connection, data_dir, order, "request_id", _WITH_ANSWERS)
    order = replace(
        order, event_ids=sorted({*order.event_ids, *events}), request_ids=sorted({*order.request_ids, *answers})
    )
    for name, key, ids in (("events", "event_id", order.event_ids), ("requests", "request_id", order.request_ids)):
        connection.execute(f"CREATE TEMP TABLE gone_{name} AS SELECT UNNEST(?::VARCHAR[]) AS {key}", [ids])
    return order


def _sessions(
    connection: duckdb.DuckDBPyConnection, data_dir: Path, order: Order
) -> dict[str, list[tuple[float, float]]]:
    """The sessions of the order, and those that the log's logins give the user, as `stg_logins` does."""
    found = {session: {(start, end) for start, end in periods} for session, periods in order.sessions.items()}
    merges = [*(data_dir / "log").glob("merges/date=*/*.parquet"), *(data_dir / "raw").glob("*.merges.parquet")]
    if merges:
        files = ", ".join(quoted(str(path)) for path in sorted(merges))
        logins = connection.execute(
            f"""WITH merges AS (
                SELECT DISTINCT number, session_id, user_id, since FROM read_parquet([{files}], union_by_name = true)
            ), ordered AS (
                SELECT
                    session_id, user_id, since,
                    ROW_NUMBER() OVER (PARTITION BY session_id ORDER BY since, number) AS place,
                    LEAD(since) OVER (PARTITION BY session_id ORDER BY since, number) AS next_since
                FROM merges
            )
            SELECT session_id, CASE WHEN place = 1 THEN 0 ELSE EPOCH(since) END, COALESCE(EPOCH(next_since), {_FOREVER})
            FROM ordered WHERE user_id = {quoted(order.user_id)}"""
        ).fetchall()
        for session, start, end in logins:
            found.setdefault(session, set()).add((float(start), float(end)))
    return {session: sorted(periods) for session, periods in found.items()}


def _keys(
    connection: duckdb.DuckDBPyConnection, data_dir: Path, order: Order, key: str, kinds: Sequence[str]
) -> set[str]:
    """Ids of the shopper's rows in files of some kinds."""
    found = set[str]()
    for path, theirs in _files(data_dir, order):
        if _kind(data_dir, path) in kinds:
            rows = connection.execute(f"SELECT DISTINCT {key} FROM {read_rows(path)} AS f WHERE {theirs}").fetchall()
            found.update(value for (value,) in rows if value is not None)
    return found


def _rewrite(connection: duckdb.DuckDBPyConnection, deletions: Deletions, name: str, path: Path, theirs: str) -> None:
    """A file without a shopper's rows."""
    row = connection.execute(f"SELECT COUNT(*) FROM {read_rows(path)} AS f WHERE {theirs}").fetchone()
    count = int(row[0]) if row else 0
    with deletions.removing(name, {_name(deletions.data_dir, path): count}):
        if count:
            keep_rows(connection, path, f"SELECT f.* FROM {read_rows(path)} AS f WHERE ({theirs}) IS NOT TRUE")


def keep_rows(connection: duckdb.DuckDBPyConnection, path: Path, sql: str) -> None:
    """Put what a SELECT says in a file's place."""
    draft = path.with_suffix(".tmp")
    options = "FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 122880"
    connection.execute(f"COPY ({sql}) TO {quoted(str(draft))} ({options})")
    _put(draft, path)


def _rewrite_old_log(deletions: Deletions, name: str, path: Path, order: Order) -> None:
    """The same for the JSON lines of versions before the database."""
    count, draft = 0, path.with_name(f".{path.name}.tmp")
    with path.open("rb") as lines, draft.open("wb") as kept:
        for line in lines:
            if _is_theirs(line, order):
                count += 1
            else:
                kept.write(line)
    with deletions.removing(name, {f"log/old/{path.name}": count}):
        if count:
            _put(draft, path)
    draft.unlink(missing_ok=True)


def _is_theirs(line: bytes, order: Order) -> bool:
    try:
        content = orjson.loads(line)
        user, session = content.get("user_id"), content.get("session_id")
    except (orjson.JSONDecodeError, AttributeError):
        return order.user_id.encode() in line  # torn by a crash
    return user == order.user_id or (user is None and session in order.sessions)


def _put(draft: Path, path: Path) -> None:
    """Put a file in another's place, whole, also after a power cut."""
    _sync(draft)
    draft.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _renew_summary(tables: Path) -> None:
    """Tables that were rewritten are others: the next training and the next build must know."""
    path = tables / "summary.json"
    if not path.exists():
        return
    digest = hashlib.sha256()
    for table in TABLES:
        if (file := tables / f"{table.name}.parquet").exists():
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    summary = {**orjson.loads(path.read_bytes()), "key": "", "fingerprint": digest.hexdigest()}
    draft = path.with_suffix(".tmp")
    draft.write_bytes(orjson.dumps(summary, option=orjson.OPT_INDENT_2))
    _put(draft, path)


def _bundles_that_know(bundles: Path, user_id: str, name: str) -> list[str]:
    """Versions on disk that have a history of the user from before the deletion."""
    found = []
    for manifest in sorted(bundles.glob("[!.]*/manifest.json")):
        arrays = manifest.parent / "arrays"
        try:
            hashes, rows = (
                np.load(arrays / f"history-{part}.npy", mmap_mode="r", allow_pickle=False)
                for part in ("hashes", "rows")
            )
            honoured = orjson.loads(manifest.read_bytes()).get("deletions", ())
        except (OSError, ValueError):
            continue  # a damaged bundle serves nobody
        if name not in honoured and HashIndex(hashes, rows).row(user_id) >= 0:
            found.append(manifest.parent.name)
    return found


def read_rows(path: Path) -> str:
    """A relation over a file; the day in a folder's name is no column of it."""
    return f"read_parquet({quoted(str(path))}, hive_partitioning = false)"


def _name(data_dir: Path, path: Path) -> str:
    """What a receipt calls a file."""
    return str(path.relative_to(data_dir)).removesuffix(".parquet")


def _kind(data_dir: Path, path: Path) -> str:
    """`log/events`, `raw/users`, `tables/baskets`: its key in `THEIRS`."""
    folder, *rest = path.relative_to(data_dir).parts
    return f"log/{rest[0]}" if folder == "log" else f"{folder}/{path.stem.rsplit('.')[-1]}"


def _plain(at: str) -> str:
    return datetime.fromisoformat(at).astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ")


def _moment(seconds: float) -> datetime:
    if seconds >= _FOREVER:
        return datetime(9999, 12, 31)
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
