"""Ingest: a shop's exports, through its mapping, into `raw/<source>.<kind>.parquet` as text."""

from __future__ import annotations

import hashlib
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import duckdb
import orjson
import polars as pl
from rich.console import Console
from sqlalchemy import URL

from pipelines.keeping_out import keep_out
from pipelines.log_partitions import export_log, partitions
from pipelines.mapping import Files, Mapping, find_files, read_mapping
from pipelines.reading import (
    Reader,
    arm_select,
    event_select,
    exposure_select,
    item_select,
    merge_select,
    quoted,
    render_select,
    user_select,
)
from recsys.errors import UserError
from recsys.privacy.tombstones import Tombstones
from recsys.store.database import exists, opened
from recsys.store.migrate import upgrade
from recsys.store.old_log import import_log, old_logs
from recsys.tables import CATALOGUE_LOG, RAW_CHANGES

SHIPPED: Final = Path(__file__).parent / "sources"
DEFAULT_MAPPING: Final = SHIPPED / "complete_journey.toml"
LOG_MAPPING: Final = SHIPPED / "event_log.toml"
CHANGES_FILE: Final = "catalogue_log.changes.parquet"
CHANGES_STATE: Final = "catalogue_log.json"
_POLARS_TYPE: Final = {
    "VARCHAR": pl.String(),
    "TIMESTAMP": pl.Datetime("us"),
    "BIGINT": pl.Int64(),
    "BOOLEAN": pl.Boolean(),
}
logger = logging.getLogger(__name__)

_CHANGES_SCHEMA: Final = {column.name: _POLARS_TYPE[column.type] for column in RAW_CHANGES.columns}

Select = Callable[[Reader], str]


@dataclass(frozen=True, slots=True)
class IngestSummary:
    """Lines taken in, by raw file; those of skipped sources included."""

    rows: dict[str, int]


def connect(memory_limit: str = "2GB", threads: int = 2, temp: Path | None = None) -> duckdb.DuckDBPyConnection:
    """A DuckDB that spills to disk instead of growing, and thinks in UTC."""
    connection = duckdb.connect()
    connection.execute(f"SET memory_limit = {quoted(memory_limit)}; SET threads = {threads}; SET TimeZone = 'UTC'")
    if temp is not None:
        connection.execute(f"SET temp_directory = {quoted(str(temp))}")
    return connection


def ingest(
    mapping_path: Path | None, data_dir: Path, console: Console, tombstones: Tombstones | None = None
) -> IngestSummary:
    """Take in every source of a mapping (the default data set without one); unchanged ones are skipped.

    Who is in the `tombstones` is kept out, as far as they were deleted.

    Raises:
        UserError: the mapping does not fit, a file cannot be read, or the directory holds another shop.
    """
    path = mapping_path or DEFAULT_MAPPING
    mapping = read_mapping(path)
    raw = data_dir / "raw"
    known = read_state(data_dir)
    if known and known["shop"]["name"] != mapping.shop.name:
        raise UserError(
            f"{data_dir} holds the shop {known['shop']['name']!r}: give {mapping.shop.name!r} a directory of its own "
            f"(--data-dir), or remove {raw} first"
        )
    raw.mkdir(parents=True, exist_ok=True)
    plan = _plan(mapping)
    files = {name: find_files(path, mapping, source) for name, source, _ in plan}
    key = {name: _key(path, files[name]) for name, _, _ in plan}
    rows: dict[str, int] = {}
    for name, source, select in plan:
        target = raw / f"{name}.parquet"
        if known and known["sources"].get(name, {}).get("key") == key[name] and target.exists():
            rows[name] = known["sources"][name]["rows"]
            console.print(f"{name}: unchanged, {rows[name]:,} lines")
            continue
        started = time.monotonic()
        with console.status(f"reading {name} ({len(files[name])} files)"):
            rejects = name.endswith(".events")
            rows[name] = _write(source, files[name], select, target, with_rejects=rejects, tombstones=tombstones)
        console.print(f"{name}: {rows[name]:,} lines in {time.monotonic() - started:.1f} s")
    for stale in set(raw.glob("*.parquet")) - {raw / f"{name}.parquet" for name in rows}:
        if not stale.name.startswith(("event_log.", "catalogue_log.")):
            stale.unlink()
    catalogue = mapping.catalogue
    state = {
        "shop": mapping.shop.model_dump(by_alias=True),
        "complete_catalogue": catalogue is not None and catalogue.complete,
        "sources": {name: {"key": key[name], "rows": count} for name, count in rows.items()},
    }
    (raw / "ingest.json").write_bytes(orjson.dumps(state, option=orjson.OPT_INDENT_2))
    return IngestSummary(rows)


