"""Strict cold items on the shop's own data: a tenth of the sold items loses its past, and is ranked for those who then bought it.

`python -m benchmarks.cold`. Held out from all that is learnt: every event of a random tenth of the items that had been sold. Ranked,
among themselves: the held-out items, for every shopper who bought one in the validation month. The test month is not read.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from scipy import sparse

from recsys.dataset import Dataset, Histories, load_dataset
from recsys.evaluation.evaluate import bootstrap_means, target_event
from recsys.evaluation.metrics import K
from recsys.evaluation.split import Window, split
from recsys.models.content import ContentModel
from recsys.models.fit.content import ContentRecommender
from recsys.models.fit.features import ItemFeatures, fit_features
from recsys.ranking import History, ItemArray, Mask, Query, top_k
from recsys.reports import Table, interval, write_report

COLD_SHARE: Final = 0.1
DATA: Final = Path("data")
Rank = Callable[[History], ItemArray]
"""From a history to the K best held-out items."""


@dataclass(frozen=True, slots=True)
class ColdTask:
    """A past without the held-out items, and who then bought which of them."""

    past: Dataset
    at: int
    held_out: Mask
    cases: tuple[tuple[History, set[int]], ...]


def make_task(dataset: Dataset, window: Window, seed: int) -> ColdTask:
    """Hold out a tenth of the items that were sold before the window."""
    before = dataset.before(window.start)
    sold = np.unique(before.events.item)
    held_out = np.zeros(dataset.n_items, dtype=np.bool_)
    held_out[np.random.default_rng(seed).permutation(sold)[: int(COLD_SHARE * len(sold))]] = True
    past = replace(before, events=before.events.take(~held_out[before.events.item]))
    future = dataset.events.between(window.start, window.stop)
    future = future.take(
        held_out[future.item] & (future.event_type == target_event(dataset)) & (future.shopper < dataset.n_users)
    )
    bought: dict[int, set[int]] = {}
    for shopper, item in zip(future.shopper.tolist(), future.item.tolist(), strict=True):
        bought.setdefault(shopper, set()).add(item)
    histories = Histories(past, window.start)
    return ColdTask(past, window.start, held_out, tuple((histories[s], items) for s, items in sorted(bought.items())))


def recall(rank: Rank, task: ColdTask, label: str, console: Console) -> NDArray[np.float64]:
    """`(n_cases,)`: share of what was bought among the K best, of at most K."""
    return np.array(
        [
            len(items.intersection(rank(history).tolist())) / min(K, len(items))
            for history, items in track(task.cases, label, console=console)
        ]
    )


def random_items(task: ColdTask, seed: int) -> Rank:
    """K held-out items at random."""
    rng, pool = np.random.default_rng(seed), np.flatnonzero(task.held_out).astype(np.int32)
    return lambda _: rng.choice(pool, K, replace=False)


def category_popularity(task: ColdTask) -> Rank:
    """Popularity of the item's category: an item that nobody has met has none of its own."""
    category = task.past.catalogue.category
    counts = np.bincount(task.past.events.item, minlength=task.past.n_items)
    known = category >= 0
    total = np.bincount(category[known], counts[known], minlength=len(task.past.catalogue.categories))
    items = np.bincount(category[known], (counts > 0)[known], minlength=len(total))
    pool = np.flatnonzero(task.held_out & known).astype(np.int32)
    scores = (total / np.maximum(items, 1))[category[pool]].astype(np.float32)
    best = pool[top_k(pool, scores, K)]
    return lambda _: best


def tfidf_neighbours(task: ColdTask, found: ItemFeatures) -> Rank:
    """Cosine of the history's and the item's features, inverse document frequencies (the usual content baseline)."""
    matrix = found.matrix()
    pool = np.flatnonzero(task.held_out).astype(np.int32)
    cold = matrix[pool].T.tocsr()

    def rank(history: History) -> ItemArray:
        strengths = np.sqrt(np.bincount(history.items, history.weights(90.0), minlength=task.past.n_items))
        seeds = np.flatnonzero(strengths)
        profile = sparse.csr_matrix(strengths[seeds].astype(np.float32)) @ matrix[seeds]
        scores = np.asarray((profile @ cold).todense(), dtype=np.float32).ravel()
        return pool[top_k(pool, scores, K)]

    return rank


def content(task: ColdTask, model: ContentModel) -> Rank:
    """The content model over all held-out items."""
    model = replace(model, max_candidates=int(task.held_out.sum()))
    return lambda history: model.recommend(Query(history=history), K, task.held_out).items


def run(data_dir: Path, seeds: int, console: Console) -> None:
    """Measure every row over several draws of held-out items and write reports/cold.json."""
    dataset = load_dataset(data_dir / "tables")
    window = split(int(dataset.events.second[0]), dataset.until).validation
    scores: dict[str, list[NDArray[np.float64]]] = {}
    found = fit_features(dataset.catalogue)
    for seed in range(seeds):
        task = make_task(dataset, window, seed)
        console.print(f"draw {seed}: {int(task.held_out.sum()):,} items held out, {len(task.cases):,} shoppers")
        model = ContentRecommender().fit(task.past, task.at, np.random.default_rng(seed))
        rows: dict[str, Rank] = {
            "random": random_items(task, seed),
            "popularity of the category": category_popularity(task),
            "TF-IDF neighbours": tfidf_neighbours(task, found),
            "content": content(task, model),
        }
        for name, rank in rows.items():
            scores.setdefault(name, []).append(recall(rank, task, name, console))
    best = max(float(np.concatenate(parts).mean()) for name, parts in scores.items() if name != "content")
    table = [
        [
            name,
            _figure(np.concatenate(parts)),
            " ".join(f"{part.mean():.4f}" for part in parts),
            float(np.concatenate(parts).mean()) / best,
        ]
        for name, parts in scores.items()
    ]
    n = sum(len(part) for part in scores["content"])
    title = (
        f"Strict cold items of the validation window, recall@{K} among {COLD_SHARE:.0%} of the sold items ({n:,} cases)"
    )
    columns = ["model", f"recall@{K} [95% interval]", "by draw of held-out items", "ratio to the best baseline"]
    note = "Targets (on the test window, not read yet): at least 0.070 and a ratio of 1.3."
    write_report("cold", "make bench-cold", [Table(title, columns, table, note)])
    for row in table:
        console.print(*row)


def _figure(values: NDArray[np.float64]) -> str:
    low, high = np.percentile(bootstrap_means(values[:, None], 0), [2.5, 97.5])
    return interval(float(values.mean()), float(low), float(high))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=DATA)
    parser.add_argument("--draws", type=int, default=2)
    arguments = parser.parse_args()
    run(arguments.data_dir, arguments.draws, Console())
