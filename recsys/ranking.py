"""The vocabulary of ranking: a query goes in, a ranking comes out, and everything that ranks is a `Model`.

Models answer from a *history of items*, never from a user id met in training, so anonymous and new shoppers
work everywhere. Items are `int32` rows of the catalogue; external string ids end at `recsys.dataset` (training)
and `recsys.bundle` (serving).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from recsys.events import EVENT_CODE, WEIGHT_OF_CODE, EventType, Surface

ItemArray = NDArray[np.int32]
ScoreArray = NDArray[np.float32]
Mask = NDArray[np.bool_]

PURCHASE = EVENT_CODE[EventType.PURCHASE]
NO_ITEM = -1
_EMPTY_ITEMS: ItemArray = np.empty(0, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class History:
    """What a shopper did, oldest first. Three parallel arrays of length n."""

    items: ItemArray
    """`(n,)` int32 catalogue rows; an item stands once per event."""
    event_types: NDArray[np.uint8]
    """`(n,)` uint8 codes, see `recsys.events.EVENT_TYPES`."""
    age_days: NDArray[np.float32]
    """`(n,)` float32 days from the event to the query, never negative."""

    def __len__(self) -> int:
        return len(self.items)

    def weights(self, half_life_days: float) -> NDArray[np.float32]:
        """`(n,)` float32: event weight, halved every `half_life_days`."""
        decay = np.exp2(self.age_days * np.float32(-1.0 / half_life_days))
        return np.asarray(WEIGHT_OF_CODE[self.event_types] * decay, dtype=np.float32)

    def of_type(self, code: int) -> History:
        """The events of one type."""
        keep = self.event_types == code
        return History(self.items[keep], self.event_types[keep], self.age_days[keep])

    def without(self, items: ItemArray | int) -> History:
        """The events of other items."""
        keep = ~np.isin(self.items, items)
        return History(self.items[keep], self.event_types[keep], self.age_days[keep])


EMPTY_HISTORY = History(_EMPTY_ITEMS, np.empty(0, dtype=np.uint8), np.empty(0, dtype=np.float32))


@dataclass(frozen=True, slots=True)
class Query:
    """One question to a model: who asks, from where, about what."""

    surface: Surface = Surface.HOME
    history: History = EMPTY_HISTORY
    """All that is known of the shopper, this session included."""
    session_items: ItemArray = field(default_factory=lambda: _EMPTY_ITEMS)
    """Items of the current session, oldest first."""
    cart_items: ItemArray = field(default_factory=lambda: _EMPTY_ITEMS)
    context_item: int = NO_ITEM
    """The item whose page is shown, or `NO_ITEM`."""
    category: int = NO_ITEM
    """Code of the category to prefer when nothing else is known, or `NO_ITEM`."""
    region: int = NO_ITEM
    """Code of where the shopper is, or `NO_ITEM`."""
    segments: ItemArray = field(default_factory=lambda: _EMPTY_ITEMS)
    """Codes of what the shopper told of themselves, such as an age; see `recsys.dataset.Segments`."""
    seed: int = 0
    """Makes whatever is random in an answer repeatable."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Items, best first; the order is the truth, scores compare only within one source."""

    items: ItemArray
    """`(n,)` int32 catalogue rows without repeats."""
    scores: ScoreArray
    """`(n,)` float32, not increasing."""
    sources: tuple[str, ...]
    """Name of the model that put each item there, n of them."""
    because: ItemArray
    """`(n,)` int32: the item (of the history, cart or page) that speaks most for it, or `NO_ITEM`."""
    chances: ScoreArray | None = None
    """`(n,)` float32: the calibrated probability that the shopper buys it, NaN where none is claimed; None for none at all."""
    enhanced: Mask | None = None
    """`(n,)` bool: the places that a model took from a simpler answer since it was sure enough; None for none at all."""

    def __len__(self) -> int:
        return len(self.items)

    def top(self, k: int) -> Ranking:
        """The first k."""
        return self.take(np.arange(min(k, len(self))))

    def take(self, places: NDArray[np.intp]) -> Ranking:
        """The items at `places`, in that order."""
        sources = tuple(map(self.sources.__getitem__, places.tolist()))
        chances = None if self.chances is None else self.chances[places]
        enhanced = None if self.enhanced is None else self.enhanced[places]
        return Ranking(self.items[places], self.scores[places], sources, self.because[places], chances, enhanced)


def joined(first: Ranking, then: Ranking) -> Ranking:
    """One after the other, as they are; the caller sees to it that they share no item and that scores fall."""
    return Ranking(
        np.concatenate([first.items, then.items]),
        np.concatenate([first.scores, then.scores]),
        first.sources + then.sources,
        np.concatenate([first.because, then.because]),
        _both(first.chances, then.chances, (len(first), len(then)), np.float32(np.nan)),
        _both(first.enhanced, then.enhanced, (len(first), len(then)), np.False_),
    )


def _both(
    first: NDArray[Any] | None, then: NDArray[Any] | None, lengths: tuple[int, int], nothing: np.generic
) -> NDArray[Any] | None:
    """One column after the other, `nothing` for all of one that is None; None where both are."""
    if first is None and then is None:
        return None
    columns = zip((first, then), lengths, strict=True)
    return np.concatenate([np.full(n, nothing) if column is None else column for column, n in columns])


EMPTY_RANKING = Ranking(_EMPTY_ITEMS, np.empty(0, dtype=np.float32), (), _EMPTY_ITEMS)


@dataclass(frozen=True, slots=True)
class ModelState:
    """A fitted model as plain data, for the bundle: JSON parameters, arrays, and the models it is made of."""

    params: dict[str, Any]
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    parts: tuple[Model, ...] = ()

    def fields(self) -> dict[str, Any]:
        """Parameters and arrays together, for models whose fields are named like them."""
        return {**self.params, **self.arrays}


class Model(Protocol):
    """A fitted, immutable thing that ranks. Every algorithm, blend and fallback is one.

    `recommend` returns at most k items, all of them eligible, without repeats, best first, ties broken by
    the lower catalogue row; fewer than k where the model has no opinion on more (a `Fallback` fills up).
    It never raises on an unknown shopper, an empty history or an all-false mask.
    """

    kind: ClassVar[str]
    """Name of the class in a bundle's manifest."""

    @property
    def name(self) -> str:
        """What answers call it: the `source` of an item."""
        ...

    def recommend(self, query: Query, k: int, eligible: Mask) -> Ranking:
        """Rank the items that `eligible`, `(n_items,)` bool, allows. The mask is the one gate: it already
        excludes unavailable and filtered items, and whatever the surface must not repeat."""
        ...

    def state(self) -> ModelState:
        """The model as data; `from_state(model.state())` answers alike."""
        ...

    @classmethod
    def from_state(cls, state: ModelState) -> Self:
        """The model that `state` came from; arrays may be read-only memory maps."""
        ...


def top_k(items: ItemArray, scores: ScoreArray, k: int) -> NDArray[np.intp]:
    """Positions of the k best `(score, lower item)` among unique `items`, best first.

    `items` `(n,)` int32 and `scores` `(n,)` float32 are parallel; k may exceed n. Exact also where scores tie.
    """
    if k <= 0 or len(items) == 0:
        return np.empty(0, dtype=np.intp)
    if len(items) > 4 * k:
        kth = np.partition(scores, len(scores) - k)[len(scores) - k]
        keep = (scores >= kth).nonzero()[0]
    else:
        keep = np.arange(len(items))
    order = np.lexsort((items.take(keep), -scores.take(keep)))[:k]
    return np.asarray(keep.take(order), dtype=np.intp)
