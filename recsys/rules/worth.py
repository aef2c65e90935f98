"""What rules cost: predicted clicks and revenue with all of them, less the same with all but one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recsys.events import Surface
from recsys.ranking import Ranking, ScoreArray

Probabilities = Callable[[Surface, Ranking], NDArray[np.float32]]
"""`(n,)` float32: for each item of an answer the probability that it is clicked."""


@dataclass(frozen=True, slots=True)
class Predictor:
    """Where predicted clicks come from."""

    probabilities: Probabilities
    unit: str
    """What a predicted click is, in words."""
    relative: bool
    """Whether it wants scores as shares of the best score that the request would have without rules."""


@dataclass(frozen=True, slots=True)
class Worth:
    """Of answers, expected."""

    clicks: float
    revenue_cents: float
    """Clicks times price; an item of unknown price adds nothing."""

    def __add__(self, other: Worth) -> Worth:
        return Worth(self.clicks + other.clicks, self.revenue_cents + other.revenue_cents)

    def __sub__(self, other: Worth) -> Worth:
        return Worth(self.clicks - other.clicks, self.revenue_cents - other.revenue_cents)


NOTHING = Worth(0.0, 0.0)


def by_position(surface: Surface, ranking: Ranking) -> NDArray[np.float32]:  # noqa: ARG001 - alike everywhere
    """A stand-in where no calibrated probabilities are at hand: scores, discounted by position as in nDCG, `1 / log2(1 + rank)`."""
    ranks = np.arange(1, len(ranking) + 1)
    return np.asarray(ranking.scores / np.log2(1.0 + ranks), dtype=np.float32)


STAND_IN = Predictor(
    by_position,
    unit="points: the model's scores as shares of its best, discounted by position (no clicks: this bundle is not calibrated)",
    relative=True,
)


def worth(
    predictor: Predictor, surface: Surface, answer: Ranking, plain: Ranking, price_cents: NDArray[np.int64]
) -> Worth:
    """What an answer is worth; `plain` is what the model says without rules, deep enough to hold most of the answer."""
    scores = reference_scores(answer, plain)
    if predictor.relative:
        best = max(float(plain.scores.max(initial=0.0)), 1e-30)
        scores = np.asarray(np.maximum(scores, 0.0) / best, dtype=np.float32)
    clicks = predictor.probabilities(surface, replace(answer, scores=scores))
    prices = np.maximum(price_cents[answer.items], 0)
    return Worth(float(clicks.sum()), float(clicks @ prices))


def reference_scores(answer: Ranking, plain: Ranking) -> ScoreArray:
    """`(n,)` float32: the score that each item of the answer has in `plain`, 0 where it is not among those.

    A model scales its scores to the best item that it may show: only scores of one and the same question compare.
    """
    known = dict(zip(plain.items.tolist(), plain.scores.tolist(), strict=True))
    return np.array([known.get(row, 0.0) for row in answer.items.tolist()], dtype=np.float32)
