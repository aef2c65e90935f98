"""Content: what suits a shopper by what the items are, whether anybody has met them or not.

A pair of shopper and item is judged by a small network that reads how well the item's features of each kind (type, brand,
words, ...) match those of the shopper's history, and how wanted other items with its features are; to that is added the
inner product of two towers over the same features. Nothing in it knows an item by its id, so an item that joined a minute
ago is judged like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
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
MAX_TRIED: Final = 5
"""and among them the nearest so many are taken out for a try, one at a time."""
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
        """The features of what is known of a shopper; `history` is not empty."""
        found = [strongest_items(history, days, self.max_items, len(self.features)) for days in self.half_lives]
        seeds, strengths = found[0]
        sums = [self._sum_features(*one) for one in found]
        lengths = tuple(max(float(np.linalg.norm(one)), _NOTHING) for one in sums)
        return Profile(
            seeds,
            tuple(_strengths_of(seeds, *one) for one in found),
            tuple(one / np.float32(length) for one, length in zip(sums, lengths, strict=True)),
            lengths,
            self._tower(seeds, strengths),
        )

    def _sum_features(self, seeds: ItemArray, strengths: ScoreArray) -> ScoreArray:
        # Empty slots, -1, write the last entry, and have no weight.
        sums = np.zeros(len(self.demand) + 1, dtype=np.float32)
        np.add.at(sums, self.features[seeds].ravel(), (self.weights[seeds] * strengths[:, None]).ravel())
        return sums

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

    def _logits(self, matches: ScoreArray, met: int, items: ItemArray) -> ScoreArray:
        """`(m,)` float32: what the network says of `items` `(m,)` with `matches` `(m, blocks times half-lives)`."""
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
        tried = self.nearest(profile, items, MAX_TRIED)
        before = [self._matches(part, items) for part in profile.features]
        pairs = np.repeat(items, tried.shape[1])
        after = self._logits(self._without(profile, before, items, tried), len(profile.seeds) - 1, pairs)
        falls = self._logits(np.concatenate(before, axis=1), len(profile.seeds), items)[:, None] - after.reshape(tried.shape)
        best = falls.argmax(axis=1)[:, None]
        found = np.take_along_axis(profile.seeds[tried], best, axis=1)
        because[: len(items)] = np.where(np.take_along_axis(falls, best, axis=1) > 0, found, NO_ITEM)[:, 0]
        return because

    def nearest(self, profile: Profile, items: ItemArray, n: int) -> NDArray[np.intp]:
        """`(m, up to n)`: for each item the places of the strongest seeds that share most with it."""
        strengths = profile.strengths[0][:MAX_REASONS]
        shared = self.cosines(items, profile.seeds[:MAX_REASONS]) * strengths
        n = min(n, len(strengths))
        return np.argpartition(-shared, n - 1, axis=1)[:, :n]

    def _without(
        self, profile: Profile, before: Sequence[ScoreArray], items: ItemArray, tried: NDArray[np.intp]
    ) -> ScoreArray:
        """`(m * t, blocks times half-lives)` float32: the matches of `items` `(m,)` when one of the seeds `tried` `(m, t)` is not met."""
        seeds = profile.seeds[tried]
        columns, numbers = self._columns(items)
        common = columns[numbers[self.features[seeds]], np.arange(len(items))[:, None, None]] * self.weights[seeds]
        blocks = np.add.reduceat(common, self.encoder.starts, axis=2)
        after = []
        for part, strengths, length, match in zip(
            profile.features, profile.strengths, profile.lengths, before, strict=True
        ):
            strength = strengths[tried]
            along = (part[self.features[seeds]] * self.weights[seeds]).sum(axis=2)
            # The length of what is left of the sum; features of an item have length 1.
            left = np.sqrt(np.maximum(length**2 - 2 * length * strength * along + strength**2, _NOTHING))
            after.append((length * match[:, None] - strength[:, :, None] * blocks) / left[:, :, None])
        matches = np.concatenate(after, axis=2).reshape(tried.size, -1)
        return np.maximum(matches, 0.0).astype(np.float32)

    def cosines(self, items: ItemArray, others: ItemArray) -> NDArray[np.float32]:
        """`(m, n)` float32 cosines of the features of `items` `(m,)` with those of `others` `(n,)`; for a few items at once."""
        columns, numbers = self._columns(items)
        # An item's weights have length 1 already.
        cosines = np.einsum("nwm,nw->mn", columns[numbers[self.features[others]]], self.weights[others])
        return np.asarray(cosines, dtype=np.float32)

    def _columns(self, items: ItemArray) -> tuple[ScoreArray, NDArray[np.int32]]:
        """The features of `items` `(m,)` as columns of a small matrix, and `(n_features + 1,)` the row that each feature has in it.

        Features that any of the items has are numbered from 1; others, and empty slots, which read the last entry, are 0.
        """
        features, weights = self.features[items], self.weights[items]
        numbers = np.zeros(len(self.demand) + 1, dtype=np.int32)
        numbers[features] = np.arange(1, features.size + 1, dtype=np.int32).reshape(features.shape)
        numbers[-1] = 0
        columns = np.zeros((features.size + 1, len(items)), dtype=np.float32)
        columns[numbers[features], np.arange(len(items))[:, None]] = weights
        return columns, numbers

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


def match_inputs(matches: NDArray[np.float32], met: int) -> NDArray[np.float32]:
    """What the network reads of items for a shopper: `(m, blocks times half-lives)` matches, then how many items were met."""
    known = np.full((len(matches), 1), np.log1p(met), dtype=np.float32)
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
