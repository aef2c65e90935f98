"""`recsys.dataset`: what happens to times and prices between the tables and the models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from recsys.dataset import (
    _POLARS_TYPE,
    IDLE_DAYS,
    SECONDS_PER_DAY,
    Histories,
    PaidPrices,
    close_gaps,
    load_dataset,
    parse_day,
)
from recsys.evaluation.split import Window, split
from recsys.models.fit.item_facts import fit_facts
from recsys.tables import INTERACTIONS, ITEMS, USERS
from tests.factories import START, make_dataset


def test_a_click_years_after_an_import_does_not_age_the_import_or_empty_the_test_window() -> None:
    year = np.arange(parse_day("2017-01-01"), parse_day("2018-01-01"), SECONDS_PER_DAY)
    click = parse_day("2026-11-23")
    seconds = close_gaps(np.append(year, [click, click + 60]))
    assert seconds[:-2].tolist() == year.tolist()
    assert seconds[-2] == year[-1] + SECONDS_PER_DAY
    assert seconds[-1] == seconds[-2] + 60
    windows = split(int(seconds[0]), int(seconds[-1]) + 1)
    assert windows.validation == Window(parse_day("2017-11-01"), parse_day("2017-12-01"))


def test_a_month_without_events_is_left_as_it_is() -> None:
    seconds = np.array([0, IDLE_DAYS * SECONDS_PER_DAY, IDLE_DAYS * SECONDS_PER_DAY + 5], dtype=np.int64)
    assert close_gaps(seconds).tolist() == seconds.tolist()


def test_no_events_no_times() -> None:
    assert len(close_gaps(np.empty(0, dtype=np.int64))) == 0


def test_a_price_is_what_was_known_then() -> None:
    # Item 0 stands in the catalogue at 1.00; item 1 was paid 3.00 on day 1 and 2.00 on day 9, item 2 never.
    shop = make_dataset(
        [(START, 0, 0, "purchase"), (START + 9 * SECONDS_PER_DAY, 0, 1, "purchase")], n_items=3, n_users=1
    )
    listed = np.array([100, -1, -1])
    paid = PaidPrices(START + np.array([1, 9]) * SECONDS_PER_DAY, np.array([1, 1], np.int32), np.array([300, 200]))
    shop = replace(shop, catalogue=replace(shop.catalogue, listed_price_cents=listed), paid=paid)
    for day, price in ((0, -1), (1, -1), (2, 300), (9, 300), (10, 200)):
        at = START + day * SECONDS_PER_DAY
        assert shop.prices_at(at).tolist() == [100, price, -1]
        assert shop.before(at).prices_at(shop.until + SECONDS_PER_DAY).tolist() == [100, price, -1]
        told = fit_facts(shop.before(at), at).log_price
        assert np.array_equal(
            told, np.log(np.array([100, price if price > 0 else np.nan, np.nan], np.float32)), equal_nan=True
        )


def test_prices_at_the_end_of_the_data_are_those_of_the_tables(tmp_path: Path) -> None:
    moments = pl.Series([0, 10, 20, 20, 30, 40]) * 1_000_000 * SECONDS_PER_DAY
    rows = {
        "event_id": list("abcdef"),
        "occurred_at": moments.cast(pl.Datetime("us")),
        "user_id": "u",
        "session_id": "s",
        "item_id": ["p", "p", "p", "p", "q", "q"],
        "event_type": ["purchase"] * 5 + ["view"],
        "quantity": 1,
        "price_cents": [5, 5, 7, 8, 9, 1],
    }
    items = {
        "item_id": ["p", "q"],
        "title": ["P", "Q"],
        "price_cents": [7, 3],
        "listed_price_cents": [None, 3],
        "available": True,
    }
    for table, given in ((INTERACTIONS, rows), (ITEMS, items), (USERS, {"user_id": ["u"]})):
        empty = {column.name: None for column in table.columns if column.name not in given}
        types = {column.name: _POLARS_TYPE[column.type] for column in table.columns}
        frame = pl.DataFrame(given).with_columns(**empty).select([pl.col(name).cast(of) for name, of in types.items()])
        frame.write_parquet(tmp_path / f"{table.name}.parquet")
    shop = load_dataset(tmp_path)
    assert shop.prices_at(shop.until).tolist() == shop.catalogue.price_cents.tolist() == [7, 3]
    assert shop.paid.cents.tolist() == [5, 7]  # where it changed, and of two at one time the first


def test_a_history_can_be_looked_at_as_it_was() -> None:
    rows = [
        (START + day * SECONDS_PER_DAY, shopper, item, "purchase")
        for day, shopper, item in [(0, 0, 1), (1, 1, 2), (2, 0, 3)]
    ]
    histories = Histories(make_dataset(rows, n_items=4, n_users=2), START + 3 * SECONDS_PER_DAY)
    assert histories[0].items.tolist() == [1, 3] and histories[0].age_days.tolist() == [3.0, 1.0]
    then = histories.then(0, START + 2 * SECONDS_PER_DAY)  # strictly before
    assert then.items.tolist() == [1] and then.age_days.tolist() == [2.0]
    assert len(histories.then(1, START)) == 0
