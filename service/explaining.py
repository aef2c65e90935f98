"""How the scores of an answer come about, for debugging and for the shop's staff: `explain` of a request. Off the hot path.

The answer is the one that the hot path gives. The models that made it are then asked again, by witnesses that remember what
rules and joined items made of the question, and once more without each item that a reason cites.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

import numpy as np
import orjson

from recsys.explanation import Asked, Contribution, Explanation, explain
from recsys.ranking import NO_ITEM, Mask, Model, Query, Ranking
from recsys.rules.candidates import CATALOGUE, PINNED
from service.answering import Answering
from service.answers import Answered, Shopper
from service.catalogue import LiveCatalogue
from service.joined import NEW, NEW_FOR_YOU, NOW, SIMILAR
from service.reasons import cited
from service.schemas import RecommendRequest

MOST: Final = 10
"""Contributions that are named of an item; all others are one."""
_OF_NO_MODEL: Final = {
    PINNED: "a rule of the shop",
    CATALOGUE: "a place that would else be empty",
    NOW: "how wanted it is right now",
    NEW: "it is new here",
    NEW_FOR_YOU: "what it is, and that it is new here",
    SIMILAR: "what it is",
}
"""By source: what stands in an answer though the surface's model did not put it there."""


@dataclass(frozen=True)
class Witness:
    """A model that remembers what it was asked and what it said."""

    model: Model
    heard: list[tuple[Model, Asked, Ranking]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.model.name

    def recommend(self, query: Query, k: int, eligible: Mask) -> Ranking:
        asked = Asked(query, k, eligible.copy())
        ranking = asked.of(self.model)
        self.heard.append((self.model, asked, ranking))
        return ranking


async def explained(answering: Answering, request: RecommendRequest) -> bytes:
    """The answer as JSON, every item with an `explanation`."""
    answered = await answering.answered(request)
    content = orjson.loads(answered.body)
    catalogue, ranking = answered.line.live.catalogue, answered.answer.ranking
    heard, others = _heard(answering, request, answered), dict[int, Ranking]()
    for place, item in enumerate(cited(ranking)):
        await asyncio.sleep(0)  # other requests do not wait for a whole explanation
        if item != NO_ITEM and item not in others:
            others[item] = _without(answering, request, answered, item)
        told = _written(_told(ranking, place, heard), catalogue)
        told["cited"] = None if item == NO_ITEM else catalogue.item_id(item)
        told["without_cited"] = None if item == NO_ITEM else _place_of(int(ranking.items[place]), others[item])
        content["items"][place]["explanation"] = told
    return orjson.dumps(content)


def _heard(answering: Answering, request: RecommendRequest, answered: Answered) -> list[tuple[Model, Asked, Ranking]]:
    """What the models of an answer were asked when it was made, and what they said."""
    live, surface = answered.line.live, request.where
    witness = Witness(live.bundle.surfaces[surface])
    popularity = Witness(live.bundle.popularity, witness.heard)
    # A witness is never stored, so it lacks what a model needs for that.
    surfaces = {**live.bundle.surfaces, surface: cast("Model", witness)}
    bundle = replace(live.bundle, surfaces=surfaces, popularity=cast("Model", popularity))
    against = live.against
    if against is not None:
        other = Witness(against.surfaces[surface], witness.heard)
        against = replace(against, surfaces={**against.surfaces, surface: cast("Model", other)})
    line = replace(answered.line, live=replace(live, bundle=bundle, against=against))
    answering.decide(line, request, answered.shopper, answered.at, seed=answered.answer.seed)
    return witness.heard


def _without(answering: Answering, request: RecommendRequest, answered: Answered, item: int) -> Ranking:
    """The same answer had the shopper never met `item`, nor put it into the cart, nor opened its page."""
    item_id = answered.line.live.catalogue.item_id(item)
    other = request.model_copy(
        update={
            "surface": request.where,
            "item_id": None if request.item_id == item_id else request.item_id,
            "cart": tuple(one for one in request.cart if one != item_id),
        }
    )
    shopper = answered.shopper
    if shopper is not None:
        session = shopper.session_items
        shopper = Shopper(shopper.history.without(item), session[session != item])
    return answering.decide(answered.line, other, shopper, answered.at, seed=answered.answer.seed).ranking


def _told(ranking: Ranking, place: int, heard: list[tuple[Model, Asked, Ranking]]) -> Explanation:
    """How the score at a place of an answer comes about."""
    row, score, because = ranking.items[place : place + 1], float(ranking.scores[place]), int(ranking.because[place])
    for model, asked, said in heard:
        if row[0] in said.items:
            return explain(model, asked, row)[int(row[0])].rescaled(score)
    about = _OF_NO_MODEL[ranking.sources[place]]
    return Explanation(score, 0.0, (Contribution(about, because, score),))


def _place_of(row: int, ranking: Ranking) -> dict[str, Any] | None:
    """Where an item stands in another answer; None where it is not in it."""
    found = np.flatnonzero(ranking.items == row)
    if len(found) == 0:
        return None
    place = int(found[0])
    return {"rank": place + 1, "score": float(ranking.scores[place]), "source": ranking.sources[place]}


def _written(explanation: Explanation, catalogue: LiveCatalogue) -> dict[str, Any]:
    """For JSON: items by id and title."""
    told = explanation.largest(MOST)
    return {
        "score": told.score,
        "base": told.base,
        "contributions": [
            {
                "about": one.about if one.item == NO_ITEM else orjson.loads(catalogue.title_json(one.item)),
                "item_id": None if one.item == NO_ITEM else catalogue.item_id(one.item),
                "value": one.value,
            }
            for one in told.contributions
        ],
    }
