"""Why an item is in an answer, in plain words."""

from __future__ import annotations

from typing import Final

import numpy as np

from recsys.ranking import NO_ITEM, PURCHASE, History, Ranking
from recsys.rules.candidates import PINNED
from service.catalogue import LiveCatalogue

_ABOUT_AN_ITEM: Final = {
    "local_ridge": "Because you chose {}",
    "item_knn": "Because you chose {}",
    "als": "Fits your taste for {}",
    "session_knn": "Others went on to this after {}",
    "similar": "Chosen by the same shoppers as {}",
    "bought_together": "Often bought together with {}",
    "cart": "Goes with {} in your cart",
    "category_popularity": "Popular in the same category as {}",
}
_BY_CONTENT: Final = {
    (True, True): "Same type and brand as {}",
    (True, False): "Same type as {}",
    (False, True): "Same brand as {}",
    (False, False): "Much like {}",
}
"""By whether type and brand are the same."""
_CONTENT: Final = frozenset({"content", "similar_content", "new_arrivals_for_you"})
_LIKENESS: Final = _CONTENT | {"similar"}
"""Says what an item has in common with that of its reason; what is `similar` and of another type was chosen together."""
_NOTHING: Final = (False, False)
OWN: Final = "buy_again"
_PLAIN: Final = {
    "popularity": b'"Popular right now"',
    "category_popularity": b'"Popular in this category"',
    "trending": b'"More wanted than usual this week"',
    "trending_now": b'"Wanted in the last hours"',
    "new_arrivals": b'"New here"',
    "new_arrivals_for_you": b'"New here"',
    "random": b'"Picked at random"',
    PINNED: b'"Picked by the shop"',
}
_UNKNOWN: Final = b'"Chosen for you"'


def _around(words: str) -> tuple[bytes, bytes]:
    """A sentence as a JSON string, in two parts around the title."""
    before, after = f'"{words}"'.encode().split(b"{}")
    return before, after


_ABOUT: Final = {source: _around(words) for source, words in _ABOUT_AN_ITEM.items()}
_SHARED: Final = {same: _around(words) for same, words in _BY_CONTENT.items()}


def reasons(ranking: Ranking, history: History, catalogue: LiveCatalogue) -> list[bytes]:
    """A JSON string for each item of the ranking."""
    counts = _times_bought(ranking, history) if OWN in ranking.sources else None
    texts = []
    for place, (source, item) in enumerate(zip(ranking.sources, cited(ranking), strict=True)):
        if source == OWN and counts is not None:
            texts.append(_bought(int(counts[place])))
        elif item != NO_ITEM:
            same = _same(int(ranking.items[place]), item, catalogue) if source in _LIKENESS else _NOTHING
            before, after = _SHARED[same] if same[0] or source in _CONTENT else _ABOUT[source]
            texts.append(before + catalogue.title_json(item)[1:-1] + after)
        else:
            texts.append(_PLAIN.get(source, _UNKNOWN))
    return texts


def cited(ranking: Ranking) -> list[int]:
    """For each item the one that its reason speaks of, of the history, the cart or the page; `NO_ITEM` where of none.

    An item that the shopper bought before is its own reason.
    """
    return [
        because if source == OWN or source in _ABOUT or source in _CONTENT else NO_ITEM
        for source, because in zip(ranking.sources, ranking.because.tolist(), strict=True)
    ]


def _same(item: int, other: int, catalogue: LiveCatalogue) -> tuple[bool, bool]:
    """Whether two items are of one category and of one brand; what is unknown is not the same."""
    category, brand = int(catalogue.category[item]), int(catalogue.brand[item])
    return (
        category >= 0 and category == int(catalogue.category[other]),
        brand >= 0 and brand == int(catalogue.brand[other]),
    )


def _bought(times: int) -> bytes:
    return b'"You bought this before"' if times <= 1 else b'"You bought this %d times"' % times


def _times_bought(ranking: Ranking, history: History) -> list[int]:
    """How many purchases of each ranked item the history holds."""
    bought = np.sort(history.items[history.event_types == PURCHASE])
    counts: list[int] = (
        bought.searchsorted(ranking.items, "right") - bought.searchsorted(ranking.items, "left")
    ).tolist()
    return counts
