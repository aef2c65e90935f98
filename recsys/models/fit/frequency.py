"""Fitting of own purchase frequency: how likely a purchase of each item is followed by another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from recsys.dataset import SECONDS_PER_DAY, Dataset, Events
from recsys.models.fit.matrix import incidence_matrix
from recsys.models.frequency import FrequencyModel
from recsys.ranking import PURCHASE


@dataclass(frozen=True)
class FrequencyRecommender:
    """Own purchases, halved every `half_life_days`, times the item's repeat propensity."""

    half_life_days: float = 90.0
    propensity_days: float = 30.0
    """Length of the last part of the past in which repeats are looked for."""
    propensity_prior: float = 20.0
    """Smoothing, in decayed purchases of an average item."""
    propensity_exponent: float = 0.5
    """0 leaves propensity out, and is plain frequency."""

    def fit(self, dataset: Dataset, at: int, rng: np.random.Generator) -> FrequencyModel:  # noqa: ARG002
        """See `Recommender`."""
        propensity = self._propensity(dataset, at) ** self.propensity_exponent
        return FrequencyModel(propensity.astype(np.float32), self.half_life_days)

    def _propensity(self, dataset: Dataset, at: int) -> NDArray[np.float64]:
        """`(n_items,)` float64 around 1: of those who had bought an item, weighted by how recently, how many bought it again
        in the last `propensity_days`, against all items."""
        cut = at - int(self.propensity_days * SECONDS_PER_DAY)
        purchases = dataset.events.take(dataset.events.event_type == PURCHASE)
        shape = (dataset.n_shoppers, dataset.n_items)
        before = self._decayed(purchases.before(cut), cut, shape)
        later = purchases.between(cut, at)
        again = incidence_matrix(later.shopper, later.item, shape).multiply(before > 0)
        bought, repeated = (np.asarray(matrix.sum(axis=0)).ravel() for matrix in (before, again))
        average = repeated.sum() / max(float(bought.sum()), 1e-12)
        if average == 0:
            return np.ones(dataset.n_items)
        return np.asarray((repeated + self.propensity_prior * average) / (bought + self.propensity_prior) / average)

    def _decayed(self, purchases: Events, cut: int, shape: tuple[int, int]) -> sparse.csr_matrix:
        weights = np.exp2(-(cut - purchases.second) / SECONDS_PER_DAY / self.half_life_days)
        return sparse.csr_matrix((weights, (purchases.shopper, purchases.item)), shape=shape)
