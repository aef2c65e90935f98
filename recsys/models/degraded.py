"""A model made worse on purpose: what becomes of a shop whose recommendations are less accurate than hoped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from recsys.ranking import NO_ITEM, Mask, Model, ModelState, Query, Ranking


@dataclass(frozen=True)
class Degraded:
    """Gives each place of another model's answer, by chance, to a random item of those that may be shown and are not.

    A place keeps its score, as that of a diversified list does; what came by chance claims no chance of its own and no reason. Repeatable
    by the query's seed.
    """

    kind: ClassVar[str] = "degraded"
    model: Model
    share: float
    """Chance of each place to be lost."""

    @property
    def name(self) -> str:
        """That of the model."""
        return self.model.name

    def recommend(self, query: Query, k: int, eligible: Mask) -> Ranking:
        """See `Model`; as many items as the model finds."""
        return scattered(self.model.recommend(query, k, eligible), self.share, eligible, query.seed)

    def state(self) -> ModelState:
        """See `Model`."""
        return ModelState({"share": self.share}, parts=(self.model,))

    @classmethod
    def from_state(cls, state: ModelState) -> Self:
        """See `Model`."""
        return cls(state.parts[0], state.params["share"])


def scattered(ranking: Ranking, share: float, eligible: Mask, seed: int | tuple[int, ...]) -> Ranking:
    """`ranking` with each place given, by a chance of `share`, to a random item of those eligible that it does not hold."""
    rng = np.random.default_rng(seed)
    lost = np.flatnonzero(rng.random(len(ranking)) < share)
    free = eligible.copy()
    free[ranking.items] = False
    pool = np.flatnonzero(free)
    lost = lost[: len(pool)]
    if len(lost) == 0:
        return ranking
    items, because, sources = ranking.items.copy(), ranking.because.copy(), np.array(ranking.sources, dtype=object)
    items[lost], because[lost], sources[lost] = rng.choice(pool, len(lost), replace=False), NO_ITEM, "random"
    chances = None if ranking.chances is None else ranking.chances.copy()
    enhanced = None if ranking.enhanced is None else ranking.enhanced.copy()
    if chances is not None:
        chances[lost] = np.nan
    if enhanced is not None:
        enhanced[lost] = False
    return Ranking(items, ranking.scores, tuple(sources), because, chances, enhanced)
