"""Tables as index arrays: what training, evaluation and bundle building read.

A *shopper* is a known user or, where nobody logged in, one anonymous session: rows `0 .. n_users - 1` are users,
the rest anonymous sessions, so models learn from both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from recsys.errors import UserError
from recsys.events import EVENT_CODE, IDLE_DAYS, EventType
from recsys.ranking import History, ItemArray
from recsys.tables import INTERACTIONS, ITEMS, USERS, Table

SECONDS_PER_DAY: Final = 86_400

MAX_HISTORY_EVENTS: Final = 4_000
"""A shopper's history is their most recent four thousand events: in training, evaluation and serving alike."""


REGION_HALF_LIFE_DAYS: Final = 60.0
MAX_SEGMENT_VALUES: Final = 50
MIN_SEGMENT_USERS: Final = 20


class TablesMissingError(UserError, FileNotFoundError):
    """The tables that a step reads have not been built."""


@dataclass(frozen=True, slots=True)
class Events:
    """Interactions in order of time: parallel arrays of length n."""

    shopper: NDArray[np.int32]
    session: NDArray[np.int32]
    item: ItemArray
    event_type: NDArray[np.uint8]
    second: NDArray[np.int64]
    """Unix time, UTC, not decreasing, without the times when the shop stood still (`close_gaps`)."""
    quantity: NDArray[np.int32]
    region: NDArray[np.int32]
    """Code into the dataset's `regions`, or -1."""

    def __len__(self) -> int:
        return len(self.item)

    def take(self, keep: slice | NDArray[np.bool_] | NDArray[np.intp]) -> Events:
        """The rows that `keep` selects."""
        return Events(
            self.shopper[keep],
            self.session[keep],
            self.item[keep],
            self.event_type[keep],
            self.second[keep],
            self.quantity[keep],
            self.region[keep],
        )

    def before(self, second: int) -> Events:
        """What happened strictly before `second`."""
        return self.take(slice(0, int(np.searchsorted(self.second, second, side="left"))))

    def between(self, start: int, stop: int) -> Events:
        """What happened in `[start, stop)`."""
        low, high = np.searchsorted(self.second, [start, stop], side="left")
        return self.take(slice(int(low), int(high)))


@dataclass(frozen=True, slots=True, eq=False)
class Catalogue:
    """Items by row: parallel sequences of length n_items; two are equal only where they are the same."""

    item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    brands: tuple[str | None, ...]
    category: NDArray[np.int32]
    """Code into `categories`, or -1."""
    categories: tuple[str, ...]
    """Full paths, sorted."""
    price_cents: NDArray[np.int64]
    """-1 where unknown; what was last paid where the catalogue has none."""
    listed_price_cents: NDArray[np.int64]
    """The catalogue's own, -1 where it has none: all that content may use, since a price paid tells that the item sold."""
    descriptions: tuple[str | None, ...]
    attributes: tuple[str | None, ...]
    """JSON objects."""
    image_urls: tuple[str | None, ...]
    available: NDArray[np.bool_]
    listed_second: NDArray[np.int64]
    """Unix time of the listing or first event; the largest int64 where neither is known."""
    n_spare: int = 0
    """So many rows at the end are empty: without an id, unavailable, for items that join while a bundle serves."""

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def n_listed(self) -> int:
        """Rows that are items."""
        return len(self) - self.n_spare

    def with_spare(self, n: int) -> Catalogue:
        """The same catalogue with n empty rows more at its end."""

        def numbers(column: NDArray[Any], value: int) -> NDArray[Any]:
            return np.concatenate([column, np.full(n, value, dtype=column.dtype)])

        return replace(
            self,
            item_ids=self.item_ids + ("",) * n,
            titles=self.titles + ("",) * n,
            brands=self.brands + (None,) * n,
            category=numbers(self.category, -1),
            price_cents=numbers(self.price_cents, -1),
            listed_price_cents=numbers(self.listed_price_cents, -1),
            descriptions=self.descriptions + (None,) * n,
            attributes=self.attributes + (None,) * n,
            image_urls=self.image_urls + (None,) * n,
            available=numbers(self.available, 0),
            listed_second=numbers(self.listed_second, np.iinfo(np.int64).max),
            n_spare=self.n_spare + n,
        )


