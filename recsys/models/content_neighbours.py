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
"""Neighbours that are kept of an item that joined."""
MAX_KEPT: Final = 1_000
"""Items whose neighbours are kept."""


@dataclass(frozen=True)
class ContentNeighboursModel:
    """Answers for the item of the page; empty where its content says nothing.

    The search for an item that joined reads the features of the whole catalogue, some milliseconds for a hundred thousand
    items, so its answer is kept until the item changes.
    """

    kind: ClassVar[str] = "content_neighbours"
    neighbours: ItemItemModel
    content: ContentModel
    name: str = "similar_content"
    _found: dict[tuple[int, bytes], tuple[ItemArray, ScoreArray]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def recommend(self, query: Query, k: int, eligible: Mask) -> Ranking:
        """See `Model`."""
        item = query.context_item
        if item == NO_ITEM or k <= 0:
            return EMPTY_RANKING
        if not (self.content.newest == item).any():
            return self.neighbours.recommend(query, k, eligible)
        items, cosines = self._search(item)
        keep = eligible[items]
        because = np.full(int(keep.sum()), item, dtype=np.int32)
        return rank(self.name, items[keep], cosines[keep], k, because)

    def _search(self, item: int) -> tuple[ItemArray, ScoreArray]:
        key = (item, self.content.features[item].tobytes())
        known = self._found.get(key)
        if known is None:
            others = np.flatnonzero(self.content.features.max(axis=1) >= 0).astype(np.int32)
            cosines = self.content.cosines(np.array([item], dtype=np.int32), others)[0]
            cosines[others == item] = 0.0
            best = np.argsort(-cosines, kind="stable")[:MAX_FOUND]
            best = best[cosines[best] > 0]
            known = others[best], cosines[best]
            if len(self._found) >= MAX_KEPT:
                self._found.clear()
            self._found[key] = known
        return known

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
