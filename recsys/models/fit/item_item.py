"""Fitting of item-item weights: cosine neighbours, baskets, and the local ridge."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from implicit.nearest_neighbours import all_pairs_knn
from scipy import sparse

from recsys.dataset import Dataset
from recsys.models.fit.local_ridge import solve_items
from recsys.models.fit.matrix import incidence_matrix, interaction_matrix, recency_factor
from recsys.models.item_item import ItemItemModel, Reads
from recsys.ranking import PURCHASE

THREADS: Final = 2


def nearest_items(matrix: sparse.csr_matrix, k: int) -> sparse.csr_matrix:
    """The k largest inner products of each column of `matrix` `(rows, n_items)` with the others, `(n_items, n_items)`."""
    found = all_pairs_knn(
        sparse.csr_matrix(matrix, dtype=np.float64), k + 1, num_threads=THREADS, show_progress=False
    ).tocsr()
    found.setdiag(0.0)
    found.eliminate_zeros()
    return found


def cosine_columns(matrix: sparse.csr_matrix, shrinkage: float) -> sparse.csr_matrix:
    """Columns scaled so that inner products are cosines, pulled to zero for columns with little support."""
    norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=0)).ravel() + shrinkage)
    return sparse.csr_matrix(matrix @ sparse.diags_array(np.float32(1.0) / np.maximum(norms, 1e-6).astype(np.float32)))


def to_model(
    weights: sparse.csr_matrix, k: int, name: str, reads: Reads, half_life_days: float = 90.0, max_items: int = 100
) -> ItemItemModel:
    """The k largest weights of each row, the row being the item that the query holds."""
    weights = weights.tocsr().astype(np.float32)
    rows = np.repeat(np.arange(weights.shape[0]), np.diff(weights.indptr))
    order = np.lexsort((weights.indices, -weights.data, rows))
    place = np.arange(len(order)) - weights.indptr[rows[order]]
    order = order[(place < k) & (weights.data[order] != 0)]
    counts = np.bincount(rows[order], minlength=weights.shape[0])
    return ItemItemModel(
        indptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        items=weights.indices[order].astype(np.int32),
        weights=weights.data[order],
        name=name,
        reads=reads,
        half_life_days=half_life_days,
        max_items=max_items,
    )


@dataclass(frozen=True)
class CosineRecommender:
    """ItemKNN: cosine of decayed interactions, shrunk (Sarwar et al., WWW 2001)."""

    k: int = 100
    shrinkage: float = 10.0
    half_life_days: float = 180.0
    reads: Reads = "history"
    name: str = "item_knn"

    def fit(self, dataset: Dataset, at: int, rng: np.random.Generator) -> ItemItemModel:  # noqa: ARG002
        """See `Recommender`."""
        matrix = interaction_matrix(dataset, at, self.half_life_days)
        matrix.data = np.sqrt(matrix.data)
        weights = nearest_items(cosine_columns(matrix, self.shrinkage), self.k)
        return to_model(weights, self.k, self.name, self.reads, self.half_life_days)


@dataclass(frozen=True)
class BasketRecommender:
    """What is bought in the same session, against how often each is bought at all (cosine, shrunk)."""

    k: int = 100
    shrinkage: float = 20.0
    reads: Reads = "context"
    name: str = "bought_together"

    def fit(self, dataset: Dataset, at: int, rng: np.random.Generator) -> ItemItemModel:  # noqa: ARG002
        """See `Recommender`."""
        events = dataset.events
        bought = events.take(events.event_type == PURCHASE)
        if not len(bought):  # a shop of clicks only: what is looked at together
            bought = events
        baskets = incidence_matrix(bought.session, bought.item, (dataset.n_sessions, dataset.n_items))
        weights = nearest_items(cosine_columns(baskets, self.shrinkage), self.k)
        return to_model(weights, self.k, self.name, self.reads)


@dataclass(frozen=True)
class LocalRidgeRecommender:
    """The EASE objective (Steck, WWW 2019) solved for each item on its strongest neighbours alone.

    Never inverts an `n_items` squared matrix, so it scales with items times `neighbours` cubed. The Gram matrix counts a
    shopper of n items `n ** -shopper_exponent`; the penalty of an item with n shoppers is
    `regularization * n ** item_exponent`. The solution knows no time, so what an item is recommended with is scaled by
    its `recency_factor` to the power of `recency_exponent`.
    """

    neighbours: int = 100
    regularization: float = 80.0
    shopper_exponent: float = 0.25
    item_exponent: float = 0.3
    min_shoppers: int = 3
    recency_half_life_days: float = 15.0
    recency_exponent: float = 1.0
    recency_prior: float = 5.0
    k: int = 100
    half_life_days: float = 180.0
    max_items: int = 100
    name: str = "local_ridge"

    def fit(self, dataset: Dataset, at: int, rng: np.random.Generator) -> ItemItemModel:  # noqa: ARG002
        """See `Recommender`."""
        events = dataset.events
        seen = incidence_matrix(events.shopper, events.item, (dataset.n_shoppers, dataset.n_items))
        degree = np.maximum(np.diff(seen.indptr), 1)
        shopper_weight = (degree / max(1.0, degree.sum() / max(1, len(degree)))) ** -self.shopper_exponent
        scaled = sparse.diags_array(np.sqrt(shopper_weight).astype(np.float32)) @ seen
        nearest = nearest_items(cosine_columns(scaled.tocsr(), 1.0), self.neighbours)
        weights = solve_items(
            seen.tocsc(),
            shopper_weight,
            nearest,
            regularization=self.regularization,
            item_exponent=self.item_exponent,
            min_shoppers=self.min_shoppers,
        )
        model = to_model(weights.T.tocsr(), self.k, self.name, "history", self.half_life_days, self.max_items)
        # After the cut to the strongest k: before it, newcomers of little support would crowd out the rest.
        recency = recency_factor(dataset, at, self.recency_half_life_days, self.recency_prior) ** self.recency_exponent
        return replace(model, weights=model.weights * recency[model.items])
