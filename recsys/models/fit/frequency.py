"""Fitting of own purchase frequency: nothing but its hyper-parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.dataset import Dataset
from recsys.models.frequency import FrequencyModel


@dataclass(frozen=True)
class FrequencyRecommender:
    """Own purchases, halved every `half_life_days`."""

    half_life_days: float = 90.0
    floor_days: float = 0.0

    def fit(self, dataset: Dataset, at: int, rng: np.random.Generator) -> FrequencyModel:  # noqa: ARG002
        """See `Recommender`."""
        return FrequencyModel(dataset.n_items, self.half_life_days, self.floor_days)
