"""`recsys.store.shoppers` and `recsys.store.retention`, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
from sqlalchemy import Engine, select

from pipelines.log_partitions import export_log, partitions
from pipelines.retention import retain_files
from recsys.store import database, migrate
from recsys.store.database import open_database, reading, writing
from recsys.store.reading import count, watermark
from recsys.store.retention import Periods, retain
from recsys.store.schema import EVENTS, EXPOSURES, MERGES, RENDERS, VERDICTS
from recsys.store.shoppers import delete_rows, footprint, speaks_of, users_of
from recsys.store.writing import insert_events, insert_exposures, insert_merges, insert_renders, insert_verdicts
from tests.unit.test_store import NOON, event


@pytest.fixture
def engine(database_url: str, tmp_path: Path) -> Iterator[Engine]:
    opened = open_database(database.database_url(tmp_path, database_url))
    migrate.upgrade(opened)
    yield opened
    opened.dispose()


def exposure(request_id: str, minute: int = 0, **fields: Any) -> dict[str, Any]:
    names = (
        "user_id",
        "session_id",
        "page_id",
        "widget",
        "rules",
        "plan",
        "moved_by",
        "shown_before",
        "seconds",
        "phase",
    )
    given = dict.fromkeys(("surface", "served_by", "model_version"), "x")
    at = NOON + timedelta(minutes=minute)
    more = {
        "request_id": request_id,
        "occurred_at": at,
        "degraded": False,
        "arms": {},
        "items": [],
        "request": {"k": 1, "cart": ["i"]},
    }
    return {**dict.fromkeys(names), **given, **more, **fields}


def render(request_id: str, minute: int = 0, **fields: Any) -> dict[str, Any]:
    at = NOON + timedelta(minutes=minute)
    return {
        "request_id": request_id,
        "rendered_at": at,
        "received_at": at,
        "user_id": None,
        "session_id": None,
        "items": None,
        **fields,
    }


def login(session: str, user: str, minute: int) -> dict[str, Any]:
    return {"session_id": session, "user_id": user, "since": NOON + timedelta(minutes=minute)}


def verdict(event_id: str | None, body: object) -> dict[str, Any]:
    return {"at": NOON, "event_id": event_id, "verdict": "rejected", "reason": "x", "body": orjson.dumps(body).decode()}


def numbers(found: Any) -> dict[str, list[int]]:
    return {table: [row["number"] for row in rows] for table, rows in found.rows.items()}


def test_a_shared_session_is_each_users_in_their_time(engine: Engine) -> None:
    """Nobody until 10, then anna, ben from 30, anna again from 50: what is before 10 is anna's."""
    with writing(engine) as connection:
        insert_merges(connection, [login("s", "anna", 10), login("s", "ben", 30), login("s", "anna", 50)])
        insert_events(connection, [event(f"e{minute}", minute, session_id="s") for minute in (0, 20, 40, 60)])
        insert_events(connection, [event("named", 5, user_id="ben"), event("other", 5, session_id="t")])
        insert_exposures(connection, [exposure("r20", 20, session_id="s"), exposure("r40", 40, session_id="s")])
        insert_renders(
            connection, [render("r20", 21), render("r40", 41, user_id="anna"), render("unknown", 45, session_id="s")]
        )
        insert_verdicts(
            connection,
            [
                verdict("e20", {}),
                verdict(None, {"session_id": "s"}),
                verdict(None, {"user_id": "ben", "session_id": "s"}),
            ],
        )
    anna, ben = footprint(engine, "anna"), footprint(engine, "ben")
    assert [row["event_id"] for row in anna.rows["events"]] == ["e0", "e20", "e60"]
    assert [row["event_id"] for row in ben.rows["events"]] == ["e40", "named"]
    assert [row["request_id"] for row in anna.rows["exposures"]] == ["r20"]
    assert [row["request_id"] for row in anna.rows["renders"]] == ["r20", "r40"]
    assert [row["request_id"] for row in ben.rows["renders"]] == ["r40", "unknown"]
    assert (len(anna.rows["merges"]), len(ben.rows["merges"])) == (2, 1)
    assert [row["event_id"] for row in anna.rows["verdicts"]] == ["e20", None] and len(ben.rows["verdicts"]) == 2
    assert [row["event_id"] for row in footprint(engine, "anna", NOON + timedelta(minutes=20)).rows["events"]] == [
        "e0",
        "e20",
    ]
    assert not any(footprint(engine, "carla").rows.values()) and users_of(engine) == ["anna", "ben"]


def test_the_log_goes_on_where_it_was_after_the_latest_rows_are_deleted(engine: Engine, tmp_path: Path) -> None:
    with writing(engine) as connection:
        insert_events(
            connection,
            [event("a", user_id="ben"), event("b", user_id="anna"), event("c", user_id="anna", session_id="s")],
        )
        insert_exposures(connection, [exposure("r", user_id="anna")])
        insert_renders(connection, [render("r")])
    assert export_log(engine, tmp_path / "log") == {"events": 3, "exposures": 1, "renders": 1, "merges": 1}
    before = watermark(engine, EVENTS)
    delete_rows(engine, numbers(footprint(engine, "anna")))
    assert watermark(engine, EVENTS) == before
    assert [count(engine, table) for table in (EVENTS, EXPOSURES, RENDERS, MERGES)] == [1, 0, 0, 0]
    assert export_log(engine, tmp_path / "log") == {"events": 0, "exposures": 0, "renders": 0, "merges": 0}
    with writing(engine) as connection:
        insert_events(connection, [event("d", user_id="anna")])
    assert export_log(engine, tmp_path / "log")["events"] == 1
    filed = [name for path in partitions(tmp_path / "log", "events") for name in pl.read_parquet(path)["event_id"]]
    assert filed == ["a", "b", "c", "d"]


