"""What phase 3 trades: a simple place for one that the ranker is sure of, and purchases for revenue. Two curves on validation.

Both are read off the same answers: the ranker and the simple model are asked once for each shopper, and every threshold and every
weight of prices is tried on what they said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys import phase2, phase3
from recsys.dataset import Catalogue
from recsys.evaluation.evaluate import bootstrap_means
from recsys.evaluation.metrics import K
from recsys.evaluation.questions import Question
from recsys.models.ranker import RankerModel
from recsys.phase3 import Phase3Config, Workshop
from recsys.ranking import ItemArray, Model, ScoreArray, top_k

THRESHOLDS: Final = (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5)
NEVER: Final = 2.0
"""A threshold that no chance can reach: the simple answer keeps all places."""
VALUE_WEIGHTS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Said:
    """What both models say to one question."""

    items: ItemArray
    """`(m,)` int32: all candidates of the ranker."""
    chances: ScoreArray
    """`(m,)` float32."""
    simple: ItemArray
    """The simple answer, deep enough to fill K places whatever the ranker takes."""
    truths: ItemArray


def settle(
    workshop: Workshop, config: Phase3Config, asked: Sequence[Question], catalogue: Catalogue
) -> tuple[Phase3Config, dict[str, pl.DataFrame]]:
    """The configuration with the threshold that pays most on these questions of home, and the curves `thresholds` and `objectives`; as it was where nothing is asked."""
    if not asked:
        return config, {}
    ranker = phase3.ranked(workshop, config)
    said = ask(ranker, phase2.home(workshop, config), asked, catalogue)
    prices = np.maximum(catalogue.price_cents, 0)
    thresholds = threshold_curve(said, ranker.values, prices, config.wrong_cost)
    objectives = objective_curve(said, lambda weight: replace(ranker, value_weight=weight).values, prices)
    return replace(config, threshold=best_threshold(thresholds)), {"thresholds": thresholds, "objectives": objectives}


def ask(ranker: RankerModel, simple: Model, asked: Sequence[Question], catalogue: Catalogue) -> list[Said]:
    """Both models' answers to all questions."""
    said = []
    for one in asked:
        ranking = ranker.recommend(one.query, len(catalogue), catalogue.available)
        chances = np.empty(0, dtype=np.float32) if ranking.chances is None else ranking.chances
        plain = simple.recommend(one.query, 2 * K, catalogue.available)
        said.append(Said(ranking.items, chances, plain.items, one.truths))
    return said


Values = Callable[[ItemArray], ScoreArray]
"""What a purchase of each item counts, that of a usual one 1; see `RankerModel.values`."""


def threshold_curve(
    said: Sequence[Said], values: Values, prices: NDArray[np.int64], wrong_cost: float = 0.0
) -> pl.DataFrame:
    """For every threshold what an answer of K places gains over the simple one, a mean over the questions.

    `prices`, `(n_items,)` int64 cents. Columns: `threshold`, and with their 95% intervals as `_low` and `_high`: `enhanced` (share of the
    places that the ranker takes), `purchases`, `revenue_cents` and `gain`, which is what is chosen by: purchases as the objective values
    them, less `wrong_cost` for every item that only the ranker shows and that is not bought.
    """
    firsts = [top_k(one.items, one.chances * values(one.items), K) for one in said]
    rows = []
    for threshold in THRESHOLDS:
        gains = []
        for one, first in zip(said, firsts, strict=True):
            sure = one.items[first[one.chances[first] >= threshold]]
            rest = one.simple[~np.isin(one.simple, sure)][: K - len(sure)]
            ours, theirs = _bought(np.concatenate([sure, rest]), one), _bought(one.simple[:K], one)
            wrong = int((~np.isin(sure, np.union1d(one.truths, one.simple[:K]))).sum())
            revenue = prices[ours].sum() - prices[theirs].sum()
            gain = values(ours).sum() - values(theirs).sum() - wrong_cost * wrong
            gains.append((len(sure) / K, len(ours) - len(theirs), revenue, gain))
        rows.append({"threshold": threshold} | _means(gains, ("enhanced", "purchases", "revenue_cents", "gain")))
    return pl.DataFrame(rows)


def best_threshold(curve: pl.DataFrame) -> float:
    """That of the largest gain among those that surely gain; of equals the highest, which leaves most to the simple answer.

    `NEVER` where none surely does: too few have been asked to put the ranker in the place of what is known to work.
    """
    sure = curve.filter(pl.col("gain_low") > 0.0).sort("gain", "threshold")
    return float(sure["threshold"][-1]) if len(sure) else NEVER


def objective_curve(said: Sequence[Said], values: Callable[[float], Values], prices: NDArray[np.int64]) -> pl.DataFrame:
    """For every `value_weight` what the ranker's first K bring, a mean over the questions.

    Columns: `value_weight`, `purchases` and `revenue_cents`, each with its 95% interval as `_low` and `_high`.
    """
    rows = []
    for weight in VALUE_WEIGHTS:
        worth = values(weight)
        bought = [_bought(one.items[top_k(one.items, one.chances * worth(one.items), K)], one) for one in said]
        brought = [(len(items), prices[items].sum()) for items in bought]
        rows.append({"value_weight": weight} | _means(brought, ("purchases", "revenue_cents")))
    return pl.DataFrame(rows)


def _bought(items: ItemArray, one: Said) -> ItemArray:
    return items[np.isin(items, one.truths)]


def _means(rows: Sequence[tuple[float, ...]], names: Sequence[str]) -> dict[str, float]:
    """Means of the columns of `rows`, and their 95% bootstrap intervals over rows."""
    values = np.array(rows, dtype=np.float64)
    means = values.mean(axis=0)
    low, high = np.percentile(bootstrap_means(values, seed=0), [2.5, 97.5], axis=0)
    found: dict[str, float] = {}
    for place, name in enumerate(names):
        found |= {name: float(means[place]), f"{name}_low": float(low[place]), f"{name}_high": float(high[place])}
    return found
