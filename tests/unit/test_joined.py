"""Items that joined since the fit, in the places that they get: cosines and counts by hand."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from recsys.content import ItemContent
from recsys.events import Surface
from recsys.models.content import ContentModel
from recsys.models.content_neighbours import MAX_FOUND, ContentNeighboursModel
from recsys.models.fit.content import ContentRecommender
from recsys.models.fit.kin import ContentNeighboursRecommender
from recsys.models.item_item import ItemItemModel
from recsys.models.popularity import OrderModel
from recsys.ranking import NO_ITEM, Query
from service import joined
from tests.factories import checkerboard, history

PAGE = 0
N = 16


@dataclass
class FakeCatalogue:
    newest: list[int] = field(default_factory=list)


@dataclass
class FakeBundle:
    content: ContentModel | None


@dataclass
class FakeLive:
    bundle: FakeBundle
    catalogue: FakeCatalogue


def content_of(cosines: dict[int, float], newest: list[int], n: int = N) -> ContentModel:
    """Item 0 has one feature; others share it so much as to have these cosines with it; what is not named has none at all."""
    shop = checkerboard()
    fitted = ContentRecommender(epochs=1, min_steps=1).fit(shop, shop.until, np.random.default_rng(0))
    features = np.full((n, fitted.features.shape[1]), -1, dtype=np.int32)
    weights = np.zeros(features.shape, dtype=np.float32)
    features[PAGE, 0], weights[PAGE, 0] = 0, 1.0
    for row, cosine in cosines.items():
        features[row, :2], weights[row, :2] = (0, 1 + row % 3), (cosine, (1 - cosine**2) ** 0.5)
    spare = np.full(8, NO_ITEM, dtype=np.int32)
    spare[: len(newest)] = newest
    return replace(
        fitted,
        features=features,
        weights=weights,
        hidden=np.zeros((n, fitted.hidden.shape[1]), dtype=np.float32),
        item_vectors=np.zeros((n, fitted.item_vectors.shape[1]), dtype=np.float32),
        unknown=np.ones(n, dtype=np.float32),
        order=np.empty(0, dtype=np.int32),
        newest=spare,
    )


def order(name: str, *items: int) -> OrderModel:
    return OrderModel(np.array(items, np.int32), np.arange(len(items), 0, -1, dtype=np.float32), name)


def live(content: ContentModel | None, newest: list[int]) -> Any:
    return FakeLive(FakeBundle(content), FakeCatalogue(newest))


def similar(cosines: dict[int, float], newest: list[int], k: int, shown: int = 8, gone: tuple[int, ...] = ()) -> Any:
    """The page of item 0, whose model says 1, 2, 3, ..."""
    mask = np.ones(N, dtype=np.bool_)
    mask[[PAGE, *gone]] = False
    model = order("similar", *range(1, shown + 1))
    query = Query(Surface.SIMILAR, context_item=PAGE)
    ranking = joined.similar(live(content_of(cosines, newest), newest), model, query, k, mask, shown=k)
    assert (np.diff(ranking.scores) <= 0).all()
    return ranking


@pytest.mark.parametrize(
    ("cosines", "newest", "k", "expected"),
    [
        ({10: 0.5}, [], 4, [1, 2, 3, 4]),  # nothing joined
        ({10: 0.5}, [10], 4, [1, 2, 3, 10]),  # a quarter of four places
        ({10: 0.5}, [10], 3, [1, 2, 3]),  # no quarter of three
        ({10: 0.1}, [10], 4, [1, 2, 3, 4]),  # not like it
        ({4: 0.6, 10: 0.5}, [10], 4, [1, 2, 3, 4]),  # less like it than what would go
        ({7: 0.6, 10: 0.5, 11: 0.7}, [10, 11], 8, [1, 2, 3, 4, 5, 6, 7, 11]),  # 0.7 for nothing; 0.5 not for 0.6
        ({8: 0.6, 10: 0.3, 11: 0.7}, [11, 10], 8, [1, 2, 3, 4, 5, 6, 8, 11]),
        ({10: 0.4, 11: 0.5, 12: 0.3}, [10, 11, 12], 8, [1, 2, 3, 4, 5, 6, 11, 10]),
    ],
)
def test_what_joined_has_the_last_quarter_of_a_page_of_an_item_like_it(
    cosines: dict[int, float], newest: list[int], k: int, expected: list[int]
) -> None:
    ranking = similar(cosines, newest, k)
    assert ranking.items.tolist() == expected
    for item, source, because in zip(ranking.items, ranking.sources, ranking.because, strict=True):
        assert (source, because) == (("similar_content", PAGE) if item in newest else ("similar", NO_ITEM))


def test_places_that_the_model_leaves_empty_are_filled_by_what_joined_and_is_eligible() -> None:
    cosines = {10: 0.4, 11: 0.5, 12: 0.3}
    assert similar(cosines, [10, 11, 12], 5, shown=2, gone=(11,)).items.tolist() == [1, 2, 10, 12]
    assert similar(cosines, [10, 11, 12], 5, shown=0).items.tolist() == [11, 10, 12]


def arrivals(content: ContentModel | None, newest: list[int], k: int, *bought: int, gone: tuple[int, ...] = ()) -> Any:
    mask = np.ones(N, dtype=np.bool_)
    mask[list(gone)] = False
    query = Query(Surface.NEW_ARRIVALS, history=history(*bought))
    ranking = joined.new_arrivals(live(content, newest), order("listed", *range(1, 9)), query, k, mask, shown=k)
    assert (np.diff(ranking.scores) <= 0).all() and len(set(ranking.items.tolist())) == len(ranking)
    return ranking


def test_a_shopper_sees_what_content_can_place_before_what_it_cannot() -> None:
    content = content_of({10: 0.5, 11: 0.9}, [11, 10])
    newest = [15, 14, 13, 11, 10]
    # Three of six places: two for what is placed, one for the latest that is not.
    found = arrivals(content, newest, 6, PAGE)
    assert set(found.items[:2].tolist()) == {10, 11} and found.items[2:].tolist() == [15, 1, 2, 3]
    assert found.sources == ("new_arrivals_for_you",) * 2 + ("new_arrivals",) + ("listed",) * 3
    assert found.because[:2].tolist() == [NO_ITEM, NO_ITEM]  # after one step of training likeness lifts nothing yet
    # What is placed leaves places over.
    assert arrivals(content, newest, 8, PAGE, gone=(11,)).items.tolist() == [10, 15, 14, 13, 1, 2, 3, 4]
    assert arrivals(content, newest, 6, PAGE, gone=(13, 14, 15)).items[2:].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("known", [True, False])
def test_one_place_can_be_that_of_an_item_that_joined(known: bool) -> None:
    bought = (PAGE,) if known else ()
    assert arrivals(content_of({10: 0.5}, [10]), [10], 1, *bought).items.tolist() == [10]
    assert arrivals(None, [10], 1, *bought).items.tolist() == [10]
    assert arrivals(content_of({}, []), [], 1, *bought).items.tolist() == [1]


def test_a_stranger_sees_the_latest_first() -> None:
    found = arrivals(content_of({10: 0.5}, [10]), [15, 10, 14], 4)
    assert found.items.tolist() == [15, 10, 1, 2]


def page_model(content: ContentModel) -> ContentNeighboursModel:
    shop = checkerboard()
    neighbours = ContentNeighboursRecommender().fit(shop, shop.until, np.random.default_rng(0))
    assert isinstance(neighbours, ItemItemModel)
    return ContentNeighboursModel(neighbours, content)


def test_the_page_of_an_item_that_joined_knows_what_joins_and_changes_after_it() -> None:
    content = content_of({1: 0.9, 2: 0.8}, [PAGE])
    model, mask = page_model(content), np.arange(N) != PAGE
    asked = Query(Surface.SIMILAR, context_item=PAGE)
    assert model.recommend(asked, 5, mask).items.tolist() == [1, 2]
    content.features[3, 0], content.weights[3, 0] = 0, 1.0
    content.changes[0] += 1  # as `put` does
    assert model.recommend(asked, 5, mask).items.tolist() == [3, 1, 2]
    content.weights[2, 0] = 0.95
    content.changes[0] += 1
    assert model.recommend(asked, 5, mask).items.tolist() == [3, 2, 1]


def test_the_page_of_an_item_that_joined_masks_before_it_cuts() -> None:
    n = MAX_FOUND + 40
    content = content_of({row: 1 - row / (2 * n) for row in range(1, n)}, [PAGE], n)
    model, mask = page_model(content), np.ones(n, dtype=np.bool_)
    asked = Query(Surface.SIMILAR, context_item=PAGE)
    mask[PAGE] = False
    assert model.recommend(asked, 300, mask).items.tolist() == list(range(1, n))
    mask[: MAX_FOUND + 1] = False
    mask[MAX_FOUND - 1] = True
    # One of the 200 nearest is left, and the rest lie deeper.
    assert model.recommend(asked, 4, mask).items.tolist() == [MAX_FOUND - 1, *range(MAX_FOUND + 1, MAX_FOUND + 4)]


def test_putting_and_withdrawing_are_counted_and_what_is_put_again_is_the_latest() -> None:
    shop = checkerboard().with_spare(3)
    content = ContentRecommender(epochs=1, min_steps=1).fit(shop, shop.until, np.random.default_rng(0))
    for row in (40, 41, 42):
        content.put(row, ItemContent(category="Even"), is_new=True)
    assert content.newest.tolist() == [42, 41, 40] and content.changes[0] == 3
    content.withdraw(41)
    assert content.newest.tolist() == [42, 40, NO_ITEM]
    content.put(41, ItemContent(category="Odd"), is_new=True)
    assert content.newest.tolist() == [41, 42, 40] and content.changes[0] == 5
    assert replace(content, name="other").changes is content.changes
    assert "changes" not in content.state().arrays
