"""Evaluation: every model answers for every shopper of a window, through the very call that serves.

Results are one long frame (`model`, `slice`, `metric`, `value`, `low`, `high`, `n`), the shape that every table, plot
and MLflow metric is made from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.dataset import Dataset, Histories, target_event
from recsys.evaluation.metrics import METRICS, PRIMARY, K, relevant_ranks
from recsys.evaluation.split import Window
from recsys.events import Surface
from recsys.ranking import NO_ITEM, History, ItemArray, Mask, Model, Query

DEPTH: Final = 5 * K
"""How deep a ranking is asked for, so that a tie across rank 20 is seen whole."""

ALL: Final = "all purchases"
NEW: Final = "new to the shopper"
COLD: Final = "cold items"
HISTORY_SLICES: Final = (
    ("history 0", 0, 0),
    ("history 1-4", 1, 4),
    ("history 5-19", 5, 19),
    ("history 20-99", 20, 99),
    ("history 100+", 100, np.iinfo(np.int64).max),
)
RESULT_SCHEMA: Final[dict[str, type[pl.DataType]]] = {
    "model": pl.String,
    "slice": pl.String,
    "metric": pl.String,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "n": pl.Int64,
}
HEAD_SHARE: Final = 0.8
"""The head is the most bought items that together make this share of all purchases; the rest is the long tail."""


@dataclass(frozen=True, slots=True)
class Case:
    """One shopper of the window: what was known of them, and what they then did."""

    shopper: int
    history: History
    bought_before: ItemArray
    truths: ItemArray
    """Sorted, unique."""
    region: int = NO_ITEM
    """Where they usually were."""


@dataclass(frozen=True, slots=True)
class Task:
    """Cases with the catalogue they are answered from."""

    cases: tuple[Case, ...]
    available: Mask
    sold: Mask
    """`(n_items,)` bool: items with any event before the window."""
    head: Mask
    """`(n_items,)` bool: see `HEAD_SHARE`."""
    category: ItemArray
    """`(n_items,)` int32 codes, -1 where unknown."""


def make_task(dataset: Dataset, window: Window) -> Task:
    """Every known user with a target event in the window, and what was known before it started."""
    code = target_event(dataset)
    seen = dataset.events.before(window.start)
    future = dataset.events.between(window.start, window.stop)
    future = future.take((future.event_type == code) & (future.shopper < dataset.n_users))
    histories = Histories(dataset, window.start)
    bought = seen.take(seen.event_type == code)
    bought_by = _items_by_shopper(bought.shopper, bought.item)
    truths_by = _items_by_shopper(future.shopper, future.item)
    nothing = np.empty(0, dtype=np.int32)
    return Task(
        cases=tuple(
            Case(shopper, histories[shopper], bought_by.get(shopper, nothing), truths, int(histories.regions[shopper]))
            for shopper, truths in sorted(truths_by.items())
        ),
        available=dataset.catalogue.available,
        sold=np.bincount(seen.item, minlength=dataset.n_items) > 0,
        head=_head(bought.item, dataset.n_items),
        category=dataset.catalogue.category,
    )


def sample(task: Task, n: int, seed: int) -> Task:
    """The task with n of its cases, drawn without replacement; all of them where there are fewer."""
    if len(task.cases) <= n:
        return task
    chosen = np.sort(np.random.default_rng(seed).choice(len(task.cases), size=n, replace=False))
    return replace(task, cases=tuple(task.cases[i] for i in chosen))


def _items_by_shopper(shoppers: NDArray[np.int32], items: ItemArray) -> dict[int, ItemArray]:
    pairs = np.unique(np.stack([shoppers, items]), axis=1)
    starts = np.flatnonzero(np.diff(pairs[0], prepend=-1))
    return {int(pairs[0][start]): part for start, part in zip(starts, np.split(pairs[1], starts[1:]), strict=False)}


def _head(bought: ItemArray, n_items: int) -> Mask:
    counts = np.bincount(bought, minlength=n_items)
    order = np.lexsort((np.arange(n_items), -counts))
    needed = np.searchsorted(np.cumsum(counts[order]), HEAD_SHARE * counts.sum()) + 1
    head = np.zeros(n_items, dtype=np.bool_)
    head[order[:needed]] = True
    return head & (counts > 0)


Score = tuple[NDArray[np.float64], NDArray[np.int64]]
"""Per-case metric values `(n_cases, n_metrics)` and the case numbers they belong to."""


@dataclass(frozen=True, slots=True)
class ModelScores:
    """What one model reached, before averaging."""

    by_slice: Mapping[str, Score]
    coverage: float
    long_tail: float
    categories: float = 0.0
    """Of the first K: how many different categories, as a share of the items; the mean over shoppers who are shown any."""


def _query(case: Case) -> Query:
    return Query(
        surface=Surface.HOME,
        history=case.history,
        session_items=case.history.items[-1:],
        region=case.region,
        seed=case.shopper,
    )


def score_model(model: Model, task: Task, *, tick: Callable[[], None] = lambda: None) -> ModelScores:
    """Ask one model for every case twice: as it serves, and with what the shopper has bought masked out."""
    values: dict[str, list[tuple[int, list[float]]]] = {name: [] for name in (ALL, NEW, COLD)}
    shown = np.zeros(len(task.available), dtype=np.int64)
    spread = list[float]()
    for number, case in enumerate(task.cases):
        query = _query(case)
        ranking = model.recommend(query, DEPTH, task.available)
        shown[ranking.items[:K]] += 1
        if len(ranking):
            spread.append(spread_over(task.category[ranking.items[:K]]))
        _add(values[ALL], number, relevant_ranks(ranking, case.truths), len(case.truths))
        cold = case.truths[~task.sold[case.truths]]
        if len(cold):
            _add(values[COLD], number, relevant_ranks(ranking, cold), len(cold))
        unbought = np.setdiff1d(case.truths, case.bought_before, assume_unique=True)
        if len(unbought):
            mask = task.available.copy()
            mask[case.bought_before] = False
            _add(
                values[NEW],
                number,
                relevant_ranks(model.recommend(query, DEPTH, mask), unbought),
                len(unbought),
            )
        tick()
    scores = {name: _stack(rows) for name, rows in values.items()}
    lengths = np.array([len(case.history) for case in task.cases])
    everything, numbers = scores[ALL]
    for name, low, high in HISTORY_SLICES:
        keep = (lengths >= low) & (lengths <= high)
        scores[name] = (everything[keep], numbers[keep])
    return ModelScores(
        by_slice={name: score for name, score in scores.items() if len(score[1])},
        coverage=float((shown > 0).sum() / max(1, task.available.sum())),
        long_tail=float(shown[~task.head].sum() / max(1, shown.sum())),
        categories=float(np.mean(spread)) if spread else 0.0,
    )


def spread_over(categories: ItemArray) -> float:
    """Different values among `categories` `(n,)`, n at least 1, as a share of n; an unknown one (-1) is like no other."""
    known = categories[categories >= 0]
    return (len(np.unique(known)) + len(categories) - len(known)) / len(categories)


def _add(rows: list[tuple[int, list[float]]], number: int, ranks: NDArray[np.int64], truths: int) -> None:
    rows.append((number, [metric(ranks, truths) for metric in METRICS]))


def _stack(rows: list[tuple[int, list[float]]]) -> Score:
    values = np.array([row for _, row in rows], dtype=np.float64).reshape(len(rows), len(METRICS))
    return values, np.array([number for number, _ in rows], dtype=np.int64)


def bootstrap_means(values: NDArray[np.float64], seed: int, resamples: int = 1_000) -> NDArray[np.float64]:
    """Means `(resamples, m)` of `values` `(n, m)` over cases drawn with replacement (Efron, 1979).

    The same seed draws the same cases, so that the difference of two models' means is a paired one.
    """
    rng = np.random.default_rng(seed)
    n = len(values)
    weights = rng.multinomial(n, np.full(n, 1.0 / n), size=resamples) / n
    return np.asarray(weights @ values)


def _interval(means: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.percentile(means, [2.5, 97.5], axis=0))


def evaluate(
    models: Mapping[str, Model], task: Task, *, seed: int = 0, tick: Callable[[], None] = lambda: None
) -> tuple[pl.DataFrame, dict[str, ModelScores]]:
    """Score every model: the long frame with 95% bootstrap intervals over shoppers, and the scores behind it."""
    rows: list[tuple[str, str, str, float, float | None, float | None, int]] = []
    scores = {}
    for name, model in models.items():
        scores[name] = result = score_model(model, task, tick=tick)
        for slice_name, (values, _) in result.by_slice.items():
            low, high = _interval(bootstrap_means(values, seed))
            rows += [
                (
                    name,
                    slice_name,
                    str(metric),
                    float(values[:, m].mean()),
                    float(low[m]),
                    float(high[m]),
                    len(values),
                )
                for m, metric in enumerate(METRICS)
            ]
        rows.append((name, ALL, f"coverage@{K}", result.coverage, None, None, len(task.cases)))
        rows.append((name, ALL, f"long_tail@{K}", result.long_tail, None, None, len(task.cases)))
        rows.append((name, ALL, f"categories@{K}", result.categories, None, None, len(task.cases)))
    return pl.DataFrame(rows, schema=RESULT_SCHEMA, orient="row"), scores


def paired_differences(
    scores: Mapping[str, ModelScores], ours: str, others: Iterable[str], *, seed: int = 0
) -> pl.DataFrame:
    """`ours` minus each other, same shoppers: `slice`, `model`, `difference`, `low`, `high` of the primary metric."""
    rows = []
    for other in others:
        for slice_name in (ALL, NEW):
            if slice_name not in scores[ours].by_slice:
                continue
            delta = scores[ours].by_slice[slice_name][0] - scores[other].by_slice[slice_name][0]
            low, high = _interval(bootstrap_means(delta, seed))
            rows.append((slice_name, other, float(delta[:, 0].mean()), float(low[0]), float(high[0])))
    schema = {
        "slice": pl.String,
        "model": pl.String,
        "difference": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def primary(frame: pl.DataFrame, model: str, slice_name: str = ALL) -> float:
    """The primary metric of a model in a frame of `evaluate`, 0 where the slice is empty."""
    value = frame.filter(model=model, slice=slice_name, metric=str(PRIMARY))["value"]
    return float(value[0]) if len(value) else 0.0