def read_state(data_dir: Path) -> dict[str, Any] | None:
    """What the last ingest left on record, or None before the first."""
    path = data_dir / "raw" / "ingest.json"
    if not path.exists():
        return None
    state: dict[str, Any] = orjson.loads(path.read_bytes())
    return state


def forget_sources(data_dir: Path) -> None:
    """Let the next ingest read every source again, unchanged or not."""
    state = read_state(data_dir)
    if state is not None:
        sources = {name: {**source, "key": ""} for name, source in state["sources"].items()}
        path = data_dir / "raw" / "ingest.json"
        path.write_bytes(orjson.dumps({**state, "sources": sources}, option=orjson.OPT_INDENT_2))


def ingest_log(url: URL, data_dir: Path, console: Console) -> None:
    """Take in what the database has of events, exposures and logins, if anything; logs of older versions first.

    Raises:
        UserError: the database cannot be used.
    """
    if not exists(url) and not old_logs(data_dir):
        return
    log, raw = data_dir / "log", data_dir / "raw"
    with opened(url) as engine:
        upgrade(engine)
        if old_logs(data_dir):
            old = import_log(engine, data_dir)
            console.print(
                f"old log: {old.events:,} events and {old.exposures:,} exposures taken into the database, "
                f"{old.known:,} known already, {old.unreadable:,} unreadable lines"
            )
        added = export_log(engine, log)
    raw.mkdir(parents=True, exist_ok=True)
    source = read_mapping(LOG_MAPPING).events[0]
    rows = {}
    for kind, of, select in (
        ("events", "events", partial(event_select, source=source)),
        ("exposures", "exposures", exposure_select),
        ("arms", "exposures", arm_select),
        ("renders", "renders", render_select),
        ("merges", "merges", merge_select),
    ):
        if files := partitions(log, of):
            rows[kind] = _write(source, files, select, raw / f"event_log.{kind}.parquet")
    if rows:
        told = ", ".join(f"{count:,} new {kind}" for kind, count in added.items())
        console.print(f"event log: {told}")


def ingest_catalogue_log(data_dir: Path, console: Console) -> None:
    """Take in what the catalogue API was told, if anything."""
    log, raw = data_dir / CATALOGUE_LOG, data_dir / "raw"
    if not log.exists():
        return
    content = log.read_bytes()
    content = content[: content.rfind(b"\n") + 1]
    items = fold_changes(content)
    raw.mkdir(parents=True, exist_ok=True)
    frame = pl.DataFrame(list(items.values()), schema=_CHANGES_SCHEMA, orient="row")
    draft = raw / "catalogue_log.tmp"
    frame.sort("item_id").write_parquet(draft)
    draft.replace(raw / CHANGES_FILE)
    (raw / CHANGES_STATE).write_bytes(orjson.dumps({"bytes": len(content)}))
    console.print(f"catalogue log: {len(items):,} items")


def read_catalogue_bytes(data_dir: Path) -> int:
    """How many bytes of the catalogue log are in `raw/`."""
    path = data_dir / "raw" / CHANGES_STATE
    return int(orjson.loads(path.read_bytes())["bytes"]) if path.exists() else 0


def fold_changes(content: bytes) -> dict[str, dict[str, Any]]:
    """What the catalogue log says last of each item, as rows of `RAW_CHANGES`; lines that are no change are passed over."""
    found: dict[str, dict[str, Any]] = {}
    deleted: set[str] = set()
    for line in filter(None, content.split(b"\n")):
        try:
            _fold(orjson.loads(line), found, deleted)
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
            # Torn by a crash, and so never acknowledged, or written by hand.
            logger.warning("the catalogue log has a line that is no change, it is passed over: %r", line[:200])
    return found


