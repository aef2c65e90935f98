"""Which of two interleaved rankings shoppers prefer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest

from recsys.experiments.analysis import ALPHA


@dataclass(frozen=True, slots=True)
class Preference:
    """Units by the team that they gave more credit."""

    first: int
    second: int
    ties: int
    """As much credit to both, none included: these units say nothing."""
    share: float | None
    """Of the units that prefer one, the share that prefers the second; None where no unit does."""
    low: float | None
    high: float | None
    """Of the share, 95%, exact (Clopper-Pearson)."""
    p: float | None
    """Two-sided sign test of a share of a half."""


def preference(first_credit: ArrayLike, second_credit: ArrayLike) -> Preference:
    """The sign test over units, whose answers are summed first: those of one shopper are not independent.

    The two are parallel, one entry per unit: its clicks (or purchases) on items of each team over all its interleaved answers.
    """
    lead = np.asarray(second_credit, dtype=np.float64) - np.asarray(first_credit, dtype=np.float64)
    first, second = int((lead < 0).sum()), int((lead > 0).sum())
    ties = len(lead) - first - second
    if first + second == 0:
        return Preference(0, 0, ties, None, None, None, None)
    test = binomtest(second, first + second)
    interval = test.proportion_ci(1 - ALPHA, "exact")
    return Preference(
        first, second, ties, float(test.statistic), float(interval.low), float(interval.high), float(test.pvalue)
    )
