"""Rules that say which of the eligible items are shown where: pins, quotas and caps, over a model that is asked as often as it takes.

First pins take their positions, then quotas their places, then the best candidates fill what is left; none of them goes
beyond a cap. Where candidates run out, the model is asked again without what was offered and without what is full. Each
round offers an item that fits or is the last one, so there are at most as many as places.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from recsys.ranking import NO_ITEM, Mask, Ranking
from recsys.rules.candidates import Candidates
from recsys.rules.entry import UNGROUPED, Entry
from recsys.rules.schema import Boost, Bury, Cap, Pin, Quota

DEPTH = 100
"""So many candidates are looked at, at least twice as many as are answered."""

Names = tuple[str, ...]


class Caps:
    """How many of each group may still be shown."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._caps = [
            (entry.groups, entry.rule.at_most, dict[int, int]())
            for entry in entries
            if isinstance(entry.rule, Cap) and entry.groups is not None
        ]

    def fit(self, row: int) -> bool:
        """Whether one more item may be shown."""
        return all(used.get(int(groups[row]), 0) < most for groups, most, used in self._caps)

    def take(self, row: int) -> None:
        """Show it."""
        for groups, _, used in self._caps:
            group = int(groups[row])
            if group != UNGROUPED:
                used[group] = used.get(group, 0) + 1

    def open(self, n_items: int) -> Mask:
        """`(n,)` bool: items that may still be shown."""
        mask = np.ones(n_items, dtype=np.bool_)
        for groups, most, used in self._caps:
            full = [group for group, n in used.items() if n >= most]
            if full:
                mask &= ~np.isin(groups, full)
        return mask


@dataclass(frozen=True, slots=True)
class Arranged:
    """An arranged answer."""

    ranking: Ranking
    """The scores are the model's own: they need not fall where rules moved items."""
    names: tuple[Names, ...]
    """For each item the rules that moved it, none for most."""
    unmet: frozenset[str]
    """Names of pins and quotas that could not be met."""


class Arrangement:
    """The places of one answer, filled step by step."""

    def __init__(self, entries: Sequence[Entry], candidates: Candidates, eligible: Mask, k: int) -> None:
        """`entries` move items and are in force; `eligible` is not changed."""
        self._entries = entries
        self._candidates = candidates
        self._eligible = eligible
        self._k = k
        self._depth = max(DEPTH, 2 * k)
        self._caps = Caps(entries)
        self._chosen: set[int] = set()
        self._pinned: dict[int, tuple[int, str]] = {}
        """Position to place and rule."""
        self._reserved: dict[int, str] = {}
        """Place to the quota that took it."""
        self._unmet: set[str] = set()

    def arrange(self) -> Arranged:
        """Fill all places."""
        self._candidates.more(self._depth)
        for entry in self._by_priority(Pin):
            self._pin(entry)
        for entry in self._by_priority(Quota):
            self._reserve(entry)
        self._choose(self._candidates.order, self._k)
        while len(self._chosen) < self._k:
            places = self._candidates.more(self._depth, self._caps.open(len(self._eligible)))
            if not places:
                break
            self._choose(places, self._k)
        return self._in_order()

    def _by_priority(self, kind: type[Pin] | type[Quota]) -> list[Entry]:
        found = [(entry.rule.priority, entry) for entry in self._entries if isinstance(entry.rule, kind)]
        return [entry for _, entry in sorted(found, key=lambda pair: -pair[0])]

    def _pin(self, entry: Entry) -> None:
        rule, row = entry.rule, entry.row
        if not isinstance(rule, Pin) or rule.position > self._k:
            return
        may = row != NO_ITEM and bool(self._eligible[row]) and self._caps.fit(row)
        place = self._candidates.put(row) if may and rule.position not in self._pinned else None
        if place is None or place in self._chosen:
            self._unmet.add(rule.name)
            return
        self._take(place)
        self._pinned[rule.position] = (place, rule.name)

    def _reserve(self, entry: Entry) -> None:
        rule, selection = entry.rule, entry.selection
        if not isinstance(rule, Quota) or selection is None:
            return
        rows = self._candidates.rows
        missing = rule.at_least - sum(bool(selection.match[rows[place]]) for place in self._chosen)
        places: Iterable[int] = [p for p in self._candidates.order if selection.match[rows[p]]]
        while True:
            before = len(self._chosen)
            taken = self._choose(places, min(self._k, before + max(missing, 0)))
            self._reserved |= dict.fromkeys(taken, rule.name)
            missing -= len(taken)
            if missing <= 0 or len(self._chosen) >= self._k:
                break
            open_ = self._caps.open(len(self._eligible)) & selection.match
            places = self._candidates.more(max(missing, self._k), open_)
            if not places:
                break
        if missing > 0:
            self._unmet.add(rule.name)

    def _choose(self, places: Iterable[int], up_to: int) -> list[int]:
        """Take places in their order where caps let them, until `up_to` are chosen; those that were taken."""
        taken = []
        for place in places:
            if len(self._chosen) >= up_to:
                break
            if place not in self._chosen and self._caps.fit(self._candidates.rows[place]):
                self._take(place)
                taken.append(place)
        return taken

    def _take(self, place: int) -> None:
        self._chosen.add(place)
        self._caps.take(self._candidates.rows[place])

    def _in_order(self) -> Arranged:
        """The chosen places as the candidates stand, pins at their positions, or at the end where there are too few."""
        pinned = dict(self._pinned.values())
        shown = [place for place in self._candidates.order if place in self._chosen and place not in pinned]
        for position in sorted(self._pinned):
            shown.insert(position - 1, self._pinned[position][0])
        ranking = self._candidates.found.take(np.array(shown, dtype=np.intp))
        late = self._late()
        names = tuple(
            (
                *((pinned[place],) if place in pinned else ()),
                *((self._reserved[place],) if place in self._reserved and place in late else ()),
                *self._weighed(self._candidates.rows[place]),
            )
            for place in shown
        )
        return Arranged(ranking, names, frozenset(self._unmet))

    def _late(self) -> set[int]:
        """Chosen places that stand behind one that was left out though no cap keeps it out: a quota put them there."""
        order = self._candidates.order if self._reserved else []
        rows = self._candidates.rows
        left_out = (i for i, p in enumerate(order) if p not in self._chosen and self._caps.fit(rows[p]))
        return set(order[next(left_out, len(order)) :])

    def _weighed(self, row: int) -> list[str]:
        return [
            entry.rule.name
            for entry in self._entries
            if isinstance(entry.rule, Boost | Bury) and entry.selection is not None and entry.selection.match[row]
        ]
