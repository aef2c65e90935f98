"""Ingest and tables on files as messy as shops send them, with a real DuckDB."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from pathlib import Path

import orjson
import polars as pl
import pytest
from rich.console import Console

from pipelines.check import TableError, check_table
from pipelines.doctor import doctor, examine
from pipelines.ingest import connect, ingest, ingest_log
from pipelines.mapping import MappingError, read_mapping
from pipelines.propose import propose_mapping
from pipelines.run import RejectedShareError, build_tables
from recsys.content import attribute_values
from recsys.dataset import close_gaps
from recsys.errors import UserError
from recsys.store.database import database_url
from recsys.tables import INTERACTIONS, TABLES

QUIET = Console(quiet=True)
NOW = datetime(2024, 6, 1, tzinfo=UTC)

HEADER = "InvoiceNo;StockCode;Description;Quantity;InvoiceDate;UnitPrice;CustomerID;Country"
LINES = [
    "1001;A1;Käsebrett;2;03.05.2024 10:00;12,50;17850;Deutschland",
    "1001;A2;Teelicht;6;03.05.2024 10:00;0,85;17850;Deutschland",
    "1001;A2;Teelicht;6;03.05.2024 10:00;0,85;17850;Deutschland",  # sent twice
    "1002;A1;Käsebrett;1;04.05.2024 11:30;12,50;;Deutschland",  # nobody logged in
    "1003;A3;Vase;3;05.05.2024 09:00;1.199,00;17851;Österreich",
    "C1004;A3;Vase;-1;06.05.2024 09:00;1.199,00;17851;Österreich",  # one vase comes back
    "1005;A2;Teelicht;4;07.05.2024 09:00;0,85;17851;Österreich",
    "C1006;A2;Teelicht;-4;08.05.2024 09:00;0,85;17851;Österreich",  # all of them come back
    "1007;;Ohne Nummer;1;09.05.2024 09:00;1,00;17850;Deutschland",  # no item
    "1008;A1;Käsebrett;1;gestern;12,50;17850;Deutschland",  # no time
]


def shop(folder: Path, lines: list[str], name: str = "bestellungen.csv") -> Path:
    """An export in Latin-1 and the mapping proposed for it, unedited but for the share of rejects."""
    folder.mkdir(parents=True, exist_ok=True)
    export = folder / name
    export.write_text("\n".join([HEADER, *lines]) + "\n", encoding="cp1252")
    mapping = folder / "shop.toml"
    mapping.write_text(propose_mapping([export]).replace("= 0.2", "= 0.5"))
    return mapping


def built(folder: Path, mapping: Path, **options: int) -> dict[str, pl.DataFrame]:
    data = folder / "data"
    ingest(mapping, data, QUIET)
    build_tables(data, QUIET, as_of=NOW, **options)
    return {table.name: pl.read_parquet(data / "tables" / f"{table.name}.parquet") for table in TABLES}


def test_a_strangers_export_goes_through_its_proposed_mapping(tmp_path: Path) -> None:
    tables = built(tmp_path, shop(tmp_path, LINES))
    kept = tables["interactions"].select("order_id", "item_id", "quantity", "price_cents", "user_id", "session_id")
    assert sorted(kept.rows(), key=str) == sorted(
        [
            ("1001", "A1", 2, 1250, "17850", "17850@2024-05-03 10:00:00"),
            ("1001", "A2", 6, 85, "17850", "17850@2024-05-03 10:00:00"),
            ("1002", "A1", 1, 1250, None, "1002"),
            ("1003", "A3", 2, 119900, "17851", "17851@2024-05-05 09:00:00"),  # three bought, one came back
        ],
        key=str,
    )
    reasons = dict(tables["quarantine"].select("reason", pl.len().over("reason")).rows())
    assert reasons == {"no item": 1, "unreadable time": 1}
    assert tables["items"].filter(item_id="A1")["title"].to_list() == ["Käsebrett"]
    summary = orjson.loads((tmp_path / "data" / "tables" / "summary.json").read_bytes())
    assert (summary["rows"], summary["duplicates"], summary["returns"], summary["returned"]) == (10, 1, 2, 1)


def test_baskets_and_days_add_up(tmp_path: Path) -> None:
    tables = built(tmp_path, shop(tmp_path, LINES))
    sold = tables["interactions"].select((pl.col("quantity") * pl.col("price_cents")).sum()).item()
    assert tables["baskets"]["revenue_cents"].sum() == tables["item_days"]["revenue_cents"].sum() == sold
    assert tables["sessions"]["revenue_cents"].sum() == sold
    assert tables["user_items"]["purchases"].sum() == 3


def test_the_same_lines_shuffled_and_sent_three_times_give_the_same_bytes(tmp_path: Path) -> None:
    rng = random.Random(7)
    lines = LINES + [
        f"{2000 + n % 900};B{rng.randrange(60)};Ding;{rng.randrange(1, 5)};{rng.randrange(1, 28):02}.04.2024 "
        f"{rng.randrange(24):02}:{rng.randrange(60):02};{rng.randrange(1, 99)},50;{rng.randrange(200) or ''};Deutschland"
        for n in range(3_000)
    ]
    tripled = lines * 3
    rng.shuffle(tripled)
    once, thrice = tmp_path / "once", tmp_path / "thrice"
    built(once, shop(once, lines), threads=1)
    built(thrice, shop(thrice, tripled), threads=4)
    for table in TABLES:
        first, second = (folder / "data" / "tables" / f"{table.name}.parquet" for folder in (once, thrice))
        assert first.read_bytes() == second.read_bytes(), table.name


def test_nothing_is_done_twice(tmp_path: Path) -> None:
    mapping = shop(tmp_path, LINES)
    built(tmp_path, mapping)
    stamp = (tmp_path / "data" / "tables" / "interactions.parquet").stat().st_mtime_ns
    built(tmp_path, mapping)
    assert (tmp_path / "data" / "tables" / "interactions.parquet").stat().st_mtime_ns == stamp


def test_too_many_rejects_stop_the_run_and_leave_the_old_tables(tmp_path: Path) -> None:
    mapping = shop(tmp_path, LINES)
    before = built(tmp_path, mapping)["interactions"]
    shop(tmp_path, LINES + [f"{n};A1;Käsebrett;1;nie;1,00;1;X" for n in range(50)])
    ingest(mapping, tmp_path / "data", QUIET)
    with pytest.raises(RejectedShareError, match=r"52 of 60 lines cannot be used.*\n.*51 x unreadable time"):
        build_tables(tmp_path / "data", QUIET, as_of=NOW)
    assert pl.read_parquet(tmp_path / "data" / "tables" / "interactions.parquet").equals(before)


def test_times_follow_the_zone_of_the_mapping(tmp_path: Path) -> None:
    mapping = shop(tmp_path, LINES[:1])
    mapping.write_text(mapping.read_text().replace('"UTC"', '"Europe/Berlin"'))
    assert built(tmp_path, mapping)["interactions"]["occurred_at"].to_list() == [datetime(2024, 5, 3, 8, 0)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_encodings_line_ends_and_quoted_newlines(tmp_path: Path, encoding: str) -> None:
    text = 'order_id,user_id,product_id,name,price,date\r\no1,17850.0,1,"Käse\r\n""alt""","1,200.50",2024-05-01 10:00:00\r\n'
    (tmp_path / "orders.csv").write_bytes(text.encode(encoding))
    mapping = tmp_path / "shop.toml"
    mapping.write_text(propose_mapping([tmp_path / "orders.csv"]))
    tables = built(tmp_path, mapping)
    assert tables["interactions"].select("user_id", "item_id", "price_cents").rows() == [("17850", "1", 120_050)]
    assert tables["items"]["title"].to_list() == ['Käse\r\n"alt"']


