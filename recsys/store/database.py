"""One engine for both databases: SQLite in the shop's folder, or PostgreSQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import orjson
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError
from tenacity import retry, retry_if_exception, stop_after_delay, wait_random

from recsys.errors import UserError

SQLITE_FILE: Final = "recsys.db"
"""Below the data directory, unless a database is named."""
BUSY_SECONDS: Final = 30
"""How long a writer of SQLite waits for another process to finish."""


def database_url(data_dir: Path, given: str | None = None) -> URL:
    """The database that is named, else the shop's own file.

    Raises:
        UserError: it is neither SQLite nor PostgreSQL.
    """
    if not given:
        return URL.create("sqlite", database=str(data_dir / SQLITE_FILE))
    try:
        url = make_url(given)
    except (ArgumentError, ValueError) as error:  # the latter of a port that is no number
        raise UserError("DATABASE_URL is no address; write it as postgresql://user@host/name") from error
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("sqlite", "postgresql+psycopg"):
        raise UserError(f"DATABASE_URL names {url.drivername!r}: only sqlite and postgresql are supported")
    return url


def exists(url: URL) -> bool:
    """Whether there is anything to read: a SQLite file appears with its first writer, a server is there."""
    return url.get_backend_name() != "sqlite" or Path(url.database or "").exists()


def open_database(url: URL) -> Engine:
    """An engine; connects when first used. `writing` and `reading` are the ways to use it."""
    # An error that is logged names the statement and not its parameters, which are ids.
    options: dict[str, Any] = {"json_serializer": _dumps, "json_deserializer": orjson.loads, "hide_parameters": True}
    if url.get_backend_name() != "sqlite":
        # A connection that died while nobody used it is replaced.
        return create_engine(url, pool_pre_ping=True, **options)
    Path(url.database or "").parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False}, **options)
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    return engine


@contextmanager
def opened(url: URL) -> Iterator[Engine]:
    """An engine whose connections are closed when the block ends."""
    engine = open_database(url)
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that is durable when the block ends.

    SQLite's takes the write lock at once: one that read first and wrote then could find that another came between.
    """
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        yield connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that only reads."""
    with engine.connect() as connection, connection.begin():
        yield connection


def _dumps(value: object) -> str:
    return orjson.dumps(value).decode()


def _configure(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where `_begin` says
    cursor = connection.cursor()
    _write_ahead(cursor)
    for pragma in ("synchronous = FULL", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _is_busy(error: BaseException) -> bool:
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_BUSY


@retry(
    retry=retry_if_exception(_is_busy), stop=stop_after_delay(BUSY_SECONDS), wait=wait_random(0.005, 0.05), reraise=True
)
def _write_ahead(cursor: sqlite3.Cursor) -> None:
    """SQLite waits by itself for a writer, but not for another who turns the log of a new file on at the same time."""
    cursor.execute("PRAGMA journal_mode = WAL")


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
