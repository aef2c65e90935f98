"""Models against arithmetic done by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from recsys.compose import Blend, Confident, Fallback, Reranked, reads_history, rebuilt
from recsys.dataset import SECONDS_PER_DAY, Catalogue
from recsys.events import WEIGHT_OF_CODE, EventType
from recsys.models.fit.content import ContentRecommender
from recsys.models.fit.features import fit_features
from recsys.models.fit.frequency import FrequencyRecommender
from recsys.models.fit.item_item import (
    BasketRecommender,
    CosineRecommender,
    LocalRidgeRecommender,
    favouring_alike,
    to_model,
)
from recsys.models.fit.kin import ContentNeighboursRecommender, KinRecommender
from recsys.models.fit.popularity import NewArrivalsRecommender, PopularityRecommender, TrendingRecommender
from recsys.models.fit.regional import RegionalRecommender
from recsys.models.frequency import FrequencyModel
from recsys.models.item_item import ItemItemModel
from recsys.models.popularity import OrderModel
from recsys.models.selection import sum_by_item
from recsys.ranking import History, Query, top_k
from tests.factories import START, checkerboard, history, make_dataset, query
from tests.shop import tiny_dataset

RNG = np.random.default_rng(0)


def order(name: str, *items: int) -> OrderModel:
    return OrderModel(np.array(items, np.int32), np.arange(len(items), 0, -1, dtype=np.float32), name)


def everything(n: int) -> np.ndarray:
    return np.ones(n, dtype=np.bool_)


@given(
    st.lists(st.integers(0, 30), unique=True, max_size=30).flatmap(
        lambda items: st.tuples(st.just(items), st.lists(st.integers(0, 3), min_size=len(items), max_size=len(items)))
    ),
    st.integers(0, 40),
)
def test_top_k_is_a_sort(pairs: tuple[list[int], list[int]], k: int) -> None:
    items, scores = pairs
    found = top_k(np.array(items, np.int32), np.array(scores, np.float32), k)
    expected = sorted(range(len(items)), key=lambda n: (-scores[n], items[n]))[:k]
    assert found.tolist() == expected


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(-5, 5)), max_size=60))
def test_sum_by_item_adds_up_and_leaves_nothing_behind(entries: list[tuple[int, int]]) -> None:
    items = np.array([item for item, _ in entries], np.int32)
    scores = np.array([score for _, score in entries], np.float32)
    for _ in range(2):  # the second call finds the scratch arrays as the first left them
        unique, sums = sum_by_item(items, scores, 21)
        found = dict(zip(unique.tolist(), sums.tolist(), strict=True))
        assert found == {i: sum(s for j, s in entries if j == i) for i in set(items.tolist())}


def test_frequency_halves_each_purchase_by_age() -> None:
    past = History(np.array([4, 4, 9], np.int32), np.array([3, 3, 3], np.uint8), np.array([90, 0, 0], dtype=np.float32))
    propensity = np.ones(10, dtype=np.float32)
    propensity[9] = 0.5
    ranking = FrequencyModel(propensity, half_life_days=90.0).recommend(Query(history=past), 5, everything(10))
    # Item 4: one half for ninety days ago, and one for today; item 9: one, times its propensity.
    assert dict(zip(ranking.items.tolist(), ranking.scores.tolist(), strict=True)) == {4: 1.5, 9: 0.5}
    assert ranking.because.tolist() == [4, 9]


def test_frequency_counts_purchases_only() -> None:
    viewed = Query(history=history(1, 2, kind=EventType.VIEW))
    assert len(FrequencyModel(np.ones(5, np.float32), 90.0).recommend(viewed, 5, everything(5))) == 0


def test_propensity_is_what_share_of_buyers_came_back() -> None:
    day = SECONDS_PER_DAY
    # Two buy items 0 and 1 on day 0; within the last thirty days both buy 0 again, neither buys 1.
    rows = [(START, u, i, "purchase") for u in (0, 1) for i in (0, 1)]
    rows += [(START + 20 * day, u, 0, "purchase") for u in (0, 1)]
    recommender = FrequencyRecommender(half_life_days=1e9, propensity_prior=2.0, propensity_exponent=1.0)
    model = recommender.fit(make_dataset(rows, n_items=3, n_users=2), START + 40 * day, RNG)
    # On average 2 of 4 come back. Item 0: (2 + 2 * 1/2) / (2 + 2) / (1/2) = 1.5; item 1: (0 + 1) / 4 * 2 = 0.5.
    assert model.propensity.tolist() == pytest.approx([1.5, 0.5, 1.0])


def test_popularity_prefers_the_recent() -> None:
    day = SECONDS_PER_DAY
    rows = [(START, 0, 0, "purchase"), (START, 1, 0, "purchase"), (START + 20 * day, 0, 1, "purchase")]
    dataset = make_dataset(rows, n_items=3, n_users=2)
    model = PopularityRecommender(half_life_days=10.0).fit(dataset, START + 20 * day, RNG)
    # Two purchases twenty days ago count 2 * 5 / 4, one of today 5; what nobody bought stands last.
    assert model.order.tolist() == [1, 0, 2]
    assert model.scores.tolist() == pytest.approx([5.0, 2.5, 0.0])


def test_trending_is_more_than_usual_not_the_most() -> None:
    day = SECONDS_PER_DAY
    steady = [(START + n * day, 0, 0, "view") for n in range(63)]
    rising = [(START + (56 + n) * day, 1, 1, "view") for n in range(6)]
    model = TrendingRecommender().fit(make_dataset(steady + rising, n_items=3, n_users=2), START + 63 * day, RNG)
    assert model.order.tolist()[0] == 1
    assert 2 not in model.order.tolist()


def test_new_arrivals_are_recent_and_nothing_else() -> None:
    dataset = make_dataset([(START, 0, 0, "view")], n_items=3, n_users=1)
    dataset.catalogue.listed_second[:] = [START, START - 90 * SECONDS_PER_DAY, START + 5]
    model = NewArrivalsRecommender(days=30).fit(dataset, START + 1, RNG)
    assert model.order.tolist() == [0]  # item 1 is old, item 2 is not listed yet


def test_cosine_of_two_items() -> None:
    # Item 0 has shoppers 0, 1; item 1 shoppers 1, 2; item 2 shopper 2. Without shrinkage and decay, equal weights.
    rows = [(START, 0, 0), (START, 1, 0), (START, 1, 1), (START, 2, 1), (START, 2, 2)]
    dataset = make_dataset([(*row, "purchase") for row in rows], n_items=3, n_users=3)
    recommender = CosineRecommender(shrinkage=0.0, half_life_days=1e9, reads="context")
    ranking = recommender.fit(dataset, START, RNG).recommend(query(1), 5, everything(3))
    # cos(1, 0) = 1 / (sqrt 2 * sqrt 2), cos(1, 2) = 1 / (sqrt 2 * 1), cos(1, 1) is never an answer.
    assert ranking.items.tolist() == [2, 0]
    assert ranking.scores.tolist() == pytest.approx([2**-0.5, 0.5])
    assert ranking.because.tolist() == [1, 1]


@pytest.mark.parametrize("content_weight", [0.0, 3.0])
def test_local_ridge_is_ridge_regression_on_the_neighbours(content_weight: float) -> None:
    rng = np.random.default_rng(3)
    seen = rng.random((30, 6)) < 0.5
    rows = [(START, int(u), int(i), "purchase") for u, i in zip(*np.nonzero(seen), strict=True)]
    dataset = make_dataset(rows, n_items=6, n_users=30)
    recommender = LocalRidgeRecommender(
        neighbours=5,
        regularization=2.0,
        shopper_exponent=0.0,
        item_exponent=0.0,
        min_shoppers=1,
        half_life_days=1e9,
        recency_exponent=0.0,
        content_weight=content_weight,
    )
    model = recommender.fit(dataset, START, RNG)
    # Features stand among the shoppers: rows of what has them, each with its weight.
    features, weight = fit_features(dataset.catalogue).rows()
    told = np.sqrt(content_weight * weight)[:, None] * features.toarray()
    x = np.concatenate([seen.astype(float), told])
    for item in range(6):
        others = [j for j in range(6) if j != item]
        expected = np.linalg.solve(x[:, others].T @ x[:, others] + 2.0 * np.eye(5), x[:, others].T @ x[:, item])
        for j, weight in zip(others, expected, strict=True):
            part = slice(int(model.indptr[j]), int(model.indptr[j + 1]))
            stored = dict(zip(model.items[part].tolist(), model.weights[part].tolist(), strict=True))
            assert stored[item] == pytest.approx(weight, rel=1e-4)


def test_popular_neighbours_come_before_what_is_a_little_closer() -> None:
    """Item 0 was bought by ten with item 1 alone, and by ten with 2, which twenty others bought too."""
    baskets = [(0, 1)] * 10 + [(0, 2)] * 10 + [(2, 3)] * 20
    rows = [(START + 100 + basket, basket, item, "purchase") for basket, items in enumerate(baskets) for item in items]
    shop = make_dataset(rows, n_items=4, n_users=len(baskets), sessions=[row[1] for row in rows])
    page = Query(context_item=0)

    def beside(weight: float) -> list[int]:
        model = BasketRecommender(wanted_weight=weight).fit(shop, shop.until, np.random.default_rng(0))
        return model.recommend(page, 2, everything(4)).items.tolist()

    assert beside(0.0) == [1, 2]
    assert beside(3.0) == [2, 1]


def test_what_is_alike_comes_before_what_is_a_little_closer_and_joins_what_goes_with_it() -> None:
    def neighbours(*rows: dict[int, float]) -> ItemItemModel:
        weights = sparse.lil_matrix((4, 4), dtype=np.float32)
        for item, row in enumerate(rows):
            for other, weight in row.items():
                weights[item, other] = weight
        return to_model(sparse.csr_matrix(weights), 2, "similar", "context")

    together = neighbours({1: 0.5, 2: 0.4}, {0: 0.5}, {})
    alike = neighbours({2: 0.9, 3: 0.3}, {}, {3: 0.2})

    def beside(item: int, weight: float, *category: int) -> list[int]:
        catalogue = cast(Catalogue, SimpleNamespace(category=np.array(category, dtype=np.int32)))
        model = favouring_alike(together, alike, catalogue, weight)
        return model.recommend(Query(context_item=item), 4, everything(4)).items.tolist()

    # Of item 0: 1 has 1; 2 has 0.8 and the weight; 3, of its category, a third of the weight. Two at most, as before.
    found = [beside(0, weight, 5, 6, 7, 5) for weight in (0.0, 0.1, 0.3, 4.0)]
    assert found == [[1, 2], [1, 2], [2, 1], [2, 3]]
    # Of another category, or of none, 3 is not chosen with item 0, and no reason could be given for it.
    assert beside(0, 4.0, 5, 6, 7, 6) == beside(0, 4.0, -1, 6, 7, -1) == [2, 1]
    nobody = cast(Catalogue, SimpleNamespace(category=np.full(4, -1, dtype=np.int32)))
    assert favouring_alike(together, neighbours(), nobody, 1.0) is together, "nothing is known of items"
    assert favouring_alike(neighbours(), alike, nobody, 1.0).items.tolist() == []
    # Who goes with nothing is left to content alone.
    assert [beside(item, 1.0, 5, 5, 5, 5) for item in (1, 2, 3)] == [[0], [], []]


def test_histories_are_read_where_a_part_reads_them() -> None:
    shop = checkerboard()
    together = BasketRecommender().fit(shop, shop.until, np.random.default_rng(0))
    own = FrequencyRecommender().fit(shop, shop.until, np.random.default_rng(0))
    assert not reads_history(Fallback((together, order("popularity", 0)), "beside"))
    assert reads_history(Fallback((Reranked(together, own, 1.0, 10), order("popularity", 0)), "beside"))
    assert reads_history(replace(together, reads="history"))


def test_a_blend_adds_normalised_scores_and_names_the_strongest_part() -> None:
    blend = Blend((order("a", 0, 1), order("b", 1, 2)), (1.0, 0.8), depth=10, name="ab")
    ranking = blend.recommend(Query(), 5, everything(3))
    # a: 0 -> 1, 1 -> 1/2; b: 1 -> 0.8, 2 -> 0.4. Item 1 has 1.3 and owes most of it to b.
    assert ranking.items.tolist() == [1, 0, 2]
    assert ranking.scores.tolist() == pytest.approx([1.3, 1.0, 0.4])
    assert ranking.sources == ("b", "a", "b")


@pytest.mark.parametrize(("weight", "asked"), [(0.2, False), (0.3, True)])
def test_content_is_asked_only_where_it_could_enter(weight: float, asked: bool) -> None:
    """The last of four items has 1/4 from the first model, so nothing of the second's enters with a weight of 0.2."""
    shop = checkerboard()
    content = ContentRecommender(epochs=1, min_steps=1).fit(shop, shop.until, np.random.default_rng(0))
    blend = Blend((order("first", 0, 1, 2, 3), content), (1.0, weight), 4, "blend")
    ranking = blend.recommend(query(8, 10), 4, everything(40))
    assert ("content" in ranking.sources) == asked


