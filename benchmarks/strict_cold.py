"""Strict cold items: a tenth of the sold items loses its past, and is ranked, among itself, for those who then bought one of it.

What `benchmarks.cold` and `benchmarks.beauty` share: the protocol, the baselines and the table.

Ties. Many items of a catalogue look the same, so what knows items by their features alone ties them, and the order of ties then
decides the figure: by the catalogue's row it would not be chance where ids tell an item's age. The figure breaks ties against the
row, as everywhere in the project; beside it stands what a random order of the tied would reach on average, and the ratio to the best
baseline is of those, since the former flatters whoever ties less.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from scipy import sparse

from recsys.dataset import Dataset, Events, Histories, target_event
from recsys.errors import UserError
from recsys.evaluation.evaluate import DEPTH, bootstrap_means
from recsys.evaluation.metrics import K, Metric, relevant_ranks
from recsys.evaluation.split import Window
from recsys.models.content import ContentModel
from recsys.models.fit.features import ItemFeatures
from recsys.models.fit.matrix import incidence_matrix
from recsys.ranking import History, ItemArray, Mask, Model, Query, Ranking, ScoreArray
from recsys.reports import Cell, Table, interval

COLD_SHARE: Final = 0.1
RECALL: Final = Metric("recall", K)
TARGET_RATIO: Final = 1.3
OURS: Final = "content"
"""Rows whose names begin so are ours, the others are baselines."""
BENCH_PYTHON: Final = Path(".venv-bench/bin/python")
LIGHTFM: Final = Path(__file__).with_name("lightfm.py")
UNRANKED: Final = np.float32(-np.inf)

Scorer = Callable[[int], ScoreArray]
"""From a case's number to the scores `(m,)` of the pool's items; `UNRANKED` where the row has no opinion."""


@dataclass(frozen=True, slots=True)
class ColdCase:
    """A shopper who bought held-out items, and what was known of them before."""

    shopper: int
    history: History
    truths: ItemArray
    """Sorted, unique."""


@dataclass(frozen=True, slots=True)
class ColdTask:
    """A past without the held-out items, and who then bought which of them."""

    past: Dataset
    at: int
    """Unix second of the cut."""
    pool: ItemArray
    """`(m,)` the held-out items, ascending."""
    cases: tuple[ColdCase, ...]

    @property
    def held_out(self) -> Mask:
        """`(n_items,)` bool."""
        mask = np.zeros(self.past.n_items, dtype=np.bool_)
        mask[self.pool] = True
        return mask


@dataclass(frozen=True, slots=True)
class LightFMSettings:
    """What was chosen for a shop; see `benchmarks.lightfm`."""

    components: int
    epochs: int
    learning_rate: float
    item_alpha: float = 0.0
    """L2 penalty of item features."""
    identity: float = 1.0
    """Weight of an item's own vector; its features' weights have length 1."""
    threads: int = 1
    """More than one updates without locks, so figures differ a little from run to run."""


def make_task(
    dataset: Dataset, window: Window, seed: int, clock: Callable[[Events], Events] = lambda events: events
) -> ColdTask:
    """Hold out a tenth of the items that were sold before the window; `clock` gives what is left other times."""
    before = dataset.before(window.start)
    sold = np.unique(before.events.item)
    pool = np.sort(np.random.default_rng(seed).permutation(sold)[: int(COLD_SHARE * len(sold))])
    held_out = np.zeros(dataset.n_items, dtype=np.bool_)
    held_out[pool] = True
    past = replace(before, events=clock(before.events.take(~held_out[before.events.item])))
    future = dataset.events.between(window.start, window.stop)
    future = future.take(
        held_out[future.item] & (future.event_type == target_event(dataset)) & (future.shopper < dataset.n_users)
    )
    histories = Histories(past, window.start)
    cases = tuple(
        ColdCase(int(shopper), histories[int(shopper)], np.unique(future.item[future.shopper == shopper]))
        for shopper in np.unique(future.shopper)
    )
    return ColdTask(past, window.start, pool, cases)


def recall(scorer: Scorer, task: ColdTask, label: str, console: Console) -> NDArray[np.float64]:
    """`(n_cases, 2)`: recall of the K best, with ties against the row, and with ties in random order, on average."""
    found = [
        _recalls(scorer(number), task.pool, case.truths)
        for number, case in enumerate(track(task.cases, label, console=console, transient=True))
    ]
    return np.array(found, dtype=np.float64).reshape(len(task.cases), 2)


def _recalls(scores: ScoreArray, pool: ItemArray, truths: ItemArray) -> tuple[float, float]:
    ranked = np.flatnonzero(scores > UNRANKED)
    order = ranked[np.argsort(-scores[ranked], kind="stable")]
    none = np.full(len(order), -1, dtype=np.int32)
    ranking = Ranking(pool[order], scores[order], (), none)
    own = scores[np.searchsorted(pool, truths)]
    own = own[own > UNRANKED]
    better = (scores[None] > own[:, None]).sum(axis=1)
    tied = (scores[None] == own[:, None]).sum(axis=1)
    expected = np.clip((K - better) / np.maximum(tied, 1), 0.0, 1.0).sum() / min(K, len(truths))
    return RECALL(relevant_ranks(ranking, truths), len(truths)), float(expected)


def random_items(task: ColdTask, seed: int) -> Scorer:
    """Any order."""
    rng = np.random.default_rng(seed)
    return lambda _: rng.random(len(task.pool), dtype=np.float32)


def popularity(task: ColdTask) -> Scorer:
    """How often the item was bought: nobody has bought these, so all of them tie."""
    scores = np.bincount(task.past.events.item, minlength=task.past.n_items)[task.pool].astype(np.float32)
    return lambda _: scores


def category_popularity(task: ColdTask) -> Scorer:
    """Popularity of the item's category: mean events of its sold items."""
    category = task.past.catalogue.category
    counts = np.bincount(task.past.events.item, minlength=task.past.n_items)
    known = category >= 0
    total = np.bincount(category[known], counts[known], minlength=len(task.past.catalogue.categories))
    items = np.bincount(category[known], (counts > 0)[known], minlength=len(total))
    own = category[task.pool]
    scores = np.where(own >= 0, (total / np.maximum(items, 1))[own], UNRANKED).astype(np.float32)
    return lambda _: scores


