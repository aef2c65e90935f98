"""Rules that say what may be shown at all, and depend on who asks: they narrow the mask before any model is asked."""

from __future__ import annotations

import math

import numpy as np

from recsys.ranking import NO_ITEM, PURCHASE, ItemArray, Mask
from recsys.rules.entry import Entry, Outcome
from recsys.rules.schema import NotBought, NotInCart, Price
from recsys.rules.selection import RuledCatalogue
from recsys.rules.situation import Situation


def narrow(entry: Entry, catalogue: RuledCatalogue, situation: Situation, mask: Mask) -> Outcome | None:
    """Take out of `mask`, `(n,)` bool, what the rule forbids in this situation; what became of it, None where it is not for it.

    What it forbids in every situation, `Entry.keep`, is not its business.
    """
    rule = entry.rule
    if isinstance(rule, NotInCart):
        mask[situation.cart_items] = False
        return Outcome.APPLIED
    if isinstance(rule, Price):
        return _by_price(entry, rule, catalogue, situation, mask)
    if isinstance(rule, NotBought):
        return _not_bought(entry, rule, situation, mask)
    return Outcome.APPLIED


def _by_price(entry: Entry, rule: Price, catalogue: RuledCatalogue, situation: Situation, mask: Mask) -> Outcome | None:
    if not situation.has_context:
        return None
    viewed = NO_ITEM if situation.context_item == NO_ITEM else int(catalogue.price_cents[situation.context_item])
    if viewed < 0:
        return entry.failure
    prices = catalogue.price_cents
    fits = prices >= math.ceil(viewed * (rule.at_least or 0.0) - _ROUNDING)
    if rule.at_most is not None:
        fits &= prices <= math.floor(viewed * rule.at_most + _ROUNDING)
    if not rule.closed:
        fits |= prices < 0
    mask &= fits
    return Outcome.APPLIED


_ROUNDING = 1e-6
"""Of a cent: 0.1 times 30 is 3."""


def _not_bought(entry: Entry, rule: NotBought, situation: Situation, mask: Mask) -> Outcome:
    if not situation.history_read:
        return entry.failure
    history = situation.history
    bought = history.event_types == PURCHASE
    recent = history.items[bought & (history.age_days <= rule.days)]
    mask[recent[~_again(entry, history.items[bought], recent)]] = False
    return Outcome.APPLIED


def _again(entry: Entry, bought: ItemArray, recent: ItemArray) -> Mask:
    """Which of `recent` are bought again and again: `(m,)` bool."""
    if entry.selection is not None:
        again = entry.selection.match if entry.rule.closed else entry.selection.possible
        return np.asarray(again[recent])
    bought = np.sort(bought)
    return np.asarray(bought.searchsorted(recent, "right") - bought.searchsorted(recent, "left") >= 2)
