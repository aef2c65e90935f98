"""Which items of a catalogue a selector means, where the catalogue may not know: yes, no, or cannot be told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from recsys.ranking import NO_ITEM, ItemArray, Mask
from recsys.rules.schema import Items


class RuledCatalogue(Protocol):
    """What rules read of a catalogue: parallel columns by row, n of them."""

    @property
    def available(self) -> Mask:
        """`(n,)` bool."""
        ...

    @property
    def price_cents(self) -> NDArray[np.int64]:
        """`(n,)` int64, -1 where unknown."""
        ...

    @property
    def category(self) -> NDArray[np.int32]:
        """`(n,)` int32 codes into `category_names`, -1 where unknown."""
        ...

    @property
    def brand(self) -> NDArray[np.int32]:
        """`(n,)` int32 codes, -1 where unknown."""
        ...

    @property
    def category_names(self) -> Sequence[str]:
        """The path of every code."""
        ...

    @property
    def arrivals(self) -> Sequence[int]:
        """Rows of the new arrivals."""
        ...

    def row(self, item_id: str) -> int:
        """The row of an item, or `NO_ITEM`."""
        ...

    def in_category(self, path: str) -> Mask:
        """`(n,)` bool: items whose category is `path` or lies below it."""
        ...

    def of_brand(self, brand: str) -> Mask:
        """`(n,)` bool: items of a brand."""
        ...


@dataclass(frozen=True)
class Selection:
    """Items that fit a selector."""

    match: Mask
    """`(n,)` bool: these fit."""
    unknown: Mask
    """`(n,)` bool: whether these fit cannot be told. No item is in both."""

    @cached_property
    def possible(self) -> Mask:
        """`(n,)` bool: these fit, or may."""
        return self.match | self.unknown

    @cached_property
    def n_unknown(self) -> int:
        """How many items cannot be told."""
        return int(self.unknown.sum())


def select(items: Items, catalogue: RuledCatalogue) -> Selection:
    """What a selector means in a catalogue."""
    n = len(catalogue.available)
    match, possible = np.ones(n, dtype=np.bool_), np.ones(n, dtype=np.bool_)
    for fits, unknown in _parts(items, catalogue):
        match &= fits & ~unknown
        possible &= fits | unknown
    return Selection(match, possible & ~match)


def _parts(items: Items, catalogue: RuledCatalogue) -> Iterator[tuple[Mask, Mask]]:
    """For each thing that a selector asks for: the items that fit, and those of which it is not known."""
    none = np.zeros(len(catalogue.available), dtype=np.bool_)
    if items.ids is not None:
        rows = [row for row in map(catalogue.row, items.ids) if row != NO_ITEM]
        yield _at(rows, len(none)), none
    if items.category is not None:
        yield np.logical_or.reduce([catalogue.in_category(path) for path in items.category]), catalogue.category < 0
    if items.brand is not None:
        yield np.logical_or.reduce([catalogue.of_brand(brand) for brand in items.brand]), catalogue.brand < 0
    if items.min_price_cents is not None:
        yield catalogue.price_cents >= items.min_price_cents, catalogue.price_cents < 0
    if items.max_price_cents is not None:
        yield catalogue.price_cents <= items.max_price_cents, catalogue.price_cents < 0
    if items.new:
        yield _at(catalogue.arrivals, len(none)), none
    if items.unknown is not None:
        unknown = {
            "price": catalogue.price_cents < 0,
            "category": catalogue.category < 0,
            "brand": catalogue.brand < 0,
        }
        yield np.logical_or.reduce([unknown[name] for name in items.unknown]), none


def _at(rows: Sequence[int] | ItemArray, n: int) -> Mask:
    mask = np.zeros(n, dtype=np.bool_)
    mask[np.asarray(rows, dtype=np.intp)] = True
    return mask


def groups(catalogue: RuledCatalogue, by: str | None, level: int | None) -> NDArray[np.int32]:
    """`(n,)` int32: the brand or the category down to `level` that each item is of, -1 where unknown; 0 for all without `by`."""
    if by is None:
        return np.zeros(len(catalogue.available), dtype=np.int32)
    if by == "brand":
        return np.asarray(catalogue.brand)
    shelves: dict[str, int] = {}
    codes = [
        shelves.setdefault(" > ".join(name.split(" > ")[:level]), len(shelves)) for name in catalogue.category_names
    ]
    # Item codes are -1 where unknown, which reads the last entry.
    return np.array([*codes, -1], dtype=np.int32)[catalogue.category]


def unknown_names(items: Items, catalogue: RuledCatalogue) -> list[str]:
    """What a selector names that the catalogue does not have, in words."""
    found = [f"item {item_id!r}" for item_id in items.ids or () if catalogue.row(item_id) == NO_ITEM]
    found += [f"category {path!r}" for path in items.category or () if not catalogue.in_category(path).any()]
    return found + [f"brand {brand!r}" for brand in items.brand or () if not catalogue.of_brand(brand).any()]
