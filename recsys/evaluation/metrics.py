"""Ranking metrics as frozen values that print their own name: `recall@20`, `ndcg@20`, `hit@20`, `mrr@20`.

All read the same thing: at which ranks, from 1, the relevant items of one query stand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from recsys.ranking import ItemArray, Ranking

Ranks = NDArray[np.int64]


def relevant_ranks(ranking: Ranking, relevant: ItemArray) -> Ranks:
    """Ranks, from 1 and ascending, of the relevant items that the ranking holds.

    Ties go against us: within a run of equal scores, irrelevant items come first. `relevant` is sorted and unique.
    """
    if len(ranking) == 0 or len(relevant) == 0:
        return np.empty(0, dtype=np.int64)
    position = np.minimum(np.searchsorted(relevant, ranking.items), len(relevant) - 1)
    hit = relevant[position] == ranking.items
    new_run = np.ones(len(ranking), dtype=np.bool_)
    new_run[1:] = ranking.scores[1:] != ranking.scores[:-1]
    order = np.lexsort((hit, np.cumsum(new_run)))
    return np.flatnonzero(hit[order]) + 1


def _recall(ranks: Ranks, truths: int, k: int) -> float:
    return float(np.count_nonzero(ranks <= k)) / min(k, truths)


def _ndcg(ranks: Ranks, truths: int, k: int) -> float:
    gain = (1.0 / np.log2(ranks[ranks <= k] + 1.0)).sum()
    ideal = (1.0 / np.log2(np.arange(1, min(k, truths) + 1) + 1.0)).sum()
    return float(gain / ideal)


def _hit(ranks: Ranks, truths: int, k: int) -> float:  # noqa: ARG001 - all formulas share one signature
    return float((ranks <= k).any())


def _mrr(ranks: Ranks, truths: int, k: int) -> float:  # noqa: ARG001
    return float(1.0 / ranks[0]) if len(ranks) and ranks[0] <= k else 0.0


_FORMULA: Final[dict[str, Callable[[Ranks, int, int], float]]] = {
    "recall": _recall,
    "ndcg": _ndcg,
    "hit": _hit,
    "mrr": _mrr,
}


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of one query's ranking, in [0, 1].

    `recall` is divided by `min(k, truths)`, so that 1 can be reached; `ndcg` has binary gains and the ideal of
    `min(k, truths)` (Järvelin and Kekäläinen, 2002); `hit` is 1 where any truth is among the k; `mrr` is one over the
    rank of the first.
    """

    name: str
    k: int

    def __str__(self) -> str:
        return f"{self.name}@{self.k}"

    def __call__(self, ranks: Ranks, truths: int) -> float:
        """The value for ascending `ranks` of the relevant items found, of `truths` relevant ones (at least 1)."""
        return _FORMULA[self.name](ranks, truths, self.k)


K: Final = 20
METRICS: Final = (Metric("ndcg", K), Metric("recall", K), Metric("hit", K), Metric("mrr", K))
PRIMARY: Final = METRICS[0]
