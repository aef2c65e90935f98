"""`pipelines.log_partitions`: new rows become files, and a run that is broken off neither loses nor doubles any."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from sqlalchemy import Engine

from pipelines import log_partitions
from pipelines.log_partitions import export_log, partitions
from recsys.errors import UserError
from recsys.store.database import database_url, open_database, writing
from recsys.store.migrate import upgrade
from recsys.store.writing import insert_events, insert_renders

NIGHT = datetime(2026, 11, 25, 23, 59)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    opened = open_database(database_url(tmp_path))
    upgrade(opened)
    yield opened
    opened.dispose()


def add(engine: Engine, *minutes: int) -> None:
    """Events so many minutes after one before midnight, named by them."""
    names = ("user_id", "price_cents", "order_id", "request_id", "surface", "region")
    rows = [
        {
            **dict.fromkeys(names),
            **{
                "event_id": f"e{n}",
                "type": "view",
                "item_id": "i",
                "session_id": f"s{n}",
                "quantity": 1,
                "origin": "api",
            },
            **dict.fromkeys(("occurred_at", "received_at"), NIGHT + timedelta(minutes=n)),
        }
        for n in minutes
    ]
    with writing(engine) as connection:
        insert_events(connection, rows)


def read(folder: Path) -> list[str]:
    return [
        event_id for path in partitions(folder, "events") for event_id in pl.read_parquet(path)["event_id"].to_list()
    ]


def names(folder: Path) -> list[str]:
    return [str(path.relative_to(folder / "events")) for path in partitions(folder, "events")]


def test_rows_are_filed_by_day_and_only_new_ones_are_added(engine: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "log"
    assert export_log(engine, folder) == {"events": 0, "exposures": 0, "renders": 0, "merges": 0}
    add(engine, 0, 1, 2)
    assert export_log(engine, folder)["events"] == 3
    first = ["date=2026-11-25/part-1-3.parquet", "date=2026-11-26/part-1-3.parquet"]
    assert names(folder) == first
    written = [path.stat().st_mtime_ns for path in partitions(folder, "events")]
    add(engine, 2, 3)  # the first is known
    assert export_log(engine, folder)["events"] == 1
    assert sorted(read(folder)) == ["e0", "e1", "e2", "e3"] and set(first) < set(names(folder))
    assert [(folder / "events" / name).stat().st_mtime_ns for name in first] == written
    assert export_log(engine, folder)["events"] == 0


@pytest.mark.parametrize("survives", [0, 1, 2, 3])
def test_a_run_that_is_broken_off_loses_and_doubles_nothing(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survives: int
) -> None:
    """It dies at the n-th rename: of the first day's file, the second day's, the mark, or of what comes after."""
    folder = tmp_path / "log"
    add(engine, 0)
    export_log(engine, folder)
    add(engine, 0, 1, 2)
    renames: list[Path] = []
    real = Path.replace

    def dying(self: Path, target: Any) -> Path:
        if len(renames) == survives:
            raise KeyboardInterrupt
        renames.append(self)
        return real(self, target)

    monkeypatch.setattr(log_partitions, "FILE_ROWS", 1)
    monkeypatch.setattr("recsys.store.reading.CHUNK", 1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", dying)
        export_log(engine, folder)
    add(engine, 3)
    export_log(engine, folder)
    assert sorted(read(folder)) == ["e0", "e1", "e2", "e3"]
    assert list(folder.rglob("*.tmp")) == []


def test_another_database_is_noticed(engine: Engine, tmp_path: Path) -> None:
    add(engine, 0, 1)
    export_log(engine, tmp_path / "log")
    other = open_database(database_url(tmp_path / "other"))
    upgrade(other)
    with pytest.raises(UserError, match="another one"):
        export_log(other, tmp_path / "log")
    other.dispose()


def test_json_stays_text(engine: Engine, tmp_path: Path) -> None:
    with writing(engine) as connection:
        row = {"request_id": "r", "rendered_at": NIGHT, "received_at": NIGHT, "user_id": None, "session_id": None}
        insert_renders(connection, [{**row, "items": ["a", "b"]}, {**row, "request_id": "q", "items": None}])
    export_log(engine, tmp_path / "log")
    frame = pl.read_parquet(partitions(tmp_path / "log", "renders")[0])
    assert frame.select("request_id", "items").rows() == [("r", '["a","b"]'), ("q", None)]
    assert frame.schema["rendered_at"] == pl.Datetime("us")
