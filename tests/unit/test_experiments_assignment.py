"""Hashing units into arms: even, independent between salts, and moved by nothing but their own bounds."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, chisquare

from recsys.experiments.assignment import BUCKETS, Layer, Slot, Split, bucket, unit_of

UNITS = [f"user:{number}" for number in range(20_000)]
RUNNING = frozenset({"one", "two"})


def test_units_spread_evenly_over_buckets() -> None:
    tenths = np.bincount([bucket("salt", unit) // 1_000 for unit in UNITS], minlength=10)
    assert chisquare(tenths).pvalue > 0.001


def test_salts_are_independent() -> None:
    pairs = Counter((bucket("a", unit) // 2_500, bucket("b", unit) // 2_500) for unit in UNITS)
    table = [[pairs[row, column] for column in range(4)] for row in range(4)]
    assert chi2_contingency(table).pvalue > 0.001


@given(st.text(max_size=20), st.text(max_size=20))
def test_any_unit_has_a_bucket_and_keeps_it(salt: str, unit: str) -> None:
    assert bucket(salt, unit) == bucket(salt, unit)
    assert 0 <= bucket(salt, unit) < BUCKETS


def test_a_lone_surrogate_is_a_unit_too() -> None:
    assert 0 <= bucket("salt", "user:\ud800") < BUCKETS


@given(st.lists(st.floats(0.0001, 1), min_size=1, max_size=8))
def test_ranges_cover_the_shares_without_gap_or_overlap(weights: list[float]) -> None:
    shares = {f"arm{number}": weight / sum(weights) for number, weight in enumerate(weights)}
    split = Split.of("salt", shares)
    covered = [number for arm in split.arms for number in split.buckets(arm)]
    assert covered == list(range(BUCKETS))
    assert all(abs(split.share(arm) - share) <= 1 / BUCKETS for arm, share in shares.items())


def test_an_arm_added_at_the_end_moves_only_those_that_it_takes_from_the_last() -> None:
    before = Split.of("salt", {"a": 0.5, "b": 0.5})
    after = Split.of("salt", {"a": 0.5, "b": 0.3, "c": 0.2})
    moved = {(before.arm(unit), after.arm(unit)) for unit in UNITS if before.arm(unit) != after.arm(unit)}
    assert moved == {("b", "c")}


def test_an_arm_added_to_what_no_arm_has_moves_nobody() -> None:
    before, after = Split.of("salt", {"a": 0.5}), Split.of("salt", {"a": 0.5, "b": 0.1})
    assert all(after.arm(unit) == "a" for unit in UNITS if before.arm(unit) == "a")


def test_experiments_of_one_layer_never_overlap() -> None:
    halves = Split.of("one", {"a": 0.5, "b": 0.5}), Split.of("two", {"c": 1.0})
    layer = Layer("salt", (Slot("one", range(4_000), halves[0]), Slot("two", range(4_000, BUCKETS), halves[1])))
    placed = Counter(layer.place(unit, RUNNING).experiment for unit in UNITS)  # type: ignore[union-attr]
    assert sum(placed.values()) == len(UNITS)
    assert chisquare([placed["one"], placed["two"]], [8_000, 12_000]).pvalue > 0.001
    assert all(layer.place(unit, {"one"}) is None or bucket("salt", unit) < 4_000 for unit in UNITS)


def test_who_was_in_an_arm_is_spread_over_all_arms_of_the_next_experiment() -> None:
    first, second = (Split.of(salt, {"a": 0.5, "b": 0.5}) for salt in ("first", "second"))
    pairs = Counter((first.arm(unit), second.arm(unit)) for unit in UNITS)
    assert chi2_contingency([[pairs["a", "a"], pairs["a", "b"]], [pairs["b", "a"], pairs["b", "b"]]]).pvalue > 0.001


def test_a_placement_says_its_chance() -> None:
    layer = Layer("salt", (Slot("one", range(5_000), Split.of("one", {"a": 0.2, "b": 0.8})),))
    shares = {one.arm: one.share for unit in UNITS if (one := layer.place(unit, RUNNING, of=0.9))}
    assert shares == {"a": 0.9 * 0.5 * 0.2, "b": 0.9 * 0.5 * 0.8}


def test_the_unit_is_the_user_else_the_session() -> None:
    assert unit_of("7", "s") == "user:7"
    assert unit_of(None, "7") == "session:7"
    assert unit_of("7", "s", by="session") == "session:s"
    assert unit_of("7", None, by="session") is None
    assert unit_of(None, None) is None
