"""Fitting of the ranker on past windows: what was known before each, and what was then bought.

For every window the sources and the facts are fitted anew on what lay before it, so that no feature has seen what it is to
predict; what serves is fitted on everything. The network is small and trained in PyTorch with the cross entropy of each
candidate, so that its output is a probability.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from recsys.dataset import SECONDS_PER_DAY, Dataset, Histories, clicked_event, target_event
from recsys.errors import UserError
from recsys.models.candidate_features import ItemFacts
from recsys.models.fit.item_facts import fit_facts
from recsys.models.fit.layers import device, fit_bins, fit_scaler, to_layer
from recsys.models.fit.matrix import Recommender
from recsys.models.fit.regional import RegionalRecommender
from recsys.models.layers import Inputs, Network, symlog
from recsys.models.ranker import Proposer, RankerModel, Source
from recsys.models.regional import RegionalModel
from recsys.ranking import Query

logger = logging.getLogger(__name__)

BINNED: Final = ("own_", "local_ridge_")
"""Beginnings of the names of features in which steps and bends matter."""
MIN_BOUGHT: Final = 50
"""Bought candidates below which nothing can be learnt."""


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """A source before it is fitted; see `recsys.models.ranker.Source`."""

    recommender: Recommender
    depth: int
    reads: int


@dataclass(frozen=True, slots=True)
class Rows:
    """Candidates of many queries."""

    features: NDArray[np.float32]
    """`(n, f)` float32."""
    bought: NDArray[np.bool_]
    """`(n,)`."""
    weights: NDArray[np.float32]
    """`(n,)` float32: how many candidates each stands for."""
    names: tuple[str, ...]


@dataclass(frozen=True)
class RankerRecommender:
    """A network of `hidden` layers over the candidates of `sources`."""

    sources: tuple[SourcePlan, ...]
    windows: int = 4
    window_days: float = 30.0
    """Of each; a score is the probability of a purchase in so many days. Shorter where there is little past."""
    max_shoppers: int = 4_000
    """Of each window, drawn at random."""
    negatives: float = 0.4
    """Share of the candidates not bought that is learnt from."""
    hidden: tuple[int, ...] = (64, 32)
    bins: int = 8
    """Of each feature that `BINNED` names."""
    epochs: int = 6
    batch: int = 2_048
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    clicks: bool = False
    """Whether a score is the probability of a click (see `clicked_event`) instead of a purchase."""
    facts: Callable[[Dataset, int], ItemFacts] = fit_facts
    """What is known of items from a dataset that lies before a moment."""

    def fit(self, dataset: Dataset, at: int, rng: np.random.Generator) -> RankerModel:
        """See `Recommender`.

        Raises:
            UserError: too little was bought in the past windows, or nothing was ever clicked where clicks are wanted.
        """
        rows = self.rows(dataset, at, rng)
        network = self.train(rows, int(rng.integers(2**31)))
        return RankerModel(self.proposer(dataset, at, rng), network, rows.names)

    def rows(self, dataset: Dataset, at: int, rng: np.random.Generator) -> Rows:
        """What is learnt from: the candidates of every past window.

        Raises:
            UserError: too little was bought in the past windows.
        """
        span = (at - int(dataset.events.second[0])) / SECONDS_PER_DAY if len(dataset.events) else 0.0
        days = min(self.window_days, span / (2 * self.windows))
        length = int(days * SECONDS_PER_DAY)
        found = [self.window_rows(dataset, at - n * length, length, rng) for n in range(1, self.windows + 1)]
        found = [part for part in found if len(part.bought)]
        n_bought = sum(int(part.bought.sum()) for part in found)
        if n_bought < MIN_BOUGHT:
            raise UserError(
                f"phase 3 learns from what shoppers buy next, and the last {self.windows * days:.0f} days hold {n_bought} "
                f"such purchases of {MIN_BOUGHT} needed: train phase 2 until there is more data"
            )
        return Rows(
            np.concatenate([part.features for part in found]),
            np.concatenate([part.bought for part in found]),
            np.concatenate([part.weights for part in found]),
            found[0].names,
        )

    def proposer(self, dataset: Dataset, at: int, rng: np.random.Generator) -> Proposer:
        """Sources and facts as they stand at `at`, from a `dataset` that lies before it."""
        sources = tuple(
            Source(plan.recommender.fit(dataset, at, rng), plan.depth, max(plan.depth, plan.reads))
            for plan in self.sources
        )
        region = RegionalRecommender().fit(dataset, at, rng) if dataset.regions else None
        assert region is None or isinstance(region, RegionalModel)
        return Proposer(sources, self.facts(dataset, at), region)

    def window_rows(self, dataset: Dataset, at: int, length: int, rng: np.random.Generator) -> Rows:
        """What is known before `at` of those who buy in the `length` seconds from then on, and what they buy."""
        proposer = self.proposer(dataset.before(at), at, rng)
        histories = Histories(dataset, at)
        then = dataset.events.between(at, at + length)
        then = then.take(then.event_type == (clicked_event(dataset) if self.clicks else target_event(dataset)))
        shoppers = np.unique(then.shopper)
        if len(shoppers) > self.max_shoppers:
            shoppers = np.sort(rng.choice(shoppers, self.max_shoppers, replace=False))
        features, bought, names = [], [], tuple[str, ...]()
        for shopper in shoppers:
            history = histories[int(shopper)]
            query = Query(history=history, session_items=history.items[-1:], region=int(histories.regions[shopper]))
            proposal = proposer.propose(query, dataset.catalogue.available)
            names = proposal.names
            is_bought = np.isin(proposal.items, then.item[then.shopper == shopper])
            if len(history):
                keep = is_bought | (rng.random(len(is_bought)) < self.negatives)
                features.append(proposal.features[keep])
                bought.append(is_bought[keep])
        if not features:
            return Rows(np.empty((0, 0), np.float32), np.empty(0, np.bool_), np.empty(0, np.float32), names)
        labels = np.concatenate(bought)
        weights = np.where(labels, 1.0, 1.0 / self.negatives).astype(np.float32)
        return Rows(np.concatenate(features), labels, weights, names)

    def train(self, rows: Rows, seed: int) -> Network:
        """Adam with one cycle of the learning rate (Smith and Topin, 2019) on the weighted cross entropy."""
        where = device()
        torch.manual_seed(seed)
        binned = [place for place, name in enumerate(rows.names) if name.startswith(BINNED)]
        inputs = Inputs(fit_scaler(symlog(rows.features)), fit_bins(rows.features, binned, self.bins))
        x = torch.from_numpy(inputs(rows.features)).to(where)
        y = torch.from_numpy(rows.bought.astype(np.float32)).to(where)
        weights = torch.from_numpy(rows.weights / rows.weights.mean()).to(where)
        sizes = (x.shape[1], *self.hidden, 1)
        linear = [nn.Linear(*pair) for pair in pairwise(sizes)]
        body = nn.Sequential(*(part for layer in linear[:-1] for part in (layer, nn.ReLU())), linear[-1]).to(where)
        steps = self.epochs * -(-len(x) // self.batch)
        optimizer = torch.optim.AdamW(body.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=steps)
        for _ in range(self.epochs):
            for part in torch.split(torch.randperm(len(x)).to(where), self.batch):
                optimizer.zero_grad()
                loss = nn.functional.binary_cross_entropy_with_logits(body(x[part])[:, 0], y[part], weights[part])
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
        return Network(inputs, tuple(to_layer(layer) for layer in linear))
