"""The world: whose taste is what they really bought after the cut, in the shop's own catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.events import EventType

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

SECONDS_PER_DAY: Final = 86_400
TRAITS: Final = ("item", "type", "brand", "price")
"""What an item is to a taste: itself, its type (category), its brand in its aisle (the category above), its price range there."""
NO_TRAIT: Final = -1
PRICE_RANGES: Final = (-1, 6)
"""Ranges double from one to the next: the first is below 1.00, the last from 64.00 on."""
ASSORTMENT_DAYS: Final = 28
"""What was sold in so many days before the cut is what the shop sells."""
UNLISTED: Final = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """The catalogue by row: parallel sequences of length n."""

    ids: tuple[str, ...]
    traits: Ints
    """`(n, 4)`: number of each trait (`TRAITS`), different between kinds; `NO_TRAIT` where unknown."""
    n_traits: int
    cents: Ints
    """Price, 0 where unknown."""
    relative_price: Floats
    """Price by the median of the item's type, between 1/2 and 2; 1 where unknown."""
    available: NDArray[np.bool_]
    listed_second: Ints
    """Unix time of the listing, or of the first purchase; `UNLISTED` where neither is known."""
    sold_before: Ints
    """Lines sold in the `ASSORTMENT_DAYS` before the cut."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True, eq=False)
class Tastes:
    """What each shopper buys in the window, by trait: sparse rows."""

    offsets: Ints
    """`(n_shoppers + 1,)`: a shopper's entries."""
    traits: Ints
    """Ascending within a shopper."""
    strengths: Floats
    """n / (n + 1) for what was bought in n visits."""

    def of(self, shopper: int, traits: Ints) -> Floats:
        """The strength of a shopper's taste for each of `traits`, in their shape; 0 where there is none."""
        row = slice(int(self.offsets[shopper]), int(self.offsets[shopper + 1]))
        own = self.traits[row]
        place = np.minimum(own.searchsorted(traits), len(own) - 1)
        return np.where(own[place] == traits, self.strengths[row][place], 0.0)

    def summed(self, weights: Floats, n_traits: int) -> Floats:
        """`(n_traits,)`: strengths added up over shoppers, each times its own of `weights`, `(n_shoppers,)`."""
        each = np.repeat(weights, np.diff(self.offsets)) * self.strengths
        return np.asarray(np.bincount(self.traits, each, minlength=n_traits), dtype=np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Baskets:
    """The real visits of the window in order of time."""

    shopper: Ints
    second: Ints
    offsets: Ints
    """`(n + 1,)`: a basket's lines."""
    items: Ints
    quantities: Ints
    cents: Ints
    """Of one unit."""

    def __len__(self) -> int:
        return len(self.shopper)

    def lines(self, basket: int) -> slice:
        """Where a basket's lines are."""
        return slice(int(self.offsets[basket]), int(self.offsets[basket + 1]))


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """The shop between `cut` and `until`. Recommenders know what was before the cut; of what was after, only what they are told."""

    cut: int
    """Unix second, as all times here."""
    until: int
    items: Items
    shopper_ids: tuple[str | None, ...]
    """None for a session whose shopper is not known."""
    is_new: NDArray[np.bool_]
    """`(n_shoppers,)`: bought nothing before the cut."""
    tastes: Tastes
    baskets: Baskets

    @property
    def visit_shares(self) -> Floats:
        """`(n_shoppers,)`: who makes which share of the visits."""
        counts = np.bincount(self.baskets.shopper, minlength=len(self.shopper_ids))
        return np.asarray(counts / counts.sum(), dtype=np.float64)

    @classmethod
    def read(cls, tables: Path, cut: str, until: str) -> Self:
        """The world after the day `cut` and before the day `until` (`YYYY-MM-DD`, UTC), from `interactions` and `items`.

        Of what lies before the cut only first purchases and what was lately sold are read; of what lies at or after `until`, nothing.

        Raises:
            ValueError: nothing was bought between the two.
        """
        start, stop = _second(cut), _second(until)
        items = pl.read_parquet(tables / "items.parquet").sort("item_id")
        columns = ["occurred_at", "user_id", "session_id", "item_id", "event_type", "quantity", "price_cents"]
        bought = (
            pl.scan_parquet(tables / "interactions.parquet")
            .select(columns)
            .filter(pl.col("event_type") == EventType.PURCHASE, pl.col("occurred_at").dt.epoch("s") < stop)
            .with_columns(pl.col("occurred_at").dt.epoch("s").alias("second"))
            .collect()
        )
        return cls.of(items, bought, start, stop)

    @classmethod
    def of(cls, items: pl.DataFrame, bought: pl.DataFrame, cut: int, until: int) -> Self:
        """The same from frames: the table `items` by item_id, and purchases with their Unix `second`."""
        bought = bought.filter(pl.col("second") < until)
        rows = pl.DataFrame({"item_id": items["item_id"], "item": np.arange(len(items))})
        bought = bought.join(rows, on="item_id").with_columns(
            pl.coalesce("user_id", pl.lit("session ") + pl.col("session_id")).alias("who")
        )
        window = bought.filter(pl.col("second") >= cut)
        if window.is_empty():
            raise ValueError("nothing was bought between the cut and the end: the simulator has no taste to go by")
        past = bought.filter(pl.col("second") < cut)
        shoppers = window.group_by("who").agg(pl.col("user_id").first()).sort("who").with_row_index("shopper")
        window = window.join(shoppers.select("who", "shopper"), on="who")
        described = _items(items, past, cut)
        return cls(
            cut=cut,
            until=until,
            items=described,
            shopper_ids=tuple(shoppers["user_id"]),
            is_new=~shoppers["who"].is_in(past["who"].unique().to_list()).to_numpy(),
            tastes=_tastes(window, described.traits, len(shoppers)),
            baskets=_baskets(window),
        )

    def counts(self) -> dict[str, int]:
        """How many of everything, for the report."""
        listed = self.items.listed_second
        lines = listed[self.baskets.items]
        sessions = np.array([user is None for user in self.shopper_ids])
        return {
            "shoppers": len(self.shopper_ids),
            "of which bought nothing before the cut": int(self.is_new.sum()),
            "visits with a purchase": len(self.baskets),
            "of which without a user id": int(sessions[self.baskets.shopper].sum()),
            "of which by shoppers who bought nothing before the cut": int(self.is_new[self.baskets.shopper].sum()),
            "lines bought": len(self.baskets.items),
            "of which of items first met after the cut": int((lines >= self.cut).sum()),
            "items of the catalogue": len(self.items),
            "of which sold in the four weeks before the cut": int((self.items.sold_before > 0).sum()),
            "of which first met after the cut": int(((listed >= self.cut) & (listed < self.until)).sum()),
        }


def _second(day: str) -> int:
    return int(datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())


def _items(items: pl.DataFrame, past: pl.DataFrame, cut: int) -> Items:
    levels = pl.col("category").str.split(" > ")
    cents = pl.col("price_cents").fill_null(0)
    ranges = (cents.clip(1) / 100).log(2).floor().cast(pl.Int64).clip(*PRICE_RANGES).cast(pl.String)
    aisle = (
        pl.when(levels.list.len() > 1).then(levels.list.head(levels.list.len() - 1)).otherwise(levels).list.join(" > ")
    )
    described = items.with_columns(aisle.alias("aisle")).with_columns(
        pl.concat_str("aisle", "brand", separator="\n").alias("brand_in_aisle"),
        pl.when(cents > 0).then(pl.concat_str("aisle", ranges, separator="\n")).alias("range_in_aisle"),
        (pl.col("price_cents") / pl.col("price_cents").median().over("category")).alias("relative_price"),
    )
    traits, n = [np.arange(len(items), dtype=np.int64)], len(items)
    for name in ("category", "brand_in_aisle", "range_in_aisle"):
        codes, n_codes = _codes(described[name])
        traits.append(np.where(codes == NO_TRAIT, NO_TRAIT, codes + n))
        n += n_codes
    lately = past.filter(pl.col("second") >= cut - ASSORTMENT_DAYS * SECONDS_PER_DAY)["item"].to_numpy()
    relative = described["relative_price"].fill_nan(1.0).fill_null(1.0).clip(0.5, 2.0)
    return Items(
        ids=tuple(items["item_id"]),
        traits=np.stack(traits, axis=1),
        n_traits=n,
        cents=items["price_cents"].fill_null(0).to_numpy().astype(np.int64),
        relative_price=relative.to_numpy().astype(np.float64),
        available=items["available"].to_numpy().astype(np.bool_),
        listed_second=items["listed_at"].dt.epoch("s").fill_null(UNLISTED).to_numpy().astype(np.int64),
        sold_before=np.bincount(lately, minlength=len(items)).astype(np.int64),
    )


def _codes(values: pl.Series) -> tuple[Ints, int]:
    """Each value's place among the different ones, `NO_TRAIT` for null; and how many there are."""
    different = values.drop_nulls().unique().sort()
    frame = pl.DataFrame({"value": different, "code": np.arange(len(different), dtype=np.int64)})
    codes = pl.DataFrame({"value": values}).join(frame, on="value", how="left", maintain_order="left")["code"]
    return codes.fill_null(NO_TRAIT).to_numpy().astype(np.int64), len(different)


def _tastes(window: pl.DataFrame, traits: Ints, n_shoppers: int) -> Tastes:
    long = pl.concat(
        window.select("shopper", "session_id", pl.Series("trait", traits[window["item"].to_numpy(), kind]))
        for kind in range(len(TRAITS))
    )
    met = long.filter(pl.col("trait") != NO_TRAIT).unique()
    counts = met.group_by("shopper", "trait").agg(pl.len().cast(pl.Float64).alias("n")).sort("shopper", "trait")
    n = counts["n"].to_numpy()
    per_shopper = np.bincount(counts["shopper"].to_numpy(), minlength=n_shoppers)
    return Tastes(
        offsets=np.concatenate([[0], np.cumsum(per_shopper)]).astype(np.int64),
        traits=counts["trait"].to_numpy().astype(np.int64),
        strengths=np.asarray(n / (n + 1), dtype=np.float64),
    )


def _baskets(window: pl.DataFrame) -> Baskets:
    started = pl.col("second").min().over("shopper", "session_id").alias("started")
    lines = window.with_columns(started, pl.col("price_cents").fill_null(0)).sort(
        "started", "shopper", "session_id", "item"
    )
    keys = lines.select(pl.struct("shopper", "session_id").rle_id())
    starts = np.flatnonzero(np.diff(keys.to_series().to_numpy().astype(np.int64), prepend=-1))

    def column(name: str, rows: Any = slice(None)) -> Ints:
        return np.asarray(lines[name].to_numpy()[rows], dtype=np.int64)

    return Baskets(
        shopper=column("shopper", starts),
        second=column("started", starts),
        offsets=np.append(starts, len(lines)).astype(np.int64),
        items=column("item"),
        quantities=column("quantity"),
        cents=column("price_cents"),
    )
