"""What would have been asked on each surface, and what would have been right, on a shop that a reader can survey."""

from __future__ import annotations

import numpy as np

from recsys.dataset import SECONDS_PER_DAY
from recsys.evaluation.questions import mask_of, observe, questions
from recsys.evaluation.split import Window
from recsys.events import EVENT_CODE, Surface
from recsys.models.fit.popularity import PopularityRecommender
from recsys.ranking import Query
from tests.factories import START, make_dataset

DAY = SECONDS_PER_DAY
WINDOW = Window(START + 10 * DAY, START + 20 * DAY)
DATASET = make_dataset(
    [
        (START, 0, 0, "purchase"),
        (START + 1, 1, 1, "purchase"),
        # the window, one basket of three items, a view, and a purchase later than half the window after it
        (WINDOW.start, 0, 2, "purchase"),
        (WINDOW.start + 1, 0, 3, "purchase"),
        (WINDOW.start + 2, 0, 4, "purchase"),
        (WINDOW.start + 3 * DAY, 1, 5, "view"),
        (WINDOW.start + 4 * DAY, 1, 6, "purchase"),
        (WINDOW.start + 9 * DAY, 1, 7, "purchase"),
        # an anonymous session, of which home knows nothing
        (WINDOW.start + 9 * DAY, 2, 8, "purchase"),
        # after the window
        (WINDOW.stop, 0, 9, "purchase"),
    ],
    n_items=10,
    n_users=2,
    sessions=[0, 1, 2, 2, 2, 3, 4, 5, 6, 7],
)
ASKED = questions(DATASET, WINDOW, seed=0)


def test_home_is_asked_at_the_start_by_those_who_then_buy() -> None:
    for surface in (Surface.HOME, Surface.BUY_AGAIN, Surface.TRENDING, Surface.NEW_ARRIVALS):
        asked = ASKED[surface]
        assert [one.truths.tolist() for one in asked] == [[2, 3, 4], [6, 7]]
        assert {one.query.surface for one in asked} == {surface}
        # What is known lies before the window, and one in ten would not say who they are.
        known = [one.query.history.items.tolist() for one in asked]
        assert all(items in ([], [shopper]) for shopper, items in enumerate(known))
        assert any(known)


def test_an_item_is_stood_before_and_what_is_bought_within_half_a_window_counts() -> None:
    by_item = {one.query.context_item: one.truths.tolist() for one in ASKED[Surface.SIMILAR]}
    assert by_item.keys() <= {2, 3, 4, 5, 6} and len(ASKED[Surface.SIMILAR]) == 3  # sessions of the first half
    assert by_item[5] == [6]  # item 7 follows 6 days later
    assert by_item[6] == []
    (basket,) = by_item.keys() - {5, 6}
    assert by_item[basket] == sorted({2, 3, 4} - {basket})


def test_a_basket_is_told_in_part_and_the_rest_is_right() -> None:
    (beside,), (cart,) = ASKED[Surface.BOUGHT_TOGETHER], ASKED[Surface.CART]
    assert {beside.query.context_item, *beside.truths.tolist()} == {2, 3, 4} and len(beside.truths) == 2
    in_cart = cart.query.cart_items.tolist()
    assert in_cart and len(cart.truths) and {*in_cart, *cart.truths.tolist()} == {2, 3, 4}
    assert len(in_cart) + len(cart.truths) == 3


def test_the_event_that_is_right_can_be_another_one() -> None:
    viewed = questions(DATASET, WINDOW, 0, EVENT_CODE["view"])
    assert [one.truths.tolist() for one in viewed[Surface.HOME]] == [[5]]


def test_a_window_in_which_nothing_happens_asks_nothing() -> None:
    assert not any(questions(DATASET, Window(WINDOW.stop + DAY, WINDOW.stop + 2 * DAY), 0).values())


def test_what_is_answered_is_observed_without_the_items_of_the_question() -> None:
    model = PopularityRecommender().fit(DATASET, WINDOW.stop, np.random.default_rng(0))
    cart = np.array([3], dtype=np.int32)
    mask = mask_of(Query(context_item=2, cart_items=cart), np.ones(10, np.bool_))
    assert np.flatnonzero(~mask).tolist() == [2, 3]
    seen = observe(model, ASKED[Surface.TRENDING], DATASET.catalogue.available)
    assert seen["rank"].to_list() == [*range(1, 11)] * 2 and seen["chance"].is_nan().all()
    assert seen["hit"].sum() == 3 + 2