@dataclass(frozen=True, slots=True)
class Segments:
    """What users told of themselves, as `attribute=value`."""

    names: tuple[str, ...] = ()
    """Sorted."""
    offsets: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    """`(n_users + 1,)` int64: user u is in `codes[offsets[u]:offsets[u + 1]]`."""
    codes: ItemArray = field(default_factory=lambda: np.empty(0, dtype=np.int32))
    """Positions in `names`."""

    def __len__(self) -> int:
        return len(self.names)

    def of(self, user: int) -> ItemArray:
        """Codes of a user's segments; none of an anonymous session."""
        if user >= len(self.offsets) - 1:
            return self.codes[:0]
        return self.codes[int(self.offsets[user]) : int(self.offsets[user + 1])]

    def matrix(self, n_shoppers: int) -> sparse.csr_matrix:
        """`(n_shoppers, n_segments)` float32: 1 where a shopper is in a segment."""
        rest = np.full(n_shoppers + 1 - len(self.offsets), self.offsets[-1])
        ones = np.ones(len(self.codes), dtype=np.float32)
        return sparse.csr_matrix((ones, self.codes, np.r_[self.offsets, rest]), shape=(n_shoppers, len(self)))


@dataclass(frozen=True, slots=True)
class PaidPrices:
    """What was paid for items that the catalogue has no price of, oldest first; only where it changed. Parallel arrays of length n."""

    second: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    item: ItemArray = field(default_factory=lambda: np.empty(0, dtype=np.int32))
    cents: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def before(self, second: int) -> PaidPrices:
        """What was paid strictly before `second`."""
        n = int(np.searchsorted(self.second, second, side="left"))
        return PaidPrices(self.second[:n], self.item[:n], self.cents[:n])


@dataclass(frozen=True, slots=True)
class Dataset:
    """Everything that a recommender learns from."""

    events: Events
    catalogue: Catalogue
    user_ids: tuple[str, ...]
    n_shoppers: int
    n_sessions: int
    regions: tuple[str, ...] = ()
    """Sorted."""
    segments: Segments = field(default_factory=Segments)
    paid: PaidPrices = field(default_factory=PaidPrices)

    @property
    def n_items(self) -> int:
        return len(self.catalogue)

    @property
    def n_users(self) -> int:
        return len(self.user_ids)

    def before(self, second: int) -> Dataset:
        """The same catalogue and shoppers, knowing only what happened strictly before `second`."""
        return replace(self, events=self.events.before(second), paid=self.paid.before(second))

    def prices_at(self, second: int) -> NDArray[np.int64]:
        """`(n_items,)` int64 cents as they were known then: the catalogue's, else what was last paid before `second`, -1 where unknown.

        `catalogue.price_cents` is that of the end of the data, which tells a learner of the past what came after.
        """
        prices, paid = self.catalogue.listed_price_cents.copy(), self.paid.before(second)
        prices[paid.item] = paid.cents  # of several for one item the last stays
        return prices

    def with_spare(self, n: int) -> Dataset:
        """The same with n empty catalogue rows more, see `Catalogue.n_spare`."""
        return replace(self, catalogue=self.catalogue.with_spare(n))

    @property
    def until(self) -> int:
        """Unix second just after the last event, 0 without any."""
        return int(self.events.second[-1]) + 1 if len(self.events) else 0


def _paid_prices(
    interactions: pl.DataFrame, item: ItemArray, second: NDArray[np.int64], listed_price_cents: NDArray[np.int64]
) -> PaidPrices:
    """Of purchases in order of time, `item` and `second` parallel to them. Of several at one time the first counts, as in the items' mart."""
    frame = interactions.select("event_type", "price_cents").with_columns(item=item, second=second)
    changes = (
        frame.filter(
            pl.col("event_type") == "purchase", pl.col("price_cents") > 0, pl.lit(listed_price_cents[item] < 0)
        )
        .unique(["item", "second"], keep="first", maintain_order=True)
        .filter((pl.col("price_cents") != pl.col("price_cents").shift().over("item")).fill_null(value=True))
    )
    second, item = changes["second"].to_numpy(), changes["item"].to_numpy()
    return PaidPrices(second, item, changes["price_cents"].cast(pl.Int64).to_numpy())


def target_event(dataset: Dataset) -> int:
    """Code of the strongest event type that the data has: what a recommendation is meant to lead to."""
    present = np.unique(dataset.events.event_type)
    return int(present.max()) if len(present) else EVENT_CODE[EventType.PURCHASE]


def clicked_event(dataset: Dataset) -> int:
    """Code of what says that an item was opened: a click where the data has any, else a view.

    Raises:
        UserError: it has neither.
    """
    for event_type in (EventType.CLICK, EventType.VIEW):
        if (dataset.events.event_type == EVENT_CODE[event_type]).any():
            return EVENT_CODE[event_type]
    raise UserError("the data has neither clicks nor views: choose another --objective than clicks")