def _fold(change: dict[str, Any], found: dict[str, dict[str, Any]], deleted: set[str]) -> None:
    """Bring `found` and the ids that are `deleted` up to date."""
    at = datetime.fromisoformat(change["changed_at"]).astimezone(UTC).replace(tzinfo=None)
    if change["kind"] == "item":
        item = change["item"]
        first = found.get(item["item_id"], {}).get("first_at", at)
        attributes = orjson.dumps(item["attributes"]).decode() if item["attributes"] else None
        found[item["item_id"]] = {
            **item,
            "attributes": attributes,
            "is_whole": True,
            "first_at": first,
            "changed_at": at,
        }
        deleted.discard(item["item_id"])
        return
    available = False if change["kind"] == "delete" else change["available"]
    prices = change.get("price_cents") or [None] * len(change["item_ids"])
    for item_id, price in zip(change["item_ids"], prices, strict=True):
        if available and item_id in deleted:
            continue
        known = found.setdefault(item_id, {"item_id": item_id, "is_whole": False, "first_at": at})
        known["changed_at"] = at
        if available is not None:
            known["available"] = available
        if price is not None:
            known["price_cents"] = price
    if change["kind"] == "delete":
        deleted.update(change["item_ids"])


def _plan(mapping: Mapping) -> Sequence[tuple[str, Files, Select]]:
    """Name of the raw file, its source, and how to read it."""
    plan: list[tuple[str, Files, Select]] = [
        (f"{event.source}.events", event, partial(event_select, source=event)) for event in mapping.events
    ]
    if mapping.catalogue is not None:
        plan.append(("catalogue.items", mapping.catalogue, partial(item_select, source=mapping.catalogue)))
    if mapping.users is not None:
        plan.append(("users.users", mapping.users, partial(user_select, source=mapping.users)))
    return plan


def _key(mapping_path: Path, files: Sequence[Path]) -> str:
    """Changes whenever the mapping, a file, or the way of reading does."""
    digest = hashlib.sha256(mapping_path.read_bytes())
    digest.update((Path(__file__).parent / "reading.py").read_bytes())
    for file in files:
        stat = file.stat()
        digest.update(f"{file}|{stat.st_size}|{stat.st_mtime_ns}".encode())
    return digest.hexdigest()


def _write(
    source: Files,
    files: Sequence[Path],
    select: Select,
    target: Path,
    *,
    with_rejects: bool = False,
    tombstones: Tombstones | None = None,
) -> int:
    """Copy a SELECT into a Parquet file, which appears whole or not at all; return its rows."""
    draft = target.with_suffix(".tmp")
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        connection = connect(temp=Path(folder))
        try:
            sql = select(Reader(connection, source, files, Path(folder)))
            connection.execute(f"COPY ({sql}) TO {quoted(str(draft))} (FORMAT parquet, COMPRESSION zstd)")
            rejects = 0
            if with_rejects and source.format == "csv":
                rejects = _add_rejects(connection, sql, draft)
            if tombstones is not None:
                keep_out(connection, draft, tombstones)
        except duckdb.Error as error:
            raise UserError(f"{source.files}: {error}; check format, delimiter and encoding in the mapping") from error
        row = connection.execute(f"SELECT COUNT(*) FROM read_parquet({quoted(str(draft))})").fetchone()
        connection.close()
    draft.replace(target)
    if rejects:
        return int(row[0]) if row else rejects
    return int(row[0]) if row else 0


def _add_rejects(connection: duckdb.DuckDBPyConnection, sql: str, draft: Path) -> int:
    """Append the lines that could not be split into columns, so that none is lost."""
    row = connection.execute("SELECT COUNT(DISTINCT (file_id, line)) FROM reject_errors").fetchone()
    count = int(row[0]) if row else 0
    if count:
        both = draft.with_suffix(".both")
        source = sql.split(" AS source", 1)[0].removeprefix("SELECT ")
        connection.execute(
            f"""COPY (
                SELECT * FROM read_parquet({quoted(str(draft))})
                UNION ALL BY NAME
                SELECT {source} AS source, ANY_VALUE(csv_line) AS line FROM reject_errors GROUP BY file_id, line
            ) TO {quoted(str(both))} (FORMAT parquet, COMPRESSION zstd)"""
        )
        both.replace(draft)
    return count
