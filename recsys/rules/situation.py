"""Whether a rule is for a request: yes, no, or cannot be told, such as where a shopper's region is not known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np

from recsys.events import Surface
from recsys.ranking import EMPTY_HISTORY, NO_ITEM, History, ItemArray
from recsys.rules.schema import DAYS, When
from recsys.rules.selection import RuledCatalogue, Selection, select

_DAY: Final = 86_400
_THURSDAY: Final = 3
"""The weekday of Unix time 0."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What of a request rules may depend on."""

    surface: Surface
    at: float
    """Unix time."""
    history: History = EMPTY_HISTORY
    history_read: bool = True
    """False where the shopper's history should have been read and could not be."""
    context_item: int = NO_ITEM
    has_context: bool = False
    """Whether an item's page is shown; then `context_item` is `NO_ITEM` where nobody knows that item."""
    cart_items: ItemArray = field(default_factory=lambda: np.empty(0, dtype=np.int32))
    region: int = NO_ITEM
    region_name: str | None = None
    """As the request names it."""
    segments: ItemArray = field(default_factory=lambda: np.empty(0, dtype=np.int32))
    segment_names: tuple[str, ...] = ()
    """As the request names them."""


@dataclass(frozen=True, slots=True)
class Codes:
    """From the names that rules use to the codes of a bundle, -1 where it knows none."""

    region: Callable[[str], int]
    segment: Callable[[str], int]


NO_CODES: Final = Codes(lambda _: NO_ITEM, lambda _: NO_ITEM)

Condition = Callable[[Situation], bool | None]
"""None where it cannot be told."""


def conditions(when: When, catalogue: RuledCatalogue, codes: Codes) -> tuple[Condition, ...]:
    """The conditions of a rule but its surfaces, the cheapest first; all have to hold."""
    found: list[Condition] = []
    if when.since is not None or when.until is not None:
        since = -np.inf if when.since is None else when.since.timestamp()
        until = np.inf if when.until is None else when.until.timestamp()
        found.append(lambda s: since <= s.at < until)
    if when.days is not None:
        found.append(partial(_on_days, frozenset(map(DAYS.index, when.days))))
    if when.hours is not None:
        found.append(partial(_in_hours, *when.hours))
    if when.shopper is not None or when.min_events is not None or when.max_events is not None:
        found.append(partial(_of_history, *_events(when)))
    if when.regions is not None:
        known = frozenset(map(codes.region, when.regions)) - {NO_ITEM}
        found.append(partial(_in_regions, frozenset(when.regions), known))
    if when.segments is not None:
        known = frozenset(map(codes.segment, when.segments)) - {NO_ITEM}
        found.append(partial(_in_segments, frozenset(when.segments), known))
    if when.item is not None:
        found.append(partial(_on_page_of, select(when.item, catalogue)))
    return tuple(found)


def all_of(found: tuple[Condition, ...], situation: Situation) -> bool | None:
    """Whether all conditions hold; None where none fails and some cannot be told."""
    told: bool | None = True
    for condition in found:
        holds = condition(situation)
        if holds is False:
            return False
        if holds is None:
            told = None
    return told


def reads_history(when: When) -> bool:
    """Whether a condition depends on what the shopper did."""
    return when.shopper is not None or when.min_events is not None or when.max_events is not None


def _events(when: When) -> tuple[int, float]:
    """The least and most events of a history that fits."""
    low = max(when.min_events or 0, 1 if when.shopper == "known" else 0)
    high = np.inf if when.max_events is None else float(when.max_events)
    return low, 0.0 if when.shopper == "unknown" else high


def _on_days(days: frozenset[int], situation: Situation) -> bool:
    return (int(situation.at // _DAY) + _THURSDAY) % 7 in days


def _in_hours(start: int, stop: int, situation: Situation) -> bool:
    hour = situation.at % _DAY / 3_600
    return start <= hour < stop if start < stop else hour >= start or hour < stop


def _of_history(low: int, high: float, situation: Situation) -> bool | None:
    return low <= len(situation.history) <= high if situation.history_read else None


def _in_regions(names: frozenset[str], codes: frozenset[int], situation: Situation) -> bool | None:
    if situation.region_name is None and situation.region == NO_ITEM:
        return None
    return situation.region_name in names or situation.region in codes


def _in_segments(names: frozenset[str], codes: frozenset[int], situation: Situation) -> bool | None:
    if not situation.segment_names and len(situation.segments) == 0:
        return None
    return not names.isdisjoint(situation.segment_names) or not codes.isdisjoint(situation.segments.tolist())


def _on_page_of(selection: Selection, situation: Situation) -> bool | None:
    row = situation.context_item
    if row == NO_ITEM:
        return None if situation.has_context else False
    return None if selection.unknown[row] else bool(selection.match[row])
