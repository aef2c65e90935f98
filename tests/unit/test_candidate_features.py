"""The numbers that a ranker reads: all groups at once are as each by itself, and a history may come in any order."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys.models.candidate_features import (
    HALF_LIVES,
    NEVER,
    STRETCH,
    TINY,
    TRIED_HALF_LIFE,
    WINDOWS,
    Columns,
    ItemFacts,
    describe,
)
from recsys.ranking import PURCHASE, History, ItemArray, Query, Ranking


def one_group(
    codes: NDArray[np.int32], shares: NDArray[np.float32], bought: History, columns: Columns, candidates: ItemArray
) -> Columns:
    """Features of one kind of groups, without regard to speed."""
    items, place = np.unique(bought.items, return_index=True)
    first_ages, trips = bought.age_days[place], np.unique(np.floor(bought.age_days))
    recent_trips = max(1, int((trips <= WINDOWS[-1]).sum()))
    n, ages = int(codes.max(initial=-1)) + 2, bought.age_days
    history, different, asked = codes[bought.items] % n, codes[items] % n, codes[candidates] % n
    first, last = np.zeros(n, dtype=np.float32), np.full(n, NEVER, dtype=np.float32)
    np.maximum.at(first, history, ages)
    np.minimum.at(last, history, ages)
    line = np.sort(np.asarray(history * STRETCH + np.minimum(ages, NEVER), dtype=np.float64))
    group, day = np.divmod(np.unique(np.floor(line)), STRETCH)
    group = group.astype(np.int64)
    days = np.bincount(group, minlength=n)
    gap = np.where(days > 1, (first - last) / np.maximum(days - 1, 1), NEVER)
    found = {
        "age": last[asked],
        "gap": gap[asked],
        "due": (last / np.maximum(gap, 1.0))[asked],
        "per_trip": (np.bincount(group, day <= WINDOWS[-1], minlength=n) / recent_trips)[asked],
        "items": np.bincount(different, minlength=n)[asked],
        "tried": np.bincount(different, np.exp2(-first_ages / TRIED_HALF_LIFE), minlength=n)[asked],
    }
    found |= {
        f"recent_{half:g}": np.bincount(history, np.exp2(-ages / half), minlength=n)[asked] for half in HALF_LIVES
    }
    single = {name: value.astype(np.float32) for name, value in found.items()}
    recent, lasting = (f"recent_{half:g}" for half in HALF_LIVES)
    own = np.asarray(asked * STRETCH + np.minimum(columns["own_age_1"], NEVER), dtype=np.float64)
    since = line.searchsorted(own) - line.searchsorted(asked * STRETCH)
    return single | {
        "own_share": columns[f"own_{lasting}"] / np.maximum(single[lasting], TINY),
        "since_own": since.astype(np.float32),
        "expected": single[recent] * shares[candidates],
    }


def drawn(rng: np.random.Generator, *, longest_days: int) -> tuple[Query, ItemArray, ItemFacts]:
    """A shop of a few items in up to three kinds of groups, and a history of it, often with several events a day."""
    n_items, kinds = int(rng.integers(1, 40)), int(rng.integers(1, 4))
    facts = ItemFacts(
        ("one",),
        rng.random((n_items, 1)).astype(np.float32),
        tuple(f"kind{number}" for number in range(kinds)),
        rng.integers(-1, rng.integers(0, 8), (kinds, n_items)).astype(np.int32),
        rng.random((kinds, n_items)).astype(np.float32),
        np.where(rng.random(n_items) < 0.2, np.nan, rng.random(n_items)).astype(np.float32),
    )
    n = int(rng.integers(0, 60))
    ages = -np.sort(-(rng.integers(0, 4 * longest_days, n) / 4).astype(np.float32))
    types = rng.choice(np.array([PURCHASE, PURCHASE, 0], dtype=np.uint8), n)
    history = History(rng.integers(0, n_items, n).astype(np.int32), types, ages)
    candidates = np.flatnonzero(rng.random(n_items) < 0.5).astype(np.int32)
    return Query(history=history, session_items=rng.integers(0, n_items, 2).astype(np.int32)), candidates, facts


@pytest.mark.parametrize("longest_days", [5, 300, 3_000])
@pytest.mark.parametrize("seed", range(50))
def test_all_kinds_of_groups_at_once_are_as_each_by_itself(seed: int, longest_days: int) -> None:
    query, candidates, facts = drawn(np.random.default_rng(seed), longest_days=longest_days)
    found = describe(query, candidates, [], facts)
    for kind, codes, shares in zip(facts.group_names, facts.groups, facts.shares, strict=True):
        expected = one_group(codes, shares, query.history.of_type(PURCHASE), found, candidates)
        assert [name for name in found if name.startswith(kind)] == [f"{kind}_{name}" for name in expected]
        for name, column in expected.items():
            assert np.array_equal(found[f"{kind}_{name}"], column), name


@pytest.mark.parametrize("seed", range(10))
def test_a_history_whose_past_came_late_is_described_as_if_it_had_come_in_time(seed: int) -> None:
    rng = np.random.default_rng(seed)
    query, candidates, facts = drawn(rng, longest_days=300)
    history = query.history
    ages = np.linspace(300, 0, len(history), dtype=np.float32)
    mixed = rng.permutation(len(history))
    found = describe(Query(history=History(history.items, history.event_types, ages)), candidates, [], facts)
    late = History(history.items[mixed], history.event_types[mixed], ages[mixed])
    for name, column in describe(Query(history=late), candidates, [], facts).items():
        np.testing.assert_allclose(column, found[name], rtol=1e-6, err_msg=name)


def test_features_are_numbers_whatever_the_history() -> None:
    # NaN stands for what is unknown, of facts alone.
    answer = Ranking(np.array([0], np.int32), np.zeros(1, np.float32), ("s",), np.array([-1], np.int32))
    for seed in range(30):
        query, candidates, facts = drawn(np.random.default_rng(seed), longest_days=1)
        for name, column in describe(query, candidates, [("s", answer)], facts).items():
            assert np.isfinite(column).all() or name == "price_to_usual", name
