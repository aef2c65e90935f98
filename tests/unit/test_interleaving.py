"""Team draft: who puts what, by hand; fair between rankings that are alike; preferences by the sign test."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.experiments.interleaving import FIRST, NO_TEAM, SECOND, team_draft
from recsys.experiments.preference import preference
from recsys.ranking import EMPTY_RANKING, NO_ITEM, Ranking


def ranking(*items: int, source: str = "m", chances: bool = False) -> Ranking:
    n = len(items)
    return Ranking(
        np.array(items, dtype=np.int32),
        np.arange(n, 0, -1, dtype=np.float32),
        (source,) * n,
        np.full(n, NO_ITEM, dtype=np.int32),
        np.linspace(0.9, 0.1, n, dtype=np.float32) if chances else None,
    )


def seed_where(begins: int) -> int:
    return next(seed for seed in range(50) if np.random.default_rng(seed).integers(0, 2, size=4)[0] == begins)


@pytest.mark.parametrize(("begins", "items", "teams"), [(0, [1, 2], [0, 1]), (1, [2, 1], [1, 0])])
def test_the_coin_says_who_begins(begins: int, items: list[int], teams: list[int]) -> None:
    found = team_draft(ranking(1, 2, 3), ranking(2, 1, 4), 4, seed_where(begins))
    assert found.ranking.items[:2].tolist() == items
    assert found.teams[:2].tolist() == teams
    assert set(found.ranking.items[2:].tolist()) == {3, 4}


def test_an_item_of_both_counts_for_who_put_it() -> None:
    first, second = ranking(1, 2, source="a", chances=True), ranking(1, 3, source="b")
    found = team_draft(first, second, 2, seed_where(FIRST))
    assert found.ranking.items.tolist() == [1, 3]
    assert found.ranking.sources == ("a", "b")
    assert found.credit(np.array([1, 7], dtype=np.int32)) == (1, 0)
    assert found.credit(np.array([1, 3], dtype=np.int32)) == (1, 1)
    assert found.ranking.chances is not None
    assert found.ranking.chances[0] == np.float32(0.9) and np.isnan(found.ranking.chances[1])


def test_what_only_one_ranking_has_left_speaks_for_none() -> None:
    found = team_draft(ranking(1), ranking(2, 3, 4), 4, 0)
    assert sorted(found.ranking.items.tolist()) == [1, 2, 3, 4]
    assert found.teams[2:].tolist() == [NO_TEAM, NO_TEAM]
    assert found.credit(np.array([3, 4], dtype=np.int32)) == (0, 0)
    assert len(team_draft(EMPTY_RANKING, EMPTY_RANKING, 4, 0).ranking) == 0


@given(
    st.lists(st.integers(0, 30), unique=True, max_size=12),
    st.lists(st.integers(0, 30), unique=True, max_size=12),
    st.integers(0, 20),
    st.integers(0, 2**32 - 1),
)
def test_no_item_twice_all_k_of_them_and_teams_in_turns(one: list[int], two: list[int], k: int, seed: int) -> None:
    found = team_draft(ranking(*one), ranking(*two), k, seed)
    items = found.ranking.items.tolist()
    assert len(items) == len(set(items)) == min(k, len({*one, *two}))
    assert team_draft(ranking(*one), ranking(*two), k, seed).ranking.items.tolist() == items
    teams = found.teams[found.teams != NO_TEAM].tolist()
    assert all({teams[place], teams[place + 1]} == {FIRST, SECOND} for place in range(0, len(teams) - 1, 2))
    for team, own in ((FIRST, one), (SECOND, two)):
        places = [own.index(item) for item, of in zip(items, found.teams.tolist(), strict=True) if of == team]
        assert places == sorted(places)


def test_equal_rankings_get_equal_credit() -> None:
    # Clicks fall steeply with position, so a bias in who gets the first place would show.
    rng = np.random.default_rng(0)
    one, units = ranking(*range(7)), 2_000
    drafts = [team_draft(one, one, 7, seed) for seed in range(units)]
    clicked = rng.random((units, 7)) < 0.5 ** np.arange(1, 8)
    first, second = np.array(
        [draft.credit(draft.ranking.items[clicks]) for draft, clicks in zip(drafts, clicked, strict=True)]
    ).T
    found = preference(first, second)
    assert found.p is not None and found.p > 0.01
    assert abs(np.mean(second - first)) < 3 * np.std(second - first) / np.sqrt(units)
    assert abs(np.mean([draft.teams[0] for draft in drafts]) - 0.5) < 3 * 0.5 / np.sqrt(units)


def test_the_better_ranking_is_preferred() -> None:
    rng = np.random.default_rng(1)
    good, bad = ranking(*range(10)), ranking(*range(9, -1, -1))
    chances = np.linspace(0.4, 0.05, 10)
    given = []
    for unit in range(600):
        found = team_draft(bad, good, 5, unit)
        given.append(found.credit(found.ranking.items[rng.random(5) < chances[found.ranking.items]]))
    first, second = np.array(given).T
    found_preference = preference(first, second)
    assert found_preference.low is not None and found_preference.low > 0.5


def test_preferences_by_hand() -> None:
    found = preference([1, 0, 0, 0, 2], [0, 1, 3, 0, 2])
    assert (found.first, found.second, found.ties) == (1, 2, 2)
    assert found.share == pytest.approx(2 / 3)
    assert found.p == pytest.approx(1.0)  # of three, two or more one way or the other: certain
    six = preference([0] * 6, [1] * 6)
    assert six.p == pytest.approx(2 / 2**6)
    assert six.low == pytest.approx(0.025 ** (1 / 6)) and six.high == 1.0


def test_no_preference_is_no_data() -> None:
    assert preference([1, 0], [1, 0]).share is None
    assert preference([], []).p is None
