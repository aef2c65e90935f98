"""The questions that a shop would have asked on each surface in a window, and what was then bought: what chances mean.

On **home, buy_again, trending and new_arrivals** a shopper of the window asks at its start, knowing what lay before, and the
answer comes true for what they buy until its end. On **similar** they stand before an item that they met in the first half of the
window, and it comes true for what they buy in half the window's length from then on. On **bought_together** the item
is one of a basket, on **cart** a part of a basket is in the cart, and it comes true for what else is in that same basket.

So a chance supposes that the shopper buys anything in the window or, on the last two, more in the visit: who left without
a purchase tells no source from another. Everybody asks with the history that they have at that moment, but for one in ten, who does
not say who they are; what a model does not read, the service does not either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np
import polars as pl

from recsys.dataset import Dataset, Events, Histories, target_event
from recsys.evaluation.metrics import K
from recsys.evaluation.split import Window
from recsys.events import Surface
from recsys.ranking import EMPTY_HISTORY, NO_ITEM, History, ItemArray, Mask, Model, Query

SHOWN: Final = K
"""Items of an answer that are observed. Of scores that compare within one answer only, deeper ones would mean something else."""
MAX_QUESTIONS: Final = 2_000
"""Of each surface, drawn at random."""
UNKNOWN: Final = 0.1
"""Share of the shoppers who ask without their history, as those do who have not logged in."""
AT_START: Final = (Surface.HOME, Surface.BUY_AGAIN, Surface.TRENDING, Surface.NEW_ARRIVALS)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and what would have been right."""

    query: Query
    truths: ItemArray
    """Different items."""


Questions = Mapping[Surface, Sequence[Question]]


def questions(dataset: Dataset, window: Window, seed: int, code: int | None = None) -> Questions:
    """Of every surface; those of the surfaces that ask at the start are of the same shoppers.

    `code`: what must happen for an answer to come true, the data's `target_event` by default.
    """
    rng = np.random.default_rng(seed)
    code = target_event(dataset) if code is None else code
    events = dataset.events.between(window.start, window.stop)
    right = events.take(events.event_type == code)
    known = _Known(Histories(dataset, window.stop), rng)
    baskets = [basket for basket in _groups(right, right.session) if len(np.unique(basket.item)) > 1]
    baskets = _drawn(baskets, rng)
    return {
        **_at_start(dataset, window, right, rng),
        Surface.SIMILAR: _similar(events, right, window, known, rng),
        Surface.BOUGHT_TOGETHER: [_beside(Surface.BOUGHT_TOGETHER, basket, 1, known, rng) for basket in baskets],
        Surface.CART: [
            _beside(Surface.CART, basket, int(rng.integers(1, len(np.unique(basket.item)))), known, rng)
            for basket in baskets
        ],
    }


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of who asks at a moment: nothing of `UNKNOWN` of them."""

    histories: Histories
    rng: np.random.Generator

    def history(self, session: Events) -> History:
        """Of its shopper, before it."""
        if self.rng.random() < UNKNOWN:
            return EMPTY_HISTORY
        return self.histories.then(int(session.shopper[0]), int(session.second[0]))


def _at_start(
    dataset: Dataset, window: Window, right: Events, rng: np.random.Generator
) -> dict[Surface, list[Question]]:
    histories = Histories(dataset, window.start)
    known = right.take(right.shopper < dataset.n_users)
    asked = []
    for events in _drawn(_groups(known, known.shopper), rng):
        shopper = int(events.shopper[0])
        history = EMPTY_HISTORY if rng.random() < UNKNOWN else histories[shopper]
        query = Query(
            history=history,
            session_items=history.items[-1:],
            region=int(histories.regions[shopper]),
            segments=dataset.segments.of(shopper),
            seed=shopper,
        )
        asked.append(Question(query, np.unique(events.item)))
    return {surface: [replace(one, query=replace(one.query, surface=surface)) for one in asked] for surface in AT_START}


def _similar(events: Events, right: Events, window: Window, known: _Known, rng: np.random.Generator) -> list[Question]:
    """A moment of a session of the first half, and what follows from that session on."""
    half = (window.stop - window.start) // 2
    early = events.before(window.start + half)
    by_shopper = {int(one.shopper[0]): one for one in _groups(right, right.shopper)}
    asked = []
    for session in _drawn(_groups(early, early.session), rng):
        place, start = int(rng.integers(len(session))), int(session.second[0])
        bought = by_shopper.get(int(session.shopper[0]))
        item = int(session.item[place])
        truths = np.empty(0, dtype=np.int32) if bought is None else bought.between(start, start + half).item
        region, history = int(session.region[place]), known.history(session)
        query = Query(Surface.SIMILAR, history=history, context_item=item, region=region)
        asked.append(Question(query, np.setdiff1d(truths, [item])))
    return asked


def _beside(surface: Surface, basket: Events, n_known: int, known: _Known, rng: np.random.Generator) -> Question:
    """The basket with `n_known` of its different items known, in a random order, and the others to be named."""
    items = rng.permutation(np.unique(basket.item)).astype(np.int32)
    told, truths = items[:n_known], items[n_known:]
    query = Query(surface, history=known.history(basket), region=int(basket.region[0]))
    if surface is Surface.CART:
        return Question(replace(query, cart_items=told), truths)
    return Question(replace(query, context_item=int(told[0])), truths)


def _groups(events: Events, keys: ItemArray) -> list[Events]:
    """The events of each of `keys` `(n,)`, in order of time; the groups in order of their keys."""
    order = np.argsort(keys, kind="stable")
    ends = np.flatnonzero(np.diff(keys[order], prepend=-2, append=-2))
    return [events.take(order[start:stop]) for start, stop in pairwise(ends)]


def _drawn(groups: Sequence[Events], rng: np.random.Generator) -> list[Events]:
    if len(groups) <= MAX_QUESTIONS:
        return list(groups)
    return [groups[n] for n in np.sort(rng.choice(len(groups), MAX_QUESTIONS, replace=False))]


def observe(model: Model, asked: Sequence[Question], available: Mask) -> pl.DataFrame:
    """What a model answers and what comes true, an item of an answer a row.

    Columns: `question` (its number), `rank` (from 1), `source`, `score`, `chance` (NaN where none is claimed), `hit`.
    """
    parts = []
    for number, one in enumerate(asked):
        ranking = model.recommend(one.query, SHOWN, mask_of(one.query, available))
        n = len(ranking)
        parts.append(
            pl.DataFrame(
                {
                    "question": np.full(n, number, dtype=np.int32),
                    "rank": np.arange(1, n + 1, dtype=np.int32),
                    "source": pl.Series(ranking.sources, dtype=pl.String),
                    "score": ranking.scores,
                    "chance": np.full(n, np.nan, dtype=np.float32) if ranking.chances is None else ranking.chances,
                    "hit": np.isin(ranking.items, one.truths),
                }
            )
        )
    return pl.concat(parts) if parts else pl.DataFrame(schema=OBSERVED)


OBSERVED: Final = {
    "question": pl.Int32,
    "rank": pl.Int32,
    "source": pl.String,
    "score": pl.Float32,
    "chance": pl.Float32,
    "hit": pl.Boolean,
}


def mask_of(query: Query, available: Mask) -> Mask:
    """`(n_items,)` bool: what may be answered, as the service has it: not the page's item, nor what is in the cart."""
    if query.context_item == NO_ITEM and len(query.cart_items) == 0:
        return available
    mask = available.copy()
    mask[query.cart_items] = False
    if query.context_item != NO_ITEM:
        mask[query.context_item] = False
    return mask