def test_a_weight_of_zero_leaves_a_model_out() -> None:
    blend = Blend((order("a", 0), order("b", 1)), (1.0, 0.0), depth=10, name="ab")
    assert blend.recommend(Query(), 5, everything(2)).items.tolist() == [0]


@given(st.integers(0, 8), st.lists(st.booleans(), min_size=6, max_size=6))
def test_a_fallback_fills_up_with_whatever_is_eligible(k: int, allowed: list[bool]) -> None:
    stack = Fallback((order("first", 3, 1), order("last", 0, 1, 2, 3, 4, 5)), "stack")
    ranking = stack.recommend(Query(), k, np.array(allowed))
    assert len(ranking) == min(k, sum(allowed))
    first = [item for item in (3, 1) if allowed[item]]
    assert ranking.items.tolist()[: len(first)] == first[:k]
    assert (np.diff(ranking.scores) <= 0).all()


def test_a_part_deep_in_a_composition_is_exchanged_and_the_others_are_shared() -> None:
    kept, old, new = order("kept", 1), order("old", 2), order("new", 3)
    before = Fallback((Confident(Blend((old, kept), (1.0, 1.0), 10, "blend"), 0.5), kept), "home")
    after = rebuilt(before, lambda model: new if model is old else model)
    assert after == Fallback((Confident(Blend((new, kept), (1.0, 1.0), 10, "blend"), 0.5), kept), "home")
    assert rebuilt(before, lambda model: model) is before


