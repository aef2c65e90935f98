"""Deletion and the chain: exports, tables, training and the receipt, on the command line; and deletions that are killed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
import redis
from rich.console import Console

from pipelines.ingest import ingest, ingest_log
from pipelines.log_partitions import partitions
from pipelines.run import build_tables
from recsys import cli
from recsys.bundle import load_bundle
from recsys.store.database import database_url, opened, writing
from recsys.store.migrate import upgrade
from recsys.store.writing import insert_events, insert_exposures, insert_merges, insert_renders, insert_verdicts
from recsys.tables import TABLES
from service.embedded_redis import embedded_redis

QUIET = Console(quiet=True)
MAPPING = """
[shop]
name = "Corner shop"

[[events]]
source = "orders"
files = "orders.csv"
event_type = "purchase"

[events.columns]
user_id = "user"
order_id = "order"
item_id = "item"
timestamp = "at"

[users]
files = "users.csv"
user_id = "user"
attributes = ["town"]
"""
NOON = datetime(2026, 11, 25, 12)
DIES = """
import os, signal, sys
left, real = int(sys.argv.pop(1)), os.fsync
def fsync(descriptor):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(descriptor)
os.fsync = fsync
from recsys.cli import main
main()
"""


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """What a command prints, which must succeed."""
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["recsys", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert ended.value.code in (0, None)
    return capsys.readouterr().out


def write_exports(folder: Path, weeks: int) -> None:
    """Forty shoppers who each have ten favourites, and where they live."""
    rng, lines = random.Random(0), ["user,order,item,at"]
    for week in range(weeks):
        for user in range(40):
            day = date(2023, 1, 2) + timedelta(days=week * 7 + user % 7)
            for n in range(3):
                item = (user % 4) * 10 + rng.randrange(10) if rng.random() < 0.8 else rng.randrange(40)
                lines.append(f"u{user},o{week}-{user},i{item},{day.isoformat()}T{10 + n}:00:00")
    (folder / "orders.csv").write_text("\n".join(lines) + "\n")
    (folder / "users.csv").write_text("user,town\n" + "".join(f"u{user},town{user % 2}\n" for user in range(40)))
    (folder / "shop.toml").write_text(MAPPING)


def names(data: Path, table: str) -> set[str]:
    return set(pl.read_parquet(data / "tables" / f"{table}.parquet")["user_id"].drop_nulls())


def test_the_next_training_leaves_a_deleted_shopper_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    write_exports(tmp_path, 30)
    chain = (
        ("ingest", "--mapping", tmp_path / "shop.toml"),
        ("tables",),
        ("train", "--phase", "1", "--search-seconds", "0", "--publish"),
    )
    for step in chain:
        run(capsys, *step, "--data-dir", data)
    (first,) = [path.name for path in (data / "bundles").glob("2*")]
    known = [orjson.loads(line) for line in run(capsys, "privacy", "export", "u7", "--data-dir", data).splitlines()]
    files = {line["file"] for line in known if line["kind"] == "row"}
    assert files == {"raw/orders.events.parquet", "raw/users.users.parquet", *(f"tables/{name}.parquet" for name in ("interactions", "users", "sessions", "baskets", "user_items"))}  # fmt: skip
    assert sum(line["kind"] == "known" for line in known) == 90 and known[0]["without"] == []

    receipt = orjson.loads(run(capsys, "privacy", "delete", "u7", "--data-dir", data))
    removed = receipt["removed"]
    assert (removed["raw/orders.events"], removed["raw/users.users"], removed["tables/interactions"]) == (90, 1, 90)
    # Each line, an hour after the one before, is a session of its own.
    assert (removed["tables/users"], removed["tables/sessions"]) == (1, 90) and "tables/item_days" not in removed
    assert receipt["pending"] == [] and receipt["bundles"] == [first] and receipt["first_model"] is None
    assert "u7" not in names(data, "interactions") | names(data, "users") | names(data, "user_items")

    for step in chain:  # the same export, unchanged
        run(capsys, *step, "--data-dir", data)
    second = max(path.name for path in (data / "bundles").glob("2*"))
    bundle = load_bundle(data / "bundles" / second)
    assert second != first and len(bundle.histories) == 39 and len(bundle.histories.of("u7")) == 0
    assert bundle.manifest["deletions"] == [receipt["receipt"]]
    after = orjson.loads(run(capsys, "privacy", "receipts", receipt["receipt"], "--data-dir", data))
    assert after["first_model"] == second

    write_exports(tmp_path, 31)  # a new export, which brings them again
    run(capsys, *chain[0], "--data-dir", data)
    raw = pl.read_parquet(data / "raw" / "orders.events.parquet")
    assert "u7" not in raw["user_id"].to_list() and len(raw) == 31 * 39 * 3
    run(capsys, "privacy", "lift", "u7", "--data-dir", data)
    run(capsys, *chain[0], "--data-dir", data)
    assert (pl.read_parquet(data / "raw" / "orders.events.parquet")["user_id"] == "u7").sum() == 93
    assert (pl.read_parquet(data / "raw" / "users.users.parquet")["user_id"] == "u7").sum() == 1


def live(data: Path, user: str) -> None:
    """Rows of a user in every table, and a history in Redis."""
    session, at = f"s-{user}", {"occurred_at": NOON, "received_at": NOON}
    empty = dict.fromkeys(("price_cents", "order_id", "request_id", "surface", "region", "user_id", "session_id"))
    event: dict[str, Any] = {**empty, **at, "type": "view", "item_id": "i1", "quantity": 1, "origin": "api"}
    shown = dict.fromkeys(
        ("user_id", "session_id", "page_id", "widget", "rules", "plan", "moved_by", "shown_before", "seconds")
    )
    answer = {**shown, "surface": "home", "served_by": "phase1", "model_version": "v", "phase": 1, "degraded": False}
    with opened(database_url(data)) as engine:
        upgrade(engine)
        with writing(engine) as connection:
            insert_events(connection, [{**event, "event_id": f"{user}-{n}", "session_id": session} for n in range(3)])
            insert_events(connection, [{**event, "event_id": f"{user}-9", "user_id": user}])
            arms = {"test": ["a", f"user:{user}"]}
            row = {**answer, "request_id": f"r-{user}", "occurred_at": NOON, "session_id": session, "arms": arms, "items": [["i1", "x", 1.0, None]], "request": {"k": 1}}  # fmt: skip
            insert_exposures(connection, [row])
            render = {"request_id": f"r-{user}", "rendered_at": NOON, "received_at": NOON, "items": None}
            insert_renders(connection, [{**render, "user_id": None, "session_id": None}])
            insert_merges(connection, [{"session_id": session, "user_id": user, "since": NOON + timedelta(hours=1)}])
            body = orjson.dumps({"user_id": user}).decode()
            insert_verdicts(
                connection, [{"at": NOON, "event_id": None, "verdict": "rejected", "reason": "x", "body": body}]
            )


@pytest.mark.slow
def test_a_deletion_that_is_killed_is_gone_on_with_and_counts_exactly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, points = tmp_path / "data", (0, 1, 4, 12, 22, 36)
    write_exports(tmp_path, 3)
    users = [f"u{n}" for n in range(len(points) + 1)]
    for user in users:
        live(data, user)
    ingest(tmp_path / "shop.toml", data, QUIET)
    ingest_log(database_url(data), data, QUIET)
    build_tables(data, QUIET)
    (filed,) = partitions(data / "log", "events")
    schema = pl.read_parquet_schema(filed)
    with embedded_redis(data / "redis") as url, redis.Redis.from_url(url) as store:
        for user in users:
            store.set(f"default:u:{user}", bytes(17 * 3))
            store.set(f"default:s:s-{user}", bytes(17 * 2))
            store.set(f"default:e:{user}-1", b"1")
        whole = orjson.loads(run(capsys, "privacy", "delete", users[-1], "--data-dir", data))
        # How many different items an order has is chance's.
        vague = {place: whole["removed"][place] for place in ("tables/baskets", "tables/user_items")}
        assert {place: count for place, count in whole["removed"].items() if count} == {
            "database/events": 4, "database/exposures": 1, "database/renders": 1, "database/merges": 1, "database/verdicts": 1,
            "redis/histories": 5, "redis/event_ids": 1,
            "log/events": 4, "log/exposures": 1, "log/renders": 1, "log/merges": 1,
            "raw/orders.events": 9, "raw/users.users": 1, "raw/event_log.events": 4, "raw/event_log.exposures": 1,
            "raw/event_log.renders": 1, "raw/event_log.arms": 1, "raw/event_log.merges": 1,
            "tables/interactions": 13, "tables/users": 1, "tables/sessions": 11, **vague,
            "tables/exposures": 1, "tables/assignments": 1,
            "tables/experiment_units": 1,
        }  # fmt: skip
        for user, point in zip(users, points, strict=False):
            command = [sys.executable, "-c", DIES, str(point), "privacy", "delete", user, "--data-dir", str(data)]
            assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGKILL
            run(capsys, "privacy", "resume", "--data-dir", data)
            if point == 0:  # nothing was written yet
                run(capsys, "privacy", "delete", user, "--data-dir", data)
        text = run(capsys, "privacy", "receipts", "--data-dir", data)
        receipts = orjson.loads("[" + text.replace("\n}\n{", "\n},\n{") + "]")
        assert len(receipts) == len(users) and all(receipt["pending"] == [] for receipt in receipts)
        for receipt in receipts:
            assert {**receipt["removed"], **vague} == whole["removed"]
        assert [key for key in store.scan_iter("default:*") if b":u:" in key or b":s:" in key] == []
    assert list((data / "privacy" / "orders").iterdir()) == []
    for path in (
        *(data / "raw").glob("*.parquet"),
        *(data / "tables").glob("*.parquet"),
        *partitions(data / "log", "events"),
    ):
        assert not [user for user in users if f"'{user}'" in str(pl.read_parquet(path).rows())], path
    assert pl.read_parquet_schema(filed) == schema
    # The log goes on where it was, and the next build counts what is left.
    live(data, "u99")
    ingest_log(database_url(data), data, QUIET)
    build_tables(data, QUIET)
    assert names(data, "interactions") == {*(f"u{n}" for n in range(len(users), 40)), "u99"}
    assert {table.name for table in TABLES} <= {path.stem for path in (data / "tables").glob("*.parquet")}
