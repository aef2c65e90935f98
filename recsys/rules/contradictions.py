"""Rules that stand in each other's way, found from the rules and the catalogue alone, before a shopper does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from recsys.events import Surface
from recsys.ranking import NO_ITEM, Mask
from recsys.rules.engine import Engine
from recsys.rules.entry import UNGROUPED, Entry
from recsys.rules.schema import Boost, Bury, Cap, Exclude, Only, Pin, Quota, When


def contradictions(engine: Engine, available: Mask) -> list[str]:
    """What cannot be as it is asked for, in words. `available`, `(n,)` bool: what is for sale.

    Rules are compared where some request could meet both.
    """
    entries = [entry for entry in engine.entries if not entry.broken]
    found = [*_idle(entries), *_pins(entries), *_weights(entries)]
    for entry in entries:
        for others in _company(entry, entries):
            allowed = available & _open(others)
            found += _against_gates(entry, others, available, allowed)
            if isinstance(entry.rule, Quota):
                found += _quota(entry, others, allowed)
    return list(dict.fromkeys(found))


def overlap(one: When, other: When) -> bool:
    """Whether some request could fit both, as far as surfaces, regions, shopper and time tell."""
    pairs = ((one.surfaces, other.surfaces), (one.regions, other.regions), (one.days, other.days))
    if any(a is not None and b is not None and not set(a) & set(b) for a, b in pairs):
        return False
    if one.shopper is not None and other.shopper is not None and one.shopper != other.shopper:
        return False
    starts = [when.since for when in (one, other) if when.since is not None]
    ends = [when.until for when in (one, other) if when.until is not None]
    return not starts or not ends or max(starts) < min(ends)


def _company(entry: Entry, entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Rules that a request could meet beside this one, on each of its surfaces: those that always hold there, then each other with them."""
    for surface in entry.rule.when.surfaces or tuple(Surface):
        beside = [
            one
            for one in entries
            if one is not entry
            and (one.rule.when.surfaces is None or surface in one.rule.when.surfaces)
            and overlap(one.rule.when, entry.rule.when)
        ]
        always = [one for one in beside if not one.conditions]
        yield always
        yield from ([*always, one] for one in beside if one.conditions)


def _open(entries: Sequence[Entry]) -> Mask:
    """What exclude and only rules let through together."""
    gates = [e.keep for e in entries if isinstance(e.rule, Exclude | Only) and e.keep is not None]
    return np.asarray(np.logical_and.reduce(gates) if gates else True, dtype=np.bool_)


def _idle(entries: Sequence[Entry]) -> Iterator[str]:
    """Rules that mean no item."""
    for entry in entries:
        if entry.selection is not None and not entry.selection.possible.any():
            yield f"{_called(entry)} means no item of the catalogue"


def _pins(entries: Sequence[Entry]) -> Iterator[str]:
    pins = [(entry, entry.rule) for entry in entries if isinstance(entry.rule, Pin)]
    for (one, first), (other, second) in combinations(pins, 2):
        if not overlap(first.when, second.when):
            continue
        if first.position == second.position:
            yield f"{_called(one)} and {_called(other)} pin two items at position {first.position}"
        if first.item_id == second.item_id:
            yield f"{_called(one)} and {_called(other)} pin item {first.item_id!r} twice"


def _weights(entries: Sequence[Entry]) -> Iterator[str]:
    for one, other in combinations([e for e in entries if isinstance(e.rule, Boost | Bury)], 2):
        if type(one.rule) is type(other.rule) or not overlap(one.rule.when, other.rule.when):
            continue
        assert one.selection is not None and other.selection is not None
        both = int((one.selection.match & other.selection.match).sum())
        if both:
            yield f"{_called(one)} and {_called(other)} boost and bury the same {both:,} items"


def _against_gates(entry: Entry, others: Sequence[Entry], available: Mask, allowed: Mask) -> Iterator[str]:
    """What is left of a rule behind the exclude and only rules beside it."""
    rule, selection = entry.rule, entry.selection
    if isinstance(rule, Pin) and entry.row != NO_ITEM and not allowed[entry.row]:
        why = "is not for sale" if not available[entry.row] else f"is taken out by {_blame(entry.row, others)}"
        yield f"{_called(entry)} pins item {rule.item_id!r}, which {why}"
    if isinstance(rule, Only) and entry.keep is not None and _leaves_nothing(entry.keep, available, allowed):
        yield f"{_gates([entry, *others])} leave nothing"
    if isinstance(rule, Boost) and selection is not None and _leaves_nothing(selection.match, available, allowed):
        yield f"{_called(entry)} boosts only items that are taken out by {_gates(others)}"


def _leaves_nothing(wanted: Mask, available: Mask, allowed: Mask) -> bool:
    """Whether other rules take out all that a rule wants; not where nothing of it was for sale."""
    return bool((available & wanted).any()) and not (allowed & wanted).any()


def _blame(row: int, others: Sequence[Entry]) -> str:
    return _gates([e for e in others if e.keep is not None and not e.keep[row]])


def _gates(entries: Sequence[Entry]) -> str:
    """Exclude and only rules, always in the same order, so that what is found from both sides reads the same."""
    return " and ".join(sorted(_called(entry) for entry in entries if isinstance(entry.rule, Exclude | Only)))


def _quota(entry: Entry, others: Sequence[Entry], allowed: Mask) -> Iterator[str]:
    """A quota for which there are too few items, at all or under each of the caps."""
    rule, selection = entry.rule, entry.selection
    assert isinstance(rule, Quota) and selection is not None
    wanted = selection.match & allowed
    if wanted.sum() < rule.at_least:
        beside = _gates(others)
        where = f" beside {beside}" if beside else ""
        yield f"{_called(entry)} wants {rule.at_least} items, and {int(wanted.sum())} may be shown{where}"
        return
    for cap in (one for one in others if isinstance(one.rule, Cap)):
        at_most = _most_under(cap, wanted)
        if at_most < rule.at_least:
            yield f"{_called(entry)} wants {rule.at_least} items, and {_called(cap)} lets {at_most} through"


def _most_under(cap: Entry, wanted: Mask) -> int:
    """How many of the wanted items a cap lets through."""
    assert isinstance(cap.rule, Cap) and cap.groups is not None
    groups = cap.groups[wanted]
    _, sizes = np.unique(groups[groups != UNGROUPED], return_counts=True)
    return int(np.minimum(sizes, cap.rule.at_most).sum() + (groups == UNGROUPED).sum())


def _called(entry: Entry) -> str:
    return f"{entry.rule.kind} {entry.rule.name!r}"
