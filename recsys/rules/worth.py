"""What rules cost: predicted purchases and revenue with all of them, less the same with all but one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recsys.events import Surface
from recsys.ranking import Ranking, ScoreArray

Probabilities = Callable[[Surface, Ranking], NDArray[np.float32]]
"""`(n,)` float32: for each item of an answer the probability that it is bought."""


@dataclass(frozen=True, slots=True)
class Predictor:
    """Where predicted purchases come from."""

    probabilities: Probabilities
    unit: str
    """What a predicted purchase is, in words."""
    relative: bool
    """Whether it wants scores as shares of the best score that the request would have without rules."""


@dataclass(frozen=True, slots=True)
class Worth:
    """Of answers, expected."""

    purchases: float
    revenue_cents: float
    """Purchases times price; an item of unknown price adds nothing."""

    def __add__(self, other: Worth) -> Worth:
        return Worth(self.purchases + other.purchases, self.revenue_cents + other.revenue_cents)

    def __sub__(self, other: Worth) -> Worth:
        return Worth(self.purchases - other.purchases, self.revenue_cents - other.revenue_cents)


NOTHING = Worth(0.0, 0.0)


def by_chance(surface: Surface, ranking: Ranking) -> NDArray[np.float32]:  # noqa: ARG001 - a chance knows its surface
    """The chances of the ranking itself, 0 where none is claimed."""
    if ranking.chances is None:
        return np.zeros(len(ranking), dtype=np.float32)
    return np.nan_to_num(ranking.chances)


def by_position(surface: Surface, ranking: Ranking) -> NDArray[np.float32]:  # noqa: ARG001 - alike everywhere
    """A stand-in where no chances are at hand: scores, discounted by position as in nDCG, `1 / log2(1 + rank)`."""
    ranks = np.arange(1, len(ranking) + 1)
    return np.asarray(ranking.scores / np.log2(1.0 + ranks), dtype=np.float32)


CHANCES = Predictor(by_chance, unit="chances that the bundle claims, summed up", relative=False)
STAND_IN = Predictor(
    by_position,
    unit="points: the model's scores as shares of its best, discounted by position (no purchases: this bundle is not calibrated)",
    relative=True,
)


def worth(
    predictor: Predictor, surface: Surface, answer: Ranking, plain: Ranking, price_cents: NDArray[np.int64]
) -> Worth:
    """What an answer is worth; `plain` is what the model says without rules, deep enough to hold most of the answer."""
    judged = as_in(plain, answer)
    if predictor.relative:
        best = max(float(plain.scores.max(initial=0.0)), 1e-30)
        scores: ScoreArray = np.asarray(np.maximum(judged.scores, 0.0) / best, dtype=np.float32)
        judged = replace(judged, scores=scores)
    purchases = predictor.probabilities(surface, judged)
    prices = np.maximum(price_cents[answer.items], 0)
    return Worth(float(purchases.sum()), float(purchases @ prices))


def as_in(plain: Ranking, answer: Ranking) -> Ranking:
    """The answer with the score and the chance that each item has in `plain`, 0 where it is not among those.

    A model scales its scores to the best item that it may show, and a chance may depend on the place in an answer: only those of
    one and the same question compare.
    """
    place_of = {row: place for place, row in enumerate(plain.items.tolist())}
    places = np.array([place_of.get(row, len(plain)) for row in answer.items.tolist()], dtype=np.intp)
    chances = None if plain.chances is None else np.append(plain.chances, np.float32(0.0))[places]
    return replace(answer, scores=np.append(plain.scores, np.float32(0.0))[places], chances=chances)
