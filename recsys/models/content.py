"""Content: what of the catalogue's unsold items suits a shopper, judged by what those items are.

A pair of shopper and item is scored twice and added up: by a small network over how well the item's features of each kind
(type, brand, words, ...) match those of the shopper's history, and by the inner product of two towers over the same features.
Nothing in it knows an item by its id, so an item that nobody has met is scored like any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from recsys.models.selection import rank, strongest_items
from recsys.ranking import EMPTY_RANKING, ItemArray, Mask, ModelState, Query, Ranking, ScoreArray

MATCH_SCALE = 50.0
"""Matches are cosines' parts, mostly below 0.02: so much larger, their logarithm tells them apart."""


@dataclass(frozen=True)
class ContentModel:
    """Ranks `order`, the items without a sale, for a history; empty for an empty one."""

    kind: ClassVar[str] = "content"
    features: NDArray[np.int32]
    """`(n_items, width)` int32 features of each item, -1 in empty slots; see `recsys.content.FeatureEncoder`."""
    weights: NDArray[np.float32]
    """`(n_items, width)` float32, of length 1 for each item."""
    starts: NDArray[np.int64]
    """`(n_blocks,)` int64: first slot of each kind of features."""
    shopper_vectors: NDArray[np.float32]
    """`(n_items, d)` float32: what an item of the history adds to the shopper's vector."""
    item_vectors: NDArray[np.float32]
    """`(n_items, d)` float32."""
    hidden: NDArray[np.float32]
    """`(n_items, h)` float32: what the item alone adds to the network's hidden layer."""
    match_weights: NDArray[np.float32]
    """`(n_blocks, h)` float32."""
    output_weights: NDArray[np.float32]
    """`(h,)` float32."""
    order: ItemArray
    """Items that may be recommended, the most promising first."""
    n_features: int
    half_life_days: float = 90.0
    max_items: int = 300
    """It reads this many different items of the history, the strongest."""
    max_candidates: int = 1_000
    """It scores this many eligible items of `order`, the first ones."""
    name: str = "content"

    def recommend(self, query: Query, k: int, eligible: Mask) -> Ranking:
        """See `Model`."""
        candidates = self.order[eligible[self.order]][: max(k, self.max_candidates)]
        if len(query.history) == 0 or len(candidates) == 0 or k <= 0:
            return EMPTY_RANKING
        seeds, strengths = strongest_items(query.history, self.half_life_days, self.max_items, len(self.features))
        scores = self.scores(seeds, strengths, candidates)
        # Scores are logits; a ranking's scores are compared by their share of the best, so they become odds.
        ranking = rank(self.name, candidates, np.exp(scores - scores.max()), k)
        near = (self.item_vectors[ranking.items] @ self.shopper_vectors[seeds].T) * strengths
        because = seeds[np.argmax(near, axis=1)]
        return Ranking(ranking.items, ranking.scores, ranking.sources, because.astype(np.int32))

    def scores(self, seeds: ItemArray, strengths: ScoreArray, items: ItemArray) -> ScoreArray:
        """`(m,)` float32 logits of `items` `(m,)` for a shopper with different `seeds` `(s,)` of `strengths` `(s,)`."""
        features, weights = self.features[seeds].ravel(), (self.weights[seeds] * strengths[:, None]).ravel()
        known = features >= 0
        sums = np.bincount(features[known], weights[known], minlength=self.n_features + 1).astype(np.float32)
        profile = sums / max(float(np.linalg.norm(sums)), 1e-9)
        # Empty slots, -1, read the last entry of the profile, which is always 0.
        products = profile[self.features[items]] * self.weights[items]
        matches = np.log1p(MATCH_SCALE * np.add.reduceat(products, self.starts, axis=1))
        hidden = np.maximum(matches @ self.match_weights + self.hidden[items], 0.0)
        shopper = strengths @ self.shopper_vectors[seeds]
        shopper = shopper / max(float(np.linalg.norm(shopper)), 1e-9)
        return np.asarray(hidden @ self.output_weights + self.item_vectors[items] @ shopper, dtype=np.float32)

    def state(self) -> ModelState:
        """See `Model`."""
        params = {
            "n_features": self.n_features,
            "half_life_days": self.half_life_days,
            "max_items": self.max_items,
            "max_candidates": self.max_candidates,
            "name": self.name,
        }
        arrays: dict[str, NDArray[Any]] = {
            "features": self.features,
            "weights": self.weights,
            "starts": self.starts,
            "shopper_vectors": self.shopper_vectors,
            "item_vectors": self.item_vectors,
            "hidden": self.hidden,
            "match_weights": self.match_weights,
            "output_weights": self.output_weights,
            "order": self.order,
        }
        return ModelState(params, arrays)

    @classmethod
    def from_state(cls, state: ModelState) -> Self:
        """See `Model`."""
        return cls(**state.fields())
