"""Compositions are models too: a blend of several, a fallback from one to the next, a name put over both.

So the serving stack of a surface reads as one expression, and a bundle stores it as one tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from recsys.calibration import Calibrated
from recsys.models.als import ALSModel
from recsys.models.content import ContentModel
from recsys.models.content_neighbours import ContentNeighboursModel
from recsys.models.degraded import Degraded
from recsys.models.diverse import Diverse
from recsys.models.frequency import FrequencyModel
from recsys.models.item_item import ItemItemModel
from recsys.models.popularity import CategoryPopularityModel, OrderModel
from recsys.models.random import RandomModel
from recsys.models.ranker import RankerModel
from recsys.models.regional import RegionalModel
from recsys.models.segments import SegmentModel
from recsys.models.sequence import SequenceModel
from recsys.models.session_knn import SessionKNNModel
from recsys.ranking import EMPTY_RANKING, ItemArray, Mask, Model, ModelState, Query, Ranking, ScoreArray, joined, top_k

SURE: Final = 0.95
"""From this share on the prior is not asked: it would change next to nothing."""


@dataclass(frozen=True)
class Blend:
    """The weighted sum of several models' scores, each divided by its own best score of this query.

    An item that a model does not return among its `depth` counts nothing from it. The item's source and `because` are
    those of the model that contributed most. The content model, which costs most, is asked only where an item of its own
    could still enter: where its weight exceeds what the last of `depth` items has from the others.
    """

    kind: ClassVar[str] = "blend"
    models: tuple[Model, ...]
    weights: tuple[float, ...]
    """Parallel to `models`; zero leaves a model out."""
    depth: int
    """How many items each model is asked for; at least k are."""
    name: str

    def recommend(self, query: Query, k: int, eligible: Mask) -> Ranking:
        """See `Model`."""
        shares, entries = self._asked(query, max(k, self.depth), eligible)
        return _best(shares, entries, k)

    def shares(self, query: Query, k: int, eligible: Mask) -> list[Share]:
        """What the blend that `recommend` answers with is made of."""
        return self._asked(query, max(k, self.depth), eligible)[0]

    def _asked(self, query: Query, depth: int, eligible: Mask) -> tuple[list[Share], _Entries]:
        """What the models say that can enter, and the sum of it."""
        parts = [part for part in zip(self.models, self.weights, strict=True) if part[1] > 0]
        shares = _ask([part for part in parts if not isinstance(part[0], ContentModel)], query, depth, eligible)
        entries = _sum(shares)
        certain = entries.last_of(depth)
        costly = [part for part in parts if isinstance(part[0], ContentModel) and part[1] >= certain]
        more = _ask(costly, query, depth, eligible)
        return (shares + more, _sum(shares + more)) if more else (shares, entries)

    def state(self) -> ModelState:
        """See `Model`."""
        return ModelState({"weights": self.weights, "depth": self.depth, "name": self.name}, parts=self.models)

    @classmethod
    def from_state(cls, state: ModelState) -> Self:
        """See `Model`."""
        return cls(state.parts, tuple(state.params["weights"]), state.params["depth"], state.params["name"])


@dataclass(frozen=True, slots=True)
class Share:
    """What one model adds to a blend."""

    model: Model
    weight: float
    answer: Ranking

    @property
    def factor(self) -> np.float32:
        """What its scores are multiplied by: the weight over its best score; 0 where that is not positive."""
        best = self.answer.scores[0]
        return np.float32(self.weight) / best if best > 0 else np.float32(0.0)


@dataclass(frozen=True, slots=True)
class _Entries:
    """What several models say together."""

    items: ItemArray
    """`(u,)` int32, different, ascending."""
    totals: ScoreArray
    """`(u,)` float32."""
    leading: NDArray[np.intp]
    """`(u,)`: the place of each item's largest entry among those of all models, one model after the other."""

    def last_of(self, depth: int) -> float:
        """What the last of the `depth` best items has; 0 where there are fewer."""
        if len(self.totals) < depth:
            return 0.0
        return float(np.partition(self.totals, -depth)[-depth])


def _ask(parts: Iterable[tuple[Model, float]], query: Query, depth: int, eligible: Mask) -> list[Share]:
    """What the models say that say anything, each with its weight."""
    shares = (Share(model, weight, model.recommend(query, depth, eligible)) for model, weight in parts)
    return [share for share in shares if len(share.answer)]


