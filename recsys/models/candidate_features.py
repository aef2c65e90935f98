"""What a ranker reads of a candidate: one row of numbers for each, the same at training and at serving.

Everything comes from the query, from the sources that proposed the candidate, and from facts about items that were fitted
before the query's time: a feature cannot know the future, whoever asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from recsys.ranking import PURCHASE, History, ItemArray, Mask, Query, Ranking

NEVER: Final = 1_000.0
"""Days since what never happened."""
HALF_LIVES: Final = (20.0, 90.0)
"""Days: what is recent and what lasts."""
WINDOWS: Final = (14.0, 45.0, 120.0)
"""Days in which own purchases of an item are counted."""
MIN_OBSERVED_DAYS: Final = 15.0
"""A rate of purchases is over at least so long: one purchase of yesterday is no daily habit."""

NEVER_OWNED: Final = frozenset(
    {"own_age_1", "own_age_2", "own_age_3", "own_first_age", "own_gap", "own_due", "own_last_gap"}
)
"""Features of own purchases that are `NEVER`, not 0, of what was not bought."""

TRIED_HALF_LIFE: Final = 45.0
"""Days: what of a category is counted as tried lately, an item's first purchase."""
TINY: Final = 1e-3
STRETCH: Final = 2.0 * NEVER
"""Groups laid end to end on one line of numbers, each as long as that: an age within a group is a place on its stretch."""

Columns = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class ItemFacts:
    """What is known of items, whoever asks."""

    names: tuple[str, ...]
    values: NDArray[np.float32]
    """`(n_items, len(names))` float32; NaN where unknown."""
    group_names: tuple[str, ...]
    groups: NDArray[np.int32]
    """`(len(group_names), n_items)` int32 codes, -1 where unknown: the categories, the brands."""
    shares: NDArray[np.float32]
    """`(len(group_names), n_items)` float32: each item's share of the recent demand for its category, its brand."""
    log_price: NDArray[np.float32]
    """`(n_items,)` float32, NaN where unknown."""

    @cached_property
    def members(self) -> NDArray[np.int64]:
        """`(n_items, len(group_names))` int64: the groups of each item, those of all kinds numbered one after the other.

        The unknown code, -1, is a group of its own, the last of its kind.
        """
        sizes = self._sizes
        starts = np.cumsum(sizes) - sizes
        return np.ascontiguousarray((self.groups % sizes[:, None] + starts[:, None]).T)

    @cached_property
    def n_groups(self) -> int:
        """Of all kinds together."""
        return int(self._sizes.sum())

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        """Groups of each kind, the unknown one among them."""
        sizes: NDArray[np.int64] = self.groups.max(axis=1, initial=-1).astype(np.int64) + 2
        return sizes


@dataclass(frozen=True, slots=True)
class Purchases:
    """What a shopper bought."""

    events: History
    """Oldest first, as every history."""
    order: NDArray[np.intp]
    """`(len(events),)`: places in `events` by item, the latest first within each."""
    items: ItemArray
    """`(n,)` int32: the different ones, ascending."""
    counts: NDArray[np.intp]
    """`(n,)`: how often each was bought."""
    trips: NDArray[np.float32]
    """Ages in whole days, ascending, of the days on which anything was bought."""
    recent_trips: int
    """Trips within the longest of `WINDOWS`, at least 1."""
    decays: tuple[NDArray[np.float32], ...]
    """For each of `HALF_LIVES` what is left of each event, `(len(events),)` float32."""

    @classmethod
    def of(cls, history: History) -> Self:
        """Those of a history."""
        bought = history.of_type(PURCHASE)
        n, ages = len(bought), bought.age_days
        if (ages[1:] > ages[:-1]).any():  # what was imported late stands behind what it was before
            in_time = np.argsort(-ages, kind="stable")
            bought = History(bought.items[in_time], bought.event_types[in_time], ages[in_time])
            ages = bought.age_days
        order = n - 1 - np.argsort(bought.items[::-1], kind="stable")
        ordered = bought.items[order]
        starts = np.flatnonzero(_begins(ordered))
        days = np.floor(ages[::-1])
        trips = days[_begins(days)]
        recent = max(1, int((trips <= WINDOWS[-1]).sum()))
        decays = tuple(np.exp2(-ages / half) for half in HALF_LIVES)
        return cls(bought, order, ordered[starts], np.diff(starts, append=n), trips, recent, decays)

    @property
    def first_ages(self) -> NDArray[np.float32]:
        """`(n,)` float32: days since each of `items` was bought first."""
        return self.events.age_days[self.order[np.cumsum(self.counts) - 1]]


def _begins(ordered: NDArray[Any]) -> Mask:
    """`(n,)`: where another value begins in `ordered` `(n,)`, whose equal values stand side by side."""
    begins = np.ones(len(ordered), dtype=np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=begins[1:])
    return begins


