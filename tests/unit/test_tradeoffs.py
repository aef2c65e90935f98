"""What is gained by a threshold and by a weight of prices, counted by hand."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from recsys import tradeoffs
from recsys.errors import UserError
from recsys.phase3 import OBJECTIVES, Phase3Config
from recsys.phases import wanted
from recsys.ranking import ItemArray, ScoreArray
from recsys.tradeoffs import NEVER, Said, best_threshold, objective_curve, threshold_curve

PRICES = np.array([100, 200, 300, 400, 500], dtype=np.int64)


def rows(*items: int) -> ItemArray:
    return np.array(items, dtype=np.int32)


def alike(items: ItemArray) -> ScoreArray:
    return np.ones(len(items), dtype=np.float32)


@pytest.fixture(autouse=True)
def two_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tradeoffs, "K", 2)
    monkeypatch.setattr(tradeoffs, "THRESHOLDS", (0.0, 0.3, 0.6))


SAID = [
    # The ranker says 0 and 1, the simple answer 2 and 3; 0 and 2 are bought.
    Said(rows(0, 1, 4), np.array([0.7, 0.4, 0.1], np.float32), rows(2, 3, 0, 1), rows(0, 2)),
    # A stranger, who gets the simple answer whatever the threshold.
    Said(rows(), np.empty(0, np.float32), rows(2, 3), rows(2)),
]


def test_a_threshold_gains_what_its_places_sell_beyond_those_they_take() -> None:
    curve = threshold_curve(SAID, alike, PRICES, wrong_cost=0.5)
    found = {row["threshold"]: row for row in curve.iter_rows(named=True)}
    # At 0 and 0.3 both places are taken: item 0 for 2, which sold as well, 200 cents less; item 1 is wrong. Two questions, a mean.
    assert [found[0.3][name] for name in ("enhanced", "purchases", "revenue_cents", "gain")] == [0.5, 0, -100, -0.25]
    assert found[0.0] == {**found[0.3], "threshold": 0.0}
    # At 0.6 item 0 leads and 2 stays: one purchase more, 100 cents.
    assert [found[0.6][name] for name in ("enhanced", "purchases", "revenue_cents", "gain")] == [0.25, 0.5, 50, 0.5]
    assert found[0.6]["purchases_low"] <= 0.5 <= found[0.6]["purchases_high"]
    # Two questions, of which one gains nothing, make nothing sure.
    assert best_threshold(curve) == NEVER
    assert best_threshold(threshold_curve([SAID[0]] * 2, alike, PRICES, wrong_cost=0.5)) == 0.6


def curve_of(gains: list[float], lows: list[float]) -> pl.DataFrame:
    return pl.DataFrame({"threshold": [0.1, 0.2, 0.3], "gain": gains, "gain_low": lows})


def test_of_equal_gains_the_highest_threshold_is_chosen() -> None:
    assert best_threshold(curve_of([1.0, 1.0, 0.5], [0.5, 0.5, 0.2])) == 0.2


def test_the_ranker_takes_places_only_where_it_surely_gains() -> None:
    # The largest gain may be chance, the smaller one is not.
    assert best_threshold(curve_of([1.0, 0.2, 0.5], [-0.1, 0.0, 0.2])) == 0.3
    assert best_threshold(curve_of([1.0, 0.2, 0.5], [-0.1, 0.0, -0.2])) == NEVER


def test_a_weight_of_prices_moves_the_dear_forward() -> None:
    said = [Said(rows(0, 1, 4), np.array([0.7, 0.4, 0.2], np.float32), rows(), rows(1, 4))]

    def values(weight: float) -> tradeoffs.Values:
        return lambda items: np.asarray(PRICES[items] ** weight, dtype=np.float32)

    curve = objective_curve(said, values, PRICES)
    brought = {row["value_weight"]: (row["purchases"], row["revenue_cents"]) for row in curve.iter_rows(named=True)}
    # By chance 0 and 1 lead, of which 1 is bought; by expected revenue 4 (100) and 1 (80) before 0 (70).
    assert brought[0.0] == (1, 200) and brought[1.0] == (2, 700)


def test_an_objective_is_a_configuration_by_name() -> None:
    assert wanted(1, None) == {} and Phase3Config(**wanted(3, "revenue")).value_weight == 1.0
    assert Phase3Config(**wanted(3, "clicks")).clicks and not Phase3Config(**wanted(3, "purchases")).clicks
    assert all(Phase3Config(**given) for given in OBJECTIVES.values())
    with pytest.raises(UserError, match="is for phase 3"):
        wanted(2, "revenue")
    with pytest.raises(UserError, match="none of purchases, balanced, revenue, clicks"):
        wanted(3, "margin")
