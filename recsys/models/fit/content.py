"""Fitting of the content model in PyTorch, on simulated cold items.

Every step pretends that a random tenth of the items has just been listed: it takes them out of all histories and learns to
rank them, among themselves, by what their features are. That is the very task that they are served for, so nothing has to be
dropped out to keep an id part from being leant on: there is none. How wanted the items with a feature are is counted without
all of the tenth at once: leaving out each item's own demand alone would give it away, as what its neighbours lack.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import nn

from recsys.dataset import SECONDS_PER_DAY, Dataset
from recsys.models.content import MATCH_SCALE, ContentModel, demand_inputs
from recsys.models.fit.features import ItemFeatures, fit_features
from recsys.models.fit.layers import device, fit_scaler, to_layer
from recsys.models.fit.matrix import event_weights, unknown_share
from recsys.models.fit.popularity import item_scores
from recsys.models.layers import MAX_SCALED, Scaler
from recsys.ranking import NO_ITEM

MAX_ITEMS: Final = 300
"""Different items of a history that are read, the strongest."""


@dataclass(frozen=True)
class ContentRecommender:
    """A matching network and two towers, trained with a softmax over simulated cold items."""

    hidden: tuple[int, int] = (64, 32)
    dimensions: int = 0
    """Of the towers; 0 leaves them out."""
    epochs: int = 3
    min_steps: int = 200
    """A small shop is gone through more often, until so many steps were made."""
    learning_rate: float = 5e-3
    weight_decay: float = 1e-2
    tower_dropout: float = 0.5
    """Of features, in the towers."""
    folds: int = 10
    """Parts that the items are dealt into at each snapshot; one of them is pretended to be cold at each step."""
    negatives: int = 1_000
    """Cold items of a step that are ranked below what was bought."""
    batch: int = 64
    snapshots: int = 6
    """Past moments that histories are taken at, `window_days` apart."""
    window_days: float = 30.0
    """What was bought so long after a snapshot is what is to be ranked."""
    half_lives: tuple[float, ...] = (90.0, 20.0)
    demand_half_lives: tuple[float, float] = (30.0, 120.0)
    support: float = 3.0
    """An item that so many shoppers have met is known by half."""
    min_unknown: float = 0.1
    """Items that are better known than that are left to others."""

    def fit(self, dataset: Dataset, at: int, rng: np.random.Generator) -> ContentModel:
        """See `Recommender`."""
        torch.manual_seed(int(rng.integers(2**31)))
        found = fit_features(dataset.catalogue)
        demand = Demand.of(found, self._scores(dataset, at))
        inputs = demand.inputs(np.arange(dataset.n_items))
        network = Network(self, found, inputs).to(device())
        if len(dataset.events) and found.encoder.n_features:
            self._train(network, self._snapshots(found, dataset, at, rng), rng)
        unknown = unknown_share(dataset, self.support)
        return self._to_model(network, found, demand, inputs, unknown, dataset.catalogue.n_spare)

    def _snapshots(self, found: ItemFeatures, dataset: Dataset, at: int, rng: np.random.Generator) -> list[Snapshot]:
        """Past moments with shoppers who had a past and a future then."""
        length = int(self.window_days * SECONDS_PER_DAY)
        shape = (dataset.n_shoppers, dataset.n_items)
        taken = []
        for number in range(1, self.snapshots + 1):
            moment = at - number * length
            past, future = dataset.before(moment), dataset.events.between(moment, moment + length)
            then = sparse.csr_matrix((np.ones(len(future), np.float32), (future.shopper, future.item)), shape=shape)
            met = []
            for days in self.half_lives:
                weights = event_weights(past.events, moment, days)
                strengths = sparse.csr_matrix((weights, (past.events.shopper, past.events.item)), shape=shape)
                strengths.data = np.sqrt(strengths.data)
                met.append(strengths)
            both = np.flatnonzero((np.diff(met[0].indptr) > 0) & (np.diff(then.indptr) > 0))
            if len(both):
                folds = self._folds(found, past, moment, rng)
                taken.append(Snapshot(tuple(strengths[both] for strengths in met), then[both], folds))
        return taken

    def _folds(self, found: ItemFeatures, past: Dataset, moment: int, rng: np.random.Generator) -> tuple[Fold, ...]:
        """Every item with features and a past stands in one fold, with its demand as if the fold had no past."""
        fold_of = rng.integers(self.folds, size=past.n_items)
        met = np.bincount(past.events.item, minlength=past.n_items) > 0
        recent, lasting = self._scores(past, moment)
        folds = []
        for number in range(self.folds):
            is_cold = fold_of == number
            items = np.flatnonzero(is_cold & met)
            demand = Demand.of(found, (np.where(is_cold, 0, recent), np.where(is_cold, 0, lasting)))
            folds.append(Fold(items, demand.inputs(items)))
        return tuple(folds)

    def _scores(self, past: Dataset, moment: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """`(n_items,)` float64 demand of each item before `moment`, recent and lasting."""
        recent, lasting = (item_scores(past, moment, days) for days in self.demand_half_lives)
        return recent, lasting

    def _train(self, network: Network, snapshots: list[Snapshot], rng: np.random.Generator) -> None:
        steps = [(snapshot, start) for snapshot in snapshots for start in range(0, len(snapshot), self.batch)]
        if not steps:
            return
        epochs = max(self.epochs, -(-self.min_steps // len(steps)))
        optimizer = torch.optim.AdamW(network.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, total_steps=epochs * len(steps) + 1, pct_start=0.1
        )
        network.train()
        for _ in range(epochs):
            orders = {id(snapshot): rng.permutation(len(snapshot)) for snapshot in snapshots}
            for step in rng.permutation(len(steps)):
                snapshot, start = steps[step]
                shoppers = orders[id(snapshot)][start : start + self.batch]
                fold = snapshot.folds[rng.integers(len(snapshot.folds))]
                drawn = rng.permutation(len(fold.items))[: self.negatives]
                loss = _loss(network, snapshot, shoppers, fold, drawn)
                if loss is not None:
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                schedule.step()

    @torch.no_grad()
    def _to_model(
        self,
        network: Network,
        found: ItemFeatures,
        demand: Demand,
        inputs: NDArray[np.float32],
        unknown: NDArray[np.float32],
        n_spare: int,
    ) -> ContentModel:
        """The fitted model in numpy; `inputs` are all items', `unknown` see `unknown_share`."""
        network.eval()
        scaler, match_scaler = network.scaler, network.match_scaler()
        alone, match, middle, output = (
            to_layer(part) for part in (network.alone, network.match, network.middle, network.output)
        )
        hidden = alone(scaler(inputs))
        # For somebody of whom every match is average.
        promise = output(np.maximum(middle(np.maximum(hidden + match.bias, 0.0)), 0.0))[:, 0]
        order = np.flatnonzero((found.features >= 0).any(axis=1) & (unknown >= self.min_unknown))
        promise += np.log(unknown)
        towers = [tower.weight.detach().cpu().numpy() for tower in (network.shopper_tower, network.item_tower)]
        return ContentModel(
            encoder=found.encoder,
            features=found.features,
            weights=found.weights,
            newest=np.full(n_spare, NO_ITEM, dtype=np.int32),
            hidden=hidden.astype(np.float32),
            item_vectors=np.asarray(found.matrix @ towers[1], dtype=np.float32),
            unknown=unknown,
            order=order[np.lexsort((order, -promise[order]))].astype(np.int32),
            demand=demand.table,
            alone_scaler=scaler,
            alone=alone,
            match_scaler=match_scaler,
            match=match,
            middle=middle,
            output=output,
            shopper_tower=towers[0],
            item_tower=towers[1],
            half_lives=self.half_lives,
            max_items=MAX_ITEMS,
        )


