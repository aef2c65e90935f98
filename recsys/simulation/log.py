"""What really happened, as only the simulator knows it: one row per answer, one row per visit."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.simulation.traffic import Visits
from recsys.simulation.world import Floats, Ints, World

PAGES: Final = pl.Schema(
    {
        "visit": pl.Int64,
        "surface": pl.String,
        "label": pl.String,
        "shopper": pl.Int64,
        "anonymous": pl.Boolean,
        "new_shopper": pl.Boolean,
        "bot": pl.Boolean,
        "shown": pl.Int64,
        "clicks": pl.Int64,
        "expected_clicks": pl.Float64,
        "new_shown": pl.Int64,
        "new_clicks": pl.Int64,
        "expected_new_clicks": pl.Float64,
        "carts": pl.Int64,
        "purchases": pl.Int64,
        "revenue_cents": pl.Int64,
        "expected_revenue_cents": pl.Float64,
    }
)
"""One row per answer. `purchases` and `revenue_cents` are of what would not have been bought without it, `new_` is of items first met after the cut,
`expected_` is the mean given all that was seen before (0 for bots)."""
VISITS: Final = pl.Schema(
    {
        "visit": pl.Int64,
        "shopper": pl.Int64,
        "second": pl.Int64,
        "bot": pl.Boolean,
        "basket_cents": pl.Int64,
        "attributed_cents": pl.Int64,
    }
)
"""One row per visit. `basket_cents`: what was bought whatever was shown; `attributed_cents`: all that was bought after a click on it, wanted anyway or not."""


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """Every item that a shopper was shown, bots left out: parallel arrays of length n, all that its chance of a click depends on."""

    page: Ints
    """Row of `Log.pages`."""
    item: Ints
    place: Ints
    """From 1."""
    places: Ints
    """Of its widget."""
    second: Floats
    renders: Ints
    """How often the shopper was shown it before."""
    taste: Floats


@dataclass(frozen=True, slots=True)
class Log:
    """A finished run."""

    pages: pl.DataFrame
    """See `PAGES`."""
    visits: pl.DataFrame
    """See `VISITS`."""
    sent: Counter[str]
    """See `recsys.simulation.mess.Courier.counts`."""
    shown: Shown


@dataclass(frozen=True, slots=True)
class Look:
    """An answer that was looked at: arrays parallel to its items."""

    visit: int
    surface: str
    label: str
    places: int
    second: float
    items: Ints
    taste: Floats
    renders: Ints
    """How often the shopper was shown each before."""
    chances: Floats
    """Of a click."""
    conversion: Floats
    """The chance that a click leads to a purchase that would not have been made."""
    clicked: NDArray[np.bool_]
    carted: NDArray[np.bool_]
    """Where clicked; the same for `bought`."""
    bought: NDArray[np.bool_]


@dataclass(slots=True)
class Ledger:
    """Collects what happens, and adds it up at the end."""

    looks: list[Look] = field(default_factory=list)
    payments: list[tuple[int, int]] = field(default_factory=list)
    """For each visit in order `basket_cents` and `attributed_cents`."""

    def close(self, world: World, visits: Visits, sent: Counter[str]) -> Log:
        """The sums."""
        return Log(self._pages(world, visits), self._visits(visits), sent, self._shown(visits))

    def _pages(self, world: World, visits: Visits) -> pl.DataFrame:
        looks, n = self.looks, len(self.looks)
        page = np.repeat(np.arange(n), [len(look.items) for look in looks])

        def column(name: str) -> Any:
            return np.concatenate([getattr(look, name) for look in looks] or [np.empty(0)])

        def count(flags: Any) -> Ints:
            return np.bincount(page[flags], minlength=n)

        def total(values: Floats) -> Floats:
            return np.asarray(np.bincount(page, values, minlength=n), dtype=np.float64)

        items = column("items").astype(np.int64)
        chances, clicked = column("chances"), column("clicked").astype(np.bool_)
        carted, bought = (clicked & column(name).astype(np.bool_) for name in ("carted", "bought"))
        listed, cents = world.items.listed_second[items], world.items.cents[items]
        new = (listed >= world.cut) & (listed < world.until)
        visit = np.array([look.visit for look in looks], dtype=np.int64)
        shopper = visits.shopper[visit]
        columns = {
            "visit": visit,
            "surface": [look.surface for look in looks],
            "label": [look.label for look in looks],
            "shopper": shopper,
            "anonymous": visits.anonymous[visit],
            "new_shopper": world.is_new[shopper],
            "bot": visits.bot[visit],
            "shown": count(slice(None)),
            "clicks": count(clicked),
            "expected_clicks": total(chances),
            "new_shown": count(new),
            "new_clicks": count(new & clicked),
            "expected_new_clicks": total(chances * new),
            "carts": count(carted),
            "purchases": count(bought),
            "revenue_cents": total(bought * cents).astype(np.int64),
            "expected_revenue_cents": total(chances * column("conversion") * cents),
        }
        return pl.DataFrame(columns, schema=PAGES)

    def _shown(self, visits: Visits) -> Shown:
        kept = [(page, look) for page, look in enumerate(self.looks) if not visits.bot[look.visit]]
        sizes = [len(look.items) for _, look in kept]

        def each(values: list[Any]) -> Any:
            return np.repeat(np.array(values), sizes)

        def joined(parts: list[Any]) -> Any:
            return np.concatenate(parts or [np.empty(0)])

        return Shown(
            page=each([page for page, _ in kept]).astype(np.int64),
            item=joined([look.items for _, look in kept]).astype(np.int64),
            place=joined([np.arange(1, size + 1) for size in sizes]).astype(np.int64),
            places=each([look.places for _, look in kept]).astype(np.int64),
            second=each([look.second for _, look in kept]).astype(np.float64),
            renders=joined([look.renders for _, look in kept]).astype(np.int64),
            taste=joined([look.taste for _, look in kept]).astype(np.float64),
        )

    def _visits(self, visits: Visits) -> pl.DataFrame:
        paid = np.array(self.payments, dtype=np.int64).reshape(-1, 2)
        columns = {
            "visit": np.arange(len(visits)),
            "shopper": visits.shopper,
            "second": visits.second,
            "bot": visits.bot,
            "basket_cents": paid[:, 0],
            "attributed_cents": paid[:, 1],
        }
        return pl.DataFrame(columns, schema=VISITS)
