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
    """Demand by region and item, halved every `half_life_days`; the fitted model still lacks what it multiplies.

    How wanted an item is: one plus its demand in the region, or with `smoothing` its lift, its share of the region's demand over
    its share of all demand. The former leans towards what sells well everywhere, the latter suits what is popularity already.
    """

    half_life_days: float = 10.0
    power: float = 1.0
    """Of each shopper's demand for an item in a region, as in `PopularityRecommender`."""
    smoothing: float | None = None
    """For lifts: so much of all regions' demand is given to every one, that a small region says less (a Dirichlet prior; Zhai and
    Lafferty, TOIS 2004)."""
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
        if self.smoothing is None:
            logs, base = np.log1p(demand.data), np.zeros(shape[0])
        else:
            share = np.bincount(items, weights, minlength=dataset.n_items) / max(1e-9, float(weights.sum()))
            base = np.log(self.smoothing / (np.asarray(demand.sum(axis=1)).ravel() + self.smoothing))
            expected = self.smoothing * share[demand.indices]
            logs = np.log1p(demand.data / expected) + np.repeat(base, np.diff(demand.indptr))
        return RegionalModel(
            model=order_by(np.zeros(0), "nothing"),
            offsets=demand.indptr.astype(np.int64),
            items=demand.indices.astype(np.int32),
            logs=logs.astype(np.float32),
            base=base.astype(np.float32),
            weight=0.0,
            depth=0,
            name="regional",
        )
