"""Random: every eligible item is as likely as any other. The baseline that every lift is measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from recsys.ranking import NO_ITEM, Mask, ModelState, Query, Ranking


@dataclass(frozen=True)
class RandomModel:
    """A uniformly random choice, repeatable by the query's seed."""

    kind: ClassVar[str] = "random"
    name: str = "random"

    def recommend(self, query: Query, k: int, eligible: Mask) -> Ranking:
        """See `Model`; the score of an item is its reversed place."""
        pool = np.flatnonzero(eligible)
        n = min(max(k, 0), len(pool))
        items = np.random.default_rng(query.seed).choice(pool, size=n, replace=False).astype(np.int32)
        scores = np.arange(n, 0, -1, dtype=np.float32)
        return Ranking(items, scores, (self.name,) * n, np.full(n, NO_ITEM, dtype=np.int32))

    def state(self) -> ModelState:
        """See `Model`."""
        return ModelState({"name": self.name})

    @classmethod
    def from_state(cls, state: ModelState) -> Self:
        """See `Model`."""
        return cls(**state.params)
