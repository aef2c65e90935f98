"""Own purchase frequency with recency: what this shopper buys again.

Items differ in how soon they are bought again; what a purchase says is scaled by how often purchases of that item
were followed by another (as in the repeat purchase models of Bhagat et al., KDD 2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from recsys.models.selection import rank, sum_by_item
from recsys.ranking import EMPTY_RANKING, PURCHASE, Mask, ModelState, Query, Ranking, ScoreArray


@dataclass(frozen=True)
class FrequencyModel:
    """Counts each item's own purchases, each halved every `half_life_days`, times the item's propensity."""

    kind: ClassVar[str] = "frequency"
    propensity: ScoreArray
    """`(n_items,)` float32 around 1."""
    half_life_days: float
    name: str = "buy_again"

    def recommend(self, query: Query, k: int, eligible: Mask) -> Ranking:
        """See `Model`; only items that the shopper has bought."""
        bought = query.history.of_type(PURCHASE)
        keep = eligible[bought.items]
        items = bought.items[keep]
        if len(items) == 0:
            return EMPTY_RANKING
        decay = np.exp2(bought.age_days[keep] * np.float32(-1.0 / self.half_life_days))
        unique, scores = sum_by_item(items, decay, len(self.propensity))
        return rank(self.name, unique, scores * self.propensity[unique], k, because=unique)

    def state(self) -> ModelState:
        """See `Model`."""
        return ModelState({"half_life_days": self.half_life_days, "name": self.name}, {"propensity": self.propensity})

    @classmethod
    def from_state(cls, state: ModelState) -> Self:
        """See `Model`."""
        return cls(**state.fields())