def _sum(shares: Sequence[Share]) -> _Entries:
    """The items of all answers, each with the weighted sum of its normalised scores."""
    if not shares:
        nothing = EMPTY_RANKING
        return _Entries(nothing.items, nothing.scores, np.empty(0, dtype=np.intp))
    items = np.concatenate([share.answer.items for share in shares])
    scores = np.concatenate([_normalised(share.answer.scores) * np.float32(share.weight) for share in shares])
    # Entries of one item side by side, the largest first.
    order = np.lexsort((-scores, items))
    items, scores = items[order], scores[order]
    starts = np.flatnonzero(np.diff(items, prepend=-1))
    return _Entries(items[starts], np.add.reduceat(scores, starts), order[starts])


def _best(shares: Sequence[Share], entries: _Entries, k: int) -> Ranking:
    """The k items with the largest sums; source and `because` are those of the share that contributed most."""
    best = top_k(entries.items, entries.totals, k)
    if len(best) == 0:
        return EMPTY_RANKING
    leading = entries.leading[best]
    sources = tuple(chain.from_iterable(share.answer.sources for share in shares))
    because = np.concatenate([share.answer.because for share in shares])[leading]
    return Ranking(
        entries.items[best], entries.totals[best], tuple(map(sources.__getitem__, leading.tolist())), because
    )


def _normalised(scores: ScoreArray) -> ScoreArray:
    """Scores of a ranking with its best at 1."""
    best = scores[0]
    return scores / best if best > 0 else np.zeros_like(scores)


@dataclass(frozen=True)
class Reranked:
    """The first `depth` items of `model` in another order: beside its own score counts what `by` says of the same items.

    Both scores are divided by their best of this query, as in a `Blend`, but `by` can put no item there. Where it has nothing
    to say the answer is that of `model`.
    """

    kind: ClassVar[str] = "reranked"
    model: Model
    by: Model
    weight: float
    """Of `by`, the weight of `model` being 1."""
    depth: int
    """How many items of `model` are looked at; at least k are."""

    @property
    def name(self) -> str:
        """That of the model."""
        return self.model.name

    def recommend(self, query: Query, k: int, eligible: Mask) -> Ranking:
        """See `Model`."""
        shares, _ = self.shares(query, k, eligible)
        return _best(shares, _sum(shares), k) if len(shares) > 1 else shares[0].answer.top(k)

    def shares(self, query: Query, k: int, eligible: Mask) -> tuple[list[Share], Mask]:
        """What the answer is made of, one share or two, and the items `(n_items,)` bool that `by` was asked for."""
        found = self.model.recommend(query, max(k, self.depth) if k > 0 else 0, eligible)
        among = np.zeros_like(eligible)
        among[found.items] = True
        return [Share(self.model, 1.0, found), *_ask([(self.by, self.weight)], query, len(found), among)], among

    def state(self) -> ModelState:
        """See `Model`."""
        return ModelState({"weight": self.weight, "depth": self.depth}, parts=(self.model, self.by))

    @classmethod
    def from_state(cls, state: ModelState) -> Self:
        """See `Model`."""
        model, by = state.parts
        return cls(model, by, **state.params)


@dataclass(frozen=True)
class Shrinkage:
    """Draws what is said of a shopper towards a prior, the more so the less is known of them.

    After n different items `model` counts `n^2 / (n^2 + items^2)` and `prior` the rest: nothing known is the prior alone, and
    it is soon forgotten.
    """

    kind: ClassVar[str] = "shrinkage"
    model: Model
    prior: Model
    items: float
    """After so many different items both count the same."""
    depth: int
    """How many items of each are looked at; at least k are."""
    name: str

    def recommend(self, query: Query, k: int, eligible: Mask) -> Ranking:
        """See `Model`."""
        return self.drawn(query).recommend(query, k, eligible)

    def drawn(self, query: Query) -> Model:
        """What answers this query: the model, or a blend of it and the prior."""
        known = len(np.unique(query.history.items))
        share = known**2 / (known**2 + self.items**2) if known else 0.0
        if share > SURE:
            return self.model
        return Blend((self.model, self.prior), (share, 1.0 - share), self.depth, self.name)

    def state(self) -> ModelState:
        """See `Model`."""
        params = {"items": self.items, "depth": self.depth, "name": self.name}
        return ModelState(params, parts=(self.model, self.prior))

    @classmethod
    def from_state(cls, state: ModelState) -> Self:
        """See `Model`."""
        model, prior = state.parts
        return cls(model, prior, **state.params)


