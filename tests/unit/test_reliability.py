"""Whether chances come true, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.evaluation.reliability import Reliability, expected_error
from recsys.ranking import NO_ITEM, Ranking


def ranking(chances: list[float]) -> Ranking:
    n = len(chances)
    scores = np.arange(n, 0, -1, dtype=np.float32)
    items = np.arange(n, dtype=np.int32)
    return Ranking(items, scores, ("a",) * n, np.full(n, NO_ITEM, np.int32), np.array(chances, np.float32))


def test_bins_hold_means_and_shares_and_the_error_weighs_them() -> None:
    claims = Reliability()
    # 0.55 and 0.57 lie in one bin, one of the two is bought; 0.25 is not; a NaN claims nothing.
    claims.add(ranking([0.55, 0.57, 0.25, np.nan]), np.array([1, 3]))
    found = claims.bins()
    assert [(one.name, one.n) for one in found] == [("chance 0.2-0.3", 1), ("chance 0.5-0.6", 2)]
    assert (found[1].claimed, found[1].bought) == (pytest.approx(0.56), 0.5)
    assert expected_error(found) == pytest.approx((1 * 0.25 + 2 * 0.06) / 3)


def test_without_chances_nothing_is_claimed() -> None:
    claims = Reliability()
    plain = ranking([0.5])
    claims.add(Ranking(plain.items, plain.scores, plain.sources, plain.because), np.array([0]))
    assert claims.bins() == []
    assert expected_error([]) == 0.0


def test_the_ends_belong_to_bins() -> None:
    claims = Reliability()
    claims.add(ranking([1.0, 0.0]), np.array([0]))
    assert [one.name for one in claims.bins()] == ["chance 0-0.02", "chance 0.9-1"]
