"""Intervals that stay valid however often one looks: asymptotic confidence sequences.

Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, *Time-uniform central limit theory and asymptotic confidence sequences*, Annals of
Statistics 52 (2024), theorem 2.2: a mean of t independent units with standard deviation s lies, for all t at once and in the limit with
probability 1 - alpha, within

    s * sqrt(2 (t rho^2 + 1) / (t^2 rho^2) * log(sqrt(t rho^2 + 1) / alpha)).

Since s / sqrt(t) is the standard error, the same factor widens the standard error of any estimate that is asymptotically a mean over
units: a difference of arms, by the delta method one of ratios, adjusted or not.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def tuned_rho(units: float, alpha: float) -> float:
    """The rho whose intervals are narrowest when so many units have been seen: minus W(-alpha^2 / e) minus 1 is `units * rho^2`, with W the lower branch of Lambert's function (there, appendix B.2).

    That x solves x = log(1 + x) - 2 log(alpha), which is iterated: each step brings it 1 + x times nearer. So the service, which has no
    scipy, reckons with the same intervals.
    """
    x = -2.0 * math.log(alpha)
    for _ in range(100):
        x = math.log1p(x) - 2.0 * math.log(alpha)
    return math.sqrt(x / units)


def factor(units: ArrayLike, rho: float, alpha: float) -> NDArray[Any]:
    """How many standard errors to each side, by the number of units seen so far in all arms that are compared; it takes the place of 1.96."""
    scaled = np.asarray(units, dtype=np.float64) * rho**2
    return np.asarray(np.sqrt(2 * (scaled + 1) / scaled * np.log(np.sqrt(scaled + 1) / alpha)))
