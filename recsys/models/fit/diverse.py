"""What the catalogue says of how alike items are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.dataset import Dataset
from recsys.models.diverse import Diverse
from recsys.models.fit.item_facts import item_groups
from recsys.models.fit.popularity import order_by
from recsys.ranking import ItemArray


@dataclass(frozen=True)
class DiverseRecommender:
    """Categories and brands as codes; the fitted model still lacks what it re-ranks, and changes nothing."""

    depth: int = 40
    """Twice the longest list that is usual; deeper, phase 2 would have to be asked for what the ranker is not sure of."""

    def fit(self, dataset: Dataset, at: int, rng: np.random.Generator) -> Diverse:  # noqa: ARG002
        """See `Recommender`."""
        groups = item_groups(dataset.catalogue)
        return Diverse(
            model=order_by(np.zeros(0), "nothing"),
            category=_apart(groups["category"]),
            parent=_apart(groups["above"]),
            brand=_apart(groups["brand"]),
            strength=0.0,
            depth=self.depth,
        )


def _apart(codes: ItemArray) -> ItemArray:
    """`codes` `(n,)` with a negative one of its own for each item whose code is -1."""
    return np.where(codes < 0, -1 - np.arange(len(codes), dtype=np.int32), codes)
