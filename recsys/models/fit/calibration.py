"""Fitting of chances: isotonic regression of what came true on what a model said, for each source (Zadrozny and Elkan, KDD 2002).

What is observed is a frame of `recsys.evaluation.questions.observe`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from recsys.calibration import ANY, By, Curve

MAX_KNOTS: Final = 30
PER_KNOT: Final = 100
"""Items shown that a knot stands for, about, at least."""
MIN_SHOWN: Final = 1_000
"""Items that a source must have put into answers for a curve of its own."""
FOLDS: Final = 2


def fit_curves(observed: pl.DataFrame) -> dict[str, Curve]:
    """A curve for each source and, over ranks, one for all that have none; empty where nothing was observed.

    Items whose model claims a chance are left out. A source's curve reads scores or ranks, whichever is closer to the truth on
    questions that it was not fitted on.
    """
    unclaimed = observed.filter(pl.col("chance").is_nan())
    if not len(unclaimed):
        return {}
    curves = {ANY: fit_curve(unclaimed, "rank")}
    for (source,), shown in unclaimed.group_by("source", maintain_order=True):
        if len(shown) >= MIN_SHOWN:
            curves[str(source)] = fit_curve(shown, choose(shown))
    return curves


def choose(shown: pl.DataFrame) -> By:
    """What tells more of items of one source: the lower mean square of chance minus truth on the other half of the questions (Brier, 1950).

    Scores, where ranks are not better: they stay true where filters or rules take what stands before.
    """
    return "rank" if held_out_error(shown, "rank") < held_out_error(shown, "score") else "score"


def held_out_error(shown: pl.DataFrame, by: By) -> float:
    """The mean square of chance minus truth, each half of the questions judged by the curve of the other; infinite where one is empty."""
    total = 0.0
    for fold in range(FOLDS):
        held_out = pl.col("question") % FOLDS == fold
        theirs, ours = shown.filter(~held_out), shown.filter(held_out)
        if not len(theirs):
            return np.inf
        chances = fit_curve(theirs, by)(ours[by].to_numpy())
        total += float(((chances - ours["hit"].to_numpy()) ** 2).sum())
    return total / len(shown)


def fit_curve(shown: pl.DataFrame, by: By) -> Curve:
    """Isotonic over means of neighbours, so that no knot rests on a few items; scores up, ranks down."""
    values, hits = shown[by].to_numpy().astype(np.float64), shown["hit"].to_numpy()
    at, counts, n_hits = _grouped(values, hits)
    # Half an item bought and half one not: nothing is certain (Krichevsky and Trofimov, 1981).
    shares = (n_hits + 0.5) / (counts + 1.0)
    fitted = isotonic_regression(shares, weights=counts, increasing=by == "score").x
    return Curve(by, at, fitted)


def _grouped(
    values: NDArray[np.float64], hits: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Of groups of near values: the mean, how many, how many hits. Equal values stay together."""
    _, level, counts = np.unique(values, return_inverse=True, return_counts=True)
    size = len(values) / min(MAX_KNOTS, max(1, len(values) // PER_KNOT))
    group = ((np.cumsum(counts) - counts / 2) // size).astype(np.int64)
    group = np.unique(group, return_inverse=True)[1]
    of = group[level]
    n = np.bincount(of).astype(np.float64)
    return np.bincount(of, values) / n, n, np.bincount(of, hits).astype(np.float64)
