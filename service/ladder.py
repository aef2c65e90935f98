"""What answers when the best model cannot, or must not for the load that there is: one rung after the other, each a `Model`.

The surface's own model; what it said to this shopper a moment ago; the same without its costly parts, which for a shopper of whom
nothing can be read is what sells in their region and segment; popularity, which needs nothing but this process. Every rung ranks under
the mask and the rules of the moment, so none can show what may not be shown now.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final, cast

import numpy as np

from recsys.calibration import Calibrated
from recsys.compose import Blend, Confident, Fallback, rebuilt
from recsys.events import Surface
from recsys.models.content import ContentModel
from recsys.models.content_neighbours import ContentNeighboursModel
from recsys.models.diverse import Diverse
from recsys.ranking import Mask, Model, Query, Ranking
from service.schemas import RecommendRequest

REMEMBERED: Final = 10_000
"""Answers."""
REMEMBER_SECONDS: Final = 600.0
MOST: Final = 100
"""Items of an answer that are kept: some may not be shown any more when it is needed."""
_COSTLY: Final = (Confident, ContentModel, ContentNeighboursModel)
"""The ranker, behind its threshold, and what compares content: the parts that cost milliseconds."""


class Rung(IntEnum):
    """From the best to the last."""

    FULL = 0
    REMEMBERED = 1
    SIMPLE = 2
    POPULAR = 3

    @property
    def word(self) -> str:
        """As answers and metrics call it."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Step:
    """A rung, and the model that stands on it."""

    rung: Rung
    model: Model


def simplified(model: Model) -> Model:
    """The model without its costly parts, without diversity, and claiming no chances; itself where it has none of these."""
    return rebuilt(model, _simpler)


def _simpler(model: Model) -> Model:
    if isinstance(model, Calibrated | Diverse):
        return model.model
    if isinstance(model, Fallback):
        kept = tuple(part for part in model.models if not isinstance(part, _COSTLY))
        return model if kept in ((), model.models) else replace(model, models=kept)
    if isinstance(model, Blend):
        pairs = [pair for pair in zip(model.models, model.weights, strict=True) if not isinstance(pair[0], _COSTLY)]
        if len(pairs) in (0, len(model.models)):
            return model
        models, weights = zip(*pairs, strict=True)
        return replace(model, models=models, weights=weights)
    return model


@dataclass(frozen=True, slots=True)
class Remembered:
    """An answer as a model: what of it may be shown now, in its order. It is never stored, so it lacks what a model needs for that."""

    ranking: Ranking
    name: str
    """Of the model that gave it."""

    def recommend(self, query: Query, k: int, eligible: Mask) -> Ranking:  # noqa: ARG002 - the question was answered before
        """See `Model`."""
        return self.ranking.take(np.flatnonzero(eligible[self.ranking.items])[:k])


@dataclass(frozen=True, slots=True)
class _Entry:
    version: str
    about: tuple[str, ...]
    model: Model
    n_events: int
    until: float


class Memory:
    """The last full answer of each shopper on each surface, in this process, for a few minutes."""

    def __init__(self) -> None:
        self._entries: OrderedDict[_Where, _Entry] = OrderedDict()
        """The one that was kept longest ago first."""

    def keep(
        self, request: RecommendRequest, version: str, said: Ranking, name: str, n_events: int, now: float
    ) -> None:
        """What bundle `version`'s model called `name` said to a shopper who had done `n_events` things. `now` is of any steady clock."""
        where = _where(request)
        if where is None or len(said) == 0:
            return
        # A copy: a part of a larger array would keep all of it.
        model, until = cast("Model", Remembered(said.top(MOST), name)), now + REMEMBER_SECONDS
        self._entries[where] = _Entry(version, _about(request), model, n_events, until)
        self._entries.move_to_end(where)
        while len(self._entries) > REMEMBERED or next(iter(self._entries.values())).until <= now:
            self._entries.popitem(last=False)

    def of(self, request: RecommendRequest, version: str, n_events: int | None, now: float) -> Model | None:
        """What was said, unless the bundle or what it goes with is another, or the shopper has done something since; `n_events` is None
        where that is unknown."""
        where = _where(request)
        entry = None if where is None else self._entries.get(where)
        if entry is None or (entry.version, entry.about) != (version, _about(request)) or now >= entry.until:
            return None
        return entry.model if n_events in (None, entry.n_events) else None


def _about(request: RecommendRequest) -> tuple[str, ...]:
    """The items that an answer goes with: the cart, or the page's; none on the other surfaces."""
    if request.where is Surface.CART:
        return request.cart
    if request.item_id is None or request.where not in (Surface.SIMILAR, Surface.BOUGHT_TOGETHER):
        return ()
    return (request.item_id,)


_Where = tuple[str, str, Surface]


def _where(request: RecommendRequest) -> _Where | None:
    """Whose history an answer reads, and on which surface; None of a stranger's."""
    if request.user_id is not None:
        return "u", request.user_id, request.where
    return None if request.session_id is None else ("s", request.session_id, request.where)
