"""Fitting of the sequence model in PyTorch.

Shoppers are asked at random moments of their past what they buy in the days after: a list of items, not the next one, since
baskets come whole and have no order inside. The softmax runs over all items that the model knows, so there is no sampling to
correct (logQ, Yi et al., RecSys 2019) and no overconfidence from few negatives (gSASRec, Petrov and Macdonald, RecSys 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from recsys.dataset import Dataset
from recsys.models.fit.als import ALSRecommender
from recsys.models.fit.layers import device
from recsys.models.fit.visits import DemandGrid, Visits, supported_items
from recsys.models.sequence import AGE_EDGES, Attention, SequenceModel

HIDDEN_PER_DIMENSION: Final = 2
VECTOR_SCALE: Final = 0.1
"""Standard deviation that item vectors start with."""
_FAR: Final = 1e4
"""Days; later than any question."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class SequenceRecommender:
    """Attention over visits, trained with a softmax over all known items of what is bought next."""

    dimensions: int = 64
    heads: int = 2
    layers: int = 1
    """With one, only the question attends to visits; with more, visits attend to earlier ones before."""
    repeats: bool = True
    """Whether what was bought before is to be told too. Else it is neither wanted nor offered in training."""
    start_from_als: bool = True
    """Item vectors start as factors of iALS; else at random."""
    epochs: int = 6
    min_steps: int = 300
    """A small shop is gone through more often, until so many steps were made."""
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.3
    dropout: float = 0.2
    item_dropout: float = 0.7
    """Of a visit's items, dropped anew at each step."""
    visit_dropout: float = 0.5
    batch: int = 32
    moments: int = 4
    """So many questions to each shopper at a step."""
    horizon_days: float = 30.0
    """What is bought so long after a moment is what is to be told; at most a quarter of the past's length."""
    back_days: float = 260.0
    """Moments lie no further back."""
    demand_half_lives: tuple[float, ...] = (10.0, 60.0)
    min_shoppers: int = 20
    """Items that fewer have met are not known."""
    max_items: int = 20_000
    max_visits: int = 100

    def fit(self, dataset: Dataset, at: int, rng: np.random.Generator) -> SequenceModel:
        """See `Recommender`."""
        torch.manual_seed(int(rng.integers(2**31)))
        items = supported_items(dataset, self.min_shoppers, self.max_items)
        places = np.full(dataset.n_items, -1, dtype=np.int32)
        places[items] = np.arange(len(items))
        visits = Visits.of(dataset, at, places)
        demand = DemandGrid.of(visits, len(items), self.demand_half_lives, self.back_days)
        network = Network(self, self._vectors(dataset, at, items, rng), visits, demand).to(device())
        self._train(network, visits, rng)
        return network.to_model(items, places)

    def _vectors(self, dataset: Dataset, at: int, items: NDArray[np.int32], rng: np.random.Generator) -> Floats:
        """`(v, dimensions)` float32 to start with."""
        vectors: Floats = rng.standard_normal((len(items), self.dimensions), dtype=np.float32)
        if len(items) == 0:
            return vectors
        if self.start_from_als:
            vectors = ALSRecommender(factors=self.dimensions).fit(dataset, at, rng).factors[items]
        return np.asarray(vectors * (VECTOR_SCALE / max(float(vectors.std()), 1e-9)), dtype=np.float32)

    def _train(self, network: Network, visits: Visits, rng: np.random.Generator) -> None:
        horizon = min(self.horizon_days, -float(visits.day.min(initial=0.0)) / 4)
        has_past = np.diff(visits.offsets) > 0
        first = np.full(len(has_past), _FAR, dtype=np.float32)
        first[has_past] = visits.first_day[visits.offsets[:-1][has_past]]
        shoppers = np.flatnonzero(first < -horizon)
        steps = -(-len(shoppers) // self.batch)
        if steps == 0:
            return
        epochs = max(self.epochs, -(-self.min_steps // steps))
        optimizer = torch.optim.AdamW(network.groups(self.weight_decay), lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, total_steps=epochs * steps + 1, pct_start=0.1
        )
        network.train()
        for _ in range(epochs):
            order = rng.permutation(shoppers)
            for start in range(0, len(order), self.batch):
                asked = order[start : start + self.batch]
                earliest = np.maximum(first[asked], -self.back_days).clip(max=-horizon)[:, None]
                days = earliest + (-horizon - earliest) * rng.random((len(asked), self.moments))
                loss = self._loss(network, visits, asked, days.astype(np.float32), horizon)
                if loss is not None:
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                schedule.step()

    def _loss(
        self, network: Network, visits: Visits, shoppers: NDArray[np.intp], days: Floats, horizon: float
    ) -> torch.Tensor | None:
        """Cross entropy of what `shoppers` `(b,)` met in the days after each of `days` `(b, m)`; None where nothing was."""
        logits, where = network(shoppers, days), device()
        each, moments = np.repeat(shoppers, days.shape[1]), days.reshape(-1)
        rows, columns = visits.bought(each, moments, moments + np.float32(horizon))
        if not self.repeats:
            past = visits.bought(each, np.full_like(moments, -_FAR), moments)
            logits = logits.index_put(
                tuple(torch.from_numpy(index).to(where) for index in past), torch.tensor(-1e9, device=where)
            )
            is_new = ~np.isin(rows * logits.shape[1] + columns, past[0] * logits.shape[1] + past[1])
            rows, columns = rows[is_new], columns[is_new]
        if len(rows) == 0:
            return None
        # A shopper with many purchases counts more, but not in proportion.
        weights = np.bincount(rows, minlength=len(each))[rows].astype(np.float32) ** -0.5
        targets, wanted = (torch.from_numpy(index).to(where) for index in (rows, columns))
        costs = torch.logsumexp(logits, dim=1)[targets] - logits[targets, wanted]
        loss: torch.Tensor = (costs * torch.from_numpy(weights).to(where)).sum() / float(weights.sum())
        return loss


class Network(nn.Module):
    """`SequenceModel` as PyTorch sees it."""

    def __init__(self, settings: SequenceRecommender, vectors: Floats, visits: Visits, demand: DemandGrid) -> None:
        super().__init__()
        self.settings, self.visits, self.demand = settings, visits, demand
        self.levels = torch.from_numpy(demand.levels).to(device())
        self.edges = torch.from_numpy(AGE_EDGES).to(device())
        d = settings.dimensions
        self.vectors = nn.Parameter(torch.from_numpy(vectors))
        self.demand_weights = nn.Parameter(torch.full((len(settings.demand_half_lives),), 0.5))
        self.item_bias = nn.Parameter(torch.zeros(len(vectors)))
        self.question = nn.Parameter(torch.randn(d) * VECTOR_SCALE)
        self.visit_norm, self.answer_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.output = nn.Linear(d, d, bias=False)
        self.blocks = nn.ModuleList(Block(d, settings.heads, settings.dropout) for _ in range(settings.layers))

    def groups(self, weight_decay: float) -> list[dict[str, object]]:
        """Parameters for the optimizer: biases, scales and the question do not decay."""
        decays = [p for p in self.parameters() if p.dim() > 1] + [self.item_bias]
        others = [p for p in self.parameters() if p.dim() <= 1 and p is not self.item_bias]
        return [{"params": decays, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]

    def forward(self, shoppers: NDArray[np.intp], days: Floats) -> torch.Tensor:
        """`(b * m, v)` logits of items for `shoppers` `(b,)` at `days` `(b, m)`."""
        numbers = self.visits.before(shoppers, days.max(axis=1), self.settings.max_visits)
        visits = self._visits(numbers)
        began = np.where(numbers >= 0, self.visits.first_day[numbers], np.float32(_FAR))
        then = torch.from_numpy(began).to(visits.device)
        now = torch.from_numpy(days).to(visits.device)
        seen = then[:, None] < now[:, :, None]
        if self.training:
            seen = seen & (torch.rand_like(then)[:, None] > self.settings.visit_dropout)
        asking = self.question.expand(*days.shape, -1)
        for number, block in enumerate(self.blocks):
            after = block(asking, visits, self._classes(now, then), seen)
            if number + 1 < len(self.blocks):
                visits = block(visits, visits, self._classes(then, then), then[:, None] <= then[:, :, None])
            asking = after
        answers = self.output(self.answer_norm(asking)).reshape(-1, self.settings.dimensions)
        logits: torch.Tensor = answers @ self.vectors.T + self._wanted(self.demand.rows(days.reshape(-1)))
        return logits

    def _visits(self, numbers: NDArray[np.int64]) -> torch.Tensor:
        """`(b, l, d)` of visits `(b, l)`, 0 where there is none."""
        known, where = numbers >= 0, self.vectors.device
        starts, stops = self.visits.starts[numbers[known]], self.visits.starts[numbers[known] + 1]
        offsets = np.cumsum(stops - starts) - (stops - starts)
        events = np.arange((stops - starts).sum()) + np.repeat(starts - offsets, stops - starts)
        weights = torch.from_numpy(self.visits.weight[events]).to(where)
        bags = nn.functional.embedding_bag(
            torch.from_numpy(self.visits.item[events]).to(where),
            self.vectors,
            torch.from_numpy(offsets).to(where),
            mode="sum",
            per_sample_weights=nn.functional.dropout(weights, self.settings.item_dropout, self.training),
        )
        visits = torch.zeros(*numbers.shape, bags.shape[1], device=where)
        visits[torch.from_numpy(known).to(where)] = self.visit_norm(bags)
        return visits

    def _classes(self, now: torch.Tensor, then: torch.Tensor) -> torch.Tensor:
        """`(b, n, l)` classes of the time from `then` `(b, l)` to `now` `(b, n)`."""
        return torch.bucketize(now[:, :, None] - then[:, None], self.edges)

    def _wanted(self, rows: NDArray[np.intp]) -> torch.Tensor:
        """`(n, v)`: what every shopper's logits have at moments `rows` `(n,)` of the demand."""
        different, which = np.unique(rows, return_inverse=True)
        levels = self.levels[torch.from_numpy(different).to(self.levels.device)]
        found = (levels * self.demand_weights[:, None]).sum(dim=1) + self.item_bias
        return found[torch.from_numpy(which).to(found.device)]

    @torch.no_grad()
    def to_model(self, items: NDArray[np.int32], places: NDArray[np.int32]) -> SequenceModel:
        """In numpy, as of the moment of the fit."""
        self.eval()
        now = self.demand.rows(np.zeros(1, dtype=np.float32))
        return SequenceModel(
            items=items,
            places=places,
            vectors=_array(self.vectors),
            wanted=_array(self._wanted(now)[0]),
            question=_array(self.question),
            attention=Attention(
                norm=np.stack([np.stack([_norm(block.before), _norm(block.between)]) for block in self._blocks()]),
                query=np.stack([_layer(block.query) for block in self._blocks()]),
                key_value=np.stack([_layer(block.key_value) for block in self._blocks()]),
                output=np.stack([_layer(block.output) for block in self._blocks()]),
                hidden=np.stack([_layer(block.hidden) for block in self._blocks()]),
                back=np.stack([_layer(block.back) for block in self._blocks()]),
                time=np.stack([_array(block.time) for block in self._blocks()]),
            ),
            norms=np.stack([_norm(self.visit_norm), _norm(self.answer_norm)]),
            output=_array(self.output.weight.T),
            max_visits=self.settings.max_visits,
        )

    def _blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]


class Block(nn.Module):
    """One block of `Attention`."""

    def __init__(self, d: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(d), nn.LayerNorm(d)
        self.query, self.key_value, self.output = nn.Linear(d, d), nn.Linear(d, 2 * d), nn.Linear(d, d)
        self.hidden, self.back = nn.Linear(d, HIDDEN_PER_DIMENSION * d), nn.Linear(HIDDEN_PER_DIMENSION * d, d)
        self.time = nn.Parameter(torch.zeros(heads, len(AGE_EDGES) + 1))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, asking: torch.Tensor, asked: torch.Tensor, classes: torch.Tensor, seen: torch.Tensor
    ) -> torch.Tensor:
        """`asking` `(b, n, d)` attends to `asked` `(b, l, d)` where `seen` `(b, n, l)`."""
        heads = len(self.time)
        key, value = self.key_value(self.before(asked)).chunk(2, dim=2)
        query, key, value = (
            part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (self.query(self.before(asking)), key, value)
        )
        logits = query @ key.transpose(2, 3) / query.shape[3] ** 0.5 + self.time[:, classes].transpose(0, 1)
        # Who sees nothing takes nothing: a softmax over nothing is even over all, what lies ahead included.
        shares = logits.masked_fill(~seen[:, None], -1e9).softmax(dim=3) * seen[:, None]
        asking = asking + self.dropout(self.output((shares @ value).transpose(1, 2).flatten(2)))
        answer: torch.Tensor = asking + self.dropout(self.back(torch.relu(self.hidden(self.between(asking)))))
        return answer


def _array(tensor: torch.Tensor) -> Floats:
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype=np.float32)


def _layer(part: nn.Linear) -> Floats:
    """`(inputs + 1, outputs)`: the last row is the bias."""
    return np.concatenate([_array(part.weight.T), _array(part.bias)[None]])


def _norm(part: nn.LayerNorm) -> Floats:
    """`(2, d)`: scale and shift."""
    return np.stack([_array(part.weight), _array(part.bias)])
