"""What a live bundle says to one question, as a function of k and a mask: the model, what joined, what is wanted right now, an interleaved other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from recsys.events import Surface
from recsys.experiments.interleaving import FIRST, SECOND, team_draft
from recsys.models.degraded import Degraded
from recsys.models.random import RandomModel
from recsys.ranking import Mask, Model, Query, Ranking
from service import joined
from service.bundles import LiveBundle


@dataclass(slots=True)
class Policy:
    """Ranks for one question; business rules may ask it several times."""

    live: LiveBundle
    model: Model
    query: Query
    shown: int
    """Items that the answer will hold; rules may look at more."""
    trend: Sequence[str]
    """Ids of items wanted most right now."""
    alone: bool = False
    """Whether no other model's answer is interleaved, though the bundle has one for that."""
    team_of: dict[int, str] = field(default_factory=dict)
    """By item of an interleaved answer the version of the bundle that put it there."""
    said: Ranking | None = None
    """What the model said when it was first asked."""
    _pool: int = 0
    """Items that the first random choice was made from."""

    def __call__(self, k: int, allowed: Mask) -> Ranking:
        """The best k of those allowed."""
        other = None if self.alone else self.live.against
        first = self._ask(self.model, k, allowed)
        if self.said is None:
            self.said = first
        if other is None:
            return first
        second = self._ask(other.surfaces[self.query.surface], k, allowed)
        drafted = team_draft(first, second, k, self.query.seed)
        versions = {FIRST: self.live.bundle.version, SECOND: other.version}
        pairs = zip(drafted.ranking.items.tolist(), drafted.teams.tolist(), strict=True)
        self.team_of = {item: versions[team] for item, team in pairs if team in versions}
        return drafted.ranking

    @property
    def is_random(self) -> bool:
        """Whether chance chooses the items."""
        return isinstance(self.model, RandomModel)

    @property
    def propensity(self) -> float | None:
        """The chance of each item at its place, given that this policy answers; None where it is not known."""
        if (self.live.against is not None and not self.alone) or isinstance(self.model, Degraded):
            return None
        return 1.0 / self._pool if self._pool else 1.0

    def _ask(self, model: Model, k: int, allowed: Mask) -> Ranking:
        live, query, surface = self.live, self.query, self.query.surface
        if self.is_random and not self._pool:
            self._pool = int(allowed.sum())
        if live.plain:
            return model.recommend(query, k, allowed)
        if surface is Surface.TRENDING:
            return joined.trending(live, model, query, k, allowed, trend=self.trend, shown=self.shown)
        if surface is Surface.NEW_ARRIVALS:
            return joined.new_arrivals(live, model, query, k, allowed, shown=self.shown)
        if surface is Surface.SIMILAR:
            return joined.similar(live, model, query, k, allowed, shown=self.shown)
        return model.recommend(query, k, allowed)