def test_lifts_of_a_region_by_hand() -> None:
    """East asks for item 0 three times and item 1 once, west for item 1 twice; all at the same moment, just now.

    Shares of all demand: 3/6 and 3/6. With a smoothing of 4 the share of item 0 in the east is (3 + 4/2) / (4 + 4) = 5/8, so its
    lift is log(5/8 / (1/2)) = log 1.25; in the west nobody asks for it: (0 + 4/2) / (2 + 4) = 1/3, and log(2/3).
    """
    rows = [(START, n, item, "purchase") for n, item in enumerate((0, 0, 0, 1, 1, 1))]
    dataset = make_dataset(rows, n_items=2, n_users=6)
    region = np.array([0, 0, 0, 0, 1, 1], dtype=np.int32)
    dataset = replace(dataset, events=replace(dataset.events, region=region), regions=("east", "west"))
    weight = float(WEIGHT_OF_CODE[dataset.events.event_type[0]])
    recommender = RegionalRecommender(half_life_days=10.0, smoothing=4.0 * weight)
    model = recommender.fit(dataset, START, np.random.default_rng(0))
    model = replace(model, model=order("all", 0, 1), weight=1.0, depth=2)
    plain = model.model.recommend(Query(), 2, everything(2))
    for place, lift in ((0, {0: 5 / 4, 1: 3 / 4}), (1, {0: 2 / 3, 1: 4 / 3})):
        ranking = model.recommend(Query(region=place), 2, everything(2))
        scores = dict(zip(plain.items.tolist(), plain.scores.tolist(), strict=True))
        expected = {item: scores[item] * factor for item, factor in lift.items()}
        found = dict(zip(ranking.items.tolist(), ranking.scores.tolist(), strict=True))
        assert found == pytest.approx(expected, rel=1e-5)


