"""A small catalogue for rules, and an engine over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recsys.events import Surface
from recsys.models.selection import walk
from recsys.ranking import NO_ITEM, ItemArray, Mask, Ranking
from recsys.rules.candidates import Ask
from recsys.rules.engine import Engine, Ruled
from recsys.rules.reading import RuleSet, parse_rules
from recsys.rules.situation import NO_CODES, Codes, Situation


@dataclass
class Shelf:
    """`recsys.rules.selection.RuledCatalogue` from lists: items i0, i1, ..."""

    prices: Sequence[int | None]
    categories: Sequence[str | None]
    brands: Sequence[str | None]
    arrivals: Sequence[int] = ()
    gone: Sequence[int] = ()
    category_names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.category_names = sorted({name for name in self.categories if name is not None})
        self._brand_names = sorted({name for name in self.brands if name is not None})
        self.price_cents = np.array([-1 if p is None else p for p in self.prices], dtype=np.int64)
        self.category = np.array(
            [-1 if c is None else self.category_names.index(c) for c in self.categories], dtype=np.int32
        )
        self.brand = np.array([-1 if b is None else self._brand_names.index(b) for b in self.brands], dtype=np.int32)
        self.available: Mask = np.ones(len(self.prices), dtype=np.bool_)
        self.available[list(self.gone)] = False

    def row(self, item_id: str) -> int:
        number = int(item_id[1:]) if item_id[1:].isdigit() else len(self.prices)
        return number if number < len(self.prices) else NO_ITEM

    def in_category(self, path: str) -> Mask:
        return np.array([c is not None and (c == path or c.startswith(f"{path} > ")) for c in self.categories])

    def of_brand(self, brand: str) -> Mask:
        return np.array([b == brand for b in self.brands])


def shelf() -> Shelf:
    """Ten items. A price of 100 to 1,000; i7 has none, i8 no category, i9 no brand; i4 and i5 are new; i6 is gone."""
    return Shelf(
        prices=[100, 200, 300, 400, 500, 600, 700, None, 900, 1_000],
        categories=["A > X", "A > X", "A > Y", "A > Y", "B > X", "B > X", "B > Y", "A > X", None, "B > Y"],
        brands=["Own", "Own", "Own", "Other", "Other", "Other", "Own", "Own", "Own", None],
        arrivals=[4, 5],
        gone=[6],
    )


def rules(*tables: Mapping[str, Any]) -> RuleSet:
    """Rules from their tables; those without a name are called by kind and number."""
    named = [{"name": f"{table['kind']}-{n}", **table} for n, table in enumerate(tables, start=1)]
    return parse_rules({"rules": named}, "rules.toml")


def in_turn(order: Sequence[int], scores: Sequence[float] | None = None) -> Ask:
    """A model that ranks items always alike, by default with scores n, n - 1, ... 1."""
    items: ItemArray = np.array(order, dtype=np.int32)
    values = np.arange(len(items), 0, -1, dtype=np.float32) if scores is None else np.array(scores, dtype=np.float32)

    def ask(k: int, eligible: Mask) -> Ranking:
        return walk("model", items, values, k, eligible)

    return ask


def answer(
    *tables: Mapping[str, Any],
    k: int = 10,
    at: Situation | None = None,
    catalogue: Shelf | None = None,
    ask: Ask | None = None,
    codes: Codes = NO_CODES,
) -> Ruled:
    """What a shop answers under rules; the model's order is i0, i1, ..."""
    catalogue = catalogue or shelf()
    engine = Engine(rules(*tables), catalogue, codes)
    situation = at or Situation(Surface.HOME, 0.0)
    return engine.rank(ask or in_turn(range(10)), situation, k, catalogue.available.copy())
