"""Fitting of item-item weights: cosine neighbours, baskets, and the local ridge."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from implicit.nearest_neighbours import all_pairs_knn
from numpy.typing import NDArray
from scipy import sparse

from recsys.dataset import Catalogue, Dataset
from recsys.models.fit.features import fit_features
from recsys.models.fit.local_ridge import solve_items
from recsys.models.fit.matrix import incidence_matrix, interaction_matrix, recency_factor
from recsys.models.fit.popularity import item_scores
from recsys.models.item_item import ItemItemModel, Reads
from recsys.ranking import PURCHASE, ScoreArray

THREADS: Final = 2
WANTED_HALF_LIFE_DAYS: Final = 10.0
"""Of what makes a neighbour popular."""


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


def favouring_wanted(model: ItemItemModel, dataset: Dataset, at: int, weight: float) -> ItemItemModel:
    """The same neighbours, of which those count more that everybody likes lately.

    A weight becomes its share of the item's strongest one, and `weight` times the neighbour's popularity as a share of the most
    popular neighbour's. 0 changes nothing.
    """
    if weight <= 0:
        return model
    wanted = item_scores(dataset, at, WANTED_HALF_LIFE_DAYS).astype(np.float32)
    lengths = np.diff(model.indptr)
    popularity = _relative(wanted[model.items], lengths)
    return replace(model, weights=_relative(model.weights, lengths) + np.float32(weight) * popularity)


def favouring_alike(model: ItemItemModel, alike: ItemItemModel, catalogue: Catalogue, weight: float) -> ItemItemModel:
    """The neighbours that items have in `model`, and among them those that are `alike` and of the item's category.

    A weight becomes its share of the item's strongest one, that in `alike` counts `weight` times, and both add up; the strongest
    are kept, as many as an item has at most in `model`. Items without neighbours in `model` stay so, and 0 changes nothing.
    """
    if weight <= 0 or not len(model.items) or not len(alike.items):
        return model
    together, likeness = _shares(model), _shares(alike)
    entries = likeness.tocoo()
    own, other = entries.coords
    category = catalogue.category
    related = (category[own] == category[other]) & (category[own] >= 0)
    named = np.asarray(together[own, other]).ravel() > 0
    keep = (related | named) & (np.diff(model.indptr) > 0)[own]
    added = sparse.csr_matrix((np.float32(weight) * entries.data[keep], (own[keep], other[keep])), shape=together.shape)
    k = int(np.diff(model.indptr).max())
    return to_model(together + added, k, model.name, model.reads, model.half_life_days, model.max_items)


def _shares(model: ItemItemModel) -> sparse.csr_matrix:
    """`(n_items, n_items)` float32: an item's row has its neighbours' weights as shares of its strongest one."""
    n = len(model.indptr) - 1
    values = _relative(model.weights, np.diff(model.indptr))
    return sparse.csr_matrix((values, model.items, model.indptr), shape=(n, n))


def _relative(values: ScoreArray, lengths: NDArray[np.int64]) -> ScoreArray:
    """`(e,)` float32: entries of rows of these `lengths`, one row after the other, as shares of the largest of their row; 0 where that is not positive."""
    best = np.zeros(len(lengths), dtype=np.float32)
    np.maximum.at(best, np.repeat(np.arange(len(lengths)), lengths), values)
    best = np.repeat(best, lengths)
    return np.divide(values, best, out=np.zeros_like(values), where=best > 0)


@dataclass(frozen=True)
class CosineRecommender:
    """ItemKNN: cosine of decayed interactions, shrunk (Sarwar et al., WWW 2001)."""

    k: int = 100
    shrinkage: float = 10.0
    half_life_days: float = 180.0
    reads: Reads = "history"
    wanted_weight: float = 0.0
    """See `favouring_wanted`."""
    name: str = "item_knn"

    def fit(self, dataset: Dataset, at: int, rng: np.random.Generator) -> ItemItemModel:  # noqa: ARG002
        """See `Recommender`."""
        matrix = interaction_matrix(dataset, at, self.half_life_days)
        matrix.data = np.sqrt(matrix.data)
        weights = nearest_items(cosine_columns(matrix, self.shrinkage), self.k)
        model = to_model(weights, self.k, self.name, self.reads, self.half_life_days)
        return favouring_wanted(model, dataset, at, self.wanted_weight)


@dataclass(frozen=True)
class BasketRecommender:
    """What is bought in the same session, against how often each is bought at all (cosine, shrunk)."""

    k: int = 100
    shrinkage: float = 20.0
    reads: Reads = "context"
    wanted_weight: float = 0.0
    """See `favouring_wanted`."""
    name: str = "bought_together"

    def fit(self, dataset: Dataset, at: int, rng: np.random.Generator) -> ItemItemModel:  # noqa: ARG002
        """See `Recommender`."""
        events = dataset.events
        bought = events.take(events.event_type == PURCHASE)
        if not len(bought):  # a shop of clicks only: what is looked at together
            bought = events
        baskets = incidence_matrix(bought.session, bought.item, (dataset.n_sessions, dataset.n_items))
        weights = nearest_items(cosine_columns(baskets, self.shrinkage), self.k)
        model = to_model(weights, self.k, self.name, self.reads)
        return favouring_wanted(model, dataset, at, self.wanted_weight)


@dataclass(frozen=True)
class LocalRidgeRecommender:
    """The EASE objective (Steck, WWW 2019) solved for each item on its strongest neighbours alone.

    Never inverts an `n_items` squared matrix, so it scales with items times `neighbours` cubed. The Gram matrix counts a
    shopper of n items `n ** -shopper_exponent`; the penalty of an item with n shoppers is
    `regularization * n ** item_exponent`. The solution knows no time, so what an item is recommended with is scaled by
    its `recency_factor` to the power of `recency_exponent`.

    With a `content_weight` the features of items stand among the shoppers, as if each were somebody who has what shares it
    (Jeunen et al., RecSys 2020): few shoppers of an item are then told by what it is.
    """

    neighbours: int = 100
    regularization: float = 80.0
    shopper_exponent: float = 0.25
    item_exponent: float = 0.3
    min_shoppers: int = 3
    recency_half_life_days: float = 15.0
    recency_exponent: float = 1.0
    recency_prior: float = 5.0
    content_weight: float = 0.0
    """What an item's features weigh together, the average shopper weighing 1."""
    k: int = 100
    half_life_days: float = 180.0
    max_items: int = 100
    name: str = "local_ridge"

    def fit(self, dataset: Dataset, at: int, rng: np.random.Generator) -> ItemItemModel:  # noqa: ARG002
        """See `Recommender`."""
        model = to_model(
            self.weights(dataset).T.tocsr(), self.k, self.name, "history", self.half_life_days, self.max_items
        )
        # After the cut to the strongest k: before it, newcomers of little support would crowd out the rest.
        return replace(model, weights=model.weights * self.recency(dataset, at)[model.items])

    def weights(self, dataset: Dataset) -> sparse.csr_matrix:
        """`(n_items, n_items)` float32: row i predicts item i from the items of its columns."""
        events = dataset.events
        seen = incidence_matrix(events.shopper, events.item, (dataset.n_shoppers, dataset.n_items))
        degree = np.maximum(np.diff(seen.indptr), 1)
        row_weight = (degree / max(1.0, degree.sum() / max(1, len(degree)))) ** -self.shopper_exponent
        shoppers = np.bincount(seen.indices, minlength=dataset.n_items)
        if self.content_weight > 0:
            features, feature_weight = fit_features(dataset.catalogue).rows()
            seen = sparse.csr_matrix(sparse.vstack([seen, features]))
            row_weight = np.concatenate([row_weight, self.content_weight * feature_weight])
        scaled = sparse.diags_array(np.sqrt(row_weight).astype(np.float32)) @ seen
        return solve_items(
            seen.tocsc(),
            row_weight,
            nearest_items(cosine_columns(scaled.tocsr(), 1.0), self.neighbours),
            penalty=self.regularization * np.maximum(shoppers, 1) ** self.item_exponent,
            wanted=shoppers >= self.min_shoppers,
        )

    def recency(self, dataset: Dataset, at: int) -> NDArray[np.float32]:
        """`(n_items,)` float32: what being recommended is scaled by."""
        factor = recency_factor(dataset, at, self.recency_half_life_days, self.recency_prior)
        return np.asarray(factor**self.recency_exponent, dtype=np.float32)
