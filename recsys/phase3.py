"""Phase 3: the ensemble. Candidates of every source that earns its place, and a ranker that has learnt from past windows.

Home is the ranker's answer where anything is known of the shopper, filled up with phase 2's; who is not known gets phase 2's.
What stands beside an item or a cart is phase 2's, in an order in which the shopper's own habits count; the other surfaces are
those of phase 2. Home and similar items are then spread over categories.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import optuna

from recsys import phase2
from recsys.compose import Confident, Fallback, Reranked
from recsys.events import Surface
from recsys.models.diverse import Diverse
from recsys.models.fit.diverse import DiverseRecommender
from recsys.models.fit.frequency import FrequencyRecommender
from recsys.models.fit.item_item import LocalRidgeRecommender
from recsys.models.fit.popularity import NewArrivalsRecommender, PopularityRecommender, TrendingRecommender
from recsys.models.fit.ranker import RankerRecommender, SourcePlan
from recsys.models.ranker import RankerModel
from recsys.phase1 import Surfaces, Workshop, baselines
from recsys.phase2 import Phase2Config, objective, searched
from recsys.ranking import Model

NAME: Final = "phase3"
PLAIN: Final = "phase3_undiversified"
"""The row of the tables that shows what diversity costs."""

BESIDE: Final = (Surface.SIMILAR, Surface.BOUGHT_TOGETHER, Surface.CART)
"""Surfaces that answer for an item or a cart."""
BESIDE_DEPTH: Final = 200
"""So many of the items that go with it are candidates."""

OBJECTIVES: Final[Mapping[str, Mapping[str, Any]]] = {
    "purchases": {"value_weight": 0.0},
    "balanced": {"value_weight": 0.5},
    "revenue": {"value_weight": 1.0},
    "clicks": {"value_weight": 0.0, "clicks": True},
}
"""What a shop may want of home, and what that makes of the configuration. The tables hold no margins, so there is none of that."""

__all__ = [
    "DEFAULT",
    "NAME",
    "Phase3Config",
    "Workshop",
    "baselines",
    "build_surfaces",
    "home",
    "objective",
    "rows",
    "searched",
]


@dataclass(frozen=True, slots=True)
class Phase3Config(Phase2Config):
    """Phase 2's, and the ranker's."""

    threshold: float = 0.0
    """A chance of a purchase below which the ranker leaves a place to phase 2."""
    value_weight: float = 0.0
    """What home is ranked by: 0 purchases, 1 expected revenue; see `RankerModel`. Not searched: it is the shop's choice."""
    home_diversity: float = 0.02
    """Strength of `Diverse` on home; 0 leaves it out. Not searched either: accuracy alone would always choose 0."""
    similar_diversity: float = 0.03
    """The same on the page of an item, where likeness is what is asked for."""
    own_weight: float = 3.0
    """What the shopper's own purchases count beside an item or a cart, whose own order counts 1; not searched, as the search sees
    home only."""
    clicks: bool = False
    """Whether the ranker's chances are those of a click instead of a purchase; see `RankerRecommender`."""
    wrong_cost: float = 0.0
    """What an item costs that only the ranker shows and that is not bought, in purchases of a usual item. At 0 only sales count; more
    makes the threshold that `recsys.tradeoffs` chooses higher, for a shop whose visitors are put off by wrong guesses."""


DEFAULT: Final = Phase3Config()


def default_params() -> dict[str, Any]:
    """`DEFAULT` as the first trial of a search."""
    return phase2.default_params()


def suggest(trial: optuna.Trial) -> Phase3Config:
    """Phase 2's search space: what stands where the ranker is not sure enough. How sure that is is read off a curve
    (`recsys.tradeoffs`), and what else there is the ranker has learnt."""
    return Phase3Config(**asdict(phase2.suggest(trial)))


def ranker(*, clicks: bool = False) -> RankerRecommender:
    """The ranker with its sources, none of which needs a search: the ranker weighs them."""
    return RankerRecommender(
        sources=(
            SourcePlan(FrequencyRecommender(DEFAULT.frequency_half_life_days), depth=100, reads=100),
            SourcePlan(LocalRidgeRecommender(half_life_days=DEFAULT.ridge_half_life_days), depth=100, reads=400),
            SourcePlan(PopularityRecommender(), depth=20, reads=20),
            SourcePlan(TrendingRecommender(), depth=10, reads=10),
            SourcePlan(NewArrivalsRecommender(), depth=10, reads=10),
        ),
        clicks=clicks,
    )


def home(workshop: Workshop, config: Phase3Config) -> Model:
    """The undiversified answer, spread over categories."""
    return diverse(workshop, undiversified(workshop, config), config.home_diversity)


def diverse(workshop: Workshop, model: Model, strength: float) -> Model:
    """The model with its first items spread over categories; itself at strength 0."""
    if strength <= 0:
        return model
    fitted = workshop.fit(DiverseRecommender())
    assert isinstance(fitted, Diverse)
    return replace(fitted, model=model, strength=strength)


def undiversified(workshop: Workshop, config: Phase3Config) -> Model:
    """What the ranker is sure enough of, and below it what phase 2 says."""
    return Fallback((Confident(ranked(workshop, config), config.threshold), phase2.home(workshop, config)), NAME)


def ranked(workshop: Workshop, config: Phase3Config) -> RankerModel:
    """The ranker alone."""
    model = workshop.fit(ranker(clicks=config.clicks))
    assert isinstance(model, RankerModel)
    return replace(model, value_weight=config.value_weight)


def rows(workshop: Workshop, config: Phase3Config) -> dict[str, Model]:
    """Every row of the tables: those of phase 2, the ranker, and the phase without and with its diversity."""
    single: dict[str, Model] = {"ranker": ranked(workshop, config)}
    if config.home_diversity > 0:
        single[PLAIN] = undiversified(workshop, config)
    return {**phase2.rows(workshop, config), **single, NAME: home(workshop, config)}


def build_surfaces(workshop: Workshop, config: Phase3Config) -> Surfaces:
    """Every surface's model."""
    surfaces, popularity = phase2.build_surfaces(workshop, config)
    beside = {surface: for_shopper(workshop, surfaces[surface], config) for surface in BESIDE}
    similar = diverse(workshop, beside[Surface.SIMILAR], config.similar_diversity)
    return {**surfaces, **beside, Surface.HOME: home(workshop, config), Surface.SIMILAR: similar}, popularity


def for_shopper(workshop: Workshop, model: Model, config: Phase3Config) -> Model:
    """What goes with an item or a cart, first what of it the shopper buys; what fills it up, popularity, stays behind all of it."""
    assert isinstance(model, Fallback)
    *going_with, last = model.models
    own = workshop.fit(FrequencyRecommender(config.frequency_half_life_days))
    reranked = Reranked(Fallback(tuple(going_with), model.name), own, config.own_weight, BESIDE_DEPTH)
    return replace(model, models=(reranked, last))
