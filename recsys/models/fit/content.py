"""Fitting of the content model in PyTorch, on simulated cold items.

Every step pretends that a random tenth of the items has just been listed: it takes them out of all histories and learns to
rank them, among themselves, by what their features are. That is the very task that they are served for, so nothing has to be
dropped out to keep an id part from being leant on: there is none. How wanted the other items with a feature are is learnt
without the item's own demand, for the same reason.
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
from recsys.models.content import MATCH_SCALE, ContentModel, Layer, demand_inputs
from recsys.models.fit.features import ItemFeatures, fit_features
from recsys.models.fit.item_item import to_model
from recsys.models.fit.matrix import event_weights
from recsys.models.fit.popularity import item_scores
from recsys.models.item_item import ItemItemModel

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
    learning_rate: float = 5e-3
    weight_decay: float = 1e-2
    dropout: float = 0.1
    """Of the first hidden layer."""
    tower_dropout: float = 0.5
    """Of features, in the towers."""
    cold_share: float = 0.1
    """Of the items, pretended to be cold at each step."""
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
        network = Network(self, found, demand.inputs()).to(device())
        sold = np.flatnonzero(np.bincount(dataset.events.item, minlength=dataset.n_items))
        if len(sold) > 1 and found.encoder.n_features:
            self._train(network, self._snapshots(found, dataset, at), sold, rng)
        pairs = np.unique(np.stack([dataset.events.item, dataset.events.shopper]), axis=1)
        return self._to_model(network, found, demand, np.bincount(pairs[0], minlength=dataset.n_items))

    def _snapshots(self, found: ItemFeatures, dataset: Dataset, at: int) -> list[Snapshot]:
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
                demand = Demand.of(found, past, moment, self.demand_half_lives).inputs()
                taken.append(Snapshot(tuple(strengths[both] for strengths in met), then[both], demand))
        return taken

    def _train(
        self, network: Network, snapshots: list[Snapshot], sold: NDArray[np.intp], rng: np.random.Generator
    ) -> None:
        steps = [(snapshot, start) for snapshot in snapshots for start in range(0, len(snapshot), self.batch)]
        optimizer = torch.optim.AdamW(network.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, total_steps=self.epochs * len(steps) + 1, pct_start=0.1
        )
        network.train()
        for _ in range(self.epochs):
            orders = {id(snapshot): rng.permutation(len(snapshot)) for snapshot in snapshots}
            for step in rng.permutation(len(steps)):
                snapshot, start = steps[step]
                shoppers = orders[id(snapshot)][start : start + self.batch]
                cold = rng.choice(sold, size=max(2, int(self.cold_share * len(sold))), replace=False)
                loss = _loss(network, snapshot, shoppers, cold, cold[: self.negatives])
                if loss is not None:
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                schedule.step()

    @torch.no_grad()
    def _to_model(
        self, network: Network, found: ItemFeatures, demand: Demand, shoppers: NDArray[np.intp]
    ) -> ContentModel:
        """The fitted model in numpy; `shoppers` `(n_items,)`: how many have met each item."""
        network.eval()
        alone = network.plain_alone()
        hidden = alone(demand.inputs())
        match, middle, output = network.plain_match(), _layer(network.middle), _layer(network.output)
        promise = output(np.maximum(middle(np.maximum(hidden + match.bias, 0.0)), 0.0))[:, 0]
        unknown = self.support / (self.support + shoppers)
        order = np.flatnonzero((found.features >= 0).any(axis=1) & (unknown >= self.min_unknown))
        promise += np.log(unknown)
        towers = [tower.weight.detach().cpu().numpy() for tower in (network.shopper_tower, network.item_tower)]
        return ContentModel(
            encoder=found.encoder,
            features=found.features,
            weights=found.weights,
            hidden=hidden.astype(np.float32),
            item_vectors=np.asarray(found.matrix() @ towers[1], dtype=np.float32),
            unknown=unknown.astype(np.float32),
            order=order[np.lexsort((order, -promise[order]))].astype(np.int32),
            demand=demand.table,
            alone=alone,
            match=match,
            middle=middle,
            output=output,
            shopper_tower=towers[0],
            item_tower=towers[1],
            half_lives=self.half_lives,
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
class Snapshot:
    """Shoppers at a past moment."""

    met: tuple[sparse.csr_matrix, ...]
    """For every half-life `(n, n_items)` strengths of what they had met."""
    then: sparse.csr_matrix
    """`(n, n_items)`: what they bought next."""
    demand: NDArray[np.float32]
    """`(n_items, inputs)`: see `Demand.inputs`."""

    def __len__(self) -> int:
        return int(self.then.shape[0])


def _loss(
    network: Network,
    snapshot: Snapshot,
    shoppers: NDArray[np.intp],
    cold: NDArray[np.intp],
    negatives: NDArray[np.intp],
) -> torch.Tensor | None:
    """Cross entropy of what was bought of the cold items; None where nothing was."""
    then = snapshot.then[shoppers]
    is_cold = np.zeros(then.shape[1], dtype=np.bool_)
    is_cold[cold] = True
    wanted = np.unique(then.indices[is_cold[then.indices]])
    items = np.union1d(negatives, wanted)
    targets = then[:, items].tocoo()
    if targets.nnz == 0:
        return None
    met = []
    for strengths in snapshot.met:
        part = strengths[shoppers]
        part.data = np.where(is_cold[part.indices], np.float32(0.0), part.data)
        met.append(part)
    chances = torch.log_softmax(network(met, items, snapshot.demand[items]), dim=1)
    # A shopper with many purchases counts more, but not in proportion.
    weights = np.bincount(targets.row, minlength=len(shoppers))[targets.row].astype(np.float32) ** -0.5
    where = device()
    rows, columns = (torch.from_numpy(index.astype(np.int64)).to(where) for index in (targets.row, targets.col))
    return -(chances[rows, columns] * torch.from_numpy(weights).to(where)).sum() / float(weights.sum())


@dataclass(frozen=True, slots=True)
class Demand:
    """How wanted the items with each feature are at some moment."""

    found: ItemFeatures
    totals: NDArray[np.float64]
    """`(n_features, 2)`: summed demand of the items with it, by half-life."""
    counts: NDArray[np.float64]
    """`(n_features, 2)`: items sold, items listed."""
    largest: NDArray[np.float64]
    """`(n_features, 2)`: largest and second largest demand of one item, by the first half-life."""
    own: NDArray[np.float64]
    """`(n_items, 2)`: the item's own demand."""

    @classmethod
    def of(cls, found: ItemFeatures, dataset: Dataset, at: int, half_lives: tuple[float, float]) -> Demand:
        """`dataset` lies before `at`, Unix second."""
        own = np.stack([item_scores(dataset, at, days) for days in half_lives], axis=1).astype(np.float64)
        items, slots = np.nonzero(found.features >= 0)
        known, n = found.features[items, slots], max(1, found.encoder.n_features)
        totals = np.stack([np.bincount(known, own[items, side], minlength=n) for side in (0, 1)], axis=1).astype(
            np.float64
        )
        sold = np.bincount(known, own[items, 0] > 0, minlength=n)
        order = np.lexsort((-own[items, 0], known))
        starts = np.searchsorted(known[order], np.arange(n + 1))
        sorted_demand = np.append(own[items[order], 0], 0.0)
        first = np.where(starts[1:] > starts[:-1], sorted_demand[starts[:-1]], 0.0)
        second = np.where(starts[1:] > starts[:-1] + 1, sorted_demand[np.minimum(starts[:-1] + 1, len(order))], 0.0)
        counts = np.stack([sold, np.bincount(known, minlength=n)], axis=1).astype(np.float64)
        return cls(found, totals, counts, np.stack([first, second], axis=1), own)

    @property
    def table(self) -> NDArray[np.float32]:
        """`(n_features, 5)` float32 as an unsold item reads it."""
        return self._columns(self.totals, self.counts[:, 0], self.largest[:, 0], self.counts[:, 1])

    def inputs(self) -> NDArray[np.float32]:
        """`(n_items, inputs)` float32: see `demand_inputs`, each item's own demand left out."""
        features = self.found.features
        own = self.own[:, None, :]
        largest = np.where(
            self.largest[features, 0] == self.own[:, :1], self.largest[features, 1], self.largest[features, 0]
        )
        slots = self._columns(
            self.totals[features] - own,
            self.counts[features, 0] - (self.own[:, :1] > 0),
            largest,
            self.counts[features, 1],
        )
        return demand_inputs(slots, features >= 0, self.found.encoder.starts)

    def _columns(
        self,
        totals: NDArray[np.float64],
        sold: NDArray[np.float64],
        largest: NDArray[np.float64],
        listed: NDArray[np.float64],
    ) -> NDArray[np.float32]:
        """Logs of mean demand by half-life, smoothed by one average item, of the largest demand, and of how many items."""
        average = self.own.sum(axis=0) / max(1.0, float((self.own[:, 0] > 0).sum()))
        means = np.log((np.maximum(totals, 0.0) + average) / (np.maximum(sold, 0.0)[..., None] + 1.0) + 1e-4)
        rest = [np.log1p(np.maximum(part, 0.0))[..., None] for part in (sold, largest, listed)]
        return np.concatenate([means, *rest], axis=-1).astype(np.float32)


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
        self.mean = torch.from_numpy(demand.mean(axis=0)).to(where)
        self.scale = torch.from_numpy(demand.std(axis=0) + 1e-3).to(where)
        self.match_mean = torch.zeros(len(blocks) * len(settings.half_lives), device=where)
        self.match_scale = torch.zeros_like(self.match_mean)
        self.match = nn.Linear(len(blocks) * len(settings.half_lives), first)
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
        inputs = torch.log1p(MATCH_SCALE * torch.cat(matches, dim=2))
        standard = (torch.from_numpy(demand).to(where) - self.mean) / self.scale
        if not self.match_scale.any():
            # The first batch sets the scale for good.
            self.match_mean, self.match_scale = inputs.mean(dim=(0, 1)), inputs.std(dim=(0, 1)) + 1e-3
        inputs = (inputs - self.match_mean) / self.match_scale
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

    def plain_alone(self) -> Layer:
        """`alone` for inputs that are not standardised."""
        return _plain(self.alone.weight, torch.zeros_like(self.match.bias), self.mean, self.scale)

    def plain_match(self) -> Layer:
        """`match` likewise; what has never met a batch is not scaled."""
        scale = self.match_scale if self.match_scale.any() else torch.ones_like(self.match_scale)
        return _plain(self.match.weight, self.match.bias, self.match_mean, scale)


def _scaled(profile: sparse.csr_matrix) -> sparse.csr_matrix:
    """Rows of length 1."""
    length = np.sqrt(np.asarray(profile.multiply(profile).sum(axis=1)).ravel())
    return sparse.csr_matrix(sparse.diags_array((1.0 / np.maximum(length, 1e-9)).astype(np.float32)) @ profile)


@torch.no_grad()
def _plain(weight: torch.Tensor, bias: torch.Tensor, mean: torch.Tensor, scale: torch.Tensor) -> Layer:
    """The layer over inputs before they were standardised."""
    scaled = weight / scale
    return Layer(np.ascontiguousarray(scaled.T.cpu().numpy()), (bias - scaled @ mean).cpu().numpy())


@torch.no_grad()
def _layer(part: nn.Linear) -> Layer:
    return Layer(np.ascontiguousarray(part.weight.T.cpu().numpy()), part.bias.cpu().numpy())