def test_well_sold_items_have_alike_ones_as_those_have_that_nobody_has_met() -> None:
    shop = tiny_dataset(np.random.default_rng(0))
    model = ContentNeighboursRecommender().fit(shop, shop.until, np.random.default_rng(0))
    sold = np.bincount(shop.events.item, minlength=shop.n_items)
    category = shop.catalogue.category
    assert sold.max() > 10
    for item in np.argsort(-sold)[:10]:
        alike = model.recommend(Query(context_item=int(item)), 3, everything(shop.n_items)).items
        assert len(alike) == 3 and (category[alike] == category[item]).all() and item not in alike


@pytest.mark.parametrize("parity", [0, 1])
def test_an_unsold_item_inherits_what_its_kin_goes_with(parity: int) -> None:
    """Half of the checkerboard was never sold; its kin, of the same category, goes with the shopper's items."""
    shop = checkerboard()
    told_by_category_alone = replace(
        shop.catalogue, brands=(None,) * 40, listed_price_cents=np.full(40, -1, dtype=np.int64)
    )
    shop = replace(shop, events=shop.events.take(shop.events.item % 4 < 2), catalogue=told_by_category_alone)
    model = KinRecommender().fit(shop, shop.until, np.random.default_rng(0))
    unsold = np.arange(40) % 4 >= 2
    ranking = model.recommend(query(parity, parity + 4, parity + 8), 5, unsold)
    assert len(ranking) == 5
    assert {int(item) % 2 for item in ranking.items} == {parity}