def describe(query: Query, candidates: ItemArray, answers: Sequence[tuple[str, Ranking]], facts: ItemFacts) -> Columns:
    """Features of `candidates` `(m,)`, ascending and different: named columns, each `(m,)` float32.

    `answers` are the sources' rankings by name; what they name beyond the candidates is not read.
    """
    m, bought = len(candidates), Purchases.of(query.history)
    columns = _sources(candidates, answers)
    columns |= _own(bought, candidates)
    known = facts.values[candidates].T
    columns |= {f"item_{name}": known[place] for place, name in enumerate(facts.names)}
    columns |= _groups(facts, bought, columns, candidates)
    columns |= _price(facts.log_price, bought.events, candidates)
    columns |= _looked_at(query, candidates)
    shopper = _shopper(query.history, bought)
    return columns | {name: np.full(m, value, np.float32) for name, value in shopper.items()}


def _sources(candidates: ItemArray, answers: Sequence[tuple[str, Ranking]]) -> Columns:
    """Each source's score, as it is and as a share of its best, and its reciprocal rank; 0 where it did not name it."""
    n, m = len(answers), len(candidates)
    score, share, rank = said = np.zeros((3, n, m), dtype=np.float32)
    if n and m:
        # All of them at once: what any of them named, and who.
        lengths = np.array([len(answer) for _, answer in answers])
        starts, source = np.cumsum(lengths) - lengths, np.arange(n).repeat(lengths)
        items, scores = (
            np.concatenate([part(answer) for _, answer in answers])
            for part in (attrgetter("items"), attrgetter("scores"))
        )
        place = np.minimum(candidates.searchsorted(items), m - 1)
        named = np.flatnonzero(candidates[place] == items)
        scores, source, place = scores[named], source[named], place[named]
        best = np.array([answer.scores[0] if len(answer) else 0.0 for _, answer in answers], dtype=np.float32)
        score[source, place] = scores
        np.divide(score, best[:, None], out=share, where=best[:, None] > 0)
        rank[source, place] = 1.0 / (named - starts[source] + 1.0)
    return {
        f"{name}_{what}": column[number]
        for number, (name, _) in enumerate(answers)
        for what, column in zip(("score", "share", "rank"), said, strict=True)
    }


def _own(bought: Purchases, candidates: ItemArray) -> Columns:
    """Own purchases of the candidate itself."""
    items, counts = bought.items, bought.counts
    n = len(items)
    # Latest first within each item.
    ages, which = bought.events.age_days[bought.order], np.repeat(np.arange(n), counts)
    starts, first = np.cumsum(counts) - counts, bought.first_ages
    values: dict[str, NDArray[np.floating] | NDArray[np.integer]] = {"own_n": counts}
    for nth in range(3):
        past = np.full(n, NEVER)
        past[counts > nth] = ages[starts[counts > nth] + nth]
        values[f"own_age_{nth + 1}"] = past
    last = values["own_age_1"]
    gap = np.where(counts > 1, (first - last) / np.maximum(counts - 1, 1), NEVER)
    values |= {"own_first_age": first, "own_gap": gap, "own_due": last / np.maximum(gap, 1.0)}
    values["own_last_gap"] = np.where(counts > 1, values["own_age_2"] - last, NEVER)
    values |= {f"own_n_{days:g}": np.bincount(which, ages <= days, minlength=n) for days in WINDOWS}
    for half, decay in zip(HALF_LIVES, bought.decays, strict=True):
        values[f"own_recent_{half:g}"] = np.bincount(which, decay[bought.order], minlength=n)
    values["own_rate"] = counts / np.maximum(first, MIN_OBSERVED_DAYS)
    values["own_trips_since"] = np.searchsorted(bought.trips, last)
    values["own_per_trip"] = values[f"own_n_{WINDOWS[-1]:g}"] / bought.recent_trips
    found = items.searchsorted(candidates)
    known = np.flatnonzero(items[np.minimum(found, n - 1)] == candidates) if n else np.empty(0, dtype=np.intp)
    unknown = np.array([NEVER if name in NEVER_OWNED else 0.0 for name in values], dtype=np.float32)
    columns = np.repeat(unknown[:, None], len(candidates), axis=1)
    columns[:, known] = np.stack(list(values.values()))[:, found[known]]
    return dict(zip(values, columns, strict=True))


