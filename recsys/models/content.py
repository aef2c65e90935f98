"""Content: what suits a shopper by what the items are, whether anybody has met them or not.

A pair of shopper and item is judged by a small network that reads how well the item's features of each kind (type, brand,
words, ...) match those of the shopper's history, and how wanted other items with its features are; to that is added the
inner product of two towers over the same features. Nothing in it knows an item by its id, so an item that joined a minute
ago is judged like any other.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from recsys.content import FeatureEncoder, ItemContent
from recsys.ids import HashIndex
from recsys.models.layers import Layer, Scaler, odds
from recsys.models.selection import first_eligible, rank, strongest_items
from recsys.ranking import EMPTY_RANKING, NO_ITEM, History, ItemArray, Mask, ModelState, Query, Ranking, ScoreArray

MATCH_SCALE: Final = 50.0
"""Matches are cosines' parts, mostly below 0.02: so much larger, their logarithm tells them apart."""
MAX_REASONS: Final = 50
"""The item that speaks most for another is looked for among so many of the history's strongest,"""
MAX_TRIED: Final = 2
"""and among them the nearest so many are taken out for a try, one at a time."""
MIN_FALL: Final = 1e-4
"""Of a logit. What falls less is rounding, where several items of the history say the same."""
MAX_EXAMINED: Final = 20
"""So many items of an answer are given a reason; who asks for more reads their scores."""
_NOTHING: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Profile:
    """What a shopper's history says in terms of features."""

    seeds: ItemArray
    """`(s,)` int32: different items of the history, the strongest first."""
    strengths: tuple[ScoreArray, ...]
    """For every half-life `(s,)` float32; by the first one the strongest is 1."""
    features: tuple[ScoreArray, ...]
    """For every half-life `(n_features + 1,)` float32 of length 1; the last entry is that of empty slots, 0."""
    lengths: tuple[float, ...]
    """For every half-life the length that the sum over the seeds had."""
    vector: NDArray[np.float32]
    """`(d,)` float32 of length 1: the shopper's tower."""


@dataclass(frozen=True, slots=True)
class _Table:
    """The features of m items, by feature."""

    columns: ScoreArray
    """`(r, m)` float32: the weight of each feature that any of them has, in a row each; the first row, 0, is for all others."""
    numbers: NDArray[np.int32]
    """`(n_features + 1,)` int32: the row of each feature; the last entry is that of empty slots, -1."""