@dataclass(frozen=True, slots=True)
class Fold:
    """Items that are pretended to be cold together."""

    items: NDArray[np.intp]
    """`(m,)`, ascending."""
    demand: NDArray[np.float32]
    """`(m, inputs)` float32: see `Demand.inputs`."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Shoppers at a past moment."""

    met: tuple[sparse.csr_matrix, ...]
    """For every half-life `(n, n_items)` strengths of what they had met."""
    then: sparse.csr_matrix
    """`(n, n_items)`: what they bought next."""
    folds: tuple[Fold, ...]

    def __len__(self) -> int:
        return int(self.then.shape[0])


def _loss(
    network: Network, snapshot: Snapshot, shoppers: NDArray[np.intp], fold: Fold, drawn: NDArray[np.intp]
) -> torch.Tensor | None:
    """Cross entropy of what was bought of the fold, among that and the `drawn` places of it; None where nothing was."""
    then = snapshot.then[shoppers]
    is_cold = np.zeros(then.shape[1], dtype=np.bool_)
    is_cold[fold.items] = True
    wanted = np.searchsorted(fold.items, np.unique(then.indices[is_cold[then.indices]]))
    places = np.union1d(drawn, wanted)
    items = fold.items[places]
    targets = then[:, items].tocoo()
    if targets.nnz == 0:
        return None
    met = []
    for strengths in snapshot.met:
        part = strengths[shoppers]
        part.data = np.where(is_cold[part.indices], np.float32(0.0), part.data)
        met.append(part)
    chances = torch.log_softmax(network(met, items, fold.demand[places]), dim=1)
    # A shopper with many purchases counts more, but not in proportion.
    weights = np.bincount(targets.row, minlength=len(shoppers))[targets.row].astype(np.float32) ** -0.5
    where = device()
    rows, columns = (torch.from_numpy(index.astype(np.int64)).to(where) for index in (targets.row, targets.col))
    return -(chances[rows, columns] * torch.from_numpy(weights).to(where)).sum() / float(weights.sum())


