"""Explanations: how the score of an item in an answer comes about, as a sum.

An explanation is on the scale of the score itself: its base, what an item has of which nothing speaks, and its contributions sum
to it, within float rounding. Models that are sums explain themselves term by term; networks by the Shapley values of a few
groups of what they read (`recsys.models.shapley`), and compositions by those of their parts. Off the hot path: a model is asked
again for what is explained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Final

import numpy as np
from numpy.typing import NDArray

from recsys.calibration import Calibrated
from recsys.compose import Blend, Confident, Fallback, Reranked, Share, Shrinkage
from recsys.models.als import ALSModel
from recsys.models.content import ContentModel
from recsys.models.content_neighbours import ContentNeighboursModel
from recsys.models.degraded import Degraded
from recsys.models.diverse import Diverse
from recsys.models.frequency import FrequencyModel
from recsys.models.item_item import ItemItemModel
from recsys.models.layers import odds
from recsys.models.popularity import CategoryPopularityModel, OrderModel
from recsys.models.random import RandomModel
from recsys.models.ranker import RankerModel
from recsys.models.regional import RegionalModel
from recsys.models.segments import SegmentModel
from recsys.models.selection import gather_rows
from recsys.models.sequence import SequenceModel
from recsys.models.session_knn import SessionKNNModel
from recsys.models.shapley import coalitions, shapley_values
from recsys.ranking import NO_ITEM, History, ItemArray, Mask, Model, Query, Ranking

ITEM: Final = "an item that the shopper met"
OWN: Final = "whether and when the shopper met it before"
TASTE: Final = "what else the shopper chose"
REST: Final = "the rest of what the shopper did"
WANTED: Final = "how wanted it is"
REGION: Final = "how wanted it is where the shopper is"
SEGMENT: Final = "how wanted it is by shoppers who told the same of themselves"
PRICE: Final = "its price"
HABITS: Final = "how the shopper buys in general"
PLACE: Final = "its place in the list"
CHANCE: Final = "chance"
OTHERS: Final = "everything else"

GROUPS: Final = {
    PRICE: ("price_", "item_log_price"),
    OWN: ("own_", "buy_again_", "looked_", "in_session"),
    WANTED: ("item_", "popularity_", "trending_", "new_arrivals_", "region_"),
    HABITS: ("shopper_",),
    TASTE: ("",),
}
"""What a ranker reads, by the beginnings of its features' names; the first that fits counts."""
MAX_SINGLE: Final = 3
"""So many items of a history are players of their own where a network reads it; the others are one."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one thing adds to a score; negative where it speaks against the item."""

    about: str
    item: int
    """The item of the history, the cart or the page that it is about, or `NO_ITEM`."""
    value: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """`base` and the values of `contributions` sum to `score`."""

    score: float
    base: float = 0.0
    contributions: tuple[Contribution, ...] = ()

    def times(self, factor: float) -> Explanation:
        """The same on another scale."""
        scaled = (replace(one, value=one.value * factor) for one in self.contributions)
        return Explanation(self.score * factor, self.base * factor, tuple(scaled))

    def moved(self, about: str, score: float) -> Explanation:
        """The same where something else makes another score of it."""
        if score == self.score:
            return self
        return Explanation(score, self.base, (*self.contributions, Contribution(about, NO_ITEM, score - self.score)))

    def rescaled(self, score: float) -> Explanation:
        """The same where a list that it is put into has another scale."""
        if score > 0 and self.score > 0:
            return replace(self.times(score / self.score), score=score)
        return self.moved(PLACE, score)

    def largest(self, most: int) -> Explanation:
        """The same with its `most` largest contributions, the largest first, and the sum of all others."""
        ordered = sorted(self.contributions, key=lambda one: -abs(one.value))
        if len(ordered) <= most:
            return replace(self, contributions=tuple(ordered))
        rest = Contribution(OTHERS, NO_ITEM, sum(one.value for one in ordered[most:]))
        return replace(self, contributions=(*ordered[:most], rest))


