"""The past as visits, asked at many moments: what a sequence model is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from recsys.dataset import SECONDS_PER_DAY, Dataset
from recsys.events import WEIGHT_OF_CODE
from recsys.models.fit.matrix import incidence_matrix
from recsys.models.sequence import visit_starts

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Rows and columns, parallel."""

GRID_DAYS: Final = 3.5
"""Demand is looked up at moments so far apart."""


def supported_items(dataset: Dataset, min_shoppers: int, max_items: int) -> NDArray[np.int32]:
    """`(v,)` int32, ascending: items that enough shoppers have met; where there are too many, those that most have."""
    met = incidence_matrix(dataset.events.shopper, dataset.events.item, (dataset.n_shoppers, dataset.n_items))
    shoppers = np.bincount(met.indices, minlength=dataset.n_items)
    order = np.lexsort((np.arange(dataset.n_items), -shoppers))[:max_items]
    return np.sort(order[shoppers[order] >= max(1, min_shoppers)]).astype(np.int32)


@dataclass(frozen=True, slots=True)
class Visits:
    """Events with supported items, by shopper and time. Days are before the moment of the fit, so negative."""

    item: NDArray[np.int64]
    """`(n,)` place among the supported items of each event."""
    day: NDArray[np.float32]
    """`(n,)`."""
    weight: NDArray[np.float32]
    """`(n,)`: in its visit, so that the squares of a visit add up to 1."""
    event_offsets: NDArray[np.int64]
    """`(n_shoppers + 1,)`: events of each shopper."""
    starts: NDArray[np.int64]
    """`(n_visits + 1,)`: first event of each visit."""
    offsets: NDArray[np.int64]
    """`(n_shoppers + 1,)`: visits of each shopper."""
    first_day: NDArray[np.float32]
    """`(n_visits,)`: of its first event."""

    @classmethod
    def of(cls, dataset: Dataset, at: int, places: NDArray[np.int32]) -> Visits:
        """`places` `(n_items,)`: place of each item, or -1."""
        events = dataset.events.take(places[dataset.events.item] >= 0)
        events = events.take(np.argsort(events.shopper, kind="stable"))
        day = ((events.second - at) / SECONDS_PER_DAY).astype(np.float32)
        shoppers = np.arange(dataset.n_shoppers + 1)
        is_first = np.diff(events.shopper, prepend=-1) != 0
        is_first[visit_starts(-day)] = True
        starts = np.flatnonzero(is_first)
        weight = WEIGHT_OF_CODE[events.event_type].astype(np.float32)
        length = np.sqrt(np.add.reduceat(weight**2, starts)) if len(starts) else weight
        return cls(
            item=places[events.item].astype(np.int64),
            day=day,
            weight=weight / np.repeat(length, np.diff(np.r_[starts, len(day)])),
            event_offsets=np.searchsorted(events.shopper, shoppers),
            starts=np.r_[starts, len(day)],
            offsets=np.searchsorted(events.shopper[starts], shoppers),
            first_day=day[starts],
        )

    def before(self, shoppers: NDArray[np.intp], days: NDArray[np.float32], most: int) -> NDArray[np.int64]:
        """`(b, l)` int64: each shopper's latest visits that began before its day, oldest first, at most so many; -1 at the end."""
        ranges = []
        for shopper, day in zip(shoppers, days, strict=True):
            start, stop = self.offsets[shopper], self.offsets[shopper + 1]
            stop = start + np.searchsorted(self.first_day[start:stop], day, side="left")
            ranges.append(np.arange(max(start, stop - most), stop))
        numbers = np.full((len(shoppers), max(1, *map(len, ranges))), -1, dtype=np.int64)
        for row, found in zip(numbers, ranges, strict=True):
            row[: len(found)] = found
        return numbers

    def bought(self, shoppers: NDArray[np.intp], starts: NDArray[np.float32], stops: NDArray[np.float32]) -> Pairs:
        """What each shopper met from a day on to before another, every item once: its row and its place.

        `shoppers`, `starts` and `stops` `(n,)`.
        """
        found: list[NDArray[np.int64]] = []
        for shopper, start, stop in zip(shoppers, starts, stops, strict=True):
            own = slice(self.event_offsets[shopper], self.event_offsets[shopper + 1])
            first, last = np.searchsorted(self.day[own], [start, stop], side="left")
            found.append(np.unique(self.item[own][first:last]))
        return np.repeat(np.arange(len(found)), [len(items) for items in found]), np.concatenate(found)


@dataclass(frozen=True, slots=True)
class DemandGrid:
    """How wanted each item was at past moments."""

    days: NDArray[np.float32]
    """`(g,)`, ascending up to 0, the moment of the fit."""
    levels: NDArray[np.float32]
    """`(g, half-lives, v)`: logs of events so far, halved every so many days, over those of the average item."""

    @classmethod
    def of(cls, visits: Visits, n_items: int, half_lives: Sequence[float], back_days: float) -> DemandGrid:
        """Up to `back_days` before the fit, `n_items` being the supported ones."""
        days = -np.arange(0.0, back_days + GRID_DAYS, GRID_DAYS)[::-1]
        order = np.argsort(visits.day, kind="stable")
        day, item = visits.day[order].astype(np.float64), visits.item[order]
        levels = np.empty((len(days), len(half_lives), n_items), dtype=np.float32)
        for number, half_life in enumerate(half_lives):
            demand, start = np.zeros(n_items), 0
            for row, moment in enumerate(days):
                stop = int(np.searchsorted(day, moment, side="left"))
                decay = np.exp2((day[start:stop] - moment) / half_life)
                demand = demand * 2.0 ** (-GRID_DAYS / half_life) + np.bincount(item[start:stop], decay, n_items)
                levels[row, number] = np.log(demand * (n_items / max(demand.sum(), 1e-9)) + 0.05)
                start = stop
        return cls(days.astype(np.float32), levels)

    def rows(self, days: NDArray[np.float32]) -> NDArray[np.intp]:
        """The latest row of `levels` not after each of `days`, same shape; the first where none is."""
        return np.maximum(np.searchsorted(self.days, days, side="right") - 1, 0)