def _groups(facts: ItemFacts, bought: Purchases, columns: Columns, candidates: ItemArray) -> Columns:
    """Own purchases of the candidate's category and brand, and the candidate among what could stand in for it: its share of the
    shopper's purchases of the group, how many of those are later than the last of its own (all where it has none), and how many of
    the recent ones would be its, bought as others buy. All kinds of groups at once: a candidate has a row for each."""
    n, kinds = facts.n_groups, len(facts.group_names)
    ages = np.repeat(bought.events.age_days, kinds)
    history, different, asked = (
        facts.members[items].ravel() for items in (bought.events.items, bought.items, candidates)
    )
    first, last = np.zeros(n, dtype=np.float32), np.full(n, NEVER, dtype=np.float32)
    # From the oldest: of several values for one group the last stays.
    last[history] = np.minimum(ages, np.float32(NEVER))
    first[history[::-1]] = ages[::-1]
    line = np.sort(_on_line(history, ages))
    # Of purchases on one day, a trip, each group counts once.
    floors = np.floor(line)
    group, day = np.divmod(floors[_begins(floors)], STRETCH)
    group = group.astype(np.int64)
    days = np.bincount(group, minlength=n)[asked]
    last = last[asked]
    gap = np.where(days > 1, (first[asked] - last) / np.maximum(days - 1, 1), NEVER)
    tried = np.exp2(-bought.first_ages / TRIED_HALF_LIFE)
    values: dict[str, NDArray[np.floating] | NDArray[np.integer]] = {
        "age": last,
        "gap": gap,
        "due": last / np.maximum(gap, 1.0),
        "per_trip": (np.bincount(group, day <= WINDOWS[-1], minlength=n) / bought.recent_trips)[asked],
        "items": np.bincount(different, minlength=n)[asked],
        "tried": np.bincount(different, np.repeat(tried, kinds), minlength=n)[asked],
    }
    recents = [f"recent_{half:g}" for half in HALF_LIVES]
    for name, decay in zip(recents, bought.decays, strict=True):
        values[name] = np.bincount(history, np.repeat(decay, kinds), minlength=n)[asked]
    single: Columns = {name: value.astype(np.float32) for name, value in values.items()}
    since = np.bincount(history[ages < NEVER], minlength=n)[asked]
    own = np.flatnonzero(np.repeat(columns["own_age_1"] < NEVER, kinds))
    sizes = np.bincount(history, minlength=n)
    begins = np.cumsum(sizes) - sizes
    since[own] = line.searchsorted(_on_line(asked[own], columns["own_age_1"][own // kinds])) - begins[asked[own]]
    recent, lasting = recents
    share = np.repeat(columns[f"own_{lasting}"], kinds) / np.maximum(single[lasting], TINY)
    single["own_share"] = share.astype(np.float32)
    single["since_own"] = since.astype(np.float32)
    single["expected"] = single[recent] * facts.shares[:, candidates].T.ravel()
    return {
        f"{kind}_{name}": value[place::kinds]
        for place, kind in enumerate(facts.group_names)
        for name, value in single.items()
    }


def _on_line(groups: NDArray[np.int64], age_days: NDArray[np.float32]) -> NDArray[np.float64]:
    """`(n,)` places on the line of `STRETCH`es; what is older than `NEVER` is as old as that."""
    return np.asarray(groups * STRETCH + np.minimum(age_days, NEVER), dtype=np.float64)


def _price(log_price: NDArray[np.float32], bought: History, candidates: ItemArray) -> Columns:
    """How the candidate's price lies to what the shopper usually pays."""
    paid = log_price[bought.items]
    paid = paid[~np.isnan(paid)]
    usual = np.float32(paid.mean()) if len(paid) else np.float32(np.nan)
    return {"price_to_usual": log_price[candidates] - usual}


def _looked_at(query: Query, candidates: ItemArray) -> Columns:
    """What the shopper did with the candidate short of buying it."""
    looked = query.history.event_types != PURCHASE
    items, ages = query.history.items[looked], query.history.age_days[looked]
    last = np.full(len(candidates), NEVER, dtype=np.float32)
    count = np.zeros(len(candidates), dtype=np.float32)
    if len(items) and len(candidates):
        place = np.minimum(candidates.searchsorted(items), len(candidates) - 1)
        named = candidates[place] == items
        np.minimum.at(last, place[named], ages[named])
        np.add.at(count, place[named], 1.0)
    session = np.zeros(len(candidates), dtype=np.float32)
    if len(query.session_items) and len(candidates):
        place = np.minimum(candidates.searchsorted(query.session_items), len(candidates) - 1)
        session[place[candidates[place] == query.session_items]] = 1.0
    return {"looked_age": last, "looked_n": count, "in_session": session}


def _shopper(history: History, bought: Purchases) -> dict[str, float]:
    """What is the same for every candidate."""
    different, trips, ages = len(bought.items), bought.trips, bought.events.age_days
    return {
        "shopper_n": len(history),
        "shopper_n_45": int((ages <= 45.0).sum()),
        "shopper_last_age": float(history.age_days.min(initial=NEVER)),
        "shopper_different": different,
        "shopper_repeats": 1.0 - different / max(1, len(ages)),
        "shopper_trips": len(trips),
        "shopper_trip_gap": float(trips[-1] - trips[0]) / (len(trips) - 1) if len(trips) > 1 else NEVER,
    }