def test_a_clickstream_with_a_catalogue(tmp_path: Path) -> None:
    (tmp_path / "clicks.csv").write_text(
        "event_time,event_type,product_id,user_id,user_session,price\n"
        "2024-05-01 10:00:00 UTC,view,1,7,s1,9.99\n"
        "2024-05-01 10:01:00 UTC,cart,1,7,s1,9.99\n"
        "2024-05-01 10:02:00 UTC,purchase,1,7,s1,9.99\n"
        "2024-05-01 10:03:00 UTC,view,2,,s2,5\n"
        "2024-05-01 10:04:00 UTC,teleport,2,8,s3,5\n".replace(" UTC", "+00:00")
    )
    (tmp_path / "products.csv").write_text(
        "product_id,name,category,brand,price,in_stock\n1,Lamp,Home,Acme,9.99,1\n3,Chair,Home,,49,0\n"
    )
    mapping = tmp_path / "shop.toml"
    mapping.write_text(propose_mapping([tmp_path / "clicks.csv", tmp_path / "products.csv"]))
    tables = built(tmp_path, mapping)
    assert tables["interactions"]["event_type"].to_list() == ["view", "cart", "purchase", "view"]
    assert tables["interactions"]["weight"].to_list() == [1.0, 3.0, 5.0, 1.0]
    assert tables["quarantine"]["reason"].to_list() == ["unknown event type"]
    items = {row["item_id"]: row for row in tables["items"].iter_rows(named=True)}
    assert (items["1"]["title"], items["1"]["price_cents"], items["1"]["available"]) == ("Lamp", 999, True)
    assert items["3"]["available"] is False
    assert items["2"]["available"] is False  # clicked, but not in the catalogue


