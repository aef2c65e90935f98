"""Chances: the curve of a case small enough to fit by hand, which input it reads, and who keeps what they claim."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import polars as pl
import pytest

from recsys.calibration import ANY, Calibrated, Curve, calibrated, curves_of
from recsys.compose import append_ranking
from recsys.events import Surface
from recsys.models.fit import calibration
from recsys.models.fit.calibration import choose, fit_curve, fit_curves
from recsys.ranking import NO_ITEM, Mask, ModelState, Query, Ranking


def ranking(*scores: float, sources: tuple[str, ...], chances: tuple[float, ...] | None = None) -> Ranking:
    n = len(scores)
    claimed = None if chances is None else np.array(chances, np.float32)
    none = np.full(n, NO_ITEM, np.int32)
    return Ranking(np.arange(n, dtype=np.int32), np.array(scores, np.float32), sources, none, claimed)


@dataclass(frozen=True)
class Fixed:
    """Always the same answer."""

    kind: ClassVar[str] = "fixed"
    answer: Ranking
    name: str = "fixed"

    def recommend(self, query: Query, k: int, eligible: Mask) -> Ranking:  # noqa: ARG002
        return self.answer.top(k)

    def state(self) -> ModelState:
        return ModelState({"answer": self.answer})

    @classmethod
    def from_state(cls, state: ModelState) -> Self:
        return cls(**state.params)


def shown(*rows: tuple[float, int, int], source: str = "a") -> pl.DataFrame:
    """Of (score, how many of them, how many of those bought); ranks count from the first row."""
    parts = [
        {"question": n, "rank": place + 1, "source": source, "score": score, "chance": float("nan"), "hit": n < bought}
        for place, (score, many, bought) in enumerate(rows)
        for n in range(many)
    ]
    return pl.DataFrame(parts)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Knots of four items, so that a reader can count them; a source of twelve has a curve."""
    monkeypatch.setattr(calibration, "PER_KNOT", 4)
    monkeypatch.setattr(calibration, "MIN_SHOWN", 12)


def test_a_curve_that_a_reader_can_fit() -> None:
    # Shares (bought + 1/2) / (n + 1): 3.5/5, 0.5/5, 1.5/5 from the best score down. Over rising scores 0.3, 0.1, 0.7 must not fall:
    # the first two become their mean.
    observed = shown((3.0, 4, 3), (2.0, 4, 0), (1.0, 4, 1))
    curve = fit_curve(observed, "score")
    assert curve.at.tolist() == [1, 2, 3]
    assert curve.chances.tolist() == pytest.approx([0.2, 0.2, 0.7])
    assert curve(np.array([-9, 1.5, 2.5, 99], np.float32)).tolist() == pytest.approx([0.2, 0.2, 0.45, 0.7])
    by_rank = fit_curve(observed, "rank")
    assert (by_rank.at.tolist(), by_rank.chances.tolist()) == ([1, 2, 3], pytest.approx([0.7, 0.2, 0.2]))


def test_neighbours_share_a_knot_and_equal_scores_stay_together() -> None:
    # 1, 2 | 3, 3, 3, 3, 3, 5, 6: two knots of about four and a half, at the mean of what they hold.
    observed = shown((6.0, 1, 1), (5.0, 1, 1), (3.0, 5, 2), (2.0, 1, 0), (1.0, 1, 0))
    curve = fit_curve(observed, "score")
    assert curve.at.tolist() == pytest.approx([1.5, 26 / 7])
    assert curve.chances.tolist() == pytest.approx([0.5 / 3, 4.5 / 8])


def test_what_tells_more_on_other_questions_is_read() -> None:
    # Even and odd questions alike: whether an item is bought depends on its score alone, its rank is noise; and the other way round.
    rng = np.random.default_rng(0)
    n = 4_000
    noise, telling = rng.integers(1, 5, n), rng.integers(1, 5, n)
    hit = rng.random(n) < telling / 5
    common = {"question": np.arange(n), "source": "a", "chance": np.full(n, np.nan), "hit": hit}
    assert choose(pl.DataFrame({**common, "score": telling.astype(np.float32), "rank": noise})) == "score"
    assert choose(pl.DataFrame({**common, "score": noise.astype(np.float32), "rank": 5 - telling})) == "rank"


def test_a_source_of_few_items_and_one_that_was_never_met_have_the_curve_of_all() -> None:
    many, little = shown((2.0, 8, 8), (1.0, 8, 0)), shown((9.0, 4, 0), source="b")
    curves = fit_curves(pl.concat([many, little]))
    assert set(curves) == {ANY, "a"} and curves[ANY].by == "rank"
    model = Calibrated(Fixed(ranking(2.0, 2.0, 2.0, sources=("a", "b", "new"))), curves)
    chances = model.recommend(Query(), 3, np.ones(3, np.bool_)).chances
    assert chances is not None
    # Of a at its best score 8.5/9; the curve of all at rank 2, where 0 of 8 were bought.
    assert chances.tolist() == pytest.approx([8.5 / 9, 0.5 / 9, 0.5 / 9])


def test_what_a_model_claims_itself_is_neither_fitted_nor_changed() -> None:
    claimed = shown((5.0, 40, 40)).with_columns(chance=pl.lit(0.9))
    assert fit_curves(claimed) == {}
    half = Curve("rank", np.array([1.0]), np.array([0.5]))
    answer = ranking(3.0, 2.0, sources=("a", "a"), chances=(0.25, np.nan))
    model = Calibrated(Fixed(answer), {ANY: half})
    chances = model.recommend(Query(), 2, np.ones(2, np.bool_)).chances
    assert chances is not None and chances.tolist() == [0.25, 0.5]


def test_surfaces_without_curves_stay_as_they_are() -> None:
    curve = {ANY: Curve("rank", np.array([1.0]), np.array([0.5]))}
    surfaces = {Surface.HOME: Fixed(ranking(1.0, sources=("a",))), Surface.CART: Fixed(ranking(1.0, sources=("a",)))}
    found = calibrated(surfaces, {Surface.HOME: curve, Surface.CART: {}})
    assert found[Surface.CART] is surfaces[Surface.CART]
    assert curves_of(found) == {Surface.HOME: curve}


def test_chances_and_enhanced_places_follow_each_other_into_a_longer_answer() -> None:
    first = ranking(3.0, sources=("a",), chances=(0.25,))
    enhanced = Ranking(first.items, first.scores, first.sources, first.because, first.chances, np.array([True]))
    then = ranking(1.0, 0.5, sources=("b", "b")).take(np.array([1]))
    both = append_ranking(enhanced, then)
    assert both.enhanced is not None and both.enhanced.tolist() == [True, False]
    assert both.chances is not None and np.isnan(both.chances).tolist() == [False, True]
    assert append_ranking(then, then).enhanced is None
