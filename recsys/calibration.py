"""Chances: what a score of a model means, as the probability that the shopper buys the item.

A score compares only within one source, a chance with every other, also across surfaces. The curves from one to the other are
fitted on a window that the models had not seen (`recsys/models/fit/calibration.py`); here they are only read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from recsys.events import Surface
from recsys.ranking import Mask, Model, ModelState, Query, Ranking, ScoreArray

By = Literal["score", "rank"]
"""What of an item in an answer a curve reads."""
ANY: Final = ""
"""Name of the curve of sources that have none of their own."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Chances over what is read of an item in an answer, straight between the knots and level outside of them."""

    by: By
    """`rank` is the item's place in the answer, 1 the best."""
    at: NDArray[np.float64]
    """`(m,)` float64, ascending, m at least 1."""
    chances: NDArray[np.float64]
    """`(m,)` float64 in (0, 1): not decreasing over scores, not increasing over ranks."""

    def __call__(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """`(n,)` float64: the chance of each of `values` `(n,)`, scores or ranks."""
        return np.asarray(np.interp(values, self.at, self.chances))


Curves = Mapping[str, Curve]
"""By source; where there are any, `ANY` is among them."""


@dataclass(frozen=True)
class Calibrated:
    """The answer of a model, with a chance for every item of which the model claims none.

    What a chance is the probability of depends on the surface: see `recsys.evaluation.questions`.
    """

    kind: ClassVar[str] = "calibrated"
    model: Model
    curves: Curves = field(repr=False)
    """Not empty."""

    @property
    def name(self) -> str:
        """That of the model."""
        return self.model.name

    def recommend(self, query: Query, k: int, eligible: Mask) -> Ranking:
        """See `Model`."""
        ranking = self.model.recommend(query, k, eligible)
        if len(ranking) == 0:
            return ranking
        if ranking.chances is None:
            return replace(ranking, chances=self._chances(ranking))
        unclaimed = np.isnan(ranking.chances)
        if not unclaimed.any():
            return ranking
        return replace(ranking, chances=np.where(unclaimed, self._chances(ranking), ranking.chances))

    def _chances(self, ranking: Ranking) -> ScoreArray:
        """`(n,)` float32, each item's by the curve of its source."""
        places: dict[str, list[int]] = {}
        for place, source in enumerate(ranking.sources):
            places.setdefault(source, []).append(place)
        chances = np.empty(len(ranking), dtype=np.float32)
        for source, those in places.items():
            where = np.array(those)
            curve = self.curves.get(source) or self.curves[ANY]
            chances[where] = curve(ranking.scores[where] if curve.by == "score" else where + 1)
        return chances

    def state(self) -> ModelState:
        """See `Model`."""
        curves = self.curves.values()
        params = {
            "sources": list(self.curves),
            "by": [curve.by for curve in curves],
            "n_knots": [len(curve.at) for curve in curves],
        }
        arrays = {
            "at": np.concatenate([curve.at for curve in curves]),
            "chances": np.concatenate([curve.chances for curve in curves]),
        }
        return ModelState(params, arrays, (self.model,))

    @classmethod
    def from_state(cls, state: ModelState) -> Self:
        """See `Model`."""
        ends = np.cumsum(state.params["n_knots"])[:-1]
        knots = zip(np.split(state.arrays["at"], ends), np.split(state.arrays["chances"], ends), strict=True)
        named = zip(state.params["sources"], state.params["by"], knots, strict=True)
        return cls(state.parts[0], {source: Curve(by, at, chances) for source, by, (at, chances) in named})


def calibrated(surfaces: Mapping[Surface, Model], curves: Mapping[Surface, Curves]) -> dict[Surface, Model]:
    """Every surface's model with the chances of its curves; as it was where there are none."""
    return {
        surface: Calibrated(model, curves[surface]) if curves.get(surface) else model
        for surface, model in surfaces.items()
    }


def curves_of(surfaces: Mapping[Surface, Model]) -> dict[Surface, Curves]:
    """What `calibrated` was given."""
    return {surface: model.curves for surface, model in surfaces.items() if isinstance(model, Calibrated)}