@dataclass(frozen=True, slots=True)
class Demand:
    """How wanted the items with each feature are at some moment."""

    found: ItemFeatures
    table: NDArray[np.float32]
    """`(n_features, 5)` float32: logs of mean demand by half-life, smoothed by one average item, of the largest demand of one
    item, and of how many items are sold and listed."""

    @classmethod
    def of(cls, found: ItemFeatures, scores: tuple[NDArray[np.float64], NDArray[np.float64]]) -> Demand:
        """`scores`: two times `(n_items,)` demand of each item, recent and lasting; 0 where it has none or must not be seen."""
        members = found.members
        recent, lasting = scores
        is_sold = (recent > 0).astype(np.float32)
        sold, listed = members @ is_sold, np.diff(members.indptr)
        largest = np.zeros(members.shape[0], dtype=np.float32)
        filled = listed > 0
        largest[filled] = (
            np.maximum.reduceat(recent[members.indices], members.indptr[:-1][filled]) if filled.any() else 0.0
        )
        columns = [
            np.log((members @ own + average) / (sold + 1.0) + 1e-4)
            for own in (recent, lasting)
            for average in [own.sum() / max(1.0, is_sold.sum())]
        ]
        columns += [np.log1p(part) for part in (largest, sold, listed)]
        return cls(found, np.stack(columns, axis=1).astype(np.float32))

    def inputs(self, items: NDArray[np.intp]) -> NDArray[np.float32]:
        """`(m, inputs)` float32 for `items` `(m,)`: see `demand_inputs`."""
        features = self.found.features[items]
        return demand_inputs(self.table[features], features >= 0, self.found.encoder.starts)


