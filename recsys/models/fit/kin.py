"""Fitting for items that few have met: their kin, items of similar content that have sold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from recsys.dataset import Dataset
from recsys.models.fit.features import fit_features
from recsys.models.fit.item_item import LocalRidgeRecommender, to_model
from recsys.models.fit.matrix import unknown_share
from recsys.models.item_item import ItemItemModel


@dataclass(frozen=True)
class KinRecommender:
    """An item that few have met goes with what its kin goes with.

    It inherits the weights that the local ridge has learnt for its nearest items by content, by their cosines; what it inherits
    fades as shoppers meet the item itself.
    """

    content_weight: float = 3.0
    """Of the ridge, see `LocalRidgeRecommender`, which has `regularization` and `half_life_days` too."""
    regularization: float = 80.0
    half_life_days: float = 180.0
    kin: int = 20
    support: float = 3.0
    """An item that so many shoppers have met is known by half."""
    min_unknown: float = 0.5
    """Items that are better known than that are left to others."""
    k: int = 50
    name: str = "kin"

    def fit(self, dataset: Dataset, at: int, rng: np.random.Generator) -> ItemItemModel:  # noqa: ARG002
        """See `Recommender`."""
        ridge = LocalRidgeRecommender(
            content_weight=self.content_weight, regularization=self.regularization, half_life_days=self.half_life_days
        )
        unknown = unknown_share(dataset, self.support)
        kin = fit_features(dataset.catalogue).nearest(unknown >= self.min_unknown, unknown < 1.0, self.kin)
        learnt = sparse.diags_array(ridge.recency(dataset, at)) @ ridge.weights(dataset)
        inherited = sparse.csr_matrix(sparse.diags_array(unknown) @ kin @ learnt)
        return to_model(inherited.T.tocsr(), self.k, self.name, "history", self.half_life_days, ridge.max_items)


@dataclass(frozen=True)
class ContentNeighboursRecommender:
    """Of every item the sold ones with the most similar content (cosine of features)."""

    k: int = 30
    name: str = "similar_content"

    def fit(self, dataset: Dataset, at: int, rng: np.random.Generator) -> ItemItemModel:  # noqa: ARG002
        """See `Recommender`."""
        met = np.bincount(dataset.events.item, minlength=dataset.n_items)
        nearest = fit_features(dataset.catalogue).nearest(np.ones_like(met, dtype=np.bool_), met > 0, self.k)
        return to_model(nearest, self.k, self.name, "context")
