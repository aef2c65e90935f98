"""From exposures, renders and events in the database to outcomes, daily figures and an experiment's units, counted by hand."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
from rich.console import Console

from pipelines.ingest import ingest, ingest_log
from pipelines.run import build_tables
from recsys.store.database import database_url, open_database, writing
from recsys.store.migrate import upgrade
from recsys.store.schema import EXPOSURES
from recsys.store.writing import insert_events, insert_new, insert_renders

QUIET = Console(quiet=True)
NOON = datetime(2026, 6, 10, 12)
MAPPING = """
[shop]
name = "Corner shop"
attribution = { click = 600, purchase = 3600, return = 86400 }

[[events]]
source = "tills"
files = "tills.csv"
event_type = "purchase"

[events.columns]
event_id = "id"
user_id = "user"
item_id = "item"
order_id = "order"
unit_price = "price"
timestamp = "at"
"""
TILLS = "id,user,item,order,price,at\nt1,ann,tea,o1,2.00,2026-06-01 09:00\nt2,bob,tea,o2,2.00,2026-04-01 09:00\n"


def minutes(number: float) -> datetime:
    return NOON + timedelta(minutes=number)


def exposure(request_id: str, minute: float, *items: str, arm: str = "", **fields: Any) -> dict[str, Any]:
    user = fields.pop("user_id", "ann")
    empty = dict.fromkeys(("session_id", "page_id", "widget", "rules", "plan", "moved_by", "shown_before"))
    return {
        **empty,
        "request_id": request_id,
        "occurred_at": minutes(minute),
        "user_id": user,
        "surface": "home",
        "served_by": "phase1",
        "model_version": "v",
        "phase": 1,
        "degraded": False,
        "arms": {"phases.v1": [arm, f"user:{user}"]} if arm else {},
        "seconds": 0.002,
        "items": [[item, "als", 0.5] for item in items],
        "request": {"k": len(items)},
        **fields,
    }


def event(event_id: str, minute: float, type_: str, item: str, **fields: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("price_cents", "order_id", "request_id", "surface", "region", "session_id"))
    given = {"event_id": event_id, "type": type_, "item_id": item, "user_id": "ann", "quantity": 1, "origin": "api"}
    return {**empty, **given, "occurred_at": minutes(minute), "received_at": minutes(minute), **fields}


def render(request_id: str, items: Sequence[str] | None = None) -> dict[str, Any]:
    at = {"rendered_at": NOON, "received_at": NOON, "user_id": None, "session_id": None}
    return {"request_id": request_id, "items": None if items is None else list(items), **at}


Tables = dict[str, pl.DataFrame]


def built(
    folder: Path, exposures: list[dict[str, Any]], renders: list[dict[str, Any]], events: list[dict[str, Any]]
) -> Tables:
    (folder / "shop.toml").write_text(MAPPING)
    (folder / "tills.csv").write_text(TILLS)
    data = folder / "data"
    engine = open_database(database_url(data))
    upgrade(engine)
    with writing(engine) as connection:
        insert_new(connection, EXPOSURES, "request_id", exposures)
        insert_renders(connection, renders)
        insert_events(connection, events)
    engine.dispose()
    ingest(folder / "shop.toml", data, QUIET)
    ingest_log(database_url(data), data, QUIET)
    build_tables(data, QUIET, as_of=NOON + timedelta(days=1))
    names = ("interactions", "exposures", "assignments", "outcomes", "surface_days", "experiment_units")
    return {name: pl.read_parquet(data / "tables" / f"{name}.parquet") for name in names}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    exposures = [
        exposure("r1", 0, "tea", "jam", "rye", arm="one"),
        exposure("r2", 1, "tea", "jam", arm="one"),
        exposure("r3", 2, "tea", arm="one"),  # never rendered
        exposure("r4", 3, "jam", arm="one", degraded=True),
        exposure("r5", 0, "jam", user_id="bob", arm="two"),
        exposure("r6", 0, "jam", user_id="eve"),  # in no experiment
    ]
    renders = [render("r1", ["tea", "jam"]), render("r2"), render("r4"), render("r5"), render("r6"), render("nobody's")]
    events = [
        event("click", 4, "click", "tea", request_id="r1"),  # named, though r2 showed it later
        event("late", 20, "click", "tea", request_id="r1"),  # after ten minutes
        event("before", -10, "click", "tea", request_id="r2"),  # ten minutes before what it names
        event("skewed", -1, "click", "jam", user_id="bob", request_id="r5"),  # a clock that is a minute slow
        event("last touch", 5, "cart", "jam"),  # last seen in r4, degraded
        event("unseen", 5, "click", "rye"),  # in r1, but not in its render
        event("buy 1", 30, "purchase", "tea", order_id="o3", price_cents=250, quantity=2),
        event("buy 2", 30, "purchase", "jam", order_id="o3", price_cents=400),  # from r4, degraded
        event("buy 3", 30, "purchase", "oil", order_id="o4", price_cents=999),  # never shown
        event("back", 50, "return", "tea"),
        event("hide", 6, "hide", "jam", user_id="bob"),
    ]
    return built(tmp_path_factory.mktemp("marts"), exposures, renders, events)


def test_what_a_client_confirms_is_seen_and_nothing_else(tables: Tables) -> None:
    seen = tables["exposures"].filter("is_seen").select("request_id", "item_id").rows()
    assert sorted(seen) == [
        ("r1", "jam"),
        ("r1", "tea"),
        ("r2", "jam"),
        ("r2", "tea"),
        ("r4", "jam"),
        ("r5", "jam"),
        ("r6", "jam"),
    ]
    assert set(tables["exposures"]["propensity"]) == {0.5}


def test_an_outcome_belongs_to_what_it_names_else_to_the_last_touch_in_time(tables: Tables) -> None:
    rows = tables["outcomes"].select("event_id", "request_id", "position", "is_named").rows()
    assert sorted(rows) == [
        ("back", "r2", 1, False),
        ("buy 1", "r2", 1, False),
        ("buy 2", "r4", 1, False),
        ("click", "r1", 1, True),
        ("hide", "r5", 1, False),
        ("last touch", "r4", 1, False),
        ("skewed", "r5", 1, True),
    ]
    bought = tables["outcomes"].filter(event_id="buy 1")
    assert bought["revenue_cents"].to_list() == [250]  # two were bought, one came back
    assert bought["seconds_since"].to_list() == [29 * 60]


def test_outcomes_that_cannot_be_credited_are_counted(tmp_path: Path) -> None:
    early = event("early", -10, "click", "tea", request_id="r1")
    unmatched = event("unmatched", 1, "click", "tea", request_id="nobody's")
    built(tmp_path, [exposure("r1", 0, "tea")], [render("r1")], [early, unmatched, event("fine", 1, "click", "tea")])
    summary = orjson.loads((tmp_path / "data" / "tables" / "summary.json").read_bytes())
    assert summary["outcomes"] == {"credited": 2, "early": 1, "unmatched": 1}


def test_the_days_of_a_surface_by_arm(tables: Tables) -> None:
    days = {(row["experiment"], row["arm"]): row for row in tables["surface_days"].iter_rows(named=True)}
    assert set(days) == {("", ""), ("phases.v1", "one"), ("phases.v1", "two")}
    one = days["phases.v1", "one"]
    assert {name: one[name] for name in ("answers", "degraded_answers", "seen_answers", "exposures", "clicks")} == {
        "answers": 4,
        "degraded_answers": 1,
        "seen_answers": 2,
        "exposures": 4,  # two of r1, two of r2
        "clicks": 1,
    }
    assert (one["ctr"], one["carts"], one["orders"], one["revenue_cents"], one["returns"]) == (0.25, 0, 1, 250, 1)
    assert (one["conversion"], one["order_value_cents"]) == (0.5, 250.0)
    two = days["phases.v1", "two"]
    assert (two["exposures"], two["clicks"], two["hides"], two["orders"], two["order_value_cents"]) == (
        1,
        1,
        1,
        0,
        None,
    )
    assert days["", ""]["exposures"] == 6 and days["", ""]["answers"] == 6


def test_the_units_of_an_experiment_with_their_totals_and_their_past(tables: Tables) -> None:
    units = {row["unit"]: row for row in tables["experiment_units"].iter_rows(named=True)}
    assert set(units) == {"user:ann", "user:bob"}
    ann = units["user:ann"]
    assert (ann["arm"], ann["exposures"], ann["clicks"], ann["orders"], ann["revenue_cents"]) == ("one", 4, 1, 1, 250)
    assert (ann["total_orders"], ann["total_revenue_cents"]) == (2, 250 + 400 + 999)
    assert (ann["answers"], ann["errors"], ann["latency_ms"]) == (4, 1, pytest.approx(8.0))
    assert (ann["pre_total_orders"], ann["pre_total_revenue_cents"]) == (1, 200)
    assert (units["user:bob"]["pre_total_orders"], units["user:bob"]["total_orders"]) == (
        0,
        0,
    )  # ten weeks ago is too long


def test_a_return_belongs_to_its_purchases_answer_and_the_order_stays_an_order(tmp_path: Path) -> None:
    shown = [exposure("bought", 0, "tea", arm="one"), exposure("seen again", 20, "tea", arm="one")]
    events = [
        event("buy", 5, "purchase", "tea", order_id="o1", price_cents=300),
        event("back", 30, "return", "tea"),
        event("of something older", 31, "return", "jam"),
    ]
    tables = built(tmp_path, shown, [render("bought"), render("seen again")], events)
    rows = tables["outcomes"].select("event_id", "request_id", "revenue_cents", "order_id").rows()
    assert sorted(rows) == [("back", "bought", 0, "o1"), ("buy", "bought", 0, "o1")]
    (unit,) = tables["experiment_units"].iter_rows(named=True)
    assert (unit["orders"], unit["returns"], unit["revenue_cents"]) == (1, 1, 0)


def test_who_clicks_nearly_everything_is_no_unit(tmp_path: Path) -> None:
    items = [f"i{n}" for n in range(12)]
    shown = [exposure(f"r-{user}", 0, *items, user_id=user, arm="one") for user in ("ann", "bot")]
    clicks = [
        event(f"{user}-{n}", 1 + n / 60, "click", items[n], user_id=user, request_id=f"r-{user}")
        for user, most in (("ann", 3), ("bot", 4))
        for n in range(most)
    ]
    units = built(tmp_path, shown, [render(f"r-{user}") for user in ("ann", "bot")], clicks)["experiment_units"]
    assert units["unit"].to_list() == ["user:ann"]


def test_what_is_bought_when_an_experiment_is_over_is_none_of_its_revenue(tmp_path: Path) -> None:
    until_midnight = 11 * 60 + 59
    events = [
        event("within", until_midnight, "purchase", "oil", order_id="o5", price_cents=100),
        event("after", until_midnight + 2, "purchase", "oil", order_id="o6", price_cents=900),
    ]
    units = built(tmp_path, [exposure("r1", 0, "tea", arm="one")], [render("r1")], events)["experiment_units"]
    assert units.select("total_orders", "total_revenue_cents").rows() == [(1, 100)]


def test_an_item_seen_three_times_and_never_touched_is_an_ignored_repeat(tmp_path: Path) -> None:
    shown = [exposure(f"r{n}", n, "tea", "jam") for n in range(5)]
    touched = event("click", 2.5, "click", "jam")
    days = built(tmp_path, shown, [render(f"r{n}") for n in range(5)], [touched])["surface_days"]
    assert days["ignored_repeats"].to_list() == [2]  # tea in r3 and r4; jam was clicked before


def test_a_shop_without_answers_has_empty_marts(tmp_path: Path) -> None:
    assert all(len(frame) == 0 for name, frame in built(tmp_path, [], [], []).items() if name != "interactions")


def test_whatever_a_shopper_is_called_what_was_accepted_is_theirs(tmp_path: Path) -> None:
    names = ("900", "0", "nan", "NULL")
    events = [event(f"of {name}", 0, "purchase", "tea", user_id=name) for name in names]
    back = event(
        "back", 1, "return", "tea", user_id=None, session_id="900"
    )  # somebody else, of a session that is called so
    found = built(tmp_path, [], [], [*events, back])["interactions"].filter(pl.col("event_id").str.starts_with("of "))
    assert sorted(found.select("event_id", "user_id").rows()) == sorted((f"of {name}", name) for name in names)


def test_a_touch_is_of_the_same_shopper_and_before_the_event(tmp_path: Path) -> None:
    visit: dict[str, Any] = {"user_id": None, "session_id": "s1"}
    exposures = [
        exposure("before", 0, "tea", arm="one"),
        exposure("after", 3, "tea", arm="two"),  # the page that was open when the click was on its way
        exposure("anonymous", 5, "jam", **visit),
        exposure("bob's", 10, "rye", user_id="bob", session_id="s1"),
    ]
    events = [
        event("click", 2, "click", "tea"),
        event("too early", -1, "click", "tea"),
        event("login", 6, "view", "oil", session_id="s1"),
        event("elsewhere", 7, "click", "jam"),  # ann on her phone: the visit was hers
        event("bob logs in", 8, "view", "oil", user_id="bob", session_id="s1"),
        event("not his", 9, "click", "jam", user_id="bob", session_id="s1"),
        event("not hers", 11, "click", "rye", session_id="s1"),
    ]
    outcomes = built(tmp_path, exposures, [render(one["request_id"]) for one in exposures], events)["outcomes"]
    assert sorted(outcomes.select("event_id", "request_id").rows()) == [("click", "before"), ("elsewhere", "anonymous")]