class Network(nn.Module):
    """`ContentModel` as PyTorch sees it."""

    def __init__(self, settings: ContentRecommender, found: ItemFeatures, demand: NDArray[np.float32]) -> None:
        """`demand` gives the inputs' scale."""
        super().__init__()
        where, (first, second) = device(), settings.hidden
        n_features, blocks = max(1, found.encoder.n_features), found.encoder.blocks
        self.matrix = found.matrix
        # Empty slots read a feature of their own, which no profile has.
        features = np.where(found.features < 0, n_features, found.features).astype(np.int64)
        self.features = torch.from_numpy(features).to(where)
        self.weights = torch.from_numpy(found.weights).to(where)
        self.starts = torch.from_numpy(found.encoder.starts.astype(np.int64)).to(where)
        self.scaler = fit_scaler(demand)
        n_matches = len(blocks) * len(settings.half_lives) + 1
        self.match_mean = torch.zeros(n_matches, device=where)
        self.match_scale = torch.zeros(n_matches, device=where)
        self.match = nn.Linear(n_matches, first)
        self.alone = nn.Linear(demand.shape[1], first, bias=False)
        self.middle = nn.Linear(first, second)
        self.output = nn.Linear(second, 1)
        self.tower_dropout = settings.tower_dropout
        self.shopper_tower = nn.EmbeddingBag(n_features, settings.dimensions, mode="sum")
        self.item_tower = nn.EmbeddingBag(n_features, settings.dimensions, mode="sum")
        for tower in (self.shopper_tower, self.item_tower):
            nn.init.normal_(tower.weight, std=0.1)

    def forward(
        self, met: list[sparse.csr_matrix], items: NDArray[np.intp], demand: NDArray[np.float32]
    ) -> torch.Tensor:
        """`(n_shoppers, m)` logits: histories `(n_shoppers, n_items)` by half-life, `items` `(m,)` and their demand."""
        where = device()
        profiles = [_scaled(sparse.csr_matrix(strengths @ self.matrix)) for strengths in met]
        matches = [self._matches(profile, torch.from_numpy(items.astype(np.int64)).to(where)) for profile in profiles]
        seen = torch.from_numpy(np.log1p(np.minimum(np.diff(met[0].indptr), MAX_ITEMS)).astype(np.float32)).to(where)
        known = seen[:, None, None].expand(-1, len(items), 1)
        inputs = torch.cat([torch.log1p(MATCH_SCALE * torch.cat(matches, dim=2)), known], dim=2)
        standard = torch.from_numpy(self.scaler(demand)).to(where)
        if not self.match_scale.any():
            # The first batch sets the scale for good.
            self.match_mean, self.match_scale = inputs.mean(dim=(0, 1)), inputs.std(dim=(0, 1)) + 1e-3
        inputs = ((inputs - self.match_mean) / self.match_scale).clamp(-MAX_SCALED, MAX_SCALED)
        hidden = torch.relu(self.match(inputs) + self.alone(standard)[None])
        logits: torch.Tensor = self.output(torch.relu(self.middle(hidden))).squeeze(2)
        if self.shopper_tower.embedding_dim:
            shopper = nn.functional.normalize(self._tower(self.shopper_tower, profiles[0]), dim=1)
            logits = logits + shopper @ self._tower(self.item_tower, self.matrix[items]).T
        return logits

    def _matches(self, profile: sparse.csr_matrix, rows: torch.Tensor) -> torch.Tensor:
        """`(n_shoppers, m, n_blocks)`: by kind of feature, the product of `profile` `(n_shoppers, n_features)` and items `(m,)`."""
        n, m, width = profile.shape[0], len(rows), self.features.shape[1]
        by_feature = np.zeros((profile.shape[1] + 1, n), dtype=np.float32)
        by_feature[:-1] = profile.toarray().T
        bags = (torch.arange(m, device=rows.device)[:, None] * width + self.starts).reshape(-1)
        sums = nn.functional.embedding_bag(
            self.features[rows].reshape(-1),
            torch.from_numpy(by_feature).to(rows.device),
            bags,
            mode="sum",
            per_sample_weights=self.weights[rows].reshape(-1),
        )
        return sums.reshape(m, -1, n).permute(2, 0, 1)

    def _tower(self, tower: nn.EmbeddingBag, rows: sparse.csr_matrix) -> torch.Tensor:
        rows, where = sparse.csr_matrix(rows), device()
        values = torch.from_numpy(rows.data.astype(np.float32))
        if self.training:
            values = nn.functional.dropout(values, self.tower_dropout)
        found: torch.Tensor = tower(
            torch.from_numpy(rows.indices.astype(np.int64)).to(where),
            torch.from_numpy(rows.indptr[:-1].astype(np.int64)).to(where),
            per_sample_weights=values.to(where),
        )
        return found

    def match_scaler(self) -> Scaler:
        """Of the inputs of `match`; what has never met a batch is not scaled."""
        scale = self.match_scale if self.match_scale.any() else torch.ones_like(self.match_scale)
        return Scaler(self.match_mean.cpu().numpy(), scale.cpu().numpy())


def _scaled(profile: sparse.csr_matrix) -> sparse.csr_matrix:
    """Rows of length 1."""
    length = np.sqrt(np.asarray(profile.multiply(profile).sum(axis=1)).ravel())
    return sparse.csr_matrix(sparse.diags_array((1.0 / np.maximum(length, 1e-9)).astype(np.float32)) @ profile)
