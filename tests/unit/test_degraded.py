"""A model made worse on purpose: as many places as asked for go to random items, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recsys.models.degraded import Degraded
from recsys.models.popularity import OrderModel
from recsys.ranking import NO_ITEM, Query

N_ITEMS = 1_000
PLAIN = OrderModel(np.arange(N_ITEMS, dtype=np.int32), np.linspace(2, 1, N_ITEMS, dtype=np.float32))
ALL = np.ones(N_ITEMS, dtype=np.bool_)


def test_the_share_of_places_is_lost_and_the_others_stay_where_they_were() -> None:
    model, kept = Degraded(PLAIN, 0.3), 0
    for seed in range(200):
        ranking = model.recommend(Query(seed=seed), 10, ALL)
        stays = ranking.items == np.arange(10)
        kept += int(stays.sum())
        assert (np.array(ranking.sources) == np.where(stays, "popularity", "random")).all()
        assert (ranking.items[~stays] >= 10).all(), "an item that was lost does not come back at another place"
        assert (ranking.because[~stays] == NO_ITEM).all()
        assert ranking.scores.tolist() == PLAIN.recommend(Query(), 10, ALL).scores.tolist()
    # 2,000 places, each kept with a chance of 0.7: a standard deviation of 20.5.
    assert abs(kept - 1_400) < 4 * 20.5


@pytest.mark.parametrize(("share", "expected"), [(0.0, 10), (1.0, 0)])
def test_nothing_or_all_is_lost(share: float, expected: int) -> None:
    ranking = Degraded(PLAIN, share).recommend(Query(seed=1), 10, ALL)
    assert (ranking.items < 10).sum() == expected


def test_where_nothing_else_may_be_shown_the_answer_stays() -> None:
    few = np.arange(N_ITEMS) < 3
    assert sorted(Degraded(PLAIN, 1.0).recommend(Query(), 10, few).items.tolist()) == [0, 1, 2]


def test_what_came_by_chance_claims_no_chance() -> None:
    sure = np.full(10, 0.5, dtype=np.float32)

    class Sure(OrderModel):
        def recommend(self, query, k, eligible):  # type: ignore[no-untyped-def]
            plain = super().recommend(query, k, eligible)
            return replace(plain, chances=sure[: len(plain)], enhanced=np.ones(len(plain), dtype=np.bool_))

    ranking = Degraded(Sure(PLAIN.order, PLAIN.scores), 0.5).recommend(Query(seed=2), 10, ALL)
    lost = np.array(ranking.sources) == "random"
    assert 0 < lost.sum() < 10
    assert ranking.chances is not None and ranking.enhanced is not None
    assert np.isnan(ranking.chances[lost]).all() and (ranking.chances[~lost] == 0.5).all()
    assert (ranking.enhanced == ~lost).all()
    assert (sure == 0.5).all(), "the model's own answer is left as it was"
