"""The ranker: candidates from several sources, each described by numbers, and one network that says how likely each is bought.

Two stages, as in Covington et al. (RecSys 2016): cheap sources name some hundreds of items, and what they cannot know of one
another (a habit that is due, an item going out of season) is weighed for those alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from recsys.models.candidate_features import ItemFacts, describe
from recsys.models.layers import Network, odds
from recsys.models.regional import RegionalModel
from recsys.ranking import EMPTY_RANKING, ItemArray, Mask, Model, ModelState, Query, Ranking, ScoreArray, top_k


@dataclass(frozen=True, slots=True)
class Source:
    """A model that names candidates."""

    model: Model
    depth: int
    """So many of its best items become candidates."""
    reads: int
    """So deep its ranking is read for the scores of what others name; at least `depth`."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """Candidates of one query."""

    items: ItemArray
    """`(m,)` int32, ascending, different."""
    features: NDArray[np.float32]
    """`(m, f)` float32."""
    names: tuple[str, ...]
    """Of the features."""
    answers: tuple[Ranking, ...]
    """What each source said."""


@dataclass(frozen=True, slots=True)
class Proposer:
    """Asks the sources and describes what they name: the one path to features, for training and serving."""

    sources: tuple[Source, ...]
    facts: ItemFacts
    region: RegionalModel | None
    """Demand where the shopper is; its `model` is not asked."""

    def propose(self, query: Query, eligible: Mask) -> Proposal:
        """What may be answered to `query`, described."""
        answers = tuple(source.model.recommend(query, source.reads, eligible) for source in self.sources)
        named = [answer.items[: source.depth] for answer, source in zip(answers, self.sources, strict=True)]
        items = np.unique(np.concatenate(named)).astype(np.int32)
        names = [source.model.name for source in self.sources]
        columns = describe(query, items, list(zip(names, answers, strict=True)), self.facts)
        columns["region_demand"] = self._region_demand(query.region, items)
        return Proposal(items, np.array(list(columns.values()), dtype=np.float32).T, tuple(columns), answers)

    def _region_demand(self, region: int, items: ItemArray) -> ScoreArray:
        if self.region is None or not self.region.knows(region):
            return np.full(len(items), np.nan, dtype=np.float32)
        return self.region.log_demand(region, items)


@dataclass(frozen=True)
class RankerModel:
    """Ranks what its sources name by the probability that the shopper buys it in the time that it was fitted for.

    Empty for a shopper of whom nothing is known. A score is that probability times what a purchase counts. An item's source and `because` are those of
    the source that ranks it highest; for what the shopper has bought those of the source that says so, since own purchases count most.
    """

    kind: ClassVar[str] = "ranker"
    proposer: Proposer
    network: Network
    features: tuple[str, ...]
    """What the network reads, in this order."""
    value_weight: float = 0.0
    """What is ranked by: at 0 the chance of a purchase, at 1 the expected revenue, between them a compromise."""
    name: str = "ranker"

    def recommend(self, query: Query, k: int, eligible: Mask) -> Ranking:
        """See `Model`."""
        if len(query.history) == 0 or k <= 0:
            return EMPTY_RANKING
        proposal = self.proposer.propose(query, eligible)
        if len(proposal.items) == 0:
            return EMPTY_RANKING
        chances = self.chances(proposal)
        scores = chances * self.values(proposal.items)
        best = top_k(proposal.items, scores, k)
        items = proposal.items[best]
        sources, because = self._leading(proposal, items)
        return Ranking(items, scores[best], sources, because, chances[best])

    def chances(self, proposal: Proposal) -> NDArray[np.float32]:
        """`(m,)` float32: the probability of each candidate."""
        if proposal.names != self.features:
            raise ValueError(f"features {proposal.names} are not those of training, {self.features}")
        return self.chances_of(proposal.features)

    def chances_of(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """`(m,)` float32: the probability of what `features` `(m, f)` describe, in the order of training."""
        return np.asarray(1.0 / (1.0 + odds(-self.network(features))), dtype=np.float32)

    @cached_property
    def usual_log_price(self) -> float:
        """Median over the catalogue; 0 where no price is known."""
        known = self.proposer.facts.log_price[~np.isnan(self.proposer.facts.log_price)]
        return float(np.median(known)) if len(known) else 0.0

    def values(self, items: ItemArray) -> ScoreArray:
        """`(m,)` float32: what a purchase of each counts, its price to the power of `value_weight`, that of a usual item 1."""
        log_price = self.proposer.facts.log_price[items] - self.usual_log_price
        return np.asarray(np.exp(self.value_weight * np.nan_to_num(log_price)), dtype=np.float32)

    def _leading(self, proposal: Proposal, items: ItemArray) -> tuple[tuple[str, ...], ItemArray]:
        """For each of `items` `(k,)` the source that named it highest, the first of equals, and that one's reason.

        A source whose reason is the item itself, its own purchases, comes before all others.
        """
        order = np.argsort(items)
        ascending = items[order]
        heads = [
            answer.items[: source.depth] for answer, source in zip(proposal.answers, self.proposer.sources, strict=True)
        ]
        lengths = [len(head) for head in heads]
        named, source, rank = (
            np.concatenate(heads),
            np.arange(len(heads)).repeat(lengths),
            np.concatenate([*map(np.arange, lengths)]),
        )
        because = np.concatenate([answer.because[:n] for answer, n in zip(proposal.answers, lengths, strict=True)])
        found = np.minimum(ascending.searchsorted(named), len(items) - 1)
        hits = np.flatnonzero(ascending[found] == named)
        # The worst first: what is written to a place last stays.
        standing = np.where(because == named, -1, rank)[hits]
        hits = hits[np.lexsort((-source[hits], -standing))]
        leading = np.empty(len(items), dtype=np.intp)
        leading[order[found[hits]]] = hits
        names = [source.model.name for source in self.proposer.sources]
        return tuple(names[number] for number in source[leading].tolist()), because[leading]

    def state(self) -> ModelState:
        """See `Model`."""
        facts, sources, region = self.proposer.facts, self.proposer.sources, self.proposer.region
        params = {
            "depths": [source.depth for source in sources],
            "reads": [source.reads for source in sources],
            "facts": list(facts.names),
            "groups": list(facts.group_names),
            "features": list(self.features),
            "n_layers": len(self.network.layers),
            "value_weight": self.value_weight,
            "name": self.name,
        }
        arrays = {
            "facts": facts.values,
            "groups": facts.groups,
            "shares": facts.shares,
            "log_price": facts.log_price,
            **self.network.arrays(),
        }
        parts = (*(source.model for source in sources), *([region] if region is not None else []))
        return ModelState(params, arrays, parts)

    @classmethod
    def from_state(cls, state: ModelState) -> Self:
        """See `Model`."""
        params, arrays = state.params, state.arrays
        n = len(params["depths"])
        sources = tuple(map(Source, state.parts[:n], params["depths"], params["reads"]))
        region = state.parts[n] if len(state.parts) > n else None
        assert region is None or isinstance(region, RegionalModel)
        facts = ItemFacts(
            tuple(params["facts"]),
            arrays["facts"],
            tuple(params["groups"]),
            arrays["groups"],
            arrays["shares"],
            arrays["log_price"],
        )
        network = Network.from_arrays(arrays, params["n_layers"])
        proposer = Proposer(sources, facts, region)
        return cls(proposer, network, tuple(params["features"]), params["value_weight"], params["name"])
