"""Item-item neighbours: what goes with the items of a history, a session, a page or a cart.

However the weights were fitted (cosine, local ridge, co-purchase), serving them is the same sparse sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from recsys.models.selection import gather_rows, rank, strongest_items, strongest_origin, sum_by_item
from recsys.ranking import EMPTY_RANKING, ItemArray, Mask, ModelState, Query, Ranking, ScoreArray

MAX_REASONS: Final = 200
"""So many items of an answer are given a reason; who asks for more reads their scores."""
Reads = Literal["history", "context", "cart"]


@dataclass(frozen=True)
class ItemItemModel:
    """Scores an item by the sum of its weights with the items that the query holds."""

    kind: ClassVar[str] = "item_item"
    indptr: NDArray[np.int64]
    """`(n_items + 1,)` int64: neighbours of item i are `items[indptr[i]:indptr[i + 1]]`."""
    items: ItemArray
    """Neighbours, strongest first."""
    weights: ScoreArray
    name: str
    reads: Reads = "history"
    """Which part of a query it answers from."""
    half_life_days: float = 90.0
    """Of an event's weight, where it reads the history."""
    max_items: int = 100
    """It reads this many different items, the strongest."""

    def recommend(self, query: Query, k: int, eligible: Mask) -> Ranking:
        """See `Model`; only items with a positive sum."""
        seeds, strengths = self.seeds(query)
        if len(seeds) == 0:
            return EMPTY_RANKING
        positions, lengths = gather_rows(self.indptr, seeds)
        entries = self.items.take(positions)
        keep = eligible.take(entries).nonzero()[0]
        entries = entries.take(keep)
        scores = self.weights.take(positions.take(keep)) * strengths.repeat(lengths).take(keep)
        items, totals = sum_by_item(entries, scores, len(self.indptr) - 1)
        positive = (totals > 0).nonzero()[0]
        ranking = rank(self.name, items.take(positive), totals.take(positive), k)
        origin = seeds.repeat(lengths).take(keep)
        because = ranking.because
        because[:MAX_REASONS] = strongest_origin(
            ranking.items[:MAX_REASONS], entries, scores, origin, len(self.indptr) - 1
        )
        return ranking

    def seeds(self, query: Query) -> tuple[ItemArray, ScoreArray]:
        """Different items to answer from, and how much each counts."""
        if self.reads == "context":
            items = np.array([query.context_item] if query.context_item >= 0 else [], dtype=np.int32)
            return items, np.ones(len(items), dtype=np.float32)
        if self.reads == "cart":
            items = np.unique(query.cart_items)
            return items, np.ones(len(items), dtype=np.float32)
        return strongest_items(query.history, self.half_life_days, self.max_items, len(self.indptr) - 1)

    def state(self) -> ModelState:
        """See `Model`."""
        params = {
            "name": self.name,
            "reads": self.reads,
            "half_life_days": self.half_life_days,
            "max_items": self.max_items,
        }
        return ModelState(params, {"indptr": self.indptr, "items": self.items, "weights": self.weights})

    @classmethod
    def from_state(cls, state: ModelState) -> Self:
        """See `Model`."""
        return cls(**state.fields())
