"""`recsys.evaluation.evaluate` on a shop of three shoppers, checked by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import pytest

from recsys.evaluation.evaluate import (
    ALL,
    COLD,
    NEW,
    bootstrap_means,
    evaluate,
    make_task,
    paired_differences,
    score_model,
)
from recsys.evaluation.split import Window
from recsys.ranking import NO_ITEM, Mask, ModelState, Query, Ranking
from tests.factories import make_dataset


@dataclass(frozen=True)
class FixedOrder:
    """Always the same order, whoever asks."""

    kind: ClassVar[str] = "fixed"
    order: tuple[int, ...]
    name: str = "fixed"

    def recommend(self, query: Query, k: int, eligible: Mask) -> Ranking:  # noqa: ARG002
        items = np.array([i for i in self.order if eligible[i]][:k], dtype=np.int32)
        scores = np.arange(len(items), 0, -1, dtype=np.float32)
        return Ranking(items, scores, (self.name,) * len(items), np.full(len(items), NO_ITEM, dtype=np.int32))

    def state(self) -> ModelState:
        return ModelState({"order": self.order, "name": self.name})

    @classmethod
    def from_state(cls, state: ModelState) -> Self:
        return cls(**state.params)


DATASET = make_dataset(
    [
        (10, 0, 0, "purchase"),
        (20, 0, 1, "purchase"),
        (30, 1, 0, "view"),
        # the window starts at 100
        (100, 0, 0, "purchase"),
        (110, 0, 2, "purchase"),
        (120, 1, 3, "purchase"),
        (130, 2, 4, "view"),  # views are no target where there are purchases
        (140, 3, 1, "purchase"),  # anonymous: no one to remember
        (250, 2, 0, "purchase"),  # after the window
    ],
    n_items=5,
    n_users=3,
)
WINDOW = Window(100, 200)


def test_the_task_holds_who_bought_and_only_what_was_known_before() -> None:
    task = make_task(DATASET, WINDOW)
    assert [case.shopper for case in task.cases] == [0, 1]
    assert task.cases[0].history.items.tolist() == [0, 1]
    assert task.cases[0].bought_before.tolist() == [0, 1]
    assert task.cases[0].truths.tolist() == [0, 2]
    assert task.cases[1].bought_before.tolist() == []
    assert task.sold.tolist() == [True, True, False, False, False]


def test_slices_are_what_their_names_say() -> None:
    scores = score_model(FixedOrder((0, 1, 2, 3, 4)), make_task(DATASET, WINDOW))
    recall = 1
    # Five items, all returned: everything is found on all purchases.
    assert scores.by_slice[ALL][0][:, recall].tolist() == [1.0, 1.0]
    # New to shopper 0: item 2, first of the items left once 0 and 1 are masked out, so mrr 1.
    assert scores.by_slice[NEW][0][0].tolist() == [1.0, 1.0, 1.0, 1.0]
    # Shopper 1 has only viewed item 0, so nothing is masked: item 3 is fourth.
    assert scores.by_slice[NEW][0][1].tolist() == pytest.approx([1 / np.log2(5), 1.0, 1.0, 0.25])
    assert scores.by_slice[COLD][1].tolist() == [0, 1]
    assert scores.by_slice["history 1-4"][1].tolist() == [0, 1]
    assert scores.coverage == 1.0
    assert scores.categories == 2 / 5  # even and odd, of five items


def test_a_model_that_knows_nothing_scores_zero_everywhere() -> None:
    frame, _ = evaluate({"mute": FixedOrder(())}, make_task(DATASET, WINDOW))
    assert frame.filter(slice=ALL, metric="ndcg@20")["value"].to_list() == [0.0]


def test_views_are_the_target_of_a_shop_without_purchases() -> None:
    dataset = make_dataset([(10, 0, 0, "view"), (100, 0, 1, "view")], n_items=5, n_users=3)
    assert make_task(dataset, WINDOW).cases[0].truths.tolist() == [1]


def test_the_difference_of_a_model_to_itself_is_exactly_zero() -> None:
    models = {"a": FixedOrder((0, 1, 2)), "b": FixedOrder((0, 1, 2))}
    _, scores = evaluate(models, make_task(DATASET, WINDOW))
    row = paired_differences(scores, "a", ["b"]).row(0, named=True)
    assert (row["difference"], row["low"], row["high"]) == (0.0, 0.0, 0.0)


def test_the_bootstrap_interval_of_a_mean_is_near_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(size=(2_000, 1))
    means = bootstrap_means(values, seed=0, resamples=4_000)
    assert means.std() == pytest.approx(values.std() / np.sqrt(2_000), rel=0.05)
    assert np.array_equal(means, bootstrap_means(values, seed=0, resamples=4_000))
