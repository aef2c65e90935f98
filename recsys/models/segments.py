"""Segments: what sells to shoppers like this one, by what they told of themselves.

Somebody who has just registered has no history, but perhaps an age or a household; what sells better there than elsewhere is
nearer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from recsys.ranking import ItemArray, Mask, Model, ModelState, Query, Ranking, top_k


@dataclass(frozen=True)
class SegmentModel:
    """Multiplies the scores of `model` by the lifts of each of the shopper's segments to the power of `weight`."""

    kind: ClassVar[str] = "segments"
    model: Model
    items: ItemArray
    """`(m,)` int32, ascending: the items that most is sold of."""
    lifts: NDArray[np.float32]
    """`(n_segments, m)` float32: log of an item's share of what a segment buys over its share of what all buy."""
    weight: float
    depth: int
    """How many items of `model` are looked at; at least k are."""
    name: str

    def recommend(self, query: Query, k: int, eligible: Mask) -> Ranking:
        """See `Model`."""
        segments = self.known(query)
        if len(segments) == 0 or k <= 0:
            return self.model.recommend(query, k, eligible)
        ranking = self.model.recommend(query, max(k, self.depth), eligible)
        place = np.minimum(self.items.searchsorted(ranking.items), len(self.items) - 1)
        lifts = np.where(self.items[place] == ranking.items, self.lifts[segments].sum(axis=0)[place], np.float32(0.0))
        scores = np.asarray(ranking.scores * np.exp(np.float32(self.weight) * lifts), dtype=np.float32)
        best = top_k(ranking.items, scores, k)
        sources = tuple(map(ranking.sources.__getitem__, best.tolist()))
        return Ranking(ranking.items[best], scores[best], sources, ranking.because[best])

    def known(self, query: Query) -> ItemArray:
        """Those of the query's segments of which it knows what they buy."""
        if len(self.items) == 0:
            return query.segments[:0]
        return query.segments[(query.segments >= 0) & (query.segments < len(self.lifts))]

    def state(self) -> ModelState:
        """See `Model`."""
        params = {"weight": self.weight, "depth": self.depth, "name": self.name}
        return ModelState(params, {"items": self.items, "lifts": self.lifts}, (self.model,))

    @classmethod
    def from_state(cls, state: ModelState) -> Self:
        """See `Model`."""
        return cls(model=state.parts[0], **state.fields())
