"""`recsys.explanation`: hand-computed sums, and Shapley values of games whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.compose import Blend, Fallback, Reranked
from recsys.explanation import ITEM, OTHERS, OWN, PLACE, WANTED, Asked, Contribution, Explanation, explain
from recsys.models.als import ALSModel
from recsys.models.diverse import Diverse
from recsys.models.fit.frequency import FrequencyRecommender
from recsys.models.fit.item_item import CosineRecommender
from recsys.models.fit.ranker import RankerRecommender, SourcePlan
from recsys.models.item_item import ItemItemModel
from recsys.models.popularity import OrderModel
from recsys.models.shapley import coalitions, shapley_values
from recsys.ranking import NO_ITEM, Model, Query
from tests.factories import checkerboard, query

ALLOWED = np.ones(4, dtype=np.bool_)


def neighbours() -> ItemItemModel:
    """Item 0 pulls 2 by .5 and 3 by .1; item 1 pulls 2 by .25."""
    indptr = np.array([0, 2, 3, 3, 3], dtype=np.int64)
    return ItemItemModel(indptr, np.array([2, 3, 2], np.int32), np.array([0.5, 0.1, 0.25], np.float32), "local_ridge")


def order() -> OrderModel:
    return OrderModel(np.array([3, 2], np.int32), np.array([8.0, 4.0], np.float32))


def told(model: Model, asked: Query, item: int, k: int = 4) -> Explanation:
    return explain(model, Asked(asked, k, ALLOWED), np.array([item], np.int32))[item]


def test_a_sum_is_explained_term_by_term() -> None:
    answer = told(neighbours(), query(0, 1), 2)
    assert answer.score == pytest.approx(0.75)
    assert answer.contributions == (Contribution(ITEM, 0, 0.5), Contribution(ITEM, 1, 0.25))


def test_a_blend_explains_by_its_parts_on_its_own_scale() -> None:
    # Of item 2: .75 / .75 of the neighbours times 2, 4 / 8 of popularity times 1.
    answer = told(Blend((neighbours(), order()), (2.0, 1.0), 10, "blend"), query(0, 1), 2)
    assert answer.score == pytest.approx(2.5)
    values = {(one.about, one.item): one.value for one in answer.contributions}
    assert values == pytest.approx({(ITEM, 0): 4 / 3, (ITEM, 1): 2 / 3, (WANTED, NO_ITEM): 0.5})


def test_what_is_ranked_anew_is_explained_by_both() -> None:
    # Of item 2: 4 / 8 of popularity, and all of the neighbours' .25 times 3, as item 3 is none of item 1's.
    answer = told(Reranked(order(), neighbours(), 3.0, 10), query(1), 2)
    assert answer.score == pytest.approx(3.5)
    values = {(one.about, one.item): one.value for one in answer.contributions}
    assert values == pytest.approx({(ITEM, 1): 3.0, (WANTED, NO_ITEM): 0.5})


def test_what_fills_a_list_up_is_explained_on_the_scale_of_the_list() -> None:
    # Items 2 and 3 come from the neighbours, so that nothing is left to popularity; asked of item 1 alone, 3 fills up.
    answer = told(Fallback((neighbours(), order()), "home"), query(1), 3)
    assert answer.contributions == (Contribution(WANTED, NO_ITEM, pytest.approx(0.125)),)  # half of .25
    assert answer.score == pytest.approx(0.125)


def test_a_place_that_keeps_its_score_says_so() -> None:
    # Items 2 and 3 are of one category, 1 of another: item 1 takes the place of the second.
    model = OrderModel(np.array([2, 3, 1], np.int32), np.array([1.0, 0.9, 0.8], np.float32))
    codes = np.array([0, 1, 2, 2], np.int32)
    answer = told(Diverse(model, codes, codes, codes, strength=0.5, depth=3), Query(), 1)
    assert [one.about for one in answer.contributions] == [WANTED, PLACE]
    assert answer.contributions[1].value == pytest.approx(0.1)


def test_factors_are_a_sum_over_the_history() -> None:
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(4, 2)).astype(np.float32)
    model = ALSModel(factors, factors.T @ factors + 0.1 * np.eye(2, dtype=np.float32), alpha=2.0, half_life_days=90.0)
    asked = query(0, 1)
    known, strengths = model.known(asked.history)
    # The shopper's factors as one solves for them at once (Hu, Koren and Volinsky, equation 4).
    confidence = 1.0 + 2.0 * strengths
    left = model.gram + (factors[known] * (confidence - 1)[:, None]).T @ factors[known]
    shopper = np.linalg.solve(left, confidence @ factors[known])
    answer = told(model, asked, 3)
    assert sum(one.value for one in answer.contributions) == pytest.approx(float(factors[3] @ shopper), rel=1e-4)


def test_the_rest_is_one_contribution_and_the_sum_stays() -> None:
    many = Explanation(10.0, 0.0, tuple(Contribution(ITEM, item, float(item)) for item in (1, 4, 2, 3)))
    few = many.largest(2)
    assert few.contributions == (
        Contribution(ITEM, 4, 4.0),
        Contribution(ITEM, 3, 3.0),
        Contribution(OTHERS, NO_ITEM, 3.0),
    )
    assert [one.value for one in many.largest(4).contributions] == [4.0, 3.0, 2.0, 1.0]


def test_shapley_values_of_the_glove_game() -> None:
    # Player 0 has a left glove, 1 and 2 a right one each; a pair is worth 1 (Shapley, 1953): 2/3, 1/6, 1/6.
    worth = [[float(left and (one or two))] for left, one, two in coalitions(3)]
    assert shapley_values(np.array(worth))[:, 0].tolist() == pytest.approx([2 / 3, 1 / 6, 1 / 6])


@pytest.mark.parametrize("n", [0, 1, 4])
def test_shapley_values_of_a_sum_are_its_terms(n: int) -> None:
    terms = np.arange(1.0, n + 1.0)
    worth = np.array([[5.0 + float(terms @ np.array(members, dtype=np.float64))] for members in coalitions(n)])
    assert shapley_values(worth).shape == (n, 1)
    assert shapley_values(worth)[:, 0].tolist() == pytest.approx(terms.tolist())


def test_a_ranker_cites_own_purchases_of_what_was_bought_and_without_them_it_says_less() -> None:
    shop = checkerboard()
    plans = (SourcePlan(FrequencyRecommender(), 20, 20), SourcePlan(CosineRecommender(), 20, 40))
    ranker = RankerRecommender(plans, window_days=7.0, hidden=(8,)).fit(shop, shop.until, np.random.default_rng(0))
    asked = query(0, 2, 4)
    ranking = ranker.recommend(asked, 40, shop.catalogue.available)
    own = [place for place, item in enumerate(ranking.items.tolist()) if item in (0, 2, 4)]
    assert len(own) == 3
    for place in own:
        item = int(ranking.items[place])
        assert (ranking.sources[place], int(ranking.because[place])) == ("buy_again", item)
        about = explain(ranker, Asked(asked, 40, shop.catalogue.available), ranking.items[place : place + 1])[item]
        assert [one.item for one in about.contributions if one.about == OWN] == [item]