def text_matrix(found: ItemFeatures) -> sparse.csr_matrix:
    """`(n_items, n_features)` float32: TF-IDF of the words of title, category and description alone, rows of length 1."""
    place = [block.name for block in found.encoder.blocks].index("text")
    start = int(found.encoder.starts[place])
    slots = slice(start, start + found.encoder.blocks[place].slots)
    weights = found.weights[:, slots]
    weights = weights / np.maximum(np.linalg.norm(weights, axis=1, keepdims=True), 1e-9)
    rows, places = np.nonzero(found.features[:, slots] >= 0)
    shape = (len(weights), max(1, found.encoder.n_features))
    return sparse.csr_matrix((weights[rows, places], (rows, found.features[:, slots][rows, places])), shape=shape)


def neighbours(task: ColdTask, matrix: sparse.csr_matrix, half_life_days: float) -> Scorer:
    """Cosine of the history's and the item's features `matrix` `(n_items, n_features)` (the usual content baseline)."""
    cold = matrix[task.pool].T.tocsr()

    def score(number: int) -> ScoreArray:
        history = task.cases[number].history
        strengths = np.sqrt(np.bincount(history.items, history.weights(half_life_days), minlength=task.past.n_items))
        seeds = np.flatnonzero(strengths)
        profile = sparse.csr_matrix(strengths[seeds].astype(np.float32)) @ matrix[seeds]
        return np.asarray((profile @ cold).toarray(), dtype=np.float32).ravel()

    return score


def ours(task: ColdTask, model: Model) -> Scorer:
    """One of our models over all held-out items; the first `DEPTH` of its ranking."""
    model = replace(model, max_candidates=len(task.pool)) if isinstance(model, ContentModel) else model
    mask = task.held_out

    def score(number: int) -> ScoreArray:
        ranking = model.recommend(Query(history=task.cases[number].history), DEPTH, mask)
        scores = np.full(len(task.pool), UNRANKED, dtype=np.float32)
        scores[np.searchsorted(task.pool, ranking.items)] = ranking.scores
        return scores

    return score


