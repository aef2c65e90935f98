"""What cannot be as it is asked for is found before a shopper finds it; see `tests.ruled.shelf`."""

from __future__ import annotations

from typing import Any

import pytest

from recsys.rules.contradictions import contradictions
from recsys.rules.engine import Engine
from tests.ruled import rules, shelf


def found(*tables: dict[str, Any]) -> list[str]:
    return contradictions(Engine(rules(*tables), shelf()), shelf().available)


PIN = {"kind": "pin", "item_id": "i0", "position": 1}
NOT_A = {"kind": "exclude", "items": {"category": "A"}}
ONLY_A = {"kind": "only", "items": {"category": "A > X", "brand": "Own"}}


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ([PIN, NOT_A], "pin 'pin-1' pins item 'i0', which is taken out by exclude 'exclude-2'"),
        ([PIN, {"kind": "only", "items": {"new": True}}], "'i0', which is taken out by only 'only-2'"),
        ([{**PIN, "item_id": "i6"}], "pins item 'i6', which is not for sale"),
        ([PIN, {**PIN, "item_id": "i1"}], "pin 'pin-1' and pin 'pin-2' pin two items at position 1"),
        ([PIN, {**PIN, "position": 2}], "pin 'pin-1' and pin 'pin-2' pin item 'i0' twice"),
        # i8 has no category: an exclude rule that fails open lets it through, so the only rule must not mean it.
        ([ONLY_A, {**NOT_A, "reason": "legal"}], "exclude 'exclude-2' and only 'only-1' leave nothing"),
        (
            [{"kind": "only", "items": {"ids": "i0"}}, {"kind": "only", "items": {"ids": "i1"}}],
            "only 'only-1' and only 'only-2' leave nothing",
        ),
        (
            [{"kind": "quota", "items": {"new": True}, "at_least": 3}],
            "quota 'quota-1' wants 3 items, and 2 may be shown",
        ),
        (
            [{"kind": "quota", "items": {"new": True}, "at_least": 2}, {"kind": "exclude", "items": {"ids": "i4"}}],
            "quota 'quota-1' wants 2 items, and 1 may be shown beside exclude 'exclude-2'",
        ),
        (
            [
                {"kind": "quota", "items": {"category": "A"}, "at_least": 3},
                {"kind": "cap", "by": "category", "level": 1, "at_most": 2},
            ],
            "quota 'quota-1' wants 3 items, and cap 'cap-2' lets 2 through",
        ),
        (
            [
                {"kind": "boost", "items": {"category": "A"}, "factor": 2},
                {"kind": "bury", "items": {"ids": ["i0", "i1", "i4"]}, "factor": 0.5},
            ],
            "boost 'boost-1' and bury 'bury-2' boost and bury the same 2 items",
        ),
        (
            [{"kind": "boost", "items": {"new": True}, "factor": 2}, {"kind": "exclude", "items": {"new": True}}],
            "boost 'boost-1' boosts only items that are taken out by exclude 'exclude-2'",
        ),
        ([{"kind": "exclude", "items": {"ids": "nobody"}}], "exclude 'exclude-1' means no item of the catalogue"),
    ],
)
def test_a_contradiction_is_named(tables: list[dict[str, Any]], words: str) -> None:
    (only,) = found(*tables)
    assert words in only


@pytest.mark.parametrize(
    "tables",
    [
        [{**PIN, "when": {"surfaces": "home"}}, {**NOT_A, "when": {"surfaces": "cart"}}],
        [{**PIN, "when": {"shopper": "known"}}, {**PIN, "item_id": "i1", "when": {"shopper": "unknown"}}],
        [{**PIN, "when": {"until": "2026-01-01"}}, {**NOT_A, "when": {"from": "2026-01-01"}}],
        [{**PIN, "when": {"days": "mon"}}, {**PIN, "item_id": "i1", "when": {"days": ["tue", "wed"]}}],
        [{**PIN, "when": {"regions": "north"}}, {**NOT_A, "when": {"regions": "south"}}],
        # No request meets the two rules of the cart and of the home page together.
        [
            {"kind": "quota", "items": {"new": True}, "at_least": 1},
            {"kind": "exclude", "items": {"ids": "i4"}, "when": {"surfaces": "home"}},
            {"kind": "exclude", "items": {"ids": "i5"}, "when": {"surfaces": "cart"}},
        ],
        [{**PIN, "enabled": False}, NOT_A],
    ],
)
def test_rules_that_no_request_meets_together_do_not_contradict(tables: list[dict[str, Any]]) -> None:
    assert found(*tables) == []
