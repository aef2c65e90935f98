"""The interaction matrix that collaborative filtering learns from, and what every recommender promises."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from recsys.dataset import SECONDS_PER_DAY, Dataset, Events
from recsys.events import WEIGHT_OF_CODE
from recsys.ranking import Model


class Recommender(Protocol):
    """Hyper-parameters that can be fitted."""

    def fit(self, dataset: Dataset, at: int, rng: np.random.Generator) -> Model:
        """Learn from `dataset`, all of which lies before `at`, the Unix second of now."""
        ...


def event_weights(events: Events, at: int, half_life_days: float) -> NDArray[np.float32]:
    """`(n,)` float32: evidence of interest, halved every `half_life_days` before `at`."""
    age_days = (at - events.second) / SECONDS_PER_DAY
    return np.asarray(WEIGHT_OF_CODE[events.event_type] * np.exp2(-age_days / half_life_days), dtype=np.float32)


def interaction_matrix(dataset: Dataset, at: int, half_life_days: float) -> sparse.csr_matrix:
    """`(n_shoppers, n_items)` float32: summed event weights."""
    events = dataset.events
    weights = event_weights(events, at, half_life_days)
    shape = (dataset.n_shoppers, dataset.n_items)
    # Building from coordinates adds up repeated pairs.
    return sparse.csr_matrix((weights, (events.shopper, events.item)), shape=shape)


def incidence_matrix(rows: NDArray[np.int32], items: NDArray[np.int32], shape: tuple[int, int]) -> sparse.csr_matrix:
    """`shape` float32 of ones: which item stands in which row (a shopper, a session)."""
    matrix = sparse.csr_matrix((np.ones(len(items), dtype=np.float32), (rows, items)), shape=shape)
    matrix.data[:] = 1.0
    return matrix


def unknown_share(dataset: Dataset, support: float) -> NDArray[np.float32]:
    """`(n_items,)` float32: 1 where no shopper has met an item, half where `support` have, towards 0 with more."""
    met = incidence_matrix(dataset.events.shopper, dataset.events.item, (dataset.n_shoppers, dataset.n_items))
    shoppers = np.bincount(met.indices, minlength=dataset.n_items)
    return np.asarray(support / (support + shoppers), dtype=np.float32)


def recency_factor(dataset: Dataset, at: int, half_life_days: float, prior: float) -> NDArray[np.float32]:
    """`(n_items,)` float32 around 1: how much of an item's demand is recent, against that of all items.

    The share of its events that is left after halving each every `half_life_days`, smoothed by `prior` events of the
    average share. Above 1 for what is sold now, near 0 for what has gone out of season or of the shelves.
    """
    items = dataset.events.item
    age_days = (at - dataset.events.second) / SECONDS_PER_DAY
    recent = np.bincount(items, np.exp2(-age_days / half_life_days), minlength=dataset.n_items)
    total = np.bincount(items, minlength=dataset.n_items)
    average = recent.sum() / max(1, total.sum())
    return np.asarray((recent + prior * average) / ((total + prior) * max(average, 1e-12)), dtype=np.float32)
