"""Where items that joined since the bundle learnt are shown, though its models, which rank by what they learnt, would not.

Each surface keeps most of its places for the models; with nothing joined they answer alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from recsys.models.content import ContentModel
from recsys.ranking import NO_ITEM, ItemArray, Mask, Model, Query, Ranking, ScoreArray, joined
from service.bundles import LiveBundle

ALIKE: Final = 0.2
"""A cosine from which an item is like another one: far above that of two items drawn at random, which share a common word at most."""
SIMILAR: Final = "similar_content"
NEW: Final = "new_arrivals"
NEW_FOR_YOU: Final = "new_arrivals_for_you"
NOW: Final = "trending_now"


def similar(live: LiveBundle, model: Model, query: Query, k: int, mask: Mask, *, shown: int) -> Ranking:
    """What the model says; up to a quarter of the first `shown` places, the last, for joined items more like the page's item."""
    ranking = model.recommend(query, k, mask)
    if live.bundle.content is None or query.context_item == NO_ITEM or not live.catalogue.newest:
        return ranking
    shown = min(shown, k)
    head, going = _with_alike(live.bundle.content, ranking.top(shown), query.context_item, shown, mask)
    # What went stands behind, so that rules, which look deeper, still know of it.
    behind = np.concatenate([going, np.arange(shown, len(ranking))])
    rest = ranking.take(behind[~np.isin(ranking.items[behind], head.items)])
    if len(head) and len(rest):
        rest = replace(rest, scores=np.minimum(rest.scores, head.scores[-1]))
    return joined(head, rest).top(k)


def _with_alike(
    content: ContentModel, ranking: Ranking, item: int, k: int, mask: Mask
) -> tuple[Ranking, NDArray[np.intp]]:
    """A ranking of at most k with joined items for some of its last, and the places that had to go."""
    nothing = np.empty(0, dtype=np.intp)
    places = max(k // 4, k - len(ranking))
    newest = content.newest[content.newest != NO_ITEM]
    newest = newest[mask[newest]]
    newest = newest[~np.isin(newest, ranking.items)]
    if places == 0 or len(newest) == 0:
        return ranking, nothing
    tail = np.arange(k - places, len(ranking))
    both = content.cosines(np.array([item], dtype=np.int32), np.concatenate([newest, ranking.items[tail]]))[0]
    cosines, likeness = both[: len(newest)], both[len(newest) :]
    best = np.argsort(-cosines, kind="stable")[:places]
    best = best[cosines[best] >= ALIKE]
    # The most alike that joined against the least alike that would go for it; places that the model left empty go for nothing.
    n_free = places - len(tail)
    weakest = np.concatenate([np.full(n_free, -1.0, dtype=np.float32), np.sort(likeness)])
    best = best[cosines[best] > weakest[: len(best)]]
    if len(best) == 0:
        return ranking, nothing
    going = tail[np.argsort(likeness, kind="stable")[: max(0, len(best) - n_free)]]
    kept = ranking.take(np.setdiff1d(np.arange(len(ranking)), going))
    return _then(kept, newest[best], cosines[best], item), going


def _then(ranking: Ranking, items: ItemArray, cosines: ScoreArray, item: int) -> Ranking:
    """The ranking, then items by their cosines with `item`, whose scores stay below."""
    last = float(ranking.scores[-1]) if len(ranking) else 1.0
    scores = cosines * last / 2 if last > 0 else cosines + np.float32(last - 2)
    because = np.full(len(items), item, dtype=np.int32)
    return joined(ranking, Ranking(items, scores.astype(np.float32), (SIMILAR,) * len(items), because))


def new_arrivals(live: LiveBundle, model: Model, query: Query, k: int, mask: Mask, *, shown: int) -> Ranking:
    """Up to half of the first `shown` places for what joined, then what the model says.

    For a stranger the latest come first. For a shopper with a history content ranks what it can place; what it cannot gets one
    place, and those that are left over.
    """
    if not live.catalogue.newest:
        return model.recommend(query, k, mask)
    newest = np.array(live.catalogue.newest, dtype=np.int32)
    newest = newest[mask[newest]]
    places, content = (min(shown, k) + 1) // 2, live.bundle.content
    if content is None or len(query.history) == 0:
        return leading(listed(newest[:places], NEW), model, query, k, mask)
    is_placed = (content.features[newest] >= 0).any(axis=1)
    unplaced = newest[~is_placed]
    # Without an order it has nothing to rank but what joined.
    placed = replace(content, order=content.order[:0], name=NEW_FOR_YOU)
    first = placed.recommend(query, places - min(len(unplaced), places // 2, 1), mask)
    return leading(_both(first, listed(unplaced[: places - len(first)], NEW)), model, query, k, mask)


def trending(
    live: LiveBundle, model: Model, query: Query, k: int, mask: Mask, *, trend: Sequence[str], shown: int
) -> Ranking:
    """Up to half of the first `shown` places for what shoppers want right now, ids in `trend`, then what the model says."""
    rows = (row for row in map(live.catalogue.row, trend) if row != NO_ITEM and mask[row])
    # The first that may be shown, and no look at the others.
    wanted = np.fromiter(islice(rows, min(k, shown // 2)), dtype=np.int32)
    return leading(listed(wanted, NOW), model, query, k, mask)


def listed(rows: ItemArray, source: str) -> Ranking:
    """Rows in their order, as a ranking."""
    scores = np.arange(len(rows), 0, -1, dtype=np.float32)
    return Ranking(rows, scores, (source,) * len(rows), np.full(len(rows), NO_ITEM, dtype=np.int32))


def leading(first: Ranking, model: Model, query: Query, k: int, mask: Mask) -> Ranking:
    """A ranking of eligible items, then what the model says, whose scores stay below."""
    if len(first) == 0:
        return model.recommend(query, k, mask)
    rest_mask = mask.copy()
    rest_mask[first.items] = False
    return _both(first, model.recommend(query, k - len(first), rest_mask))


def _both(first: Ranking, then: Ranking) -> Ranking:
    """One ranking after the other; the first one's scores count down to the best of the other."""
    top = float(then.scores[0]) if len(then) else 0.0
    return joined(replace(first, scores=np.arange(len(first), 0, -1, dtype=np.float32) + np.float32(top)), then)
