"""Fitting of the content model in PyTorch, on simulated cold items.

Every step pretends that a random tenth of the items has just been listed: it takes them out of all histories and learns to
rank them, among themselves, by what their features are. That is the very task that they are served for, so nothing has to be
dropped out to keep an id part from being leant on: there is none. How wanted the items with a feature are is counted without
all of the tenth at once: leaving out each item's own demand alone would give it away, as what its neighbours lack.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import nn

from recsys.dataset import SECONDS_PER_DAY, Dataset
from recsys.models.content import MATCH_SCALE, MAX_SCALED, ContentModel, Layer, Scaler, demand_inputs
from recsys.models.fit.features import ItemFeatures, fit_features
from recsys.models.fit.item_item import to_model
from recsys.models.fit.matrix import event_weights
from recsys.models.fit.popularity import item_scores
from recsys.models.item_item import ItemItemModel
from recsys.ranking import NO_ITEM

MAX_ITEMS: Final = 300
"""Different items of a history that are read, the strongest."""
NEIGHBOUR_ROWS: Final = 2_000
"""Items whose neighbours are sought at once."""


def device() -> torch.device:
    """CUDA where present, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
    dropout: float = 0.1
    """Of the first hidden layer."""
    tower_dropout: float = 0.5
    """Of features, in the towers."""
    folds: int = 10
    """Parts that the items are dealt into at each snapshot; one of them is pretended to be cold at each step."""
    negatives: int = 1_500
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
        demand = Demand.of(found, dataset, at, self.demand_half_lives)
        inputs = demand.inputs(np.arange(dataset.n_items))
        network = Network(self, found, inputs).to(device())
        if len(dataset.events) and found.encoder.n_features:
            self._train(network, self._snapshots(found, dataset, at, rng), rng)
        pairs = np.unique(np.stack([dataset.events.item, dataset.events.shopper]), axis=1)
        shoppers = np.bincount(pairs[0], minlength=dataset.n_items)
        return self._to_model(network, found, demand, inputs, shoppers, dataset.catalogue.n_spare)

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
        folds = []
        for number in range(self.folds):
            rest = replace(past, events=past.events.take(fold_of[past.events.item] != number))
            items = np.flatnonzero((fold_of == number) & self._met(past))
            inputs = Demand.of(found, rest, moment, self.demand_half_lives).inputs(items)
            folds.append(Fold(items, inputs))
        return tuple(folds)

    @staticmethod
    def _met(past: Dataset) -> NDArray[np.bool_]:
        return np.bincount(past.events.item, minlength=past.n_items) > 0

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
        shoppers: NDArray[np.intp],
        n_spare: int,
    ) -> ContentModel:
        """The fitted model in numpy; `inputs` are all items', `shoppers` `(n_items,)` how many have met each."""
        network.eval()
        scaler, match_scaler = network.scaler, network.match_scaler()
        alone, match, middle, output = (
            _layer(part) for part in (network.alone, network.match, network.middle, network.output)
        )
        hidden = alone(scaler(inputs))
        # For somebody of whom every match is average.
        promise = output(np.maximum(middle(np.maximum(hidden + match.bias, 0.0)), 0.0))[:, 0]
        unknown = self.support / (self.support + shoppers)
        order = np.flatnonzero((found.features >= 0).any(axis=1) & (unknown >= self.min_unknown))
        promise += np.log(unknown)
        towers = [tower.weight.detach().cpu().numpy() for tower in (network.shopper_tower, network.item_tower)]
        return ContentModel(
            encoder=found.encoder,
            features=found.features,
            weights=found.weights,
            newest=np.full(n_spare, NO_ITEM, dtype=np.int32),
            hidden=hidden.astype(np.float32),
            item_vectors=np.asarray(found.matrix() @ towers[1], dtype=np.float32),
            unknown=unknown.astype(np.float32),
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


@dataclass(frozen=True)
class ContentNeighboursRecommender:
    """For items that hardly anybody has met: sold items with the most similar content (cosine of features)."""

    k: int = 30
    max_shoppers: int = 10
    """Items that more shoppers have met have neighbours of their own."""
    max_feature_items: int = 2_000
    """A feature that more items share tells nothing apart, and costs a product with each of them."""
    name: str = "similar_content"

    def fit(self, dataset: Dataset, at: int, rng: np.random.Generator) -> ItemItemModel:  # noqa: ARG002
        """See `Recommender`."""
        matrix = fit_features(dataset.catalogue).matrix()
        shared = np.diff(matrix.tocsc().indptr)
        telling = sparse.csr_matrix(matrix @ sparse.diags_array((shared <= self.max_feature_items).astype(np.float32)))
        met = np.bincount(dataset.events.item, minlength=dataset.n_items)
        asked, offered = telling[met <= self.max_shoppers], telling.copy()
        offered = sparse.csr_matrix(sparse.diags_array((met > 0).astype(np.float32)) @ offered)
        rows = np.flatnonzero(met <= self.max_shoppers)
        found = []
        for start in range(0, len(rows), NEIGHBOUR_ROWS):
            part = sparse.csr_matrix(asked[start : start + NEIGHBOUR_ROWS] @ offered.T).tocoo()
            keep = part.col != rows[start + part.row]
            order = np.lexsort((part.col[keep], -part.data[keep], part.row[keep]))
            row, column, value = (array[keep][order] for array in (part.row, part.col, part.data))
            best = np.arange(len(row)) - np.searchsorted(row, row) < self.k
            found.append((rows[start + row[best]], column[best], value[best]))
        row, column, value = (np.concatenate(parts) for parts in zip(*found, strict=True)) if found else ([], [], [])
        weights = sparse.csr_matrix((value, (row, column)), shape=(dataset.n_items, dataset.n_items))
        return to_model(weights, self.k, self.name, "context")


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
    def of(cls, found: ItemFeatures, dataset: Dataset, at: int, half_lives: tuple[float, float]) -> Demand:
        """`dataset` lies before `at`, Unix second."""
        items, slots = np.nonzero(found.features >= 0)
        known, n = found.features[items, slots], max(1, found.encoder.n_features)
        recent, lasting = (item_scores(dataset, at, days) for days in half_lives)
        is_sold = recent > 0
        sold = np.bincount(known, is_sold[items], minlength=n)
        largest = np.zeros(n)
        np.maximum.at(largest, known, recent[items])
        columns = [
            np.log((np.bincount(known, own[items], minlength=n) + average) / (sold + 1.0) + 1e-4)
            for own in (recent, lasting)
            for average in [own.sum() / max(1, is_sold.sum())]
        ]
        columns += [np.log1p(part) for part in (largest, sold, np.bincount(known, minlength=n))]
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
        self.matrix = found.matrix()
        self.features = torch.from_numpy(found.features.astype(np.int64)).to(where)
        self.weights = torch.from_numpy(found.weights).to(where)
        membership = np.repeat(np.eye(len(blocks), dtype=np.float32), [block.slots for block in blocks], axis=0)
        self.membership = torch.from_numpy(membership).to(where)
        self.scaler = _fit_scaler(demand)
        n_matches = len(blocks) * len(settings.half_lives) + 1
        self.match_mean = torch.zeros(n_matches, device=where)
        self.match_scale = torch.zeros(n_matches, device=where)
        self.match = nn.Linear(n_matches, first)
        self.alone = nn.Linear(demand.shape[1], first, bias=False)
        self.middle = nn.Linear(first, second)
        self.output = nn.Linear(second, 1)
        self.dropout = nn.Dropout(settings.dropout)
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
        rows = torch.from_numpy(items.astype(np.int64)).to(where)
        features, weights = self.features[rows], self.weights[rows]
        matches = []
        profiles = [_scaled(sparse.csr_matrix(strengths @ self.matrix)) for strengths in met]
        for profile in profiles:
            dense = torch.from_numpy(profile.toarray()).to(where)
            # Empty slots read the last feature, with no weight.
            matches.append((dense[:, features] * weights) @ self.membership)
        seen = torch.from_numpy(np.log1p(np.minimum(np.diff(met[0].indptr), MAX_ITEMS)).astype(np.float32)).to(where)
        known = seen[:, None, None].expand(-1, len(items), 1)
        inputs = torch.cat([torch.log1p(MATCH_SCALE * torch.cat(matches, dim=2)), known], dim=2)
        standard = torch.from_numpy(self.scaler(demand)).to(where)
        if not self.match_scale.any():
            # The first batch sets the scale for good.
            self.match_mean, self.match_scale = inputs.mean(dim=(0, 1)), inputs.std(dim=(0, 1)) + 1e-3
        inputs = ((inputs - self.match_mean) / self.match_scale).clamp(-MAX_SCALED, MAX_SCALED)
        hidden = self.dropout(torch.relu(self.match(inputs) + self.alone(standard)[None]))
        logits: torch.Tensor = self.output(torch.relu(self.middle(hidden))).squeeze(2)
        if self.shopper_tower.embedding_dim:
            shopper = nn.functional.normalize(self._tower(self.shopper_tower, profiles[0]), dim=1)
            logits = logits + shopper @ self._tower(self.item_tower, self.matrix[items]).T
        return logits

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


def _fit_scaler(inputs: NDArray[np.float32]) -> Scaler:
    """Over `inputs` `(n, inputs)`; NaN is left out, a column of nothing else becomes 0."""
    known = ~np.isnan(inputs)
    counts = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, inputs, 0.0).sum(axis=0) / counts
    variance = np.where(known, (inputs - mean) ** 2, 0.0).sum(axis=0) / counts
    return Scaler(mean.astype(np.float32), (np.sqrt(variance) + 1e-3).astype(np.float32))


def _scaled(profile: sparse.csr_matrix) -> sparse.csr_matrix:
    """Rows of length 1."""
    length = np.sqrt(np.asarray(profile.multiply(profile).sum(axis=1)).ravel())
    return sparse.csr_matrix(sparse.diags_array((1.0 / np.maximum(length, 1e-9)).astype(np.float32)) @ profile)


@torch.no_grad()
def _layer(part: nn.Linear) -> Layer:
    bias = np.zeros(part.out_features, dtype=np.float32) if part.bias is None else part.bias.cpu().numpy()
    return Layer(np.ascontiguousarray(part.weight.T.cpu().numpy()), bias)
