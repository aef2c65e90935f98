"""The ranker: hand-computed features, no look at the future, one path to features, what scores and chances are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from recsys.compose import Confident, Fallback, model_from_state
from recsys.dataset import SECONDS_PER_DAY, Dataset, Histories
from recsys.errors import UserError
from recsys.events import EVENT_CODE, EVENT_WEIGHT, EventType
from recsys.models.candidate_features import NEVER, ItemFacts, describe
from recsys.models.fit.frequency import FrequencyRecommender
from recsys.models.fit.item_facts import SHARE_PRIOR, fit_facts
from recsys.models.fit.item_item import CosineRecommender
from recsys.models.fit.layers import fit_bins, fit_scaler, to_layer
from recsys.models.fit.popularity import PopularityRecommender
from recsys.models.fit.ranker import RankerRecommender, SourcePlan
from recsys.models.layers import Inputs, Network, PiecewiseLinear, symlog
from recsys.models.ranker import RankerModel
from recsys.ranking import NO_ITEM, PURCHASE, History, Query, Ranking
from tests.factories import START, checkerboard, make_dataset, query

DAY = SECONDS_PER_DAY
VIEW = EVENT_CODE[EventType.VIEW]
PLANS = (SourcePlan(FrequencyRecommender(), 20, 20), SourcePlan(CosineRecommender(), 10, 30))
RANKER = RankerRecommender(PLANS, window_days=7.0, hidden=(16,))


@pytest.fixture(scope="module")
def shop() -> Dataset:
    return checkerboard()


@pytest.fixture(scope="module")
def ranker(shop: Dataset) -> RankerModel:
    return RANKER.fit(shop, shop.until, np.random.default_rng(0))


def history(*events: tuple[int, int, float]) -> History:
    """Of (item, type, age in days), oldest first."""
    items, types, ages = zip(*events, strict=True)
    return History(np.array(items, np.int32), np.array(types, np.uint8), np.array(ages, np.float32))


def facts(n_items: int = 4) -> ItemFacts:
    groups = np.array([[0, 0, 1, -1]], dtype=np.int32)[:, :n_items]
    price = np.log(np.array([100, 200, 400, np.nan], dtype=np.float32))[:n_items]
    values = np.arange(n_items, dtype=np.float32)[:, None]
    shares = np.array([[0.6, 0.4, 1.0, 0.0]], dtype=np.float32)[:, :n_items]
    return ItemFacts(("row",), values, ("category",), groups, shares, price)


def test_features_of_a_history_that_a_reader_can_count() -> None:
    # Item 0 was bought 100, 40 and 10 days ago, item 2 was bought 40 days ago (the same trip) and looked at yesterday.
    known = history((0, PURCHASE, 100.0), (0, PURCHASE, 40.0), (2, PURCHASE, 40.0), (0, PURCHASE, 10.0), (2, VIEW, 1.0))
    candidates = np.array([0, 1, 2], dtype=np.int32)
    found = describe(Query(history=known), candidates, [], facts())
    assert found["own_n"].tolist() == [3, 0, 1]
    assert found["own_age_1"].tolist() == [10, NEVER, 40]
    assert found["own_age_2"].tolist() == [40, NEVER, NEVER]
    assert found["own_first_age"].tolist() == [100, NEVER, 40]
    assert found["own_gap"].tolist() == [45, NEVER, NEVER]  # (100 - 10) / 2
    assert found["own_due"].tolist() == pytest.approx([10 / 45, NEVER, 40 / NEVER])
    assert found["own_last_gap"].tolist() == [30, NEVER, NEVER]
    assert found["own_n_14"].tolist() == [1, 0, 0]
    assert found["own_n_45"].tolist() == [2, 0, 1]
    assert found["own_rate"].tolist() == pytest.approx([3 / 100, 0, 1 / 40])
    assert found["own_trips_since"].tolist() == [0, 0, 1]  # one trip, 10 days ago, since item 2
    assert found["own_per_trip"].tolist() == pytest.approx([3 / 3, 0, 1 / 3])
    # Items 0 and 1 share a category that was bought 10 days ago; of it one different item was bought.
    assert found["category_age"].tolist() == [10, 10, 40]
    assert found["category_items"].tolist() == [1, 1, 1]
    assert found["category_recent_20"][1] == pytest.approx(2**-5 + 2**-2 + 2**-0.5)
    # Of the category bought on days 100, 40 and 10, of three trips; since item 0 nothing of it, before the never bought 1 all.
    assert found["category_gap"].tolist() == [45, 45, NEVER]
    assert found["category_due"].tolist() == pytest.approx([10 / 45, 10 / 45, 40 / NEVER])
    assert found["category_per_trip"].tolist() == pytest.approx([1, 1, 1 / 3])
    assert found["category_tried"].tolist() == pytest.approx([2 ** (-100 / 45)] * 2 + [2 ** (-40 / 45)])
    assert found["category_own_share"].tolist() == pytest.approx([1, 0, 1])
    assert found["category_expected"][:2].tolist() == pytest.approx(
        (found["category_recent_20"][:2] * np.array([0.6, 0.4])).tolist()
    )
    assert found["category_since_own"].tolist() == [0, 3, 0]
    assert found["looked_age"].tolist() == [NEVER, NEVER, 1]
    assert found["looked_n"].tolist() == [0, 0, 1]
    usual = (3 * np.log(100) + np.log(400)) / 4
    assert found["price_to_usual"].tolist() == pytest.approx(
        [np.log(100) - usual, np.log(200) - usual, np.log(400) - usual]
    )
    assert found["item_row"].tolist() == [0, 1, 2]
    assert found["shopper_trips"].tolist() == [3, 3, 3]
    assert found["shopper_trip_gap"].tolist() == [45, 45, 45]
    assert found["shopper_repeats"].tolist() == pytest.approx([0.5] * 3)  # 2 different of 4


def test_what_stood_in_for_an_item_is_counted_since_it_was_last_bought() -> None:
    # Item 0, then its sibling 1 twice, and between them item 2 of another category and item 3 of none.
    known = history(
        (0, PURCHASE, 30.0), (1, PURCHASE, 20.0), (2, PURCHASE, 15.0), (3, PURCHASE, 12.0), (1, PURCHASE, 10.0)
    )
    found = describe(Query(history=known), np.arange(4, dtype=np.int32), [], facts())
    assert found["category_since_own"].tolist() == [2, 0, 0, 0]
    one, other = 2 ** (-30 / 90), 2 ** (-20 / 90) + 2 ** (-10 / 90)
    assert found["category_own_share"].tolist() == pytest.approx([one / (one + other), other / (one + other), 1, 1])


def test_a_source_gives_score_share_and_reciprocal_rank() -> None:
    answer = Ranking(
        np.array([7, 1, 2], np.int32), np.array([4.0, 2.0, 1.0], np.float32), ("a",) * 3, np.full(3, NO_ITEM, np.int32)
    )
    found = describe(Query(), np.array([0, 1, 2], np.int32), [("a", answer)], facts())
    assert found["a_score"].tolist() == [0, 2, 1]
    assert found["a_share"].tolist() == [0, 0.5, 0.25]
    assert found["a_rank"].tolist() == pytest.approx([0, 1 / 2, 1 / 3])


@pytest.mark.parametrize("known", [Query(), query(0), query(0, 2, 4)])
def test_features_stand_for_any_history_and_any_candidates(known: Query) -> None:
    for candidates in (np.empty(0, np.int32), np.array([1], np.int32)):
        columns = describe(known, candidates, [], replace(facts(), groups=np.full((1, 40), -1, np.int32), shares=np.zeros((1, 40), np.float32), log_price=np.full(40, np.nan, np.float32), values=np.zeros((40, 1), np.float32)))  # fmt: skip
        assert {column.shape for column in columns.values()} == {candidates.shape}
        assert {column.dtype for column in columns.values()} == {np.dtype(np.float32)}


def test_facts_count_what_lies_before() -> None:
    # Item 0: shopper 0 buys on days 0, 10 and 20, shopper 1 on day 20; item 1 is never sold.
    rows = [(START + day * DAY, shopper, 0, "purchase") for day, shopper in ((0, 0), (10, 0), (20, 0), (20, 1))]
    dataset = make_dataset(rows, n_items=2, n_users=2)
    found = fit_facts(dataset, START + 30 * DAY)
    of = {name: found.values[:, place].tolist() for place, name in enumerate(found.names)}
    assert of["shoppers"] == pytest.approx([np.log(3), 0])
    assert of["per_shopper"] == [2, 0]
    assert of["first_sold"] == [30, NEVER]
    assert of["last_sold"] == [10, NEVER]
    assert of["repeats"] == [0.5, 0]  # 2 of 4 followed an earlier one of the same shopper
    assert of["gap"] == pytest.approx([10, 10])  # all gaps are 10 days, the prior too
    demand = float(np.expm1(of["demand_30"][0]))
    assert found.shares[0].tolist() == pytest.approx([demand / (demand + SHARE_PRIOR), 0])  # alone in its category
    assert of["demand_10"][0] == pytest.approx(np.log1p(EVENT_WEIGHT[EventType.PURCHASE] * (2**-3 + 2**-2 + 2 * 2**-1)))


def test_what_happens_later_changes_no_feature(shop: Dataset) -> None:
    at = START + 20 * DAY
    rng = np.random.default_rng(0)
    future = shop.events.second >= at
    shuffled = np.where(future, rng.permutation(shop.events.item), shop.events.item).astype(np.int32)
    other = replace(shop, events=replace(shop.events, item=shuffled))
    one, two = (RANKER.window_rows(data, at, 7 * DAY, np.random.default_rng(1)) for data in (shop, other))
    keys = [{row.tobytes() for row in part.features} for part in (one, two)]
    everything = RankerRecommender(PLANS, window_days=7.0, negatives=1.0)
    full = everything.window_rows(shop, at, 7 * DAY, np.random.default_rng(1))
    assert keys[0] <= {row.tobytes() for row in full.features}
    assert keys[1] <= {row.tobytes() for row in full.features}
    assert one.bought.any() and not one.bought.all()
    assert one.bought.sum() != two.bought.sum()


def test_serving_sees_the_features_of_training(shop: Dataset, ranker: RankerModel) -> None:
    served = model_from_state("ranker", ranker.state())
    assert isinstance(served, RankerModel)
    trained = RANKER.proposer(shop, shop.until, np.random.default_rng(0))
    histories = Histories(shop, shop.until)
    for shopper in range(0, shop.n_users, 7):
        known = histories[shopper]
        asked = Query(history=known, session_items=known.items[-1:])
        one, two = (proposer.propose(asked, shop.catalogue.available) for proposer in (trained, served.proposer))
        assert one.names == two.names == served.features
        np.testing.assert_array_equal(one.features, two.features)


def test_other_features_than_those_of_training_are_refused(ranker: RankerModel, shop: Dataset) -> None:
    other = replace(ranker, features=ranker.features[::-1])
    with pytest.raises(ValueError, match="not those of training"):
        other.recommend(query(0, 2), 5, shop.catalogue.available)


def test_numpy_answers_as_pytorch_does() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3)).astype(np.float32)
    x[0, 0] = np.nan
    inputs = Inputs(fit_scaler(symlog(x)), fit_bins(x, [1, 2], 4))
    linear = [nn.Linear(3 + 8, 5), nn.Linear(5, 1)]
    network = Network(inputs, tuple(to_layer(layer) for layer in linear))
    with torch.no_grad():
        expected = nn.Sequential(linear[0], nn.ReLU(), linear[1])(torch.from_numpy(inputs(x)))[:, 0].numpy()
    np.testing.assert_allclose(network(x), expected, rtol=1e-5, atol=1e-6)
    again = Network.from_arrays(network.arrays(), 2)
    np.testing.assert_array_equal(again(x), network(x))


def test_a_bin_says_how_far_a_value_reaches_through_it() -> None:
    bins = PiecewiseLinear(np.zeros(2, np.int32), np.array([0, 10], np.float32), np.array([10, 10], np.float32))
    values = np.array([[-5], [5], [10], [15], [99], [np.nan]], dtype=np.float32)
    assert bins(values).tolist() == [[-1, -1], [0, -1], [1, -1], [1, 0], [1, 1], [-1, -1]]


def test_scores_are_chances_and_prices_move_them_only_where_asked(ranker: RankerModel, shop: Dataset) -> None:
    answer = ranker.recommend(query(0, 2, 4), 10, shop.catalogue.available)
    assert answer.chances is not None
    np.testing.assert_array_equal(answer.scores, answer.chances)
    assert ((answer.chances > 0) & (answer.chances < 1)).all()
    dear = replace(ranker, value_weight=1.0).recommend(query(0, 2, 4), 10, shop.catalogue.available)
    assert dear.chances is not None
    prices = shop.catalogue.price_cents[dear.items]
    usual = np.exp(ranker.usual_log_price)
    np.testing.assert_allclose(dear.scores, dear.chances * prices / usual, rtol=1e-5)


def test_an_unsure_place_goes_to_the_simple_answer(ranker: RankerModel, shop: Dataset) -> None:
    popularity = PopularityRecommender().fit(shop, shop.until, np.random.default_rng(0))
    sure = ranker.recommend(query(0, 2, 4), 10, shop.catalogue.available)
    assert sure.chances is not None
    threshold = float(sure.chances[2])
    answer = Fallback((Confident(ranker, threshold), popularity), "home").recommend(
        query(0, 2, 4), 10, shop.catalogue.available
    )
    assert answer.enhanced is not None and answer.chances is not None
    assert np.isnan(answer.chances).tolist() == (~answer.enhanced).tolist()  # popularity claims nothing itself
    assert answer.enhanced.tolist() == [True] * int((sure.chances >= threshold).sum()) + [False] * int(
        (sure.chances < threshold).sum()
    )
    assert set(answer.sources[3:]) == {"popularity"}
    assert len(set(answer.items.tolist())) == 10


def test_too_little_to_learn_from_says_what_to_do() -> None:
    dataset = make_dataset([(START, 0, 0, "purchase"), (START + 40 * DAY, 0, 1, "purchase")], n_items=2, n_users=1)
    with pytest.raises(UserError, match="train phase 2 until there is more data"):
        RANKER.fit(dataset, dataset.until, np.random.default_rng(0))