def test_the_log_of_older_versions_comes_back_in(tmp_path: Path) -> None:
    data = tmp_path / "data"
    ingest(shop(tmp_path, LINES), data, QUIET)
    event = {
        "kind": "event",
        "event_id": "e1",
        "type": "cart",
        "item_id": "A1",
        "user_id": "17850",
        "session_id": "s9",
        "occurred_at": "2024-05-20T10:00:00.5+00:00",
        "received_at": "2024-05-20T10:00:01+00:00",
        "quantity": 1,
        "price_cents": 1250,
        "request_id": "r1",
        "surface": "home",
    }
    exposure = {
        "kind": "exposure",
        "request_id": "r1",
        "occurred_at": "2024-05-20T09:59:00+00:00",
        "surface": "home",
        "served_by": "phase1",
        "model_version": "v1",
        "degraded": False,
        "items": [["A1", "buy_again"], ["A2", "popularity"]],
    }
    (data / "log").mkdir()
    lines = [orjson.dumps(event), orjson.dumps(exposure), orjson.dumps(event), orjson.dumps(event)[:40]]
    (data / "log" / "events-20240520-1.jsonl").write_bytes(b"\n".join(lines))
    ingest_log(database_url(data), data, QUIET)
    summary = build_tables(data, QUIET, as_of=NOW)
    mine = pl.read_parquet(data / "tables" / "interactions.parquet").filter(source="event_log")
    assert mine.select("event_id", "price_cents", "request_id", "surface").rows() == [("e1", 1250, "r1", "home")]
    assert summary.log_until == datetime(2024, 5, 20, 10, 0, 1, tzinfo=UTC).timestamp()
    shown = pl.read_parquet(data / "tables" / "exposures.parquet")
    assert shown.select("item_id", "position", "source").rows() == [("A1", 1, "buy_again"), ("A2", 2, "popularity")]
    assert pl.read_parquet(data / "tables" / "quarantine.parquet").filter(source="event_log").is_empty()
    assert [path.name for path in (data / "log").glob("*.jsonl*")] == ["events-20240520-1.jsonl.imported"]


def test_one_directory_holds_one_shop(tmp_path: Path) -> None:
    mapping = shop(tmp_path, LINES)
    ingest(mapping, tmp_path / "data", QUIET)
    mapping.write_text(mapping.read_text().replace('name = "Bestellungen"', 'name = "Other"'))
    with pytest.raises(UserError, match="directory of its own"):
        ingest(mapping, tmp_path / "data", QUIET)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('item_id = "StockCode"\norder', 'item_id = "Nummer"\norder', "no column 'Nummer'"),
        ('format = "csv"', 'format = "xls"', "events.0.format"),
        ('time_zone = "UTC"', 'time_zone = "Mars"', "no time zone"),
        ("[shop]", "[shop]\ncolour = 1", "shop.colour"),
        ('encoding = "cp1252"', 'encoding = "klingon"', "unknown encoding"),
        ("bestellungen.csv", "nirgends.csv", "matches no file"),
        ("[shop]", "[shop", "is not TOML"),
    ],
)
def test_a_mapping_that_does_not_fit_says_what_to_do(tmp_path: Path, old: str, new: str, message: str) -> None:
    mapping = shop(tmp_path, LINES)
    text = mapping.read_text()
    if old.startswith("item_id"):
        old, new = 'item_id = "StockCode"', 'item_id = "Nummer"'
    assert old in text
    mapping.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        ingest(mapping, tmp_path / "data", QUIET)


