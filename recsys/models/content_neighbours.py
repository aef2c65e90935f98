"""Similar products by content: neighbours from the fit, and for items that joined since then looked for when asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Final, Self

import numpy as np

from recsys.models.content import ContentModel
from recsys.models.item_item import ItemItemModel
from recsys.models.selection import rank
from recsys.ranking import EMPTY_RANKING, NO_ITEM, ItemArray, Mask, ModelState, Query, Ranking, ScoreArray

MAX_FOUND: Final = 200
"""Neighbours that are kept of an item that joined; where fewer than k of them are eligible, it looks deeper."""
MAX_KEPT: Final = 1_000
"""Items whose neighbours are kept."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What a search over the whole catalogue found."""

    items: ItemArray
    """`(n,)` int32, the nearest first."""
    cosines: ScoreArray
    """`(n,)` float32, above 0."""
    changes: int
    """Of the content, at the time of the search."""
    is_all: bool
    """Whether nothing else has anything in common with the item."""


@dataclass(frozen=True)
class ContentNeighboursModel:
    """Answers for the item of the page; empty where its content says nothing.

    The search for an item that joined reads the features of the whole catalogue, a tenth of a second for a hundred thousand
    items, so the nearest are kept until any item joins or changes.
    """

    kind: ClassVar[str] = "content_neighbours"
    neighbours: ItemItemModel
    content: ContentModel
    name: str = "similar_content"
    _known: dict[int, _Found] = field(default_factory=dict, repr=False, compare=False)

    def recommend(self, query: Query, k: int, eligible: Mask) -> Ranking:
        """See `Model`."""
        item = query.context_item
        if item == NO_ITEM or k <= 0:
            return EMPTY_RANKING
        if not (self.content.newest == item).any():
            return self.neighbours.recommend(query, k, eligible)
        found = self._nearest(item)
        keep = eligible[found.items]
        items, cosines = found.items[keep], found.cosines[keep]
        if len(items) < k and not found.is_all:
            items, cosines = self._search(item, eligible, k)
        return rank(self.name, items, cosines, k, np.full(len(items), item, dtype=np.int32))

    def _nearest(self, item: int) -> _Found:
        """The `MAX_FOUND` nearest of all items, kept from one question to the next."""
        changes = int(self.content.changes[0])
        known = self._known.get(item)
        if known is None or known.changes != changes:
            everything = np.ones(len(self.content.features), dtype=np.bool_)
            items, cosines = self._search(item, everything, MAX_FOUND)
            known = _Found(items, cosines, changes, is_all=len(items) < MAX_FOUND)
            if len(self._known) >= MAX_KEPT:
                self._known.clear()
            self._known[item] = known
        return known

    def _search(self, item: int, eligible: Mask, n: int) -> tuple[ItemArray, ScoreArray]:
        """The n nearest of the eligible items that have anything in common with `item`, and their cosines."""
        others = np.flatnonzero(eligible & (self.content.features.max(axis=1) >= 0)).astype(np.int32)
        others = others[others != item]
        cosines = self.content.cosines(np.array([item], dtype=np.int32), others)[0]
        best = np.argsort(-cosines, kind="stable")[:n]
        best = best[cosines[best] > 0]
        return others[best], cosines[best]

    def state(self) -> ModelState:
        """See `Model`."""
        return ModelState({"name": self.name}, parts=(self.neighbours, self.content))

    @classmethod
    def from_state(cls, state: ModelState) -> Self:
        """See `Model`."""
        neighbours, content = state.parts
        assert isinstance(neighbours, ItemItemModel)
        assert isinstance(content, ContentModel)
        return cls(neighbours, content, **state.params)
