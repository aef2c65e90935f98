"""Fitting of segments' lifts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.dataset import Dataset
from recsys.models.fit.matrix import interaction_matrix
from recsys.models.fit.popularity import order_by
from recsys.models.segments import SegmentModel


@dataclass(frozen=True)
class SegmentRecommender:
    """Lifts of the items most sold; the fitted model still lacks what it multiplies."""

    half_life_days: float = 40.0
    power: float = 0.5
    """Of each shopper's demand for an item, as in `PopularityRecommender`."""
    smoothing: float = 100.0
    """So much of the average shopper's demand is given to every segment."""
    max_items: int = 1_000

    def fit(self, dataset: Dataset, at: int, rng: np.random.Generator) -> SegmentModel:  # noqa: ARG002
        """See `Recommender`."""
        demand = interaction_matrix(dataset, at, self.half_life_days)
        demand.data **= self.power
        total = np.asarray(demand.sum(axis=0), dtype=np.float64).ravel()
        order = np.lexsort((np.arange(dataset.n_items), -total))[: self.max_items]
        items = np.sort(order[total[order] > 0])
        members = dataset.segments.matrix(dataset.n_shoppers)
        bought = np.asarray((members.T @ demand[:, items]).todense())
        share = total[items] / max(float(total[items].sum()), 1e-9)
        smoothed = bought + self.smoothing * share
        lifts = np.log(smoothed / smoothed.sum(axis=1, keepdims=True)) - np.log(share)
        return SegmentModel(
            model=order_by(np.zeros(0), "nothing"),
            items=items.astype(np.int32),
            lifts=lifts.astype(np.float32).reshape(len(dataset.segments), len(items)),
            weight=0.0,
            depth=0,
            name="segments",
        )