def test_sqlite_keeps_no_deleted_byte(tmp_path: Path) -> None:
    engine = open_database(database.database_url(tmp_path))
    migrate.upgrade(engine)
    with writing(engine) as connection:
        insert_events(connection, [event(f"e{n}", user_id="anna-who-goes" if n % 2 else "ben") for n in range(200)])
    assert any(b"anna-who-goes" in path.read_bytes() for path in tmp_path.glob("recsys.db*"))
    delete_rows(engine, numbers(footprint(engine, "anna-who-goes")))
    assert count(engine, EVENTS) == 100
    assert not any(b"anna-who-goes" in path.read_bytes() for path in tmp_path.glob("recsys.db*"))
    engine.dispose()


@pytest.mark.parametrize(
    ("body", "is_theirs"),
    [
        ({"user_id": "anna"}, True),
        ({"user_id": 'say "hi"\\'}, False),
        ({"user_id": "anna2"}, False),
        ({"item_id": "anna"}, False),
        ({"session_id": "s"}, True),
        ({"session_id": "s", "user_id": "ben"}, False),
        ({"name": "view_item", "client_id": "5.7", "params": {"session_id": 9}}, True),
        ({"name": "view_item", "client_id": "5.8", "params": {"session_id": 9}}, False),
        ([{"name": "x", "user_id": "anna"}], True),
    ],
)
def test_whose_an_event_is_as_it_came_in(body: Any, is_theirs: bool) -> None:
    assert speaks_of(orjson.dumps(body).decode(), "anna", ["s", "5.7.9"]) is is_theirs
    assert speaks_of('{"user_id":"anna","name":"cut o', "anna", [])
    assert speaks_of('{"user_id":900}', "900", []) and speaks_of(
        orjson.dumps({"user_id": 'é "q"'}).decode(), 'é "q"', []
    )


DAY = 24 * 60


@pytest.fixture
def years(engine: Engine) -> Engine:
    """Events and answers of 0, 10, 100 and 1,000 days ago, of anna's session `s` and of `t`, which is nobody's."""
    with writing(engine) as connection:
        insert_merges(connection, [login("s", "anna", -1_000 * DAY), login("gone", "ben", -1_000 * DAY)])
        for days in (0, 10, 100, 1_000):
            for session in ("s", "t"):
                name, minute = f"{session}{days}", -days * DAY
                insert_events(connection, [event(name, minute, session_id=session)])
                insert_exposures(connection, [exposure(name, minute, session_id=session)])
                insert_renders(connection, [render(name, minute, session_id=session)])
        insert_verdicts(
            connection, [{**verdict(None, {}), "at": NOON - timedelta(days=days)} for days in (0, 29, 30, 31)]
        )
    return engine


def kept(engine: Engine, table: Any, key: str) -> set[str]:
    with reading(engine) as connection:
        return set(connection.execute(select(table.c[key])).scalars())


def test_rows_are_kept_for_so_long_and_no_longer(years: Engine, tmp_path: Path) -> None:
    export_log(years, tmp_path)
    periods = Periods(events=365, exposures=50, sessions=7, replays=5, verdicts=30)
    removed = retain(years, periods, NOON)
    assert removed == {"events": 4, "exposures": 5, "renders": 5, "merges": 1, "verdicts": 1, "replays": 1}
    assert kept(years, EVENTS, "event_id") == {"s0", "s10", "s100", "t0"}
    assert kept(years, EXPOSURES, "request_id") == kept(years, RENDERS, "request_id") == {"s0", "s10", "t0"}
    assert kept(years, MERGES, "session_id") == {"s"} and count(years, VERDICTS) == 3
    with reading(years) as connection:
        asked = {row.request_id: row.request for row in connection.execute(select(EXPOSURES))}
    assert asked == {"s0": {"k": 1, "cart": ["i"]}, "t0": {"k": 1, "cart": ["i"]}, "s10": {"expired": True}}
    assert set(retain(years, periods, NOON).values()) == {0}


def test_a_day_later_a_day_more_is_over(years: Engine) -> None:
    periods = Periods(events=10, verdicts=30)
    assert retain(years, periods, NOON)["events"] == 4  # the tenth day is kept whole
    assert retain(years, periods, NOON + timedelta(hours=11))["events"] == 0
    assert retain(years, periods, NOON + timedelta(hours=12))["events"] == 2
    assert set(retain(years, Periods(), NOON + timedelta(days=10_000)).values()) == {0}


def test_files_keep_what_the_database_keeps(tmp_path: Path, years: Engine) -> None:
    log = tmp_path / "log"
    export_log(years, log)
    periods = Periods(events=365, exposures=50, sessions=7, replays=5, verdicts=30)
    removed = retain_files(tmp_path, periods, NOON.astimezone())
    retain(years, periods, NOON)

    def filed(kind: str) -> pl.DataFrame:
        return pl.concat([pl.read_parquet(path) for path in partitions(log, kind)])

    assert set(filed("events")["event_id"]) == kept(years, EVENTS, "event_id")
    assert filed("merges")["session_id"].to_list() == ["s"]
    assert set(filed("exposures")["request_id"]) == kept(years, EXPOSURES, "request_id")
    requests = dict(filed("exposures").select("request_id", "request").rows())
    assert requests["s10"] == '{"expired":true}' and orjson.loads(requests["s0"]) == {"k": 1, "cart": ["i"]}
    assert removed == {"log/events": 4, "log/merges": 1, "log/exposures": 5, "log/renders": 5, "log/replays": 1}
    assert set(retain_files(tmp_path, periods, NOON.astimezone()).values()) == {0}
    assert export_log(years, log) == {"events": 0, "exposures": 0, "renders": 0, "merges": 0}
