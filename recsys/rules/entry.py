"""One rule made ready for one state of the catalogue: its masks are computed once, a request only reads them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from recsys.ranking import NO_ITEM, Mask
from recsys.rules.schema import Boost, Bury, Cap, Exclude, NotBought, NotInCart, Only, Pin, Price, Quota, Rule
from recsys.rules.selection import RuledCatalogue, Selection, groups, select, unknown_names
from recsys.rules.situation import Codes, Condition, conditions

logger = logging.getLogger(__name__)


class Outcome(StrEnum):
    """What became of a rule in an answer; a rule that is not for the request has none."""

    APPLIED = "applied"
    SKIPPED = "skipped"
    """It could not be evaluated, and fails open."""
    CLOSED = "closed"
    """It could not be evaluated, and fails closed: it counts as in force, and hides what it cannot judge."""
    UNMET = "unmet"
    """A pin of an item that may not be shown, or a quota for which there are too few."""


UNGROUPED: Final = -1


@dataclass(frozen=True)
class Entry:
    """A rule with its masks, each `(n,)` for a catalogue of n rows."""

    rule: Rule
    conditions: tuple[Condition, ...] = ()
    selection: Selection | None = None
    """Of its items, or of what is replenishable."""
    keep: Mask | None = None
    """What it lets through of all requests that it is for; None where that is everything."""
    groups: NDArray[np.int32] | None = None
    """Of a cap: what is counted together; `UNGROUPED` items are not."""
    row: int = NO_ITEM
    """Of a pin."""
    broken: bool = False
    """It could not be made ready."""

    @property
    def n_unknown(self) -> int:
        """Items of which cannot be told whether the rule means them."""
        return 0 if self.selection is None else self.selection.n_unknown

    @property
    def moves(self) -> bool:
        """Whether it changes the order or the number of items of a kind, not only what may be shown."""
        return isinstance(self.rule, Boost | Bury | Pin | Quota | Cap)

    @property
    def narrows(self) -> bool:
        """Whether what it lets through depends on the request, or on nothing that could be found out."""
        return self.broken or isinstance(self.rule, Price | NotInCart | NotBought)

    @property
    def failure(self) -> Outcome:
        """What becomes of it where it cannot be evaluated."""
        return Outcome.CLOSED if self.rule.closed else Outcome.SKIPPED


def make_entry(rule: Rule, catalogue: RuledCatalogue, codes: Codes) -> Entry:
    """Make a rule ready. What fails in it is logged and left to its fail policy."""
    try:
        return _make(rule, catalogue, codes)
    except Exception:
        logger.exception("rule %r cannot be made ready and fails %s", rule.name, rule.on_error)
        return Entry(rule, broken=True)


def _make(rule: Rule, catalogue: RuledCatalogue, codes: Codes) -> Entry:
    wanted = rule.replenishable if isinstance(rule, NotBought) else getattr(rule, "items", None)
    selection = None if wanted is None else select(wanted, catalogue)
    counted = _counted(rule, selection, catalogue) if isinstance(rule, Cap) else None
    return Entry(
        rule,
        conditions(rule.when, catalogue, codes),
        selection,
        _keep(rule, selection, catalogue),
        counted,
        catalogue.row(rule.item_id) if isinstance(rule, Pin) else NO_ITEM,
    )


def _counted(rule: Cap, selection: Selection | None, catalogue: RuledCatalogue) -> NDArray[np.int32]:
    """What a cap counts together; open, it does not count what it cannot tell."""
    found = groups(catalogue, rule.by, rule.level)
    return found if selection is None else np.where(selection.match, found, np.int32(UNGROUPED))


def _keep(rule: Rule, selection: Selection | None, catalogue: RuledCatalogue) -> Mask | None:
    """What a rule lets through whoever asks."""
    if selection is not None and isinstance(rule, Exclude):
        return ~(selection.possible if rule.closed else selection.match)
    if selection is not None and isinstance(rule, Only):
        return selection.match if rule.closed else selection.possible
    if not rule.closed or isinstance(rule, NotBought | Price):
        return None  # those depend on who asks, and where
    known = np.ones(len(catalogue.available), dtype=np.bool_) if selection is None else ~selection.unknown
    if isinstance(rule, Cap) and rule.by is not None:
        ungrouped = groups(catalogue, rule.by, rule.level) == UNGROUPED
        known &= ~ungrouped if selection is None else ~(selection.possible & ungrouped)
    return None if known.all() else known


def warnings_of(rule: Rule, catalogue: RuledCatalogue) -> list[str]:
    """What a rule names that the catalogue does not have."""
    selectors = [getattr(rule, "items", None), getattr(rule, "replenishable", None), rule.when.item]
    found = [words for items in selectors if items is not None for words in unknown_names(items, catalogue)]
    if isinstance(rule, Pin) and catalogue.row(rule.item_id) == NO_ITEM:
        found.append(f"item {rule.item_id!r}")
    return [f"rule {rule.name!r}: {words} is not in the catalogue" for words in found]
