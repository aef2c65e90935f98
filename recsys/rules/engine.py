"""Rules over one state of a catalogue: a request's mask and model go in, an answer that obeys them comes out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from recsys.events import Surface
from recsys.ranking import EMPTY_RANKING, Mask, Ranking
from recsys.rules.arrangement import Arranged, Arrangement, Names
from recsys.rules.candidates import Ask, Candidates, filled
from recsys.rules.entry import Entry, Outcome, make_entry, warnings_of
from recsys.rules.gates import narrow
from recsys.rules.reading import RuleSet
from recsys.rules.schema import Boost, Bury, NotBought
from recsys.rules.selection import RuledCatalogue
from recsys.rules.situation import NO_CODES, Codes, Situation, all_of, reads_history

logger = logging.getLogger(__name__)

Outcomes = dict[str, Outcome]
"""What became of each rule that was for a request, by its name."""

MAX_GATES: Final = 256
"""Combinations of rules whose common mask is remembered."""
_UNFILLED: Final = frozenset({Surface.BUY_AGAIN})
"""Surfaces that stay short where their model has no more: what was never bought cannot be bought again."""


@dataclass(frozen=True, slots=True)
class Ruled:
    """An answer that obeys the rules."""

    ranking: Ranking
    names: tuple[Names, ...]
    """For each item the rules that moved it; empty where none moved any."""
    outcomes: Outcomes
    arranged: bool = False
    """Whether a rule was in force that may move items, whether or not it moved any of these."""


class Engine:
    """A rule set made ready. Nothing in it changes but what it remembers to be faster."""

    def __init__(self, rules: RuleSet, catalogue: RuledCatalogue, codes: Codes = NO_CODES) -> None:
        self.version = rules.version
        self._catalogue = catalogue
        self.entries = tuple(make_entry(rule, catalogue, codes) for rule in rules.rules if rule.enabled)
        self._on = {
            surface: tuple(e for e in self.entries if e.rule.when.surfaces is None or surface in e.rule.when.surfaces)
            for surface in Surface
        }
        self._gates: dict[tuple[int, ...], Mask | None] = {}
        self._reading = frozenset(surface for surface, entries in self._on.items() if any(map(_reads, entries)))

    @property
    def warnings(self) -> list[str]:
        """What rules name that the catalogue does not have."""
        return [words for entry in self.entries for words in warnings_of(entry.rule, self._catalogue)]

    def reads_history(self, surface: Surface) -> bool:
        """Whether a rule of this surface depends on what the shopper did."""
        return surface in self._reading

    def rank(self, ask: Ask, situation: Situation, k: int, eligible: Mask) -> Ruled:
        """The answer: k items wherever so many may be shown.

        `eligible`, `(n_items,)` bool, is narrowed in place; no item outside it is answered.
        """
        entries, outcomes = self._in_force(situation)
        self._narrow(entries, situation, eligible, outcomes)
        moving = [entry for entry in entries if entry.moves and not entry.broken]
        fill = situation.surface not in _UNFILLED
        if moving:
            arranged = self._arrange(moving, ask, k, eligible, outcomes, fill=fill)
            return Ruled(arranged.ranking, arranged.names if any(arranged.names) else (), outcomes, arranged=True)
        ranking = ask(k, eligible)
        if fill and entries and len(ranking) < k:
            ranking = filled(ranking, k, eligible)
        return Ruled(ranking, (), outcomes)

    def _in_force(self, situation: Situation) -> tuple[list[Entry], Outcomes]:
        """Rules that are for this request, those that fail closed too, and what became of each."""
        found: list[Entry] = []
        outcomes: Outcomes = {}
        for entry in self._on[situation.surface]:
            holds: bool | None = True
            if entry.broken:
                holds = None
            elif entry.conditions:
                holds = _told(entry, situation)
            if holds is False:
                continue
            outcome = outcomes[entry.rule.name] = Outcome.APPLIED if holds else entry.failure
            if outcome is not Outcome.SKIPPED:
                found.append(entry)
        return found, outcomes

    def _narrow(self, entries: Sequence[Entry], situation: Situation, mask: Mask, outcomes: Outcomes) -> None:
        """Take out of the mask what may not be shown."""
        gate = self._gate(entries)
        if gate is not None:
            mask &= gate
        for entry in entries:
            if not entry.narrows:
                continue
            name = entry.rule.name
            try:
                outcome = entry.failure if entry.broken else narrow(entry, self._catalogue, situation, mask)
            except Exception:
                logger.exception("rule %r fails %s", name, entry.rule.on_error)
                outcome = entry.failure
            if outcome is None:
                del outcomes[name]
            elif outcome is not Outcome.APPLIED:
                outcomes[name] = outcome
            if outcome is Outcome.CLOSED:
                mask[:] = False

    def _gate(self, entries: Sequence[Entry]) -> Mask | None:
        """What all of these rules let through whoever asks."""
        key = tuple(map(id, entries))
        if key in self._gates:
            return self._gates[key]
        gate: Mask | None = None
        for entry in entries:
            if entry.keep is not None:
                gate = entry.keep if gate is None else gate & entry.keep
        if len(self._gates) < MAX_GATES:
            self._gates[key] = gate
        return gate

    def _arrange(
        self, moving: Sequence[Entry], ask: Ask, k: int, eligible: Mask, outcomes: Outcomes, *, fill: bool
    ) -> Arranged:
        """The arranged answer; where arranging fails the model's own, or nothing where a rule in it fails closed."""
        weighing = [entry for entry in moving if isinstance(entry.rule, Boost | Bury)]
        try:
            candidates = Candidates(ask, eligible.copy(), weighing, fill=fill)
            arranged = Arrangement(moving, candidates, eligible, k).arrange()
        except Exception:
            logger.exception("rules cannot arrange an answer: %s", ", ".join(entry.rule.name for entry in moving))
            outcomes |= {entry.rule.name: entry.failure for entry in moving}
            closed = any(entry.rule.closed for entry in moving)
            return Arranged(EMPTY_RANKING if closed else ask(k, eligible), (), frozenset())
        outcomes |= dict.fromkeys(arranged.unmet, Outcome.UNMET)
        return arranged


def _reads(entry: Entry) -> bool:
    return isinstance(entry.rule, NotBought) or reads_history(entry.rule.when)


def _told(entry: Entry, situation: Situation) -> bool | None:
    """Whether the conditions of a rule hold; None where that cannot be told, or fails."""
    try:
        return all_of(entry.conditions, situation)
    except Exception:
        logger.exception("the conditions of rule %r fail: it is %s", entry.rule.name, entry.rule.on_error)
        return None
