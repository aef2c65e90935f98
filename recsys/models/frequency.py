"""Own purchase frequency with recency: what this shopper buys again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from recsys.models.selection import rank, sum_by_item
from recsys.ranking import EMPTY_RANKING, PURCHASE, Mask, ModelState, Query, Ranking


@dataclass(frozen=True)
class FrequencyModel:
    """Counts each item's own purchases, each halved every `half_life_days`."""

    kind: ClassVar[str] = "frequency"
    n_items: int
    half_life_days: float
    floor_days: float = 0.0
    """An age below this counts as this: what was bought yesterday is not yet due again."""
    name: str = "buy_again"

    def recommend(self, query: Query, k: int, eligible: Mask) -> Ranking:
        """See `Model`; only items that the shopper has bought."""
        bought = query.history.of_type(PURCHASE)
        keep = eligible[bought.items]
        items = bought.items[keep]
        if len(items) == 0:
            return EMPTY_RANKING
        age = np.maximum(bought.age_days[keep], np.float32(self.floor_days))
        unique, scores = sum_by_item(items, np.exp2(age * np.float32(-1.0 / self.half_life_days)), self.n_items)
        return rank(self.name, unique, scores, k, because=unique)

    def state(self) -> ModelState:
        """See `Model`."""
        return ModelState(
            {
                "n_items": self.n_items,
                "half_life_days": self.half_life_days,
                "floor_days": self.floor_days,
                "name": self.name,
            }
        )

    @classmethod
    def from_state(cls, state: ModelState) -> Self:
        """See `Model`."""
        return cls(**state.params)
