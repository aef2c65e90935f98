"""Shapley values: what each of a few players adds to what all of them achieve together, whatever the order in which they join."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import factorial

import numpy as np
from numpy.typing import NDArray


def coalitions(n: int) -> Iterator[tuple[bool, ...]]:
    """All 2^n choices among n players, as who is in it; nobody first, everybody last."""
    return product((False, True), repeat=n)


def shapley_values(worth: NDArray[np.float64]) -> NDArray[np.float64]:
    """`(n, m)`: what each of n players adds to each of m outcomes; the sum over players is everybody's worth less nobody's.

    `worth` `(2^n, m)` is that of each of the `coalitions`, in their order. Exact (Shapley, 1953; for models Lundberg and Lee,
    NeurIPS 2017), so for a handful of players only.
    """
    n = len(worth).bit_length() - 1
    member = np.array(list(coalitions(n)), dtype=np.bool_).reshape(len(worth), n)
    size = member.sum(axis=1)
    share = np.array([factorial(s) * factorial(n - s - 1) / factorial(n) if s < n else 0.0 for s in range(n + 1)])
    values = np.empty((n, worth.shape[1]))
    for player in range(n):
        without = np.flatnonzero(~member[:, player])
        joined = without + (1 << (n - 1 - player))
        values[player] = share[size[without]] @ (worth[joined] - worth[without])
    return values
