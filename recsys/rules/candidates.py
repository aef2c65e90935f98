"""What a model has offered for one request, best first, asked again for more where rules leave too few."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from recsys.compose import append_ranking
from recsys.ranking import EMPTY_RANKING, NO_ITEM, ItemArray, Mask, Ranking, ScoreArray, joined
from recsys.rules.entry import Entry
from recsys.rules.schema import Boost, Bury

Ask = Callable[[int, Mask], Ranking]
"""The model of a request: the k best of the items that a mask allows."""

PINNED = "pinned"
"""Source of an item that is there only because a rule puts it there."""
CATALOGUE = "catalogue"
"""Source of an item that no model had an opinion on, in a place that would else be empty."""


class Candidates:
    """A ranking that grows. Places are positions in `found`; `order` holds them in the order to be tried."""

    def __init__(self, ask: Ask, eligible: Mask, factors: Sequence[Entry], *, fill: bool) -> None:
        """`eligible` is changed: what was offered is no longer eligible. `fill`: whether to go on where the model has no more."""
        self._ask = ask
        self._left = eligible
        self._factors = factors
        self._fill = fill
        self.found = EMPTY_RANKING
        self.order: list[int] = []
        self.rows: list[int] = []
        """The catalogue row at each place."""

    def more(self, n: int, among: Mask | None = None) -> list[int]:
        """Places of up to n items more, of those that `among` allows; none where no such item is left."""
        allowed = self._left if among is None else self._left & among
        ranking = self._ask(n, allowed)
        if self._fill and len(ranking) == 0:
            ranking = filled(ranking, n, allowed)
        first = len(self.rows)
        self._take(ranking)
        places: list[int] = (first + self._by_score(ranking)).tolist()
        self.order += places
        return places

    def put(self, row: int) -> int:
        """The place of an eligible item, which is one of its own where the model has not offered it; not in `order` then."""
        if not self._left[row]:
            return self.rows.index(row)
        # The model has not said how good it is: no better than the last that it offered.
        score = float(self.found.scores[-1]) if len(self.found) else 0.0
        self._left[row] = False
        self.rows.append(row)
        self.found = joined(self.found, _plain(np.array([row], dtype=np.int32), PINNED, score))
        return len(self.rows) - 1

    def _take(self, ranking: Ranking) -> None:
        self._left[ranking.items] = False
        self.rows += ranking.items.tolist()
        self.found = append_ranking(self.found, ranking)

    def _by_score(self, ranking: Ranking) -> NDArray[np.intp]:
        """Positions in `ranking`, best first after its scores, normalised by the best, are multiplied by the rules' factors."""
        scores = positive(ranking.scores)
        for entry in self._factors:
            if isinstance(entry.rule, Boost | Bury) and entry.selection is not None:
                scores = np.where(entry.selection.match[ranking.items], scores * entry.rule.factor, scores)
        return np.argsort(-scores, kind="stable")


def positive(scores: ScoreArray) -> NDArray[np.float64]:
    """`(n,)` scores, best first, as shares of the best; as shares of the places where they are not all positive."""
    n = len(scores)
    if n and scores[0] > 0 and scores[-1] >= 0:
        return np.asarray(scores, dtype=np.float64) / float(scores[0])
    return np.arange(n, 0, -1) / max(n, 1)


def filled(ranking: Ranking, k: int, eligible: Mask) -> Ranking:
    """`ranking`, then eligible items that it does not hold, by their row, until there are k or no more."""
    left = eligible.copy()
    left[ranking.items] = False
    rows = np.flatnonzero(left)[: k - len(ranking)].astype(np.int32)
    return append_ranking(ranking, _plain(rows, CATALOGUE, 0.0)) if len(rows) else ranking


def _plain(rows: ItemArray, source: str, score: float) -> Ranking:
    scores = np.full(len(rows), score, dtype=np.float32)
    return Ranking(rows, scores, (source,) * len(rows), np.full(len(rows), NO_ITEM, dtype=np.int32))
