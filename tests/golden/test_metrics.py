"""`recsys.evaluation.metrics` against arithmetic done by hand."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest

from recsys.evaluation.metrics import Metric, relevant_ranks
from recsys.ranking import NO_ITEM, Ranking


def ranking(items: list[int], scores: list[float]) -> Ranking:
    n = len(items)
    return Ranking(
        np.array(items, dtype=np.int32), np.array(scores, dtype=np.float32), ("m",) * n, np.full(n, NO_ITEM, np.int32)
    )


def truths(*items: int) -> np.ndarray:
    return np.array(sorted(items), dtype=np.int32)


def test_metrics_print_their_own_name() -> None:
    assert str(Metric("ndcg", 20)) == "ndcg@20"


def test_hand_computed_values() -> None:
    # Items 7 and 3 of three truths stand at ranks 1 and 3 of the five asked for.
    ranks = relevant_ranks(ranking([7, 1, 3, 2, 9], [5, 4, 3, 2, 1]), truths(3, 7, 8))
    assert ranks.tolist() == [1, 3]
    assert Metric("recall", 5)(ranks, 3) == pytest.approx(2 / 3)
    assert Metric("recall", 2)(ranks, 3) == pytest.approx(1 / 2)  # divided by min(2, 3)
    ideal = 1 + 1 / log2(3) + 1 / log2(4)
    assert Metric("ndcg", 5)(ranks, 3) == pytest.approx((1 + 1 / log2(4)) / ideal)
    assert Metric("ndcg", 1)(ranks, 3) == pytest.approx(1.0)
    assert Metric("hit", 1)(ranks, 3) == 1.0
    assert Metric("mrr", 5)(ranks, 3) == 1.0


def test_the_first_hit_decides_mrr_and_hit() -> None:
    ranks = relevant_ranks(ranking([1, 2, 3], [3, 2, 1]), truths(3))
    assert Metric("mrr", 3)(ranks, 1) == pytest.approx(1 / 3)
    assert Metric("mrr", 2)(ranks, 1) == 0.0
    assert Metric("hit", 2)(ranks, 1) == 0.0


def test_ties_go_against_us() -> None:
    # All three tie, so the one truth counts as last of them, wherever the model put it.
    assert relevant_ranks(ranking([4, 5, 6], [1, 1, 1]), truths(4)).tolist() == [3]
    assert relevant_ranks(ranking([9, 4, 5, 6], [2, 1, 1, 1]), truths(4, 9)).tolist() == [1, 4]


def test_an_unanswered_query_counts_as_zero() -> None:
    ranks = relevant_ranks(ranking([], []), truths(1))
    assert [Metric(name, 20)(ranks, 1) for name in ("ndcg", "recall", "hit", "mrr")] == [0.0] * 4
