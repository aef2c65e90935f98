"""How accurate a degraded model really is: the share of its places to lose, and the accuracy that is then left, measured.

Accuracy is NDCG@20 of home over what shoppers bought in a window, as a share of the undegraded model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from recsys.evaluation.evaluate import Case, Task, bootstrap_means
from recsys.evaluation.metrics import PRIMARY, relevant_ranks
from recsys.events import Surface
from recsys.experiments.roi import Figure
from recsys.models.degraded import scattered
from recsys.ranking import Mask, Model, Query, Ranking

TARGETS: Final = (0.9, 0.8, 0.7, 0.5)
"""Shares of the accuracy that was hoped for."""
ROUNDS: Final = 5
"""Answers are scattered so often, each time by other chances."""


@dataclass(frozen=True, slots=True)
class Degradation:
    """A model that is so much less accurate."""

    target: float
    share: float
    """Of its places that are lost to random items."""
    accuracy: Figure
    """What was measured."""


def degradations(
    model: Model, task: Task, seed: int, targets: Sequence[float] = TARGETS
) -> tuple[float, tuple[Degradation, ...]]:
    """The model's own NDCG@20, and for each target the share of places that brings it there.

    A place that is lost to a random item is worth next to nothing: so NDCG falls in proportion to the share, down to that of random items.
    """
    answers = [model.recommend(_query(case), PRIMARY.k, task.available) for case in task.cases]
    whole = _ndcg(answers, task, 0.0, seed)
    floor = float(_ndcg(answers, task, 1.0, seed).mean() / whole.mean())
    found = []
    for target in targets:
        share = (1.0 - target) / (1.0 - floor)
        found.append(Degradation(target, share, _ratio(_ndcg(answers, task, share, seed + 1), whole, seed)))
    return float(whole.mean()), tuple(found)


def _query(case: Case) -> Query:
    return Query(
        surface=Surface.HOME,
        history=case.history,
        session_items=case.history.items[-1:],
        region=case.region,
        seed=case.shopper,
    )


def _ndcg(answers: Sequence[Ranking], task: Task, share: float, seed: int) -> NDArray[np.float64]:
    """`(n_cases,)`: each shopper's NDCG once answers are scattered, a mean over rounds."""
    return np.array(
        [_of_one(answer, case, task.available, share, seed) for answer, case in zip(answers, task.cases, strict=True)]
    )


def _of_one(answer: Ranking, case: Case, eligible: Mask, share: float, seed: int) -> float:
    values = []
    for one in range(ROUNDS if share else 1):
        ranking = scattered(answer, share, eligible, (seed, case.shopper, one))
        values.append(PRIMARY(relevant_ranks(ranking, case.truths), len(case.truths)))
    return float(np.mean(values))


def _ratio(ours: NDArray[np.float64], whole: NDArray[np.float64], seed: int) -> Figure:
    """Of the means, with its 95% bootstrap interval over shoppers."""
    means = bootstrap_means(np.stack([ours, whole], axis=1), seed)
    low, high = np.percentile(means[:, 0] / means[:, 1], [2.5, 97.5])
    return Figure(float(ours.mean() / whole.mean()), float(low), float(high))