Explanations = dict[int, Explanation]
"""By item."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a model was asked."""

    query: Query
    k: int
    eligible: Mask

    def of(self, model: Model) -> Ranking:
        """Its answer."""
        return model.recommend(self.query, self.k, self.eligible)

    def deeper(self, depth: int) -> Asked:
        """The same of at least `depth` items."""
        return replace(self, k=max(self.k, depth)) if self.k > 0 else self


@singledispatch
def explain(model: Model, asked: Asked, items: ItemArray) -> Explanations:
    """How the scores come about that `model` gives those of `items` `(m,)` that are in its answer to `asked`.

    A model of which nothing is known but its scores has nothing to say: base alone.
    """
    return {item: Explanation(score, score) for item, score, _ in _wanted(asked.of(model), items)}


def _wanted(ranking: Ranking, items: ItemArray) -> Iterator[tuple[int, float, int]]:
    """Item, score and `because` of those of `items` that the ranking holds."""
    for place in np.flatnonzero(np.isin(ranking.items, items)).tolist():
        yield int(ranking.items[place]), float(ranking.scores[place]), int(ranking.because[place])


def _whole(ranking: Ranking, items: ItemArray, about: str) -> Explanations:
    """One thing explains all of the score."""
    return {
        item: Explanation(score, 0.0, (Contribution(about, because, score),))
        for item, score, because in _wanted(ranking, items)
    }


def _terms(score: float, about: ItemArray, values: NDArray[np.floating]) -> Explanation:
    """A sum over items, `(n,)` and `(n,)`, without what is 0."""
    terms = zip(about.tolist(), values.tolist(), strict=True)
    return Explanation(score, 0.0, tuple(Contribution(ITEM, item, value) for item, value in terms if value))


def _together(score: float, parts: Iterable[Explanation]) -> Explanation:
    """The sum of several explanations; what they say about the same is one contribution."""
    base, sums = 0.0, dict[int | str, Contribution]()
    for part in parts:
        base += part.base
        for one in part.contributions:
            key = one.about if one.item == NO_ITEM else one.item
            before = sums.get(key)
            sums[key] = one if before is None else replace(before, value=before.value + one.value)
    return Explanation(score, base, tuple(sums.values()))


# What is a sum


@explain.register
def _of_order(model: OrderModel, asked: Asked, items: ItemArray) -> Explanations:
    return _whole(asked.of(model), items, WANTED)


@explain.register
def _of_category(model: CategoryPopularityModel, asked: Asked, items: ItemArray) -> Explanations:
    return _whole(asked.of(model), items, WANTED)


@explain.register
def _of_chance(model: RandomModel, asked: Asked, items: ItemArray) -> Explanations:
    return _whole(asked.of(model), items, CHANCE)


@explain.register
def _of_frequency(model: FrequencyModel, asked: Asked, items: ItemArray) -> Explanations:
    return _whole(asked.of(model), items, OWN)


@explain.register
def _of_likeness(model: ContentNeighboursModel, asked: Asked, items: ItemArray) -> Explanations:
    # Whether from the fit or from a search, it is the likeness to the page's item.
    return _whole(asked.of(model), items, ITEM)


@explain.register
def _of_neighbours(model: ItemItemModel, asked: Asked, items: ItemArray) -> Explanations:
    seeds, strengths = model.seeds(asked.query)
    positions, lengths = gather_rows(model.indptr, seeds)
    entries, about = model.items[positions], np.repeat(seeds, lengths)
    values = model.weights[positions] * np.repeat(strengths, lengths)
    found = {}
    for item, score, _ in _wanted(asked.of(model), items):
        here = entries == item
        found[item] = _terms(score, about[here], values[here])
    return found


@explain.register
def _of_factors(model: ALSModel, asked: Asked, items: ItemArray) -> Explanations:
    known, strengths = model.known(asked.query.history)
    shares = model.shares(known, strengths)
    wanted = _wanted(asked.of(model), items)
    return {item: _terms(score, known, shares @ model.factors[item]) for item, score, _ in wanted}


