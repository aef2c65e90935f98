"""Fitting of iALS by the library implicit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from threadpoolctl import threadpool_limits

from recsys.dataset import Dataset
from recsys.models.als import ALSModel
from recsys.models.fit.item_item import THREADS
from recsys.models.fit.matrix import interaction_matrix


@dataclass(frozen=True)
class ALSRecommender:
    """Hu, Koren and Volinsky (2008): confidence `1 + alpha * weight`."""

    factors: int = 64
    regularization: float = 10.0
    alpha: float = 2.0
    iterations: int = 10
    half_life_days: float = 180.0

    def fit(self, dataset: Dataset, at: int, rng: np.random.Generator) -> ALSModel:
        """See `Recommender`."""
        matrix = interaction_matrix(dataset, at, self.half_life_days)
        # implicit takes the confidence itself; one is that of no evidence.
        matrix.data = np.float32(1.0) + np.float32(self.alpha) * matrix.data
        # The library warns where BLAS would start threads of its own inside its own.
        with threadpool_limits(1, user_api="blas"):
            library = AlternatingLeastSquares(
                factors=self.factors,
                regularization=self.regularization,
                alpha=1.0,
                iterations=self.iterations,
                num_threads=THREADS,
                random_state=int(rng.integers(2**31)),
            )
            library.fit(matrix, show_progress=False)
        factors = np.ascontiguousarray(library.item_factors, dtype=np.float32)
        gram = factors.T @ factors + np.float32(self.regularization) * np.eye(self.factors, dtype=np.float32)
        return ALSModel(factors, gram, self.alpha, self.half_life_days)