@dataclass(frozen=True)
class ContentModel:
    """Ranks the newest items and the first eligible ones of `order` for a history; empty for an empty one.

    All that knows single items is arrays, which models made from one another share: an item that joins while a bundle serves
    is `put` once for all of them.
    """

    kind: ClassVar[str] = "content"
    writable: ClassVar[frozenset[str]] = frozenset({"features", "weights", "hidden", "item_vectors", "newest"})
    """Arrays that `put` changes."""
    encoder: FeatureEncoder
    features: NDArray[np.int32]
    """`(n_items, width)` int32 features of each item, -1 in empty slots; see `recsys.content.FeatureEncoder`."""
    weights: NDArray[np.float32]
    """`(n_items, width)` float32, of length 1 for each item."""
    hidden: NDArray[np.float32]
    """`(n_items, h)` float32: what the item alone adds to the network's first hidden layer."""
    item_vectors: NDArray[np.float32]
    """`(n_items, d)` float32: the item's tower; d may be 0."""
    unknown: NDArray[np.float32]
    """`(n_items,)` float32 from 1, nobody has met it, down to 0: what its score is multiplied by, so that what others know of
    an item takes over as they learn of it."""
    order: ItemArray
    """Items that it recommends, the most promising first."""
    newest: ItemArray
    """`(spare,)` int32: items that joined since the fit, the latest first, then `NO_ITEM`."""
    demand: NDArray[np.float32]
    """`(n_features, s)` float32: how wanted the items with a feature are; `alone` reads it."""
    alone_scaler: Scaler
    alone: Layer
    """From an item's scaled demand, see `demand_inputs`, to `hidden`."""
    match_scaler: Scaler
    match: Layer
    """From scaled matches, see `match_inputs`, to the first hidden layer."""
    middle: Layer
    output: Layer
    shopper_tower: NDArray[np.float32]
    """`(n_features, d)` float32."""
    item_tower: NDArray[np.float32]
    """`(n_features, d)` float32."""
    half_lives: tuple[float, ...] = (90.0, 20.0)
    """Days. What lasts and what is recent are matched apart."""
    max_items: int = 300
    """It reads this many different items of the history, the strongest."""
    max_candidates: int = 1_000
    """It scores this many eligible items of `order`, the first ones."""
    name: str = "content"
    changes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, dtype=np.int64), repr=False, compare=False)
    """`(1,)` int64: how often items were put or withdrawn, so that what was derived from them knows when it is stale; not stored."""

    def recommend(self, query: Query, k: int, eligible: Mask) -> Ranking:
        """See `Model`."""
        candidates = self._candidates(max(k, self.max_candidates), eligible)
        if len(query.history) == 0 or len(candidates) == 0 or k <= 0:
            return EMPTY_RANKING
        profile = self.profile(query.history)
        scores = self.scores(profile, candidates)
        # Scores are logits; a ranking's scores are compared by their share of the best, so they become odds.
        ranking = rank(self.name, candidates, odds(scores) * self.unknown[candidates], k)
        return Ranking(ranking.items, ranking.scores, ranking.sources, self.because(profile, ranking.items))

    def _candidates(self, n: int, eligible: Mask) -> ItemArray:
        """At most n: the newest items have half of the places."""
        newest = self.newest[self.newest != NO_ITEM]
        newest = newest[eligible[newest]][: (n + 1) // 2]
        return np.concatenate([newest, self.order[first_eligible(self.order, n - len(newest), eligible)]])

    def profile(self, history: History) -> Profile:
        """The features of what is known of a shopper; of an empty `history` all is 0."""
        found = [strongest_items(history, days, self.max_items, len(self.features)) for days in self.half_lives]
        seeds, strengths = found[0]
        features, lengths = zip(*(self._sum_features(*one) for one in found), strict=True)
        others = (_strengths_of(seeds, *one) for one in found[1:])
        return Profile(seeds, (strengths, *others), features, lengths, self._tower(seeds, strengths))

    def _sum_features(self, seeds: ItemArray, strengths: ScoreArray) -> tuple[ScoreArray, float]:
        # Empty slots, -1, write the last entry, and have no weight.
        sums = np.zeros(len(self.demand) + 1, dtype=np.float32)
        np.add.at(sums, self.features[seeds].ravel(), (self.weights[seeds] * strengths[:, None]).ravel())
        length = max(float(np.linalg.norm(sums)), _NOTHING)
        sums /= length
        return sums, length

    def _tower(self, seeds: ItemArray, strengths: ScoreArray) -> NDArray[np.float32]:
        if self.shopper_tower.shape[1] == 0:
            return np.zeros(0, dtype=np.float32)
        weights = (self.weights[seeds] * strengths[:, None]).ravel()
        vector = weights @ self.shopper_tower[self.features[seeds].ravel()]
        return np.asarray(vector / max(float(np.linalg.norm(vector)), _NOTHING), dtype=np.float32)

    def scores(self, profile: Profile, items: ItemArray) -> ScoreArray:
        """`(m,)` float32 logits of `items` `(m,)`."""
        matches = np.concatenate([self._matches(part, items) for part in profile.features], axis=1)
        return self._logits(matches, len(profile.seeds), items) + self.item_vectors[items] @ profile.vector

    def _matches(self, part: ScoreArray, items: ItemArray) -> ScoreArray:
        """`(m, blocks)` float32: the cosine of `items` with a profile's features, by block."""
        return np.add.reduceat(part[self.features[items]] * self.weights[items], self.encoder.starts, axis=1)

    def _logits(self, matches: ScoreArray, met: int | NDArray[np.intp], items: ItemArray) -> ScoreArray:
        """`(m,)` float32: what the network says of `items` `(m,)` with `matches` `(m, half-lives times blocks)`."""
        hidden = np.maximum(self.match(self.match_scaler(match_inputs(matches, met))) + self.hidden[items], 0.0)
        return self.output(np.maximum(self.middle(hidden), 0.0))[:, 0]

    def because(self, profile: Profile, items: ItemArray) -> ItemArray:
        """`(m,)` int32: for each item the one of the history without which its logit falls most; `NO_ITEM` where it does not fall.

        Only the first `MAX_EXAMINED` items have one. What a tower adds is not looked at.
        """
        because = np.full(len(items), NO_ITEM, dtype=np.int32)
        items = items[:MAX_EXAMINED]
        if len(items) == 0:
            return because
        table = self._table(items)
        tried = self._nearest(profile, table, MAX_TRIED)
        before = np.stack([self._matches(part, items) for part in profile.features], axis=1)
        after = self._without(profile, before, table, tried)
        matches = np.concatenate([before[:, None], after], axis=1).reshape(-1, before[0].size)
        n, met = 1 + tried.shape[1], len(profile.seeds)
        counts = np.tile(np.array([met] + [met - 1] * tried.shape[1]), len(items))
        logits = self._logits(matches, counts, np.repeat(items, n)).reshape(-1, n)
        # At 0 stands what nothing was taken from.
        logits[:, 0] -= MIN_FALL
        least = logits.argmin(axis=1)
        found = profile.seeds[tried[np.arange(len(items)), np.maximum(least - 1, 0)]]
        because[: len(items)] = np.where(least > 0, found, NO_ITEM)
        return because

    def nearest(self, profile: Profile, items: ItemArray, n: int) -> NDArray[np.intp]:
        """`(m, up to n)`: for each item the places of the strongest seeds that share most with it."""
        return self._nearest(profile, self._table(items), n)

    def _nearest(self, profile: Profile, table: _Table, n: int) -> NDArray[np.intp]:
        strengths = profile.strengths[0][:MAX_REASONS]
        shared = self._cosines(table, profile.seeds[:MAX_REASONS]) * strengths
        n = min(n, len(strengths))
        return np.argpartition(-shared, n - 1, axis=1)[:, :n]

    def _without(self, profile: Profile, before: ScoreArray, table: _Table, tried: NDArray[np.intp]) -> ScoreArray:
        """What `before` `(m, half-lives, blocks)`, matches of the table's items, are when one of the seeds at `tried` `(m, t)` is not met.

        `(m, t, half-lives, blocks)` float32.
        """
        seeds = profile.seeds[tried]
        features, weights = self.features[seeds], self.weights[seeds]
        common = table.columns[table.numbers[features], np.arange(len(tried))[:, None, None]] * weights
        blocks = np.add.reduceat(common, self.encoder.starts, axis=2)[:, :, None]
        lengths = np.array(profile.lengths, dtype=np.float32)
        strengths = np.stack([each[tried] for each in profile.strengths], axis=2)
        along = np.stack([np.einsum("mtw,mtw->mt", part[features], weights) for part in profile.features], axis=2)
        # The length of what is left of the sum; features of an item have length 1.
        left = np.sqrt(np.maximum(lengths**2 - 2 * lengths * strengths * along + strengths**2, _NOTHING))
        after = (lengths[:, None] * before[:, None] - strengths[..., None] * blocks) / left[..., None]
        return np.asarray(np.maximum(after, 0.0), dtype=np.float32)

    def cosines(self, items: ItemArray, others: ItemArray) -> NDArray[np.float32]:
        """`(m, n)` float32 cosines of the features of `items` `(m,)` with those of `others` `(n,)`; for a few items at once."""
        return self._cosines(self._table(items), others)

    def _cosines(self, table: _Table, others: ItemArray) -> NDArray[np.float32]:
        # An item's weights have length 1 already.
        rows = table.columns[table.numbers[self.features[others]]]
        return np.asarray(np.einsum("nwm,nw->mn", rows, self.weights[others]), dtype=np.float32)

    def _table(self, items: ItemArray) -> _Table:
        features, weights = self.features[items], self.weights[items]
        numbers = np.zeros(len(self.demand) + 1, dtype=np.int32)
        numbers[features] = np.arange(1, features.size + 1, dtype=np.int32).reshape(features.shape)
        numbers[-1] = 0
        columns = np.zeros((features.size + 1, len(items)), dtype=np.float32)
        columns[numbers[features], np.arange(len(items))[:, None]] = weights
        return _Table(columns, numbers)

    def knows(self, row: int) -> bool:
        """Whether anything of an item's content is known; else it cannot be placed."""
        return bool((self.features[row] >= 0).any())

    def put(self, row: int, content: ItemContent, *, is_new: bool) -> None:
        """Let the item of a row be what `content` says; a new one is recommended from then on. Arrays must be writable."""
        features, weights = self.encoder.encode(content)
        self.features[row], self.weights[row] = features, weights
        inputs = demand_inputs(self.demand[features][None], (features >= 0)[None], self.encoder.starts)
        self.hidden[row] = self.alone(self.alone_scaler(inputs))[0]
        self.item_vectors[row] = weights @ self.item_tower[features]
        if is_new and self.knows(row) and not (self.newest == row).any():
            self.newest[1:] = self.newest[:-1].copy()
            self.newest[0] = row
        self.changes[0] += 1

    def withdraw(self, row: int) -> None:
        """Let the item of a row be none of the newest any more; put again, it is the latest."""
        rest = self.newest[self.newest != row]
        self.newest[: len(rest)] = rest
        self.newest[len(rest) :] = NO_ITEM
        self.changes[0] += 1

    def state(self) -> ModelState:
        """See `Model`."""
        params = {
            "encoder": self.encoder.params(),
            "half_lives": list(self.half_lives),
            "max_items": self.max_items,
            "max_candidates": self.max_candidates,
            "name": self.name,
        }
        arrays: dict[str, NDArray[Any]] = {
            "vocabulary_hashes": self.encoder.vocabulary.hashes,
            "vocabulary_rows": self.encoder.vocabulary.rows,
            "idf": self.encoder.idf,
        }
        for own in fields(self):
            value = getattr(self, own.name)
            if isinstance(value, (Layer, Scaler)):
                arrays |= {f"{own.name}_{part.name}": getattr(value, part.name) for part in fields(value)}
            elif isinstance(value, np.ndarray) and own.name != "changes":
                arrays[own.name] = value
        return ModelState(params, arrays)

    @classmethod
    def from_state(cls, state: ModelState) -> Self:
        """See `Model`."""
        params: dict[str, Any] = dict(state.params)
        arrays: dict[str, Any] = dict(state.arrays)
        vocabulary = HashIndex(arrays.pop("vocabulary_hashes"), arrays.pop("vocabulary_rows"))
        encoder = FeatureEncoder.from_params(params.pop("encoder"), vocabulary, arrays.pop("idf"))
        layers: dict[str, Any] = {
            name: Layer(arrays.pop(f"{name}_weights"), arrays.pop(f"{name}_bias"))
            for name in ("alone", "match", "middle", "output")
        }
        scalers: dict[str, Any] = {
            name: Scaler(arrays.pop(f"{name}_mean"), arrays.pop(f"{name}_scale"))
            for name in ("alone_scaler", "match_scaler")
        }
        half_lives = tuple(params.pop("half_lives"))
        return cls(encoder=encoder, half_lives=half_lives, **params, **arrays, **layers, **scalers)


def _strengths_of(wanted: ItemArray, seeds: ItemArray, strengths: ScoreArray) -> ScoreArray:
    """`(w,)` float32: the strength of each of `wanted` `(w,)` among `seeds`, 0 where it is none of them."""
    order = np.argsort(seeds)
    place = order[np.minimum(seeds[order].searchsorted(wanted), max(len(seeds) - 1, 0))] if len(seeds) else order
    return np.where(seeds[place] == wanted, strengths[place], np.float32(0.0))


def match_inputs(matches: NDArray[np.float32], met: int | NDArray[np.intp]) -> NDArray[np.float32]:
    """What the network reads of items for a shopper: `(m, half-lives times blocks)` matches, then how many items were met."""
    known = np.empty((len(matches), 1), dtype=np.float32)
    known[:, 0] = np.log1p(met)
    return np.concatenate([np.log1p(MATCH_SCALE * matches), known], axis=1)


def demand_inputs(
    demand: NDArray[np.float32], known: NDArray[np.bool_], starts: NDArray[np.intp]
) -> NDArray[np.float32]:
    """What the network reads of items alone: for each block the mean and the largest of its slots' demand.

    `demand` `(n, width, s)` float32 by slot, whatever in slots that are not `known` `(n, width)`; the answer is
    `(n, 2 * n_blocks * s)`, NaN for blocks that an item has nothing of.
    """
    sums = np.add.reduceat(np.where(known[:, :, None], demand, 0.0), starts, axis=1)
    counts = np.add.reduceat(known, starts, axis=1, dtype=np.float32)[:, :, None]
    largest = np.maximum.reduceat(np.where(known[:, :, None], demand, -np.inf), starts, axis=1)
    both = (sums / np.maximum(counts, 1.0), largest)
    found = [np.where(counts > 0, part, np.nan).reshape(len(demand), -1) for part in both]
    return np.concatenate(found, axis=1).astype(np.float32)
