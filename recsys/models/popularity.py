"""Popularity: the same order for everybody, overall or within a category. Also trending and new arrivals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from recsys.models.selection import walk
from recsys.ranking import EMPTY_RANKING, NO_ITEM, ItemArray, Mask, ModelState, Query, Ranking, ScoreArray


@dataclass(frozen=True)
class OrderModel:
    """A fixed order of items: popularity, trending and new arrivals differ only in how it was fitted."""

    kind: ClassVar[str] = "order"
    order: ItemArray
    """`(m,)` int32 catalogue rows, best first; m may be below n_items."""
    scores: ScoreArray
    """`(m,)` float32 parallel to `order`, not increasing."""
    name: str = "popularity"

    def recommend(self, query: Query, k: int, eligible: Mask) -> Ranking:  # noqa: ARG002 - the same for everybody
        """See `Model`."""
        return walk(self.name, self.order, self.scores, k, eligible)

    def state(self) -> ModelState:
        """See `Model`."""
        return ModelState({"name": self.name}, {"order": self.order, "scores": self.scores})

    @classmethod
    def from_state(cls, state: ModelState) -> Self:
        """See `Model`."""
        return cls(state.arrays["order"], state.arrays["scores"], state.params["name"])


@dataclass(frozen=True)
class CategoryPopularityModel:
    """Popularity within one category: that of the query, else of the page's item, the cart or the last seen item."""

    kind: ClassVar[str] = "category_popularity"
    category: NDArray[np.int32]
    """`(n_items,)` int32 category codes, -1 where unknown."""
    offsets: NDArray[np.int64]
    """`(n_categories + 1,)` int64: category c is `order[offsets[c]:offsets[c + 1]]`."""
    order: ItemArray
    scores: ScoreArray
    name: str = "category_popularity"

    def recommend(self, query: Query, k: int, eligible: Mask) -> Ranking:
        """See `Model`; empty where the query has no category."""
        code, because = self._category(query)
        if code < 0:
            return EMPTY_RANKING
        part = slice(int(self.offsets[code]), int(self.offsets[code + 1]))
        ranking = walk(self.name, self.order[part], self.scores[part], k, eligible)
        reasons = np.full(len(ranking), because, dtype=np.int32)
        return Ranking(ranking.items, ranking.scores, ranking.sources, reasons)

    def _category(self, query: Query) -> tuple[int, int]:
        """The category's code and the item it was taken from."""
        if query.category >= 0:
            return query.category, NO_ITEM
        for item in (query.context_item, *query.cart_items[-1:], *query.session_items[-1:], *query.history.items[-1:]):
            if item >= 0:
                return int(self.category[item]), int(item)
        return NO_ITEM, NO_ITEM

    def state(self) -> ModelState:
        """See `Model`."""
        arrays: dict[str, NDArray[Any]] = {
            "category": self.category,
            "offsets": self.offsets,
            "order": self.order,
            "scores": self.scores,
        }
        return ModelState({"name": self.name}, arrays)

    @classmethod
    def from_state(cls, state: ModelState) -> Self:
        """See `Model`."""
        return cls(**state.fields())
