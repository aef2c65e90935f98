"""Each kind of rule on ten items that a reader can count; see `tests.ruled.shelf`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recsys.events import Surface
from recsys.ranking import NO_ITEM, Mask, Ranking
from recsys.rules.engine import Engine, Ruled
from recsys.rules.entry import Outcome
from recsys.rules.situation import Codes, Situation
from tests.factories import history
from tests.ruled import answer, in_turn, rules, shelf


def items(ruled: Ruled) -> list[int]:
    found: list[int] = ruled.ranking.items.tolist()
    return found


def on_page(row: int, **fields: Any) -> Situation:
    return Situation(Surface.SIMILAR, 0.0, context_item=row, has_context=True, **fields)


@pytest.mark.parametrize(
    ("selector", "left"),
    [
        ({"ids": ["i0", "i3"]}, [1, 2, 4, 5, 7, 8, 9]),
        ({"category": "A"}, [4, 5, 8, 9]),
        ({"category": "A > X"}, [2, 3, 4, 5, 8, 9]),
        ({"category": ["A > X", "B > X"]}, [2, 3, 8, 9]),
        ({"brand": "Own"}, [3, 4, 5, 9]),
        ({"min_price_cents": 400}, [0, 1, 2, 7]),
        ({"max_price_cents": 400, "min_price_cents": 200}, [0, 4, 5, 7, 8, 9]),
        ({"new": True}, [0, 1, 2, 3, 7, 8, 9]),
        ({"unknown": "price"}, [0, 1, 2, 3, 4, 5, 8, 9]),
        ({"unknown": ["category", "brand"]}, [0, 1, 2, 3, 4, 5, 7]),
        ({"brand": "Own", "category": "A > Y"}, [0, 1, 3, 4, 5, 7, 8, 9]),
    ],
)
def test_exclude_takes_out_what_a_selector_means(selector: dict[str, Any], left: list[int]) -> None:
    assert items(answer({"kind": "exclude", "items": selector})) == left


def test_only_leaves_what_a_selector_means_and_what_it_cannot_tell() -> None:
    # i8's category is not known: open, it stays; closed, it goes.
    only = {"kind": "only", "items": {"category": "B"}}
    assert items(answer(only)) == [4, 5, 8, 9]
    assert items(answer({**only, "reason": "legal"})) == [4, 5, 9]


def test_several_only_rules_all_hold() -> None:
    ruled = answer({"kind": "only", "items": {"category": "A"}}, {"kind": "only", "items": {"max_price_cents": 200}})
    assert items(ruled) == [0, 1, 7]  # i7: a price of its own would tell


@pytest.mark.parametrize(
    ("selector", "closed", "open_"),
    [
        ({"brand": "Other"}, [0, 1, 2, 7, 8], [0, 1, 2, 7, 8, 9]),
        ({"category": "B"}, [0, 1, 2, 3, 7], [0, 1, 2, 3, 7, 8]),
        ({"min_price_cents": 600}, [0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 7]),
        # Known not to be of brand Own, whatever its price; i7 is of brand Own and may cost 600.
        ({"brand": "Own", "min_price_cents": 600}, [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5, 7, 9]),
    ],
)
def test_what_is_not_known_is_hidden_by_a_legal_rule_only(
    selector: dict[str, Any], closed: list[int], open_: list[int]
) -> None:
    rule = {"kind": "exclude", "items": selector}
    assert items(answer({**rule, "reason": "legal"})) == closed
    assert items(answer({**rule, "reason": "stock"})) == closed
    assert items(answer({**rule, "reason": "legal", "on_error": "open"})) == open_
    assert items(answer(rule)) == open_


def test_a_boost_multiplies_the_score() -> None:
    # Scores 10, 9, 8, 7, 6, 5; times 2: i4 12, i5 10 behind i0, which stood before it.
    ruled = answer({"kind": "boost", "items": {"new": True}, "factor": 2.0}, k=4)
    assert items(ruled) == [4, 0, 5, 1]
    assert ruled.names == (("boost-1",), (), ("boost-1",), ())
    assert ruled.ranking.scores.tolist() == [6, 10, 5, 9]  # the model's own


def test_boosts_and_buries_multiply_each_other() -> None:
    # i4: 6 x 4 x 0.25 = 6, where it was.
    ruled = answer(
        {"kind": "boost", "items": {"ids": "i4"}, "factor": 4.0},
        {"kind": "bury", "items": {"new": True}, "factor": 0.25},
    )
    assert items(ruled) == [0, 1, 2, 3, 4, 7, 8, 5, 9]  # i5: 5 x 0.25 = 1.25, between i8's 2 and i9's 1


def test_scores_that_are_not_positive_are_boosted_by_place() -> None:
    ask = in_turn(range(4), [0.5, -1.0, -2.0, -3.0])
    # Places 4/4, 3/4, 2/4, 1/4; the last one times 3 is 3/4, behind i1, which stood before it.
    assert items(answer({"kind": "boost", "items": {"ids": "i3"}, "factor": 3.0}, k=4, ask=ask)) == [0, 1, 3, 2]


def test_a_pin_takes_its_position() -> None:
    ruled = answer({"kind": "pin", "item_id": "i9", "position": 2}, k=3)
    assert items(ruled) == [0, 9, 1]
    assert ruled.names == ((), ("pin-1",), ())


def test_of_two_pins_at_one_position_the_higher_priority_stands() -> None:
    pin = {"kind": "pin", "position": 1}
    ruled = answer({**pin, "item_id": "i3"}, {**pin, "item_id": "i5", "priority": 1}, k=2)
    assert items(ruled) == [5, 0]
    assert ruled.outcomes == {"pin-1": Outcome.UNMET, "pin-2": Outcome.APPLIED}


@pytest.mark.parametrize("item_id", ["i6", "i1", "nobody"])
def test_a_pin_shows_nothing_that_may_not_be_shown(item_id: str) -> None:
    ruled = answer({"kind": "exclude", "items": {"ids": "i1"}}, {"kind": "pin", "item_id": item_id, "position": 1}, k=3)
    assert items(ruled) == [0, 2, 3]
    assert ruled.outcomes["pin-2"] is Outcome.UNMET


def test_a_pin_beyond_the_answer_changes_nothing_and_one_beyond_what_there_is_stands_last() -> None:
    pin = {"kind": "pin", "item_id": "i0", "position": 9}
    assert items(answer(pin, k=3)) == [0, 1, 2]
    assert items(answer(pin, {"kind": "only", "items": {"ids": ["i0", "i1"]}}, k=9)) == [1, 0]


def test_an_item_that_the_model_does_not_offer_is_pinned_all_the_same() -> None:
    ruled = answer(
        {"kind": "pin", "item_id": "i9", "position": 1}, k=2, ask=in_turn([0, 1]), at=Situation(Surface.BUY_AGAIN, 0.0)
    )
    assert items(ruled) == [9, 0]
    assert ruled.ranking.sources == ("pinned", "model")


def test_a_quota_takes_the_last_places() -> None:
    ruled = answer({"kind": "quota", "items": {"new": True}, "at_least": 2}, k=4)
    assert items(ruled) == [0, 1, 4, 5]
    assert ruled.names == ((), (), ("quota-1",), ("quota-1",))


def test_a_quota_that_the_model_meets_by_itself_changes_nothing() -> None:
    ruled = answer({"kind": "quota", "items": {"category": "A"}, "at_least": 2}, k=3)
    assert (items(ruled), ruled.names) == ([0, 1, 2], ())


def test_a_quota_asks_the_model_for_what_is_not_among_its_first() -> None:
    order = [n for n in range(1_000) if n != 500]

    def deep(k: int, eligible: Mask) -> Ranking:
        return in_turn([*order, 500])(k, eligible)

    catalogue = shelf()
    catalogue = type(catalogue)([1] * 1_000, ["A"] * 1_000, ["Own"] * 1_000, arrivals=[500])
    ruled = answer({"kind": "quota", "items": {"new": True}, "at_least": 1}, k=3, catalogue=catalogue, ask=deep)
    assert items(ruled) == [0, 1, 500]


def test_a_quota_that_cannot_be_met_says_so() -> None:
    ruled = answer({"kind": "quota", "items": {"new": True}, "at_least": 3}, k=4)
    assert items(ruled) == [0, 1, 4, 5]
    assert ruled.outcomes == {"quota-1": Outcome.UNMET}


@pytest.mark.parametrize(
    ("cap", "expected"),
    [
        # A > X: i0, i1, i7; A > Y: i2, i3; B > X: i4, i5; B > Y: i9. i8 has no category and is not counted.
        ({"by": "category", "at_most": 1}, [0, 2, 4, 8, 9]),
        ({"by": "category", "level": 1, "at_most": 1}, [0, 4, 8]),
        ({"by": "brand", "at_most": 2}, [0, 1, 3, 4, 9]),
        ({"items": {"category": "A"}, "at_most": 2}, [0, 1, 4, 5, 8, 9]),
        ({"by": "brand", "items": {"category": "A"}, "at_most": 1}, [0, 3, 4, 5, 8, 9]),
    ],
)
def test_a_cap_shows_at_most_so_many(cap: dict[str, Any], expected: list[int]) -> None:
    assert items(answer({"kind": "cap", **cap})) == expected


def test_a_closed_cap_hides_what_it_cannot_count() -> None:
    cap = {"kind": "cap", "by": "category", "level": 1, "at_most": 1, "on_error": "closed"}
    assert items(answer(cap)) == [0, 4]


def test_a_cap_goes_as_deep_as_it_must() -> None:
    # 900 of one brand come first.
    brands = ["Loud"] * 900 + [f"b{n}" for n in range(20)]
    catalogue = type(shelf())([1] * 920, ["A"] * 920, brands)
    ruled = answer({"kind": "cap", "by": "brand", "at_most": 2}, catalogue=catalogue, ask=in_turn(range(920)))
    assert items(ruled) == [0, 1, *range(900, 908)]
    assert ruled.ranking.scores[2] < ruled.ranking.scores[1]


def test_pins_and_quotas_do_not_go_beyond_a_cap() -> None:
    ruled = answer(
        {"kind": "cap", "by": "category", "level": 1, "at_most": 2},
        {"kind": "pin", "item_id": "i4", "position": 1},
        {"kind": "pin", "item_id": "i5", "position": 2},
        {"kind": "pin", "item_id": "i9", "position": 3},
        {"kind": "quota", "items": {"category": "B"}, "at_least": 3},
    )
    assert items(ruled) == [4, 5, 0, 1, 8]
    assert {name for name, outcome in ruled.outcomes.items() if outcome is Outcome.UNMET} == {"pin-4", "quota-5"}


@pytest.mark.parametrize(
    ("viewed", "rule", "expected"),
    [
        # 400 cents: between 200 and 800; i7's price is not known.
        (3, {"at_least": 0.5, "at_most": 2.0}, [1, 2, 3, 4, 5, 7]),
        (3, {"at_least": 0.5, "at_most": 2.0, "on_error": "closed"}, [1, 2, 3, 4, 5]),
        (3, {"at_most": 0.5}, [0, 1, 7]),
        (3, {"at_least": 2.0}, [7, 8, 9]),
        (7, {"at_least": 0.5}, [0, 1, 2, 3, 4, 5, 7, 8, 9]),
        (7, {"at_least": 0.5, "on_error": "closed"}, []),
        (NO_ITEM, {"at_least": 0.5}, [0, 1, 2, 3, 4, 5, 7, 8, 9]),
        (NO_ITEM, {"at_least": 0.5, "on_error": "closed"}, []),
    ],
)
def test_price_is_relative_to_the_viewed_item(viewed: int, rule: dict[str, Any], expected: list[int]) -> None:
    ruled = answer({"kind": "price", **rule}, at=on_page(viewed))
    assert items(ruled) == expected
    failed = Outcome.CLOSED if "on_error" in rule else Outcome.SKIPPED
    assert ruled.outcomes == {"price-1": failed if viewed in (7, NO_ITEM) else Outcome.APPLIED}


def test_a_price_rule_is_not_for_pages_without_an_item() -> None:
    ruled = answer({"kind": "price", "at_least": 0.5, "on_error": "closed"})
    assert (items(ruled), ruled.outcomes) == ([0, 1, 2, 3, 4, 5, 7, 8, 9], {})  # i7 too, though its price is not known


def test_nothing_of_the_cart_is_shown() -> None:
    at = Situation(Surface.CART, 0.0, cart_items=np.array([0, 2], dtype=np.int32))
    assert items(answer({"kind": "not_in_cart"}, at=at, k=3)) == [1, 3, 4]


@pytest.mark.parametrize(
    ("bought", "rule", "expected"),
    [
        ([0, 1], {"days": 30}, [2, 3, 4]),
        ([0, 1, 1], {"days": 30}, [1, 2, 3]),  # i1 is bought again and again
        ([0, 1], {"days": 3}, [0, 1, 2]),  # that is five days ago
        ([0, 1, 1], {"days": 30, "replenishable": {"ids": "i0"}}, [0, 2, 3]),
        ([7, 0], {"days": 30, "replenishable": {"max_price_cents": 50}}, [1, 2, 3]),
    ],
)
def test_what_was_bought_is_not_shown_unless_it_is_bought_again(
    bought: list[int], rule: dict[str, Any], expected: list[int]
) -> None:
    at = Situation(Surface.HOME, 0.0, history=history(*bought, age_days=5.0))
    assert items(answer({"kind": "not_bought", **rule}, at=at, k=3)) == expected


def test_what_cannot_be_told_to_be_replenishable_goes_where_the_rule_fails_closed() -> None:
    at = Situation(Surface.HOME, 0.0, history=history(7))
    rule = {"kind": "not_bought", "days": 30, "replenishable": {"max_price_cents": 50}}
    assert 7 in items(answer(rule, at=at))
    assert 7 not in items(answer({**rule, "on_error": "closed"}, at=at))


def test_without_the_history_not_bought_is_left_out_or_hides_everything() -> None:
    at = Situation(Surface.HOME, 0.0, history_read=False)
    ruled = answer({"kind": "not_bought", "days": 30}, at=at, k=2)
    assert (items(ruled), ruled.outcomes) == ([0, 1], {"not_bought-1": Outcome.SKIPPED})
    ruled = answer({"kind": "not_bought", "days": 30, "on_error": "closed"}, at=at, k=2)
    assert (items(ruled), ruled.outcomes) == ([], {"not_bought-1": Outcome.CLOSED})


SATURDAY = 1_700_000_000 - 1_700_000_000 % 86_400 + 4 * 86_400
"""2023-11-18, midnight."""


@pytest.mark.parametrize(
    ("when", "at", "holds"),
    [
        ({"surfaces": "home"}, Situation(Surface.HOME, 0.0), True),
        ({"surfaces": ["cart", "similar"]}, Situation(Surface.HOME, 0.0), False),
        ({"shopper": "known"}, Situation(Surface.HOME, 0.0), False),
        ({"shopper": "known"}, Situation(Surface.HOME, 0.0, history=history(1)), True),
        ({"shopper": "unknown"}, Situation(Surface.HOME, 0.0), True),
        ({"shopper": "unknown"}, Situation(Surface.HOME, 0.0, history_read=False), None),
        ({"min_events": 2}, Situation(Surface.HOME, 0.0, history=history(1)), False),
        ({"min_events": 2, "max_events": 3}, Situation(Surface.HOME, 0.0, history=history(1, 2, 3)), True),
        ({"max_events": 1}, Situation(Surface.HOME, 0.0, history=history(1, 2)), False),
        ({"days": "sat"}, Situation(Surface.HOME, SATURDAY), True),
        ({"days": ["mon", "fri"]}, Situation(Surface.HOME, SATURDAY), False),
        ({"hours": [9, 17]}, Situation(Surface.HOME, SATURDAY + 9 * 3_600), True),
        ({"hours": [9, 17]}, Situation(Surface.HOME, SATURDAY + 17 * 3_600), False),
        ({"hours": [22, 6]}, Situation(Surface.HOME, SATURDAY + 3_600), True),
        ({"hours": [22, 6]}, Situation(Surface.HOME, SATURDAY + 12 * 3_600), False),
        ({"from": "2023-11-18"}, Situation(Surface.HOME, SATURDAY), True),
        ({"from": "2023-11-18T00:00:01Z"}, Situation(Surface.HOME, SATURDAY), False),
        ({"until": "2023-11-18T01:00:00+01:00"}, Situation(Surface.HOME, SATURDAY), False),
        ({"regions": "north"}, Situation(Surface.HOME, 0.0, region=1), True),
        ({"regions": ["south"]}, Situation(Surface.HOME, 0.0, region=1), False),
        ({"regions": "atlantis"}, Situation(Surface.HOME, 0.0, region_name="atlantis"), True),
        ({"regions": "north"}, Situation(Surface.HOME, 0.0), None),
        ({"segments": "age=25-34"}, Situation(Surface.HOME, 0.0, segments=np.array([4], dtype=np.int32)), True),
        ({"segments": "age=25-34"}, Situation(Surface.HOME, 0.0, segment_names=("age=35-44",)), False),
        ({"segments": "age=25-34"}, Situation(Surface.HOME, 0.0), None),
        ({"item": {"category": "A"}}, on_page(2), True),
        ({"item": {"category": "A"}}, on_page(4), False),
        ({"item": {"category": "A"}}, on_page(8), None),
        ({"item": {"category": "A"}}, on_page(NO_ITEM), None),
        ({"item": {"category": "A"}}, Situation(Surface.HOME, 0.0), False),
    ],
)
def test_a_rule_is_for_the_requests_that_its_conditions_fit(
    when: dict[str, Any], at: Situation, holds: bool | None
) -> None:
    codes = Codes(lambda name: {"north": 1, "south": 2}.get(name, -1), lambda name: {"age=25-34": 4}.get(name, -1))
    rule = {"kind": "exclude", "items": {"ids": "i0"}, "when": when}
    for on_error, failed in (("open", Outcome.SKIPPED), ("closed", Outcome.CLOSED)):
        ruled = answer({**rule, "on_error": on_error}, at=at, codes=codes, k=1)
        outcome = Outcome.APPLIED if holds else failed if holds is None else None
        assert ruled.outcomes == ({"exclude-1": outcome} if outcome else {})
        # Where it cannot be told, a rule that fails closed counts as in force.
        assert items(ruled) == ([1] if holds or (holds is None and on_error == "closed") else [0])


def test_k_items_survive_where_one_in_a_hundred_may_be_shown() -> None:
    n = 5_000
    catalogue = type(shelf())([n % 100 for n in range(n)], ["A"] * n, ["Own"] * n)
    ruled = answer({"kind": "only", "items": {"max_price_cents": 0}}, catalogue=catalogue, ask=in_turn(range(n)), k=20)
    assert items(ruled) == list(range(0, 2_000, 100))


def test_places_that_the_model_leaves_empty_are_filled_but_not_where_only_old_purchases_belong() -> None:
    only = {"kind": "only", "items": {"category": "B"}}
    home, again = (
        answer(only, ask=in_turn([0, 5]), k=3, at=Situation(surface, 0.0))
        for surface in (Surface.HOME, Surface.BUY_AGAIN)
    )
    assert (items(home), home.ranking.sources) == ([5, 4, 8], ("model", "catalogue", "catalogue"))
    assert items(again) == [5]


def test_a_disabled_rule_does_nothing() -> None:
    ruled = answer({"kind": "exclude", "items": {"ids": "i0"}, "enabled": False}, k=1)
    assert (items(ruled), ruled.outcomes) == ([0], {})


class Broken:
    """A catalogue whose brands cannot be read."""

    def __init__(self) -> None:
        self.__dict__.update(shelf().__dict__)

    def __getattr__(self, name: str) -> Any:
        return getattr(shelf(), name)

    def of_brand(self, brand: str) -> Mask:
        raise OSError(brand)


@pytest.mark.parametrize(("reason", "left"), [("legal", []), ("merchandising", [0, 1])])
def test_a_rule_that_raises_hides_everything_or_is_left_out(reason: str, left: list[int]) -> None:
    engine = Engine(rules({"kind": "exclude", "items": {"brand": "Own"}, "reason": reason}), Broken())
    eligible = shelf().available.copy()
    ruled = engine.rank(in_turn(range(10)), Situation(Surface.HOME, 0.0), 2, eligible)
    assert items(ruled) == left
    assert ruled.outcomes == {"exclude-1": Outcome.SKIPPED if left else Outcome.CLOSED}


@pytest.mark.parametrize("k", [1, 5, 100])
@pytest.mark.parametrize("n", [0, 1, 3])
def test_small_catalogues_are_answered(n: int, k: int) -> None:
    catalogue = type(shelf())([5] * n, ["A"] * n, [None] * n)
    tables = [
        {"kind": "boost", "items": {"category": "A"}, "factor": 2},
        {"kind": "cap", "by": "brand", "at_most": 1},
        {"kind": "pin", "item_id": "i0", "position": 1},
        {"kind": "quota", "items": {"brand": "none"}, "at_least": 3},
        {"kind": "price", "at_least": 0.5},
        {"kind": "not_bought", "days": 1},
    ]
    ruled = answer(*tables, k=k, catalogue=catalogue, ask=in_turn(range(n)))
    assert items(ruled) == list(range(min(n, k)))
    nothing = Engine(rules(*tables), catalogue).rank(
        in_turn(range(n)), Situation(Surface.HOME, 0.0), k, np.zeros(n, dtype=np.bool_)
    )
    assert items(nothing) == []
