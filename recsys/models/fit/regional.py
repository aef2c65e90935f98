"""Fitting of regional demand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from recsys.dataset import Dataset
from recsys.models.fit.matrix import event_weights
from recsys.models.fit.popularity import order_by
from recsys.models.regional import RegionalModel


@dataclass(frozen=True)
class RegionalRecommender:
    """Event weights by region and item, halved every `half_life_days`; the fitted model still lacks what it multiplies."""

    half_life_days: float = 10.0
    power: float = 1.0
    """Of each shopper's demand for an item in a region, as in `PopularityRecommender`."""
    min_demand: float = 0.05

    def fit(self, dataset: Dataset, at: int, rng: np.random.Generator) -> RegionalModel:  # noqa: ARG002
        """See `Recommender`."""
        known = dataset.events.take(dataset.events.region >= 0)
        weights = event_weights(known, at, self.half_life_days)
        if self.power == 1.0:
            regions, items = known.region, known.item
        else:
            by_shopper = known.region.astype(np.int64) * dataset.n_shoppers + known.shopper
            triples, place = np.unique(by_shopper * dataset.n_items + known.item, return_inverse=True)
            weights = np.bincount(place, weights).astype(np.float32) ** np.float32(self.power)
            regions, items = triples // dataset.n_items // dataset.n_shoppers, triples % dataset.n_items
        shape = (len(dataset.regions), dataset.n_items)
        demand = sparse.csr_matrix((weights, (regions, items)), shape=shape)
        demand.data[demand.data < self.min_demand] = 0.0
        demand.eliminate_zeros()
        demand.sort_indices()
        return RegionalModel(
            model=order_by(np.zeros(0), "nothing"),
            offsets=demand.indptr.astype(np.int64),
            items=demand.indices.astype(np.int32),
            logs=np.log1p(demand.data).astype(np.float32),
            weight=0.0,
            depth=0,
            name="regional",
        )