@pytest.mark.parametrize("format_", ["jsonl", "parquet", "csv"])
def test_a_list_of_values_is_a_list_in_whichever_format_it_comes(tmp_path: Path, format_: str) -> None:
    products = pl.DataFrame({"sku": ["A1", "A2"], "tags": [["t0", "t, 1"], None], "organic": [True, False]})
    path = tmp_path / f"products.{format_}"
    if format_ == "jsonl":
        products.write_ndjson(path)
    elif format_ == "parquet":
        products.write_parquet(path)
    else:
        texts = products["tags"].map_elements(
            lambda tags: orjson.dumps(tags.to_list()).decode(), return_dtype=pl.String
        )
        products.with_columns(tags=texts).write_csv(path)
    (tmp_path / "orders.csv").write_text("user,sku,at\nu,A1,2024-05-01 10:00\n")
    (tmp_path / "shop.toml").write_text(f"""
        [shop]
        name = "Lists"
        [[events]]
        source = "orders"
        files = "orders.csv"
        event_type = "purchase"
        columns = {{ user_id = "user", item_id = "sku", timestamp = "at" }}
        [catalogue]
        files = "{path.name}"
        format = "{format_}"
        item_id = "sku"
        attributes = ["tags", "organic"]
    """)
    items = built(tmp_path, tmp_path / "shop.toml")["items"].sort("item_id")
    first, second = map(orjson.loads, items["attributes"])
    assert (attribute_values(first["tags"]), attribute_values(first["organic"])) == (["t0", "t, 1"], ["true"])
    assert (attribute_values(second["tags"]), attribute_values(second["organic"])) == ([], ["false"])


def test_a_missing_mapping_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match="--propose"):
        read_mapping(tmp_path / "shop.toml")


def test_nothing_can_be_proposed_for_files_without_events(tmp_path: Path) -> None:
    (tmp_path / "colours.csv").write_text("red,green\n1,2\n")
    with pytest.raises(UserError, match="no file looks like orders or clicks"):
        propose_mapping([tmp_path / "colours.csv"])


def test_a_table_that_breaks_its_declaration_is_refused(tmp_path: Path) -> None:
    built(tmp_path, shop(tmp_path, LINES))
    path = tmp_path / "data" / "tables" / "interactions.parquet"
    frame = pl.read_parquet(path)
    connection = connect()
    assert check_table(connection, INTERACTIONS, path) == 4
    pl.concat([frame, frame[:1]]).write_parquet(path)
    with pytest.raises(TableError, match="stand more than once"):
        check_table(connection, INTERACTIONS, path)
    frame.with_columns(item_id=pl.lit(None, pl.String)).write_parquet(path)
    with pytest.raises(TableError, match="nulls in item_id"):
        check_table(connection, INTERACTIONS, path)
    frame.drop("surface").write_parquet(path)
    with pytest.raises(TableError, match="declared are"):
        check_table(connection, INTERACTIONS, path)
    path.unlink()
    with pytest.raises(TableError, match="run `recsys tables`"):
        check_table(connection, INTERACTIONS, path)


def test_the_doctor_says_how_much_more_is_needed(tmp_path: Path) -> None:
    built(tmp_path, shop(tmp_path, LINES))
    findings = {finding.check.what: finding for finding in examine(tmp_path / "data")}
    assert findings["interactions"].measured == 4
    assert findings["interactions"].missing == 996


def test_the_doctor_counts_recent_days_as_models_see_them(tmp_path: Path) -> None:
    """A click eight months after the last order: the 240 days between them are one, as `close_gaps` has it."""
    ingest(shop(tmp_path, LINES), tmp_path / "data", QUIET)
    log = tmp_path / "data" / "log" / "events.jsonl"
    log.parent.mkdir()
    click = {"kind": "event", "event_id": "e", "quantity": 1, "type": "click", "item_id": "A1", "session_id": "s"}
    at = "2025-01-05T10:00:00+00:00"
    log.write_bytes(orjson.dumps({**click, "occurred_at": at, "received_at": at}) + b"\n")
    ingest_log(database_url(tmp_path / "data"), tmp_path / "data", QUIET)
    build_tables(tmp_path / "data", QUIET, as_of=datetime(2025, 2, 1, tzinfo=UTC))
    seconds = pl.read_parquet(tmp_path / "data" / "tables" / "interactions.parquet")["occurred_at"].sort().dt.epoch("s")
    closed = close_gaps(seconds.to_numpy())
    found = {finding.check.what: finding.measured for finding in examine(tmp_path / "data")}
    assert len(closed) == 5 and closed[-1] - closed[-2] == 86_400
    assert found["interactions in the last 30 days"] == (closed >= closed[-1] - 30 * 86_400).sum() == 5
    assert found["interactions in the last 7 days"] == (closed >= closed[-1] - 7 * 86_400).sum()


def test_the_doctor_does_not_say_that_models_are_silent(tmp_path: Path) -> None:
    built(tmp_path, shop(tmp_path, LINES))
    summary = str(doctor(tmp_path / "data").renderables[-1])
    assert "Below the threshold: " in summary and "from their own models" in summary
    assert "answered from popularity" not in summary
