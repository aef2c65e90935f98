"""Implicit-feedback matrix factorisation, folding in whatever history a query brings (Hu, Koren and Volinsky, 2008)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from recsys.models.selection import rank, sum_by_item
from recsys.ranking import EMPTY_RANKING, History, ItemArray, Mask, ModelState, Query, Ranking, ScoreArray


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
        items, strengths = self.known(query.history)
        shares = self.shares(items, strengths)
        pool = np.flatnonzero(eligible).astype(np.int32)
        scores = self.factors @ shares.sum(axis=0)
        ranking = rank(self.name, pool, scores[pool], k)
        because = items[np.argmax(self.factors[ranking.items] @ shares.T, axis=1)]
        return Ranking(ranking.items, ranking.scores, ranking.sources, because.astype(np.int32))

    def known(self, history: History) -> tuple[ItemArray, ScoreArray]:
        """The different items of a history, `(n,)` int32, and the weight of each, `(n,)` float32."""
        return sum_by_item(history.items, history.weights(self.half_life_days), len(self.factors))

    def shares(self, items: ItemArray, strengths: ScoreArray) -> NDArray[np.float32]:
        """`(n, factors)` float32: what each item of a history adds to the shopper's factors, which are their sum (section 5)."""
        known, confidence = self.factors[items], self.alpha * strengths
        left = self.gram + (known * confidence[:, None]).T @ known
        return np.linalg.solve(left, (known * (1.0 + confidence)[:, None]).T).T.astype(np.float32)

    def state(self) -> ModelState:
        """See `Model`."""
        params = {"alpha": self.alpha, "half_life_days": self.half_life_days, "name": self.name}
        return ModelState(params, {"factors": self.factors, "gram": self.gram})

    @classmethod
    def from_state(cls, state: ModelState) -> Self:
        """See `Model`."""
        return cls(**state.fields())