@dataclass(frozen=True)
class Confident:
    """What a model is sure enough of, and nothing else: in a `Fallback` the simple answer keeps the other places.

    A model that claims no chances is never sure. What remains is marked as `enhanced`.
    """

    kind: ClassVar[str] = "confident"
    model: Model
    threshold: float
    """A chance below it is not enough."""

    @property
    def name(self) -> str:
        """That of the model."""
        return self.model.name

    def recommend(self, query: Query, k: int, eligible: Mask) -> Ranking:
        """See `Model`."""
        ranking = self.model.recommend(query, k, eligible)
        if ranking.chances is None:
            return EMPTY_RANKING
        sure = ranking.take(np.flatnonzero(ranking.chances >= self.threshold))
        return replace(sure, enhanced=np.ones(len(sure), dtype=np.bool_))

    def state(self) -> ModelState:
        """See `Model`."""
        return ModelState({"threshold": self.threshold}, parts=(self.model,))

    @classmethod
    def from_state(cls, state: ModelState) -> Self:
        """See `Model`."""
        return cls(state.parts[0], state.params["threshold"])


@dataclass(frozen=True)
class Fallback:
    """The first model's answer, filled up to k from the next ones, which are asked only when they are needed.

    Scores of filled-in items are scaled to stay below what stands before them.
    """

    kind: ClassVar[str] = "fallback"
    models: tuple[Model, ...]
    name: str

    def recommend(self, query: Query, k: int, eligible: Mask) -> Ranking:
        """See `Model`."""
        answer = EMPTY_RANKING
        for model in self.models:
            if len(answer) >= k:
                break
            allowed = eligible
            if len(answer):
                allowed = eligible.copy()
                allowed[answer.items] = False
            answer = append_ranking(answer, model.recommend(query, k - len(answer), allowed))
        return answer

    def state(self) -> ModelState:
        """See `Model`."""
        return ModelState({"name": self.name}, parts=self.models)

    @classmethod
    def from_state(cls, state: ModelState) -> Self:
        """See `Model`."""
        return cls(state.parts, state.params["name"])


def append_ranking(first: Ranking, then: Ranking) -> Ranking:
    """`first`, then what was asked for because it was not enough."""
    if len(first) == 0 or len(then) == 0:
        return first if len(first) else then
    last = first.scores[-1]
    # Between nothing and half the last score; below it by up to one where that is not positive.
    scores = _normalised(then.scores)
    scaled = scores * last / 2 if last > 0 else scores + last - 1
    return joined(first, replace(then, scores=scaled.astype(np.float32)))


MODELS: Final[dict[str, type[Model]]] = {
    model.kind: model
    for model in (
        ALSModel,
        Blend,
        Calibrated,
        CategoryPopularityModel,
        Confident,
        ContentModel,
        ContentNeighboursModel,
        Degraded,
        Diverse,
        Fallback,
        FrequencyModel,
        ItemItemModel,
        OrderModel,
        RandomModel,
        RankerModel,
        RegionalModel,
        Reranked,
        SegmentModel,
        SequenceModel,
        Shrinkage,
        SessionKNNModel,
    )
}
"""Every model that a bundle may hold, by the name that its manifest uses."""


def model_from_state(kind: str, state: ModelState) -> Model:
    """The model that a bundle's node describes.

    Raises:
        KeyError: no model of this version is called so.
    """
    return MODELS[kind].from_state(state)


def rebuilt(model: Model, change: Callable[[Model], Model]) -> Model:
    """`model` with `change` made to each model that it is composed of, and then to itself; what stays as it was is shared.

    A model that asks others by itself, as the ranker does its sources, is one to it.
    """
    parts = {part.name: getattr(model, part.name) for part in fields(model)}  # type: ignore[arg-type]
    changed = {name: value for name, part in parts.items() if (value := _rebuilt_part(part, change)) is not part}
    return change(replace(model, **changed) if changed else model)  # type: ignore[type-var]


def _rebuilt_part(part: Any, change: Callable[[Model], Model]) -> Any:
    if isinstance(part, _KINDS):
        return rebuilt(part, change)
    if isinstance(part, tuple) and part and all(isinstance(one, _KINDS) for one in part):
        new = tuple(rebuilt(one, change) for one in part)
        return part if all(one is old for one, old in zip(new, part, strict=True)) else new
    return part


_KINDS: Final = tuple(MODELS.values())

_READ_HISTORIES: Final = (ALSModel, ContentModel, FrequencyModel, RankerModel, SequenceModel, SessionKNNModel)


def reads_history(model: Model) -> bool:
    """Whether its answers depend on what the shopper did before, so that it has to be read."""
    if isinstance(model, ItemItemModel):
        return model.reads == "history"
    if isinstance(model, ContentNeighboursModel):  # compares with the page's item
        return False
    values = (getattr(model, part.name) for part in fields(model))  # type: ignore[arg-type]
    parts = chain.from_iterable(value if isinstance(value, tuple) else (value,) for value in values)
    return isinstance(model, _READ_HISTORIES) or any(reads_history(part) for part in parts if isinstance(part, _KINDS))