@explain.register
def _of_sessions(model: SessionKNNModel, asked: Asked, items: ItemArray) -> Explanations:
    near, wanted = model.neighbours(asked.query), list(_wanted(asked.of(model), items))
    pulls = model.pulls(near, np.array([item for item, _, _ in wanted], dtype=np.int32))
    return {item: _terms(score, near.seeds, row) for (item, score, _), row in zip(wanted, pulls, strict=True)}


# What reads a history with a network


@explain.register
def _of_content(model: ContentModel, asked: Asked, items: ItemArray) -> Explanations:
    history, found = asked.query.history, {}
    profile = model.profile(history)
    for item, score, _ in _wanted(asked.of(model), items):
        row = np.array([item], dtype=np.int32)
        nearest = np.concatenate(
            [model.because(profile, row), profile.seeds[model.nearest(profile, row, MAX_SINGLE)[0]], profile.seeds]
        )
        nearest = nearest[np.sort(np.unique(nearest, return_index=True)[1])]
        nearest = nearest[nearest != NO_ITEM]

        def value(known: History, row: ItemArray = row) -> float:
            return float((odds(model.scores(model.profile(known), row)) * model.unknown[row])[0])

        found[item] = _of_history(score, history, nearest, value)
    return found


@explain.register
def _of_attention(model: SequenceModel, asked: Asked, items: ItemArray) -> Explanations:
    history, found = model.known(asked.query.history), {}
    for item, score, _ in _wanted(asked.of(model), items):
        vector, seeds = model.vectors[model.places[item]], np.unique(history.items)
        nearest = seeds[np.argsort(-(model.vectors[model.places[seeds]] @ vector))]

        def value(known: History, item: int = item) -> float:
            return float(model.scores(known, np.array([item], dtype=np.int32))[0])

        found[item] = _of_history(score, history, nearest, value)
    return found


def _of_history(score: float, history: History, nearest: ItemArray, value: Callable[[History], float]) -> Explanation:
    """Shapley values of the first of the different items `nearest` of a history, and of the rest of it together."""
    single, rest = nearest[:MAX_SINGLE], nearest[MAX_SINGLE:]
    players = [np.array([item], dtype=np.int32) for item in single.tolist()] + ([rest] if len(rest) else [])
    worth = []
    for members in coalitions(len(players)):
        absent = [player for player, is_in in zip(players, members, strict=True) if not is_in]
        worth.append([value(history.without(np.concatenate(absent)) if absent else history)])
    values = shapley_values(np.array(worth, dtype=np.float64))[:, 0].tolist()
    told = [Contribution(ITEM, item, value) for item, value in zip(single.tolist(), values, strict=False)]
    told += [Contribution(REST, NO_ITEM, value) for value in values[len(single) :]]
    return Explanation(score, worth[0][0], tuple(told))


@explain.register
def _of_ranker(model: RankerModel, asked: Asked, items: ItemArray) -> Explanations:
    wanted = list(_wanted(asked.of(model), items))
    if not wanted:
        return {}
    rows = np.array([item for item, _, _ in wanted], dtype=np.int32)
    proposal = model.proposer.propose(asked.query, asked.eligible)
    features = proposal.features[proposal.items.searchsorted(rows)]
    group = _groups(model.features)
    worth = []
    for members in coalitions(len(GROUPS)):
        known = np.array(members, dtype=np.bool_)[group]
        chances = model.chances_of(np.where(known, features, model.network.inputs.average))
        worth.append(chances * model.values(rows))
    values = shapley_values(np.array(worth, dtype=np.float64))
    found = {}
    for place, (item, score, _) in enumerate(wanted):
        met = item if (asked.query.history.items == item).any() else NO_ITEM
        told = zip(GROUPS, values[:, place].tolist(), strict=True)
        contributions = (Contribution(about, met if about == OWN else NO_ITEM, value) for about, value in told)
        found[item] = Explanation(score, float(worth[0][place]), tuple(contributions))
    return found


