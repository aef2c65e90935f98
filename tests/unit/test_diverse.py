"""`recsys.models.diverse`: picks by hand, and what holds for every list."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.evaluation.evaluate import spread_over
from recsys.models.diverse import Diverse
from recsys.models.fit.diverse import DiverseRecommender
from recsys.models.fit.item_facts import item_groups
from recsys.ranking import Mask, ModelState, Query, Ranking
from tests.factories import make_catalogue, make_dataset

EVERYTHING: Mask = np.ones(8, dtype=np.bool_)


@dataclass(frozen=True)
class Scored:
    """Items 0, 1, 2, ... with these scores."""

    kind: ClassVar[str] = "scored"
    scores: tuple[float, ...]
    name: str = "scored"

    def recommend(self, query: Query, k: int, eligible: Mask) -> Ranking:  # noqa: ARG002
        items = np.flatnonzero(eligible[: len(self.scores)])[:k].astype(np.int32)
        scores = np.array(self.scores, dtype=np.float32)[items]
        sources = tuple(f"s{item}" for item in items.tolist())
        return Ranking(items, scores, sources, items + np.int32(100), scores / np.float32(2))

    def state(self) -> ModelState:
        return ModelState({"scores": self.scores, "name": self.name})

    @classmethod
    def from_state(cls, state: ModelState) -> Self:
        return cls(**state.params)


def codes(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.array(values, dtype=np.int32)


UNKNOWN = codes(*range(-1, -9, -1))
SHELVES = codes(0, 0, 0, 1, 1, 2, -7, -8)


def over(scores: tuple[float, ...], strength: float = 0.2, **fields: object) -> Diverse:
    plain = Diverse(Scored(scores), SHELVES, SHELVES, UNKNOWN, strength, depth=8)
    return replace(plain, **fields)  # type: ignore[arg-type]


def picked(model: Diverse, k: int = 8) -> list[int]:
    found: list[int] = model.recommend(Query(), k, EVERYTHING).items.tolist()
    return found


def test_picks_by_hand() -> None:
    # .8 * share: .8 .76 .72 .64 .4 .32 .2 .16, and .18 less for a shelf that is taken.
    # 0 first; then 1 is worth .58, 2 .54, so 3 (.64); then 1 (.58), 2 (.54), 5 (.32), 4 (.22), 6 (.2), 7 (.16).
    assert picked(over((1.0, 0.95, 0.9, 0.8, 0.5, 0.4, 0.25, 0.2))) == [0, 3, 1, 2, 5, 4, 6, 7]


def test_a_common_parent_and_a_common_brand_count_for_less() -> None:
    likeness = replace(over(()), parent=codes(7, 7, 7, 7, 7, 8, -7, -8), brand=codes(0, 1, 0, 0, 1, 0, -7, -8))
    found = likeness.likeness(codes(0, 1, 2, 3, 5, 6, 7))
    assert found[0].tolist() == pytest.approx([1.0, 0.9, 1.0, 0.55, 0.1, 0.0, 0.0])
    assert found[5].tolist() == [0.0] * 5 + [1.0, 0.0]  # what is unknown is like no other unknown thing
    assert (found == found.T).all()


def test_no_strength_changes_nothing_and_full_strength_sees_no_scores() -> None:
    scores = (1.0, 0.9, 0.8, 0.7, 0.6, 0.1, 0.05, 0.01)
    assert picked(over(scores, strength=0.0)) == list(range(8))
    assert picked(over(scores, strength=1.0))[:5] == [0, 3, 5, 6, 7]


def test_what_belongs_to_an_item_goes_with_it_and_scores_stay_in_their_places() -> None:
    scores = (1.0, 0.95, 0.9, 0.8, 0.5, 0.4, 0.25, 0.2)
    ranking = over(scores).recommend(Query(), 3, EVERYTHING)
    assert ranking.items.tolist() == [0, 3, 1]
    assert ranking.sources == ("s0", "s3", "s1") and ranking.because.tolist() == [100, 103, 101]
    assert ranking.chances is not None and ranking.chances.tolist() == pytest.approx([0.5, 0.4, 0.475])
    assert ranking.scores.tolist() == pytest.approx([1.0, 0.95, 0.9])


def test_what_is_behind_the_depth_follows_as_it_was() -> None:
    assert picked(over((1.0, 0.95, 0.9, 0.8, 0.5, 0.4, 0.25, 0.2), depth=4)) == [0, 3, 1, 2, 4, 5, 6, 7]


@pytest.mark.parametrize("scores", [(), (1.0,), (0.0, 0.0, 0.0), (-1.0, -2.0, -3.0)])
def test_where_scores_say_nothing_the_order_stays(scores: tuple[float, ...]) -> None:
    assert picked(over(scores)) == list(range(len(scores)))


LISTS = st.lists(st.floats(0.0, 10.0, width=32), max_size=8).map(lambda scores: tuple(sorted(scores, reverse=True)))


@given(LISTS, st.floats(0.0, 1.0), st.integers(0, 10), st.integers(1, 10))
def test_every_list_is_a_permutation_whose_beginning_does_not_depend_on_its_length(
    scores: tuple[float, ...], strength: float, k: int, depth: int
) -> None:
    model = over(scores, strength=strength, depth=depth)
    whole, part = picked(model), model.recommend(Query(), k, EVERYTHING)
    assert sorted(whole) == list(range(len(scores)))
    assert part.items.tolist()[:depth] == whole[: min(k, depth)]
    assert len(part) == min(k, len(scores)) and (np.diff(part.scores) <= 0).all()


def test_codes_come_from_the_catalogue() -> None:
    catalogue = replace(
        make_catalogue(6),
        categories=("DAIRY", "DAIRY > CHEESE", "DAIRY > MILK", "FOOD > DAIRY > MILK"),
        category=codes(1, 2, 0, 3, -1, 1),
    )
    assert item_groups(catalogue)["above"].tolist() == [0, 0, 0, 1, -1, 0]
    dataset = replace(make_dataset([(1, 0, 0, "view")], n_items=6, n_users=1), catalogue=catalogue)
    model = DiverseRecommender().fit(dataset.with_spare(2), 10, np.random.default_rng(0))
    assert model.category.tolist() == [1, 2, 0, 3, -5, 1, -7, -8]
    assert model.parent.tolist() == [0, 0, 0, 1, -5, 0, -7, -8]
    assert model.brand.tolist() == [-1, 1, 2, 0, -5, 2, -7, -8]  # in the order of their names
    assert model.category.dtype == model.parent.dtype == model.brand.dtype == np.int32


def test_the_share_of_different_categories() -> None:
    assert spread_over(codes(1, 1, 1, 2)) == 0.5
    assert spread_over(codes(1, -1, -1)) == 1.0
