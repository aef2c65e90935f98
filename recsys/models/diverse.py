"""Diversity: a list whose next item is good and unlike those before it.

Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998) over what the catalogue says of items: a list of the twelve
best is often twelve times nearly the same, of which the shopper takes one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from recsys.ranking import ItemArray, Mask, Model, ModelState, Query, Ranking, ScoreArray

CATEGORY: Final = np.float32(0.45)
PARENT: Final = np.float32(0.45)
BRAND: Final = np.float32(0.1)
"""What two items that share it have in common, of 1; items of one category share its parent too."""


@dataclass(frozen=True)
class Diverse:
    """Picks one by one, of the first `depth` items of `model`, whichever has the largest

        (1 - strength) * score / best score - strength * likeness to the item chosen already that is most like it.

    A place keeps the score that stood there, so that scores stay on the model's scale and fall; source, `because` and chance
    go with the item. What is behind `depth` follows as it was, and an answer without a positive score is left alone.
    """

    kind: ClassVar[str] = "diverse"
    model: Model
    category: ItemArray
    """`(n_items,)` int32 codes, one of its own for each item of which it is unknown: it is like nothing."""
    parent: ItemArray
    """`(n_items,)` int32, likewise: the level above the category, or the category where it is of the first level."""
    brand: ItemArray
    """`(n_items,)` int32, likewise."""
    strength: float
    """From 0, which changes nothing, to 1, which sees no scores."""
    depth: int

    @property
    def name(self) -> str:
        """That of the model."""
        return self.model.name

    def recommend(self, query: Query, k: int, eligible: Mask) -> Ranking:
        """See `Model`."""
        ranking = self.model.recommend(query, max(k, self.depth) if k > 0 else 0, eligible)
        n = min(self.depth, len(ranking))
        if n < 2 or ranking.scores[0] <= 0:
            return ranking.top(k)
        places = np.arange(min(k, len(ranking)))
        places[:n] = self._chosen(ranking.items[:n], ranking.scores[:n], min(k, n))
        return replace(ranking.take(places), scores=ranking.scores[: len(places)])

    def _chosen(self, items: ItemArray, scores: ScoreArray, k: int) -> NDArray[np.intp]:
        """Positions of the k picked among `items` `(n,)` with falling `scores` `(n,)`, in the order of picking."""
        strength = np.float32(self.strength)
        values = scores * ((1 - strength) / scores[0])
        # Row i: what everyone is worth once i is chosen; that one nothing more. The worth of each is then the least of the rows.
        after = values - strength * self.likeness(items)
        np.fill_diagonal(after, -np.inf)
        chosen = []
        for _ in range(k):
            best = int(values.argmax())
            chosen.append(best)
            np.minimum(values, after[best], out=values)
        return np.array(chosen, dtype=np.intp)

    def likeness(self, items: ItemArray) -> ScoreArray:
        """`(n, n)` float32 in [0, 1]: how alike each two of `items` `(n,)` are."""
        alike = np.zeros((len(items), len(items)), dtype=np.float32)
        for codes, weight in ((self.category, CATEGORY), (self.parent, PARENT), (self.brand, BRAND)):
            those = codes[items]
            alike += (those[:, None] == those) * weight
        return alike

    def state(self) -> ModelState:
        """See `Model`."""
        arrays = {"category": self.category, "parent": self.parent, "brand": self.brand}
        return ModelState({"strength": self.strength, "depth": self.depth}, arrays, (self.model,))

    @classmethod
    def from_state(cls, state: ModelState) -> Self:
        """See `Model`."""
        return cls(model=state.parts[0], **state.fields())