def _groups(features: Sequence[str]) -> NDArray[np.intp]:
    """`(f,)`: the place in `GROUPS` of each feature."""
    beginnings = list(GROUPS.values())
    return np.array(
        [next(place for place, names in enumerate(beginnings) if name.startswith(names)) for name in features]
    )


# What is made of others


@explain.register
def _of_blend(model: Blend, asked: Asked, items: ItemArray) -> Explanations:
    shares, deeper = model.shares(asked.query, asked.k, asked.eligible), asked.deeper(model.depth)
    return _of_shares(((share, deeper) for share in shares), asked.of(model), items)


@explain.register
def _of_reranked(model: Reranked, asked: Asked, items: ItemArray) -> Explanations:
    (first, *others), among = model.shares(asked.query, asked.k, asked.eligible)
    within = replace(asked, k=len(first.answer), eligible=among)
    if not others:
        return explain(model.model, asked.deeper(model.depth), items)
    told = [(first, asked.deeper(model.depth)), *((share, within) for share in others)]
    return _of_shares(told, asked.of(model), items)


def _of_shares(shares: Iterable[tuple[Share, Asked]], ranking: Ranking, items: ItemArray) -> Explanations:
    """The sum of what several models say, each with what it was asked."""
    scores = {item: score for item, score, _ in _wanted(ranking, items)}
    parts: dict[int, list[Explanation]] = {item: [] for item in scores}
    for share, asked in shares:
        for item, explanation in explain(share.model, asked, np.array(list(scores), dtype=np.int32)).items():
            parts[item].append(explanation.times(float(share.factor)))
    return {item: _together(scores[item], parts[item]) for item in scores}


@explain.register
def _of_shrinkage(model: Shrinkage, asked: Asked, items: ItemArray) -> Explanations:
    return explain(model.drawn(asked.query), asked, items)


@explain.register
def _of_calibrated(model: Calibrated, asked: Asked, items: ItemArray) -> Explanations:
    return explain(model.model, asked, items)


@explain.register
def _of_confident(model: Confident, asked: Asked, items: ItemArray) -> Explanations:
    sure = asked.of(model).items
    return explain(model.model, asked, sure[np.isin(sure, items)])


@explain.register
def _of_fallback(model: Fallback, asked: Asked, items: ItemArray) -> Explanations:
    scores = {item: score for item, score, _ in _wanted(asked.of(model), items)}
    found: Explanations = {}
    left = replace(asked, eligible=asked.eligible.copy())
    for part in model.models:
        if left.k <= 0:
            break
        answer = left.of(part)
        told = explain(part, left, answer.items[np.isin(answer.items, items)])
        found |= {item: explanation.rescaled(scores[item]) for item, explanation in told.items()}
        left.eligible[answer.items] = False
        left = replace(left, k=left.k - len(answer))
    return found


@explain.register
def _of_region(model: RegionalModel, asked: Asked, items: ItemArray) -> Explanations:
    inner = asked.deeper(model.depth) if model.knows(asked.query.region) else asked
    return _moved(REGION, asked.of(model), explain(model.model, inner, items), items)


@explain.register
def _of_segments(model: SegmentModel, asked: Asked, items: ItemArray) -> Explanations:
    inner = asked.deeper(model.depth) if len(model.known(asked.query)) else asked
    return _moved(SEGMENT, asked.of(model), explain(model.model, inner, items), items)


@explain.register
def _of_diverse(model: Diverse, asked: Asked, items: ItemArray) -> Explanations:
    return _moved(PLACE, asked.of(model), explain(model.model, asked.deeper(model.depth), items), items)


@explain.register
def _of_degraded(model: Degraded, asked: Asked, items: ItemArray) -> Explanations:
    # What was not put there by chance stands where it stood.
    by_chance, told = _whole(asked.of(model), items, CHANCE), explain(model.model, asked, items)
    return {item: told.get(item, whole) for item, whole in by_chance.items()}


def _moved(about: str, ranking: Ranking, told: Explanations, items: ItemArray) -> Explanations:
    """What another model says, its scores moved by something."""
    return {item: told[item].moved(about, score) for item, score, _ in _wanted(ranking, items)}