class Histories:
    """The history of every shopper at one moment, looked up in constant time."""

    def __init__(self, dataset: Dataset, at: int) -> None:
        """`at`: Unix second of the query; only what happened strictly before it is seen."""
        events = dataset.events.before(at)
        order = np.argsort(events.shopper, kind="stable")
        self._events = events.take(order)
        counts = np.bincount(events.shopper, minlength=dataset.n_shoppers)
        self._offsets = np.concatenate([[0], np.cumsum(counts)])
        self._at = at
        self.regions = usual_regions(dataset, at)
        """`(n_shoppers,)` int32 region code, -1 where unknown."""

    def __getitem__(self, shopper: int) -> History:
        return self.then(shopper, self._at)

    def then(self, shopper: int, at: int) -> History:
        """The history at an earlier moment, Unix second."""
        start, stop = int(self._offsets[shopper]), int(self._offsets[shopper + 1])
        if at < self._at:
            stop = start + int(np.searchsorted(self._events.second[start:stop], at))
        rows = slice(max(start, stop - MAX_HISTORY_EVENTS), stop)
        seconds = self._events.second[rows]
        return History(
            items=self._events.item[rows],
            event_types=self._events.event_type[rows],
            age_days=((at - seconds) / SECONDS_PER_DAY).astype(np.float32),
        )


