"""Sequence: self-attention over a shopper's visits, with the time between them (SASRec, Kang and McAuley, ICDM 2018).

A visit, not an event, is one place of the sequence, since a shop's purchases come in whole baskets that have no order inside.
Attention knows no positions but how long ago something was: each head adds a learnt number for the class of the time
between (the relative intervals of TiSASRec, Li et al., WSDM 2020, as a bias instead of vectors). A last place, the question at
the moment of asking, attends to all visits and becomes the shopper's vector; its products with item vectors, plus how wanted
each item is lately, are the logits. Trained in PyTorch (`recsys/models/fit/sequence.py`), served here in numpy.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from recsys.events import WEIGHT_OF_CODE
from recsys.models.layers import odds
from recsys.models.selection import rank
from recsys.ranking import EMPTY_RANKING, History, ItemArray, Mask, ModelState, Query, Ranking, ScoreArray

VISIT_GAP_DAYS: Final = 1.0 / 24.0
"""Events with a longer gap between them are of different visits."""
AGE_EDGES: Final = np.array(
    [0.5, 1.5, 3.5, 7.5, 10.5, 14.5, 21.5, 30.5, 45.5, 60.5, 90.5, 120.5, 180.5, 270.5], dtype=np.float32
)
"""Days. Where one class of time between visits ends and the next begins; around 7 and 14 days shoppers return."""
MAX_REASONS: Final = 50
"""The item that speaks most for another is looked for among so many of the latest events."""
_EPSILON: Final = 1e-5
"""PyTorch's, in layer normalisation."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Attention:
    """Blocks of attention and of a hidden layer, all with normalised inputs and a way around; `(n_blocks, ...)` float32 each."""

    norm: Floats
    """`(n, 2, 2, d)`: scale and shift before attention, then before the hidden layer."""
    query: Floats
    """`(n, d + 1, d)`; here and below the last row is the bias."""
    key_value: Floats
    """`(n, d + 1, 2 * d)`."""
    output: Floats
    """`(n, d + 1, d)`."""
    hidden: Floats
    """`(n, d + 1, h)`."""
    back: Floats
    """`(n, h + 1, d)`."""
    time: Floats
    """`(n, heads, classes)`: what is added for the class of the time between."""

    def __call__(self, question: Floats, visits: Floats, ages: Floats) -> Floats:
        """The question `(d,)` after it has attended to `visits` `(m, d)`, oldest first, `ages` `(m,)` days before it."""
        asking, when = question[None], np.zeros(1, dtype=np.float32)
        last = len(self.query) - 1
        for number in range(last + 1):
            after = self._block(number, asking, visits, time_class(ages[None] - when[:, None]))
            if number < last:
                between = ages[None] - ages[:, None]
                visits = self._block(number, visits, visits, time_class(between), between < 0)
            asking = after
        return np.asarray(asking[0])

    def _block(
        self, number: int, asking: Floats, asked: Floats, classes: NDArray[np.intp], hidden: Mask | None = None
    ) -> Floats:
        """`asking` `(n, d)` attends to `asked` `(m, d)`, `classes` `(n, m)`, but to what is `hidden` `(n, m)`."""
        heads = self.time.shape[1]
        query = _apply(self.query[number], normalised(asking, self.norm[number, 0]))
        key, value = np.split(_apply(self.key_value[number], normalised(asked, self.norm[number, 0])), 2, axis=1)
        query, key, value = (part.reshape(len(part), heads, -1).transpose(1, 0, 2) for part in (query, key, value))
        logits = query @ key.transpose(0, 2, 1) / np.float32(query.shape[2] ** 0.5) + self.time[number][:, classes]
        if hidden is not None:
            logits[:, hidden] = -np.inf
        shares = np.exp(logits - logits.max(axis=2, keepdims=True))
        shares /= shares.sum(axis=2, keepdims=True)
        found = (shares @ value).transpose(1, 0, 2).reshape(len(asking), -1)
        asking = asking + _apply(self.output[number], found)
        inner = np.maximum(_apply(self.hidden[number], normalised(asking, self.norm[number, 1])), 0.0)
        return np.asarray(asking + _apply(self.back[number], inner), dtype=np.float32)


def time_class(days: Floats) -> NDArray[np.intp]:
    """Class of a time between, same shape."""
    return np.asarray(np.searchsorted(AGE_EDGES, days, side="left"), dtype=np.intp)


def _apply(layer: Floats, x: Floats) -> Floats:
    return np.asarray(x @ layer[:-1] + layer[-1], dtype=np.float32)


