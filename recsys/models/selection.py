"""From many scored entries to one ranking: what the models share on the hot path.

Nothing here costs time in proportion to the catalogue: work grows with the entries that a query touches.
"""

from __future__ import annotations

import threading
from typing import Final

import numpy as np
from numpy.typing import NDArray

from recsys.ranking import NO_ITEM, History, ItemArray, Mask, Ranking, ScoreArray, top_k


class _Scratch(threading.local):
    """Two arrays as long as the catalogue, one pair per thread, clean between calls."""

    def __init__(self) -> None:
        self.sums = np.zeros(0, dtype=np.float32)
        self.slot = np.zeros(0, dtype=np.int32)

    def of(self, n_items: int) -> tuple[ScoreArray, NDArray[np.int32]]:
        if len(self.sums) < n_items:
            self.sums = np.zeros(n_items, dtype=np.float32)
            self.slot = np.zeros(n_items, dtype=np.int32)
        return self.sums, self.slot


_SCRATCH: Final = _Scratch()


def sum_by_item(items: ItemArray, scores: ScoreArray, n_items: int) -> tuple[ItemArray, ScoreArray]:
    """Add up the scores of repeated items: `(m,)` entries in, `(u,)` different items and their sums out."""
    sums, slot = _SCRATCH.of(n_items)
    places = items.astype(np.intp)  # once: numpy would do so at each use
    np.add.at(sums, places, scores)
    positions = np.arange(len(items), dtype=np.int32)
    slot[places] = positions
    last = (slot.take(places) == positions).nonzero()[0]
    unique = places.take(last)
    totals = sums.take(unique)
    sums[unique] = 0.0
    return items.take(last), totals


def strongest_items(
    history: History, half_life_days: float, max_items: int, n_items: int
) -> tuple[ItemArray, ScoreArray]:
    """The `max_items` different items that say most of a shopper, and how much each counts, the strongest 1."""
    if len(history) == 0:
        return history.items, history.age_days
    items, strengths = sum_by_item(history.items, history.weights(half_life_days), n_items)
    # The root dampens staples that are bought every week.
    strengths = np.sqrt(strengths)
    best = top_k(items, strengths, max_items)
    return items[best], strengths[best] / max(float(strengths[best[0]]), 1e-30)


def gather_rows(indptr: NDArray[np.int64], rows: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of all entries of some CSR rows, and how many each row has, without a Python loop."""
    starts = indptr[rows]
    lengths = indptr[rows + 1] - starts
    ends = lengths.cumsum()
    total = int(ends[-1]) if len(ends) else 0
    positions = np.arange(total, dtype=np.int64) + (starts - (ends - lengths)).repeat(lengths)
    return positions, lengths


def rank(name: str, items: ItemArray, scores: ScoreArray, k: int, because: ItemArray | None = None) -> Ranking:
    """The k best of unique, eligible items; `because` is parallel to `items`."""
    best = top_k(items, scores, k)
    reasons = np.full(len(best), NO_ITEM, dtype=np.int32) if because is None else because[best]
    return Ranking(items[best], scores[best], (name,) * len(best), reasons)


def first_eligible(order: ItemArray, k: int, eligible: Mask) -> NDArray[np.intp]:
    """Positions of the first k eligible items of `order` `(n,)`, ascending; looks only as deep as it must."""
    found: list[NDArray[np.intp]] = []
    missing, start, step = k, 0, 8 * k
    while missing > 0 and start < len(order):
        part = np.flatnonzero(eligible[order[start : start + step]])[:missing] + start
        found.append(part)
        missing -= len(part)
        start += step
        step *= 4
    return np.concatenate(found) if found else np.empty(0, dtype=np.intp)


def walk(name: str, order: ItemArray, scores: ScoreArray, k: int, eligible: Mask) -> Ranking:
    """The first k eligible items of a fixed order.

    `order` `(n,)` int32, best first; `scores` `(n,)` float32 parallel to it.
    """
    positions = first_eligible(order, k, eligible)
    items = order[positions]
    return Ranking(items, scores[positions], (name,) * len(items), np.full(len(items), NO_ITEM, dtype=np.int32))


def strongest_origin(
    wanted: ItemArray, entries: ItemArray, scores: ScoreArray, origin: ItemArray, n_items: int
) -> ItemArray:
    """For each of the different `wanted` items the origin of its largest entry.

    `entries`, `scores` and `origin` are parallel; every wanted item has an entry. A tie goes to the earlier entry.
    """
    if len(wanted) == 0:
        return wanted
    _, slot = _SCRATCH.of(n_items)
    slot[wanted] = np.arange(len(wanted), dtype=np.int32)
    # Other items' slots hold what earlier calls left: the comparison tells them apart.
    place = np.minimum(slot.take(entries), len(wanted) - 1)
    hits = (wanted.take(place) == entries).nonzero()[0]
    place = place.take(hits)
    order = np.lexsort((-scores.take(hits), place))
    first = place.take(order).searchsorted(np.arange(len(wanted)))
    strongest: ItemArray = origin[hits[order[first]]]
    return strongest
