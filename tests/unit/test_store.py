"""`recsys.store`: the database, of both kinds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, select

from recsys.errors import UserError
from recsys.store import database, migrate
from recsys.store.database import open_database, reading, writing
from recsys.store.reading import (
    count,
    events_since,
    latest_exposures,
    latest_verdicts,
    owner_at,
    rows_between,
    watermark,
    with_owners,
)
from recsys.store.schema import EVENTS, EXPOSURES, HEAD, MERGES, METADATA, VERDICTS
from recsys.store.writing import insert_events, insert_merges, insert_new, insert_verdicts

NOON = datetime(2026, 11, 25, 12)


@pytest.fixture
def engine(database_url: str, tmp_path: Path) -> Iterator[Engine]:
    opened = open_database(database.database_url(tmp_path, database_url))
    assert migrate.upgrade(opened) is True
    yield opened
    opened.dispose()


def event(event_id: str, minute: int = 0, **fields: Any) -> dict[str, Any]:
    at = NOON + timedelta(minutes=minute)
    empty = dict.fromkeys(("price_cents", "order_id", "request_id", "surface", "region", "user_id", "session_id"))
    given = {"event_id": event_id, "type": "view", "item_id": "i", "occurred_at": at, "received_at": at, "quantity": 1}
    return {**empty, **given, "origin": "api", **fields}


def test_the_migrations_make_the_tables_that_are_declared(engine: Engine) -> None:
    with reading(engine) as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    config = Config()
    config.set_main_option("script_location", str(migrate.MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD == migrate.version(engine)
    assert migrate.upgrade(engine) is False


def failures_at_once(do: Callable[[Engine], object], engines: Sequence[Engine]) -> list[BaseException]:
    """What goes wrong where each engine does it in a thread of its own, all at the same moment."""
    failures: list[BaseException] = []
    start = threading.Barrier(len(engines))

    def one(engine: Engine) -> None:
        start.wait()
        try:
            do(engine)
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=one, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def test_who_opens_a_new_file_at_the_same_moment_waits(tmp_path: Path) -> None:
    for number in range(40):
        engines = [open_database(database.database_url(tmp_path / str(number))) for _ in range(6)]
        assert failures_at_once(migrate.version, engines) == []
        for engine in engines:
            engine.dispose()


def test_two_who_migrate_at_once_wait_for_each_other(database_url: str, tmp_path: Path) -> None:
    engines = [open_database(database.database_url(tmp_path, database_url)) for _ in range(4)]
    assert failures_at_once(migrate.upgrade, engines) == []
    assert migrate.version(engines[0]) == HEAD
    for engine in engines:
        engine.dispose()


@pytest.mark.parametrize("url", ["mysql://host/name", "no address", "postgresql://u:secret@host:port/name"])
def test_another_kind_of_database_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match="DATABASE_URL") as refused:
        database.database_url(tmp_path, url)
    assert "secret" not in str(refused.value)
    with pytest.raises(UserError, match="cannot be used"):
        migrate.version(open_database(database.database_url(tmp_path, "postgresql://x@/y?host=/nowhere")))


def test_a_file_that_is_no_database_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "recsys.db").write_bytes(b"no database, as after a disk that failed" * 100)
    with database.opened(database.database_url(tmp_path)) as engine, pytest.raises(UserError, match="not a database"):
        migrate.upgrade(engine)


def test_sqlite_syncs_every_commit(tmp_path: Path) -> None:
    engine = open_database(database.database_url(tmp_path))
    with reading(engine) as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}
    engine.dispose()


def test_an_event_is_stored_once(engine: Engine) -> None:
    with writing(engine) as connection:
        assert insert_events(connection, [event("a"), event("b", item_id="first"), event("b", item_id="second")]) == {
            "a",
            "b",
        }
    with writing(engine) as connection:
        assert insert_events(connection, [event("b"), event("c"), event("a", type="purchase")]) == {"c"}
    rows = [row for chunk in rows_between(engine, EVENTS, 0, watermark(engine, EVENTS)) for row in chunk]
    assert [(row["event_id"], row["type"], row["item_id"]) for row in rows] == [
        ("a", "view", "i"), ("b", "view", "first"), ("c", "view", "i"),
    ]  # fmt: skip
    assert [row["number"] for row in rows] == sorted(row["number"] for row in rows)


def test_nothing_of_a_transaction_that_fails_stays(engine: Engine) -> None:
    with pytest.raises(RuntimeError), writing(engine) as connection:
        insert_events(connection, [event("a", session_id="s", user_id="u")])
        raise RuntimeError
    assert count(engine, EVENTS) == count(engine, MERGES) == 0


def test_writers_at_once_lose_nothing_and_readers_below_the_watermark_miss_nothing(
    database_url: str, engine: Engine, tmp_path: Path
) -> None:
    writers, batches = 4, 25
    failures: list[BaseException] = []

    def write(writer: int) -> None:
        own = open_database(database.database_url(tmp_path, database_url))
        try:
            for batch in range(batches):
                with writing(own) as connection:
                    insert_events(connection, [event(f"{writer}-{batch}-{n}") for n in range(20)])
        except BaseException as error:  # noqa: BLE001
            failures.append(error)
        own.dispose()

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
    for thread in threads:
        thread.start()
    seen: list[str] = []
    done = 0
    while any(thread.is_alive() for thread in threads) or watermark(engine, EVENTS) > done:
        until = watermark(engine, EVENTS)
        seen += [row["event_id"] for chunk in rows_between(engine, EVENTS, done, until) for row in chunk]
        done = until
    assert failures == []
    assert len(seen) == len(set(seen)) == writers * batches * 20


def test_a_session_belongs_to_who_logs_in_first_until_another_does(engine: Engine) -> None:
    def login(user: str, minute: int) -> dict[str, Any]:
        return {"session_id": "s", "user_id": user, "since": NOON + timedelta(minutes=minute)}

    with writing(engine) as connection:
        insert_merges(connection, [login("anna", 10), login("anna", 20)])
    with writing(engine) as connection:
        insert_merges(connection, [login("anna", 25), login("ben", 30), login("ben", 40), login("anna", 50)])
    with reading(engine) as connection:
        assert [row.user_id for row in connection.execute(select(MERGES).order_by(MERGES.c.number))] == [
            "anna",
            "ben",
            "anna",
        ]
        minutes = (0, 10, 29, 30, 49, 50)
        rows = with_owners(connection, [event("x", minute, session_id="s") for minute in minutes])
        assert [row["user_id"] for row in rows] == ["anna", "anna", "anna", "ben", "ben", "anna"]
        named = event("x", 0, session_id="s", user_id="carla")
        assert with_owners(connection, [named, event("y", session_id="t")]) == [named, event("y", session_id="t")]
    assert owner_at([(NOON, "anna")], NOON - timedelta(days=1)) == "anna"


def test_events_tell_who_logs_in(engine: Engine) -> None:
    with writing(engine) as connection:
        insert_events(connection, [event("a", 0, session_id="s"), event("b", 1, session_id="s", user_id="anna")])
        # Sent again by another user's browser, it is not stored, so it is no login.
        insert_events(connection, [event("a", 2, session_id="s", user_id="ben")])
    chunks = list(events_since(engine, NOON - timedelta(hours=1), 100))
    assert [(row["event_id"], row["user_id"]) for chunk in chunks for row in chunk] == [("a", "anna"), ("b", "anna")]
    assert [len(chunk) for chunk in events_since(engine, NOON, 1)] == [1]
    assert list(events_since(engine, NOON + timedelta(hours=1), 100)) == []


def test_verdicts_are_a_ring_for_each_kind(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.store.writing.VERDICTS_KEPT", 5)

    def verdict(n: int, kind: str) -> dict[str, Any]:
        return {"at": NOON, "event_id": f"{kind}-{n}", "verdict": kind, "reason": None, "body": "{}"}

    with writing(engine) as connection:
        insert_verdicts(connection, [verdict(n, "rejected") for n in range(3)])
        insert_verdicts(connection, [verdict(n, "accepted") for n in range(20)])
    assert count(engine, VERDICTS) == 8
    assert [row["event_id"] for row in latest_verdicts(engine, 2)] == ["accepted-18", "accepted-19"]
    rejected = latest_verdicts(engine, 10, kinds=["rejected"])
    assert [row["event_id"] for row in rejected] == ["rejected-0", "rejected-1", "rejected-2"]
    assert latest_verdicts(engine, 10, after=latest_verdicts(engine, 1)[0]["number"]) == []


def test_exposures_keep_their_json_and_come_latest_first(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.store.reading.CHUNK", 2)
    names = ("user_id", "session_id", "page_id", "widget", "rules", "moved_by", "shown_before")
    rows = [
        {
            **dict.fromkeys(names),
            "request_id": f"r{hour}",
            "occurred_at": NOON.replace(hour=hour),
            **dict.fromkeys(("surface", "served_by", "model_version"), "x"),
            "phase": 1,
            "degraded": False,
            "arms": {"test": "a"},
            "items": [["i", "popularity", None], ["\0 é", "new", 0.5]],
            "request": {"k": 2},
        }
        for hour in (3, 1, 2, 5, 4)
    ]
    with writing(engine) as connection:
        assert len(insert_new(connection, EXPOSURES, "request_id", rows)) == 5
        assert insert_new(connection, EXPOSURES, "request_id", rows) == set()
    found = list(latest_exposures(engine))
    assert [row["request_id"] for row in found] == ["r5", "r4", "r3", "r2", "r1"]
    assert found[0]["items"] == rows[0]["items"] and found[0]["arms"] == {"test": "a"} and found[0]["moved_by"] is None


def test_an_import_of_the_past_takes_no_session_from_who_uses_it_now(engine: Engine) -> None:
    past: dict[str, Any] = {"occurred_at": NOON - timedelta(days=30), "origin": "import", "session_id": "s"}
    with writing(engine) as connection:
        insert_events(connection, [event("now", 0, session_id="s", user_id="ben")])
        insert_events(
            connection,
            [event("old", 5, **past, user_id="anna"), event("t", 5, **{**past, "session_id": "t"}, user_id="anna")],
        )
    with reading(engine) as connection:
        rows = with_owners(connection, [event("x", 6, session_id="s"), event("y", 6, session_id="t")])
        assert [row["user_id"] for row in rows] == ["ben", "anna"]


def test_a_login_that_is_written_late_does_not_hide_the_one_after_it(engine: Engine) -> None:
    def login(user: str, minute: int) -> dict[str, Any]:
        return {"session_id": "s", "user_id": user, "since": NOON + timedelta(minutes=minute)}

    with writing(engine) as connection:
        insert_merges(connection, [login("ben", 2)])
        insert_merges(connection, [login("anna", 1)])
        insert_merges(connection, [login("anna", 3)])
    with reading(engine) as connection:
        found = with_owners(connection, [event("x", minute, session_id="s") for minute in (0, 1, 2, 3)])
    assert [row["user_id"] for row in found] == ["anna", "anna", "ben", "anna"]
