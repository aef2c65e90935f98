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
from scipy.special import lambertw


def tuned_rho(units: float, alpha: float) -> float:
    """The rho whose intervals are narrowest when so many units have been seen: minus W(-alpha^2 / e) minus 1 is `units * rho^2`, with W the lower branch of Lambert's function (there, appendix B.2)."""
    return math.sqrt((-lambertw(-(alpha**2) / math.e, -1).real - 1) / units)


def factor(units: ArrayLike, rho: float, alpha: float) -> NDArray[Any]:
    """How many standard errors to each side, by the number of units seen so far in all arms that are compared; it takes the place of 1.96."""
    scaled = np.asarray(units, dtype=np.float64) * rho**2
    return np.asarray(np.sqrt(2 * (scaled + 1) / scaled * np.log(np.sqrt(scaled + 1) / alpha)))