def usual_regions(dataset: Dataset, at: int) -> NDArray[np.int32]:
    """`(n_shoppers,)` int32: the region where each shopper has been most, lately, before `at` (Unix second); -1 without any."""
    events = dataset.events.before(at)
    events = events.take(events.region >= 0)
    usual = np.full(dataset.n_shoppers, -1, dtype=np.int32)
    weights = np.exp2(-(at - events.second) / SECONDS_PER_DAY / REGION_HALF_LIFE_DAYS)
    pairs, place = np.unique(
        events.shopper.astype(np.int64) * len(dataset.regions) + events.region, return_inverse=True
    )
    totals = np.bincount(place, weights, minlength=len(pairs))
    # Of one shopper's regions the strongest comes last, and stays.
    order = np.lexsort((totals, pairs // max(1, len(dataset.regions))))
    shopper, region = np.divmod(pairs[order], max(1, len(dataset.regions)))
    usual[shopper] = region
    return usual


def close_gaps(seconds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ascending event times, Unix seconds, with every month or more in which nothing at all happened shortened to a day.

    A shop that imports last year's orders and then clicks in its new storefront would else find all of its past too old to
    count, and its test window empty.
    """
    if len(seconds) == 0:
        return seconds
    gaps = np.diff(seconds, prepend=seconds[0])
    idle = np.where(gaps > IDLE_DAYS * SECONDS_PER_DAY, gaps - SECONDS_PER_DAY, 0)
    return np.asarray(seconds - np.cumsum(idle), dtype=np.int64)


def parse_day(day: str) -> int:
    """Unix second at which the UTC day `YYYY-MM-DD` starts.

    Raises:
        ValueError: `day` is not a date.
    """
    return int(datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())


_POLARS_TYPE: Final[dict[str, pl.DataType]] = {
    "VARCHAR": pl.String(),
    "TIMESTAMP": pl.Datetime("us"),
    "BIGINT": pl.Int64(),
    "INTEGER": pl.Int32(),
    "FLOAT": pl.Float32(),
    "BOOLEAN": pl.Boolean(),
}


def _check(table: Table, path: Path) -> None:
    """Compare a file's columns with their declaration; keys and nulls were checked when it was written."""
    if not path.exists():
        raise TablesMissingError(f"{path} is missing: run `recsys tables` first")
    declared = {column.name: _POLARS_TYPE[column.type] for column in table.columns}
    found = dict(pl.read_parquet_schema(path))
    if found != declared:
        raise TablesMissingError(f"{path} has columns {found}, declared are {declared}: run `recsys tables` again")


def read_segments(users: pl.DataFrame, user_ids: Sequence[str]) -> Segments:
    """The segments of `user_ids`, in their order, from the table `users`.

    An attribute makes segments where it has few values, each of enough users: a name or a birthday tells no group.
    """
    told: list[tuple[str, str, str]] = []
    for user_id, text in users.select("user_id", "attributes").drop_nulls().iter_rows():
        told += [(user_id, name, str(value)) for name, value in orjson.loads(text).items() if value not in (None, "")]
    frame = pl.DataFrame(told, schema=["user_id", "attribute", "value"], orient="row").cast(pl.String)
    few = (
        frame.group_by("attribute").agg(pl.col("value").n_unique().alias("n")).filter(pl.col("n") <= MAX_SEGMENT_VALUES)
    )
    frame = frame.join(few, on="attribute").select(
        "user_id", (pl.col("attribute") + "=" + pl.col("value")).alias("name")
    )
    names = frame.group_by("name").len().filter(pl.col("len") >= MIN_SEGMENT_USERS)["name"].sort()
    codes = pl.DataFrame({"name": names, "code": np.arange(len(names), dtype=np.int32)})
    rows = pl.DataFrame({"user_id": list(user_ids), "user": np.arange(len(user_ids), dtype=np.int64)})
    found = frame.join(codes, on="name").join(rows.cast({"user_id": pl.String}), on="user_id").sort("user", "code")
    counts = np.bincount(found["user"].to_numpy(), minlength=len(user_ids))
    return Segments(
        tuple(names),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        found["code"].to_numpy().astype(np.int32),
    )


def load_dataset(tables: Path) -> Dataset:
    """Read `interactions.parquet`, `items.parquet` and `users.parquet` (see `recsys.tables`) below `tables`.

    Raises:
        TablesMissingError: a table is missing, or has other columns than declared.
    """
    for table in (INTERACTIONS, ITEMS, USERS):
        _check(table, tables / f"{table.name}.parquet")
    items = pl.read_parquet(tables / "items.parquet").sort("item_id")
    interactions = pl.read_parquet(
        tables / "interactions.parquet",
        columns=[
            "occurred_at",
            "event_id",
            "user_id",
            "session_id",
            "item_id",
            "event_type",
            "quantity",
            "region",
            "price_cents",
        ],
    ).sort("occurred_at", "event_id")
    users = pl.read_parquet(tables / "users.parquet")
    catalogue = _catalogue(items)
    registered = users.filter(pl.col("attributes").is_not_null())["user_id"]
    user_ids = pl.concat([interactions["user_id"].drop_nulls(), registered]).unique().sort()
    sessions = interactions["session_id"].unique().sort()
    regions = interactions["region"].drop_nulls().unique().sort()
    anonymous = interactions.filter(pl.col("user_id").is_null())["session_id"].unique().sort()
    user = _codes(interactions["user_id"], user_ids)
    shopper = np.where(user >= 0, user, len(user_ids) + _codes(interactions["session_id"], anonymous))
    events = Events(
        shopper=shopper.astype(np.int32),
        session=_codes(interactions["session_id"], sessions),
        item=_codes(interactions["item_id"], items["item_id"]),
        event_type=interactions["event_type"]
        .replace_strict(EVENT_CODE, return_dtype=pl.UInt8)
        .to_numpy()
        .astype(np.uint8),
        second=close_gaps(interactions["occurred_at"].dt.epoch("s").to_numpy().astype(np.int64)),
        quantity=interactions["quantity"].to_numpy().astype(np.int32),
        region=_codes(interactions["region"], regions),
    )
    return Dataset(
        events=events,
        catalogue=catalogue,
        user_ids=tuple(user_ids),
        regions=tuple(regions),
        segments=read_segments(users, user_ids.to_list()),
        paid=_paid_prices(interactions, events.item, events.second, catalogue.listed_price_cents),
        n_shoppers=len(user_ids) + len(anonymous),
        n_sessions=len(sessions),
    )


def _catalogue(items: pl.DataFrame) -> Catalogue:
    """`items` in the order of their ids."""
    categories = items["category"].drop_nulls().unique().sort()
    far = np.iinfo(np.int64).max
    return Catalogue(
        item_ids=tuple(items["item_id"]),
        titles=tuple(items["title"]),
        brands=tuple(items["brand"]),
        category=_codes(items["category"], categories),
        categories=tuple(categories),
        price_cents=items["price_cents"].fill_null(-1).to_numpy().astype(np.int64),
        listed_price_cents=items["listed_price_cents"].fill_null(-1).to_numpy().astype(np.int64),
        descriptions=tuple(items["description"]),
        attributes=tuple(items["attributes"]),
        image_urls=tuple(items["image_url"]),
        available=items["available"].to_numpy().astype(np.bool_),
        listed_second=items["listed_at"].dt.epoch("s").fill_null(far).to_numpy().astype(np.int64),
    )


def _codes(values: pl.Series, vocabulary: pl.Series) -> NDArray[np.int32]:
    """The place of each value in the vocabulary, -1 for what is not in it."""
    lookup = pl.DataFrame({"value": vocabulary, "code": np.arange(len(vocabulary), dtype=np.int32)})
    joined = pl.DataFrame({"value": values}).join(lookup, on="value", how="left", maintain_order="left")
    return joined["code"].fill_null(-1).to_numpy().astype(np.int32)