def normalised(x: Floats, norm: Floats) -> Floats:
    """Rows of `x` `(n, d)` at mean 0 and variance 1 (layer normalisation), then scaled and shifted by `norm` `(2, d)`."""
    centred = x - x.mean(axis=1, keepdims=True)
    scale = np.sqrt((centred * centred).mean(axis=1, keepdims=True) + np.float32(_EPSILON))
    return np.asarray(centred / scale * norm[0] + norm[1], dtype=np.float32)


@dataclass(frozen=True)
class SequenceModel:
    """Ranks the items that enough shoppers have met, for a history with any of them; empty for others.

    Costs `len(items) * d` per query.
    """

    kind: ClassVar[str] = "sequence"
    items: ItemArray
    """`(v,)` int32, ascending: items that it knows."""
    places: ItemArray
    """`(n_items,)` int32: place of each in `items`, or -1."""
    vectors: Floats
    """`(v, d)` float32, both what a visit is made of and what the shopper's vector is compared with."""
    wanted: ScoreArray
    """`(v,)` float32: what every shopper's logit has of an item, by its recent demand."""
    question: Floats
    """`(d,)` float32: what attends."""
    attention: Attention
    norms: Floats
    """`(2, 2, d)`: scale and shift of visits, then of the answer."""
    output: Floats
    """`(d, d)`: from the normalised answer to the shopper's vector."""
    max_visits: int = 100
    """It reads so many visits, the latest."""
    name: str = "sequence"

    def recommend(self, query: Query, k: int, eligible: Mask) -> Ranking:
        """See `Model`; empty where nothing known is in the history."""
        history = self.known(query.history)
        pool = self.items[eligible[self.items]]
        if len(history) == 0 or len(pool) == 0 or k <= 0:
            return EMPTY_RANKING
        ranking = rank(self.name, pool, self.scores(history, pool), k)
        return Ranking(ranking.items, ranking.scores, ranking.sources, self._because(history, ranking.items))

    def known(self, history: History) -> History:
        """The events of items that it knows."""
        known = self.places[history.items] >= 0
        return History(history.items[known], history.event_types[known], history.age_days[known])

    def scores(self, history: History, items: ItemArray) -> ScoreArray:
        """`(m,)` float32 scores of `items` `(m,)`, which are known, as is all of `history`, which may be empty."""
        places = self.places[items]
        logits = self.wanted[places]
        if len(history):
            logits = logits + self.vectors[places] @ self.shopper(history)
        # A ranking's scores are compared by their share of the best, so logits become odds.
        return odds(logits)

    def shopper(self, history: History) -> Floats:
        """`(d,)` float32 vector of a shopper; all of `history`, which is not empty, is known."""
        starts = visit_starts(history.age_days)
        first = starts[-self.max_visits :][0]
        starts = starts[-self.max_visits :] - first
        weights = WEIGHT_OF_CODE[history.event_types[first:]].astype(np.float32)
        length = np.sqrt(np.add.reduceat(weights**2, starts))
        events = self.vectors[self.places[history.items[first:]]] * weights[:, None]
        visits = normalised(
            (np.add.reduceat(events, starts, axis=0) / length[:, None]).astype(np.float32), self.norms[0]
        )
        answer = self.attention(self.question, visits, history.age_days[first:][starts])
        return np.asarray((normalised(answer[None], self.norms[1]) @ self.output)[0])

    def _because(self, history: History, items: ItemArray) -> ItemArray:
        """`(m,)` int32: for each item the latest one of the history that lies nearest."""
        seeds = np.unique(history.items[-MAX_REASONS:])
        vectors = self.vectors[self.places[seeds]]
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _EPSILON)
        nearest: NDArray[np.intp] = np.argmax(self.vectors[self.places[items]] @ vectors.T, axis=1)
        return seeds[nearest]

    def state(self) -> ModelState:
        """See `Model`."""
        arrays: dict[str, NDArray[Any]] = {
            f"attention_{part.name}": getattr(self.attention, part.name) for part in fields(self.attention)
        }
        for name in ("items", "places", "vectors", "wanted", "question", "norms", "output"):
            arrays[name] = getattr(self, name)
        return ModelState({"max_visits": self.max_visits, "name": self.name}, arrays)

    @classmethod
    def from_state(cls, state: ModelState) -> Self:
        """See `Model`."""
        given = state.fields()
        attention = Attention(**{part.name: given.pop(f"attention_{part.name}") for part in fields(Attention)})
        return cls(**given, attention=attention)


def visit_starts(age_days: Floats) -> NDArray[np.intp]:
    """Places of the first event of each visit, `age_days` `(n,)` oldest first."""
    gaps = -np.diff(age_days, prepend=np.float32(np.inf))
    return np.flatnonzero(gaps > VISIT_GAP_DAYS)