def need_lightfm() -> None:
    """Look for the interpreter before anything long is begun.

    Raises:
        UserError: it is missing.
    """
    if not BENCH_PYTHON.exists():
        raise UserError(f"{BENCH_PYTHON} with lightfm-next is missing: `make .venv-bench/installed` makes it")


def lightfm(task: ColdTask, matrix: sparse.csr_matrix, settings: LightFMSettings, seed: int) -> Scorer:
    """LightFM with the features `matrix` `(n_items, n_features)`, fitted and asked in a process of its own.

    Raises:
        UserError: its interpreter is missing.
    """
    need_lightfm()
    events = task.past.events
    seen = incidence_matrix(events.shopper, events.item, (task.past.n_shoppers, task.past.n_items)).tocoo()
    matrix = matrix.tocsr()
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.npz", Path(folder) / "out.npz"
        arrays: dict[str, Any] = {
            "user": seen.row.astype(np.int32),
            "item": seen.col.astype(np.int32),
            "indptr": matrix.indptr,
            "indices": matrix.indices,
            "data": matrix.data.astype(np.float32),
            "n_users": task.past.n_shoppers,
            "n_features": matrix.shape[1],
            "case_user": np.array([case.shopper for case in task.cases], dtype=np.int32),
            "candidate": task.pool,
            "components": settings.components,
            "epochs": settings.epochs,
            "learning_rate": settings.learning_rate,
            "item_alpha": settings.item_alpha,
            "identity": settings.identity,
            "threads": settings.threads,
            "seed": seed,
        }
        np.savez(source, **arrays)
        subprocess.run([BENCH_PYTHON, "-P", LIGHTFM, source, target], check=True)
        with np.load(target, allow_pickle=False) as answer:
            scores = answer["scores"]
    return lambda number: np.asarray(scores[number], dtype=np.float32)


def figure(values: NDArray[np.float64]) -> str:
    """Mean of `(n,)` with its 95% bootstrap interval over cases."""
    low, high = np.percentile(bootstrap_means(values[:, None], 0), [2.5, 97.5])
    return interval(float(values.mean()), float(low), float(high))


def cold_table(
    title: str, scores: Mapping[str, Sequence[NDArray[np.float64]]], judged: str, target: float, note: str
) -> Table:
    """Rows of `(n_cases, 2)` recalls by draw, as `recall` gives them; the note says what the row `judged` reached."""
    together = {name: np.concatenate(parts) for name, parts in scores.items()}
    best = max(
        (name for name in together if not name.startswith(OURS)), key=lambda name: float(together[name][:, 1].mean())
    )
    reference = max(float(together[best][:, 1].mean()), 1e-12)
    rows: list[list[Cell]] = [
        [
            name,
            figure(values[:, 0]),
            figure(values[:, 1]),
            " ".join(f"{part[:, 0].mean():.4f}" for part in scores[name]),
            f"{float(values[:, 1].mean()) / reference:.2f}",
        ]
        for name, values in together.items()
    ]
    reached, ratio = float(together[judged][:, 0].mean()), float(together[judged][:, 1].mean()) / reference
    verdict = (
        f"Targets, for {judged!r}: at least {target:.3f} ({_verdict(reached, target)}) and {TARGET_RATIO} times the best baseline, "
        f"{best} ({_verdict(ratio, TARGET_RATIO)}). Ties count against a row; beside it is what a random order of the tied gives on "
        "average, and the ratio is of those."
    )
    columns = [
        "model",
        f"{RECALL} [95% interval]",
        "ties in random order [95% interval]",
        "by draw of held-out items",
        "ratio to the best baseline",
    ]
    return Table(f"{title} ({len(together[judged]):,} cases)", columns, rows, f"{verdict} {note}".strip())


def _verdict(value: float, target: float) -> str:
    return "met" if value >= target else f"missed by {target - value:.3f}"
