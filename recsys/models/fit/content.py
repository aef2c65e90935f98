"""Fitting of the content model in PyTorch, on simulated cold items.

Every step pretends that a random tenth of the items has just been listed: it takes them out of all histories and learns to
rank them, among themselves, by what their features are. That is the very task that they are served for, so nothing has to be
dropped out to keep an id part from being leant on: there is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import nn

from recsys.dataset import SECONDS_PER_DAY, Dataset
from recsys.models.content import MATCH_SCALE, ContentModel
from recsys.models.fit.features import ItemFeatures, fit_features
from recsys.models.fit.matrix import event_weights
from recsys.models.fit.popularity import item_scores

DEMAND_PRIOR: Final = 1.0
"""Smoothing of a feature's demand, in average items."""


def device() -> torch.device:
    """CUDA where present, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class ContentRecommender:
    """A matching network and two towers, trained with a softmax over simulated cold items."""

    dimensions: int = 32
    hidden: int = 32
    epochs: int = 4
    learning_rate: float = 5e-3
    weight_decay: float = 1e-2
    dropout: float = 0.2
    """Of features, in the towers."""
    cold_share: float = 0.1
    """Of the items, pretended to be cold at each step."""
    batch: int = 128
    snapshots: int = 4
    """Past moments that histories are taken at, `window_days` apart."""
    window_days: float = 30.0
    """What was bought so long after a snapshot is what is to be ranked."""
    half_life_days: float = 90.0

    def fit(self, dataset: Dataset, at: int, rng: np.random.Generator) -> ContentModel:
        """See `Recommender`."""
        torch.manual_seed(int(rng.integers(2**31)))
        found = fit_features(dataset.catalogue)
        demand = expected_demand(found, item_scores(dataset, at, self.window_days))
        network = Network(found, demand, self.dimensions, self.hidden, self.dropout).to(device())
        sold = np.flatnonzero(np.bincount(dataset.events.item, minlength=dataset.n_items))
        if len(sold) > 1 and found.encoder.n_features:
            self._train(network, _snapshots(self, dataset, at), sold, rng)
        return network.to_model(sold, self.half_life_days)

    def _train(
        self,
        network: Network,
        snapshots: list[tuple[sparse.csr_matrix, sparse.csr_matrix]],
        sold: NDArray[np.intp],
        rng: np.random.Generator,
    ) -> None:
        steps = [
            (number, start)
            for number, (past, _) in enumerate(snapshots)
            for start in range(0, past.shape[0], self.batch)
        ]
        optimizer = torch.optim.AdamW(network.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, total_steps=self.epochs * len(steps) + 1, pct_start=0.1
        )
        for _ in range(self.epochs):
            orders = [rng.permutation(past.shape[0]) for past, _ in snapshots]
            for step in rng.permutation(len(steps)):
                number, start = steps[step]
                shoppers = orders[number][start : start + self.batch]
                cold = np.sort(rng.choice(sold, size=max(2, int(self.cold_share * len(sold))), replace=False))
                met, then = snapshots[number]
                loss = _loss(network, met[shoppers], then[shoppers], cold)
                if loss is not None:
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                schedule.step()


def _snapshots(
    settings: ContentRecommender, dataset: Dataset, at: int
) -> list[tuple[sparse.csr_matrix, sparse.csr_matrix]]:
    """Strengths of what each shopper had met at a past moment, and what they bought next; shoppers with both only."""
    found = []
    shape = (dataset.n_shoppers, dataset.n_items)
    length = int(settings.window_days * SECONDS_PER_DAY)
    for number in range(1, settings.snapshots + 1):
        moment = at - number * length
        past, future = dataset.events.before(moment), dataset.events.between(moment, moment + length)
        weights = event_weights(past, moment, settings.half_life_days)
        met = sparse.csr_matrix((weights, (past.shopper, past.item)), shape=shape)
        met.data = np.sqrt(met.data)
        then = sparse.csr_matrix((np.ones(len(future), dtype=np.float32), (future.shopper, future.item)), shape=shape)
        both = np.flatnonzero((np.diff(met.indptr) > 0) & (np.diff(then.indptr) > 0))
        if len(both):
            found.append((met[both], then[both]))
    return found


def _loss(
    network: Network, met: sparse.csr_matrix, then: sparse.csr_matrix, cold: NDArray[np.intp]
) -> torch.Tensor | None:
    """Cross entropy of what was bought among the cold items; None where nothing was."""
    wanted = then[:, cold].tocoo()
    if wanted.nnz == 0:
        return None
    is_cold = np.zeros(met.shape[1], dtype=np.bool_)
    is_cold[cold] = True
    met = met.copy()
    met.data[is_cold[met.indices]] = 0.0
    chances = torch.log_softmax(network(met, cold), dim=1)
    # A shopper with many purchases counts more, but not in proportion.
    weights = np.bincount(wanted.row, minlength=met.shape[0])[wanted.row].astype(np.float32) ** -0.5
    where = device()
    rows, columns = (torch.from_numpy(index.astype(np.int64)).to(where) for index in (wanted.row, wanted.col))
    return -(chances[rows, columns] * torch.from_numpy(weights).to(where)).sum() / float(weights.sum())


def expected_demand(found: ItemFeatures, demand: NDArray[np.float64]) -> NDArray[np.float32]:
    """`(n_items, 2 * n_blocks)` float32: mean and largest log of how wanted the items are that share a feature, by block.

    An item's own demand is left out, so that what is learnt from sold items holds for unsold ones. Standardised.
    """
    features, n_items = found.features, len(found.features)
    rows, slots = np.nonzero(features >= 0)
    known = features[rows, slots]
    n_features = max(1, found.encoder.n_features)
    sold = (demand > 0).astype(np.float64)
    total = np.bincount(known, demand[rows], minlength=n_features)
    items = np.bincount(known, sold[rows], minlength=n_features)
    average = demand.sum() / max(1.0, sold.sum())
    others = total[known] - demand[rows] + DEMAND_PRIOR * average
    logs = np.full(features.shape, np.nan)
    logs[rows, slots] = np.log(others / (items[known] - sold[rows] + DEMAND_PRIOR) + 1e-4)
    columns = []
    for start, block in zip(found.encoder.starts, found.encoder.blocks, strict=True):
        part = logs[:, start : start + block.slots]
        none = np.isnan(part).all(axis=1)
        middle = np.divide(np.nansum(part, axis=1), (~np.isnan(part)).sum(axis=1), out=np.zeros(n_items), where=~none)
        largest = np.where(none, 0.0, np.where(np.isnan(part), -np.inf, part).max(axis=1, initial=-np.inf))
        columns += [middle, np.where(none, 0.0, largest)]
    table = np.stack(columns, axis=1) if columns else np.zeros((n_items, 0))
    table = (table - table.mean(axis=0)) / (table.std(axis=0) + 1e-6)
    return np.asarray(np.clip(table, -4.0, 4.0), dtype=np.float32)


class Network(nn.Module):
    """`ContentModel` as PyTorch sees it."""

    def __init__(
        self, found: ItemFeatures, demand: NDArray[np.float32], dimensions: int, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.found = found
        self.demand = torch.from_numpy(demand)
        n_features, blocks = found.encoder.n_features, len(found.encoder.blocks)
        self.matrix = found.matrix()
        self.parts = [
            found.matrix(slice(int(start), int(start) + block.slots))
            for start, block in zip(found.encoder.starts, found.encoder.blocks, strict=True)
        ]
        self.shopper_tower = nn.EmbeddingBag(max(1, n_features), dimensions, mode="sum")
        self.item_tower = nn.EmbeddingBag(max(1, n_features), dimensions, mode="sum")
        self.match = nn.Linear(blocks, hidden, bias=False)
        self.alone = nn.Linear(demand.shape[1], hidden)
        self.output = nn.Linear(hidden, 1, bias=False)
        self.dropout = dropout
        for tower in (self.shopper_tower, self.item_tower):
            nn.init.normal_(tower.weight, std=0.1)

    def forward(self, met: sparse.csr_matrix, items: NDArray[np.intp]) -> torch.Tensor:
        """`(n_shoppers, n_items)` logits for histories `met` `(n_shoppers, all items)` and some items."""
        where = device()
        profile = sparse.csr_matrix(met @ self.matrix)
        length = np.sqrt(np.asarray(profile.multiply(profile).sum(axis=1)).ravel())
        profile = sparse.diags_array((1.0 / np.maximum(length, 1e-9)).astype(np.float32)) @ profile
        matches = np.stack([(profile @ part[items].T).toarray() for part in self.parts], axis=2)
        hidden = self.match(torch.log1p(MATCH_SCALE * torch.from_numpy(matches).to(where)))
        hidden = torch.relu(hidden + self.alone(self.demand[items].to(where))[None])
        shopper = nn.functional.normalize(self._tower(self.shopper_tower, profile), dim=1)
        towers = shopper @ self._tower(self.item_tower, self.matrix[items]).T
        logits: torch.Tensor = self.output(hidden).squeeze(2) + towers
        return logits

    def _tower(self, tower: nn.EmbeddingBag, rows: sparse.csr_matrix) -> torch.Tensor:
        rows = sparse.csr_matrix(rows)
        values = torch.from_numpy(rows.data.astype(np.float32))
        if self.training:
            values = nn.functional.dropout(values, self.dropout)
        where = device()
        found: torch.Tensor = tower(
            torch.from_numpy(rows.indices.astype(np.int64)).to(where),
            torch.from_numpy(rows.indptr[:-1].astype(np.int64)).to(where),
            per_sample_weights=values.to(where),
        )
        return found

    @torch.no_grad()
    def to_model(self, sold: NDArray[np.intp], half_life_days: float) -> ContentModel:
        """The fitted model in numpy; what may be recommended are the items that are not `sold`."""
        self.eval()
        alone = self.alone(self.demand.to(device()))
        promise = self.output(torch.relu(alone)).squeeze(1).cpu().numpy()
        has_features = np.flatnonzero((self.found.features >= 0).any(axis=1))
        unsold = np.setdiff1d(has_features, sold, assume_unique=True)

        def array(tensor: Any) -> NDArray[np.float32]:
            return np.ascontiguousarray(tensor.cpu().numpy(), dtype=np.float32)

        return ContentModel(
            features=self.found.features,
            weights=self.found.weights,
            starts=self.found.encoder.starts.astype(np.int64),
            shopper_vectors=array(self._tower(self.shopper_tower, self.matrix)),
            item_vectors=array(self._tower(self.item_tower, self.matrix)),
            hidden=array(alone),
            match_weights=array(self.match.weight.T),
            output_weights=array(self.output.weight[0]),
            order=unsold[np.lexsort((unsold, -promise[unsold]))].astype(np.int32),
            n_features=self.found.encoder.n_features,
            half_life_days=half_life_days,
        )
