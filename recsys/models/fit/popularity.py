"""Fitting of everything that is the same for everybody: popularity, by category, trending, new arrivals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.dataset import SECONDS_PER_DAY, Dataset
from recsys.models.fit.matrix import event_weights, interaction_matrix
from recsys.models.popularity import CategoryPopularityModel, OrderModel
from recsys.models.random import RandomModel


def item_scores(dataset: Dataset, at: int, half_life_days: float) -> NDArray[np.float64]:
    """`(n_items,)` float64: summed event weights, halved every `half_life_days`."""
    weights = event_weights(dataset.events, at, half_life_days)
    return np.asarray(np.bincount(dataset.events.item, weights, minlength=dataset.n_items), dtype=np.float64)


def order_by(scores: NDArray[np.float64], name: str, keep: NDArray[np.bool_] | None = None) -> OrderModel:
    """Items from the highest score down, ties by row; all of them, or those that `keep` selects."""
    order = np.lexsort((np.arange(len(scores)), -scores))
    if keep is not None:
        order = order[keep[order]]
    return OrderModel(order.astype(np.int32), scores[order].astype(np.float32), name)


@dataclass(frozen=True)
class RandomRecommender:
    """Nothing to learn."""

    def fit(self, dataset: Dataset, at: int, rng: np.random.Generator) -> RandomModel:  # noqa: ARG002
        """See `Recommender`."""
        return RandomModel()


@dataclass(frozen=True)
class PopularityRecommender:
    """What everybody likes lately; every item stands in the order, so that it can fill any answer."""

    half_life_days: float = 10.0
    power: float = 1.0
    """Of each shopper's demand for an item. Below 1 many shoppers count for more than a few who buy much."""

    def fit(self, dataset: Dataset, at: int, rng: np.random.Generator) -> OrderModel:  # noqa: ARG002
        """See `Recommender`."""
        if self.power == 1.0:
            return order_by(item_scores(dataset, at, self.half_life_days), "popularity")
        demand = interaction_matrix(dataset, at, self.half_life_days)
        demand.data **= self.power
        return order_by(np.asarray(demand.sum(axis=0), dtype=np.float64).ravel(), "popularity")


@dataclass(frozen=True)
class CategoryPopularityRecommender:
    """What everybody likes lately within one category."""

    half_life_days: float = 10.0

    def fit(self, dataset: Dataset, at: int, rng: np.random.Generator) -> CategoryPopularityModel:  # noqa: ARG002
        """See `Recommender`."""
        scores = item_scores(dataset, at, self.half_life_days)
        category = dataset.catalogue.category
        order = np.lexsort((np.arange(len(scores)), -scores, category))
        order = order[category[order] >= 0]
        codes = np.arange(len(dataset.catalogue.categories) + 1)
        offsets = np.searchsorted(category[order], codes).astype(np.int64)
        return CategoryPopularityModel(category, offsets, order.astype(np.int32), scores[order].astype(np.float32))


@dataclass(frozen=True)
class TrendingRecommender:
    """Items whose recent interest exceeds what their longer past would expect.

    The score is the excess over the expectation, in its standard deviations (of a Poisson count), so that neither
    the always popular nor a single sale rises to the top.
    """

    recent_days: float = 7.0
    past_days: float = 56.0

    def fit(self, dataset: Dataset, at: int, rng: np.random.Generator) -> OrderModel:  # noqa: ARG002
        """See `Recommender`."""
        start = at - int(self.recent_days * SECONDS_PER_DAY)
        before = at - int((self.recent_days + self.past_days) * SECONDS_PER_DAY)
        recent = np.bincount(dataset.events.between(start, at).item, minlength=dataset.n_items)
        past = np.bincount(dataset.events.between(before, start).item, minlength=dataset.n_items)
        total = max(1, past.sum())
        expected = (past + 1.0) * (max(1, recent.sum()) / (total + dataset.n_items))
        excess = (recent - expected) / np.sqrt(expected + 1.0)
        return order_by(excess, "trending", keep=(recent > 0) & (excess > 0))


@dataclass(frozen=True)
class NewArrivalsRecommender:
    """Items listed in the last `days`, the most wanted first; among those nobody met yet, the newest."""

    days: float = 30.0

    def fit(self, dataset: Dataset, at: int, rng: np.random.Generator) -> OrderModel:  # noqa: ARG002
        """See `Recommender`."""
        age = (at - dataset.catalogue.listed_second) / SECONDS_PER_DAY
        new = (age >= 0) & (age <= self.days)
        interest = item_scores(dataset, at, self.days)
        return order_by(interest - age / (1.0 + self.days), "new_arrivals", keep=new)
