"""Regional demand: what sells where the shopper is, as a factor on another model's scores.

Shelves, weather and habits differ between stores and towns; an item that sells where the shopper shops is nearer than one that
sells elsewhere. A shopper of whom nothing is known but the place gets the place's popularity this way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from recsys.ranking import ItemArray, Mask, Model, ModelState, Query, Ranking, ScoreArray, top_k


@dataclass(frozen=True)
class RegionalModel:
    """Multiplies the scores of `model` by how wanted an item is in the region to the power of `weight`; without one they stay."""

    kind: ClassVar[str] = "regional"
    model: Model
    offsets: NDArray[np.int64]
    """`(n_regions + 1,)` int64: region r is `items[offsets[r]:offsets[r + 1]]`."""
    items: ItemArray
    """Ascending within a region."""
    logs: ScoreArray
    """float32 parallel to `items`: log of how wanted each is, see `recsys.models.fit.regional`."""
    base: ScoreArray
    """`(n_regions,)` float32: the same of an item that nobody has asked for there."""
    weight: float
    depth: int
    """How many items of `model` are looked at; at least k are."""
    name: str

    def recommend(self, query: Query, k: int, eligible: Mask) -> Ranking:
        """See `Model`."""
        if not self.knows(query.region):
            return self.model.recommend(query, k, eligible)
        ranking = self.model.recommend(query, max(k, self.depth) if k > 0 else 0, eligible)
        scores = ranking.scores * np.exp(np.float32(self.weight) * self.log_demand(query.region, ranking.items))
        best = top_k(ranking.items, scores, k)
        sources = tuple(map(ranking.sources.__getitem__, best.tolist()))
        return Ranking(ranking.items[best], scores[best], sources, ranking.because[best])

    def knows(self, region: int) -> bool:
        """Whether `region` is one that it was fitted with."""
        return 0 <= region < len(self.offsets) - 1

    def log_demand(self, region: int, wanted: ItemArray) -> ScoreArray:
        """`(m,)` float32: log of how wanted the items `wanted` `(m,)` are in a known region."""
        part = slice(int(self.offsets[region]), int(self.offsets[region + 1]))
        items, logs = self.items[part], self.logs[part]
        if len(items) == 0:
            return np.full(len(wanted), self.base[region])
        place = np.minimum(items.searchsorted(wanted), len(items) - 1)
        return np.where(items[place] == wanted, logs[place], self.base[region])

    def state(self) -> ModelState:
        """See `Model`."""
        params = {
            "weight": self.weight,
            "depth": self.depth,
            "name": self.name,
        }
        return ModelState(
            params, {"offsets": self.offsets, "items": self.items, "logs": self.logs, "base": self.base}, (self.model,)
        )

    @classmethod
    def from_state(cls, state: ModelState) -> Self:
        """See `Model`."""
        return cls(model=state.parts[0], **state.fields())
