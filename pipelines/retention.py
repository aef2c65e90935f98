"""What the log's files have kept for long enough: whole days go, and days that are kept only in part are rewritten."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

import duckdb

from pipelines.forgetting import keep_rows, read_rows
from pipelines.ingest import connect
from pipelines.log_partitions import partitions
from recsys.store.retention import EXPIRED_TEXT, Periods, cutoff

_PERIOD: Final = {"events": "events", "exposures": "exposures", "renders": "exposures"}
"""By kind of file the period that whole days are kept for."""
_OF_NOBODY: Final = (
    "f.user_id IS NULL AND f.session_id IS NOT NULL AND f.session_id NOT IN (SELECT session_id FROM logins)"
)
_UNUSED: Final = "f.session_id NOT IN (SELECT session_id FROM used)"
_WHOLE: Final = f"f.request <> '{EXPIRED_TEXT}'"
_CUT: Final = f"f.* REPLACE ('{EXPIRED_TEXT}' AS request, NULL::VARCHAR AS shown_before, NULL::VARCHAR AS moved_by)"


def retain_files(data_dir: Path, periods: Periods, now: datetime) -> dict[str, int]:
    """Rows that went, by kind of file; the raw files of the log follow with the next `recsys tables`. `now` has a time zone.

    What a shop's exports brought is the shop's own to keep or not: `recsys ingest` mirrors them.
    """
    moment, log = now.astimezone(UTC).replace(tzinfo=None), data_dir / "log"
    removed = {f"log/{name}": 0 for name in (*_PERIOD, "merges", "replays")}
    with connect() as connection:
        _read_sessions(connection, "logins", partitions(log, "merges"))
        for kind, period in _PERIOD.items():
            if days := getattr(periods, period):
                removed[f"log/{kind}"] += _drop_days(connection, log / kind, cutoff(moment, days).date())
        for kind in _PERIOD if periods.sessions else ():
            files = _files(log / kind, cutoff(moment, periods.sessions).date())
            removed[f"log/{kind}"] += _drop_rows(connection, files, _OF_NOBODY)
        if periods.events:
            _read_sessions(connection, "used", [*partitions(log, "events"), *partitions(log, "exposures")])
            files = _files(log / "merges", cutoff(moment, periods.events).date())
            removed["log/merges"] = _drop_rows(connection, files, _UNUSED)
        if periods.replays:
            files = _files(log / "exposures", cutoff(moment, periods.replays).date())
            removed["log/replays"] = _rewrite(connection, files, _WHOLE, _CUT)
    return removed


def _read_sessions(connection: duckdb.DuckDBPyConnection, table: str, files: Sequence[Path]) -> None:
    """A table of the sessions that files name."""
    connection.execute(f"CREATE TEMP TABLE {table} (session_id VARCHAR)")
    for path in files:
        sessions = f"SELECT DISTINCT session_id FROM {read_rows(path)} WHERE session_id IS NOT NULL"
        connection.execute(f"INSERT INTO {table} {sessions}")


def _drop_days(connection: duckdb.DuckDBPyConnection, folder: Path, before: date) -> int:
    """Remove the files of the days before one; how many rows they had."""
    removed = sum(_count(connection, path, "TRUE") for path in _files(folder, before))
    for day, path in _days(folder):
        if day < before:
            shutil.rmtree(path)
    return removed


def _drop_rows(connection: duckdb.DuckDBPyConnection, files: Iterator[Path], condition: str) -> int:
    """Take the rows that fit out of files; how many."""
    return _rewrite(connection, files, condition, "f.*", f"WHERE ({condition}) IS NOT TRUE")


def _rewrite(
    connection: duckdb.DuckDBPyConnection, files: Iterator[Path], condition: str, columns: str, where: str = ""
) -> int:
    """Write files anew that have rows that fit, with these columns and the rows of `where`; how many rows fitted."""
    changed = 0
    for path in files:
        if count := _count(connection, path, condition):
            keep_rows(connection, path, f"SELECT {columns} FROM {read_rows(path)} AS f {where}")
            changed += count
    return changed


def _count(connection: duckdb.DuckDBPyConnection, path: Path, condition: str) -> int:
    row = connection.execute(f"SELECT COUNT(*) FROM {read_rows(path)} AS f WHERE {condition}").fetchone()
    return int(row[0]) if row else 0


def _files(folder: Path, before: date) -> Iterator[Path]:
    """Files of the days before one."""
    for day, path in _days(folder):
        if day < before:
            yield from sorted(path.glob("part-*.parquet"))


def _days(folder: Path) -> list[tuple[date, Path]]:
    return [(date.fromisoformat(path.name.removeprefix("date=")), path) for path in sorted(folder.glob("date=*"))]
