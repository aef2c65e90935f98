"""Whether a probability means what it says: of what was shown with a chance of a tenth, a tenth should be bought."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from recsys.ranking import ItemArray, Ranking

EDGES: Final = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Of the bins of chances."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Items shown with a chance in one range."""

    name: str
    n: int
    claimed: float
    """Mean chance."""
    bought: float
    """Share that was bought."""


class Reliability:
    """Collects what a model claimed of the items that it showed, and what came true."""

    def __init__(self) -> None:
        self._chances: list[NDArray[np.float32]] = []
        self._hits: list[NDArray[np.bool_]] = []

    def add(self, ranking: Ranking, truths: ItemArray) -> None:
        """`truths`: what was then bought. Items without a chance are left out."""
        if ranking.chances is not None:
            claimed = ~np.isnan(ranking.chances)
            self._chances.append(ranking.chances[claimed])
            self._hits.append(np.isin(ranking.items[claimed], truths))

    def bins(self) -> list[Bin]:
        """Those that hold anything, by chance."""
        if not self._chances:
            return []
        chances, hits = np.concatenate(self._chances), np.concatenate(self._hits)
        places = np.clip(np.searchsorted(EDGES, chances, side="right") - 1, 0, len(EDGES) - 2)
        found = []
        for number, (low, high) in enumerate(pairwise(EDGES)):
            own = places == number
            if own.any():
                name = f"chance {low:g}-{high:g}"
                found.append(Bin(name, int(own.sum()), float(chances[own].mean()), float(hits[own].mean())))
        return found


def expected_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error (Naeini et al., AAAI 2015): mean distance of claimed from bought, over shown items."""
    return sum(one.n * abs(one.claimed - one.bought) for one in bins) / max(1, sum(one.n for one in bins))
