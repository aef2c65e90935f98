"""Implicit-feedback matrix factorisation, folding in whatever history a query brings (Hu, Koren and Volinsky, 2008)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from recsys.models.selection import rank, sum_by_item
from recsys.ranking import EMPTY_RANKING, Mask, ModelState, Query, Ranking


@dataclass(frozen=True)
class ALSModel:
    """Scores every item by its factors' product with those solved for the history.

    Costs `n_items * factors` per query: for comparison and for candidates, not for the hottest path.
    """

    kind: ClassVar[str] = "als"
    factors: NDArray[np.float32]
    """`(n_items, factors)` float32."""
    gram: NDArray[np.float32]
    """`(factors, factors)` float32: factors' product with themselves plus the regularization."""
    alpha: float
    """Confidence of a unit of weight, over that of none."""
    half_life_days: float
    name: str = "als"

    def recommend(self, query: Query, k: int, eligible: Mask) -> Ranking:
        """See `Model`; empty for an empty history."""
        if len(query.history) == 0:
            return EMPTY_RANKING
        weights = query.history.weights(self.half_life_days)
        items, strengths = sum_by_item(query.history.items, weights, len(self.factors))
        known = self.factors[items]
        confidence = self.alpha * strengths
        left = self.gram + (known * confidence[:, None]).T @ known
        user = np.linalg.solve(left, (1.0 + confidence) @ known).astype(np.float32)
        pool = np.flatnonzero(eligible).astype(np.int32)
        scores = self.factors @ user
        ranking = rank(self.name, pool, scores[pool], k)
        # The item of the history that lies nearest speaks most for it.
        because = items[np.argmax((self.factors[ranking.items] @ known.T) * confidence, axis=1)]
        return Ranking(ranking.items, ranking.scores, ranking.sources, because.astype(np.int32))

    def state(self) -> ModelState:
        """See `Model`."""
        params = {"alpha": self.alpha, "half_life_days": self.half_life_days, "name": self.name}
        return ModelState(params, {"factors": self.factors, "gram": self.gram})

    @classmethod
    def from_state(cls, state: ModelState) -> Self:
        """See `Model`."""
        return cls(**state.fields())
