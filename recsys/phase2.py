"""Phase 2: the content-based hybrid. Phase 1, and what items are, for items that few or none have met.

Home adds the content model, and what items inherit from items like them, to phase 1's blend; each item
counts there by how little is known of it, so warm items keep their collaborative strength. An item that was never sold has similar
products by its features, new arrivals are ranked for who asks, and of what goes with an item or a cart what is popular comes first. The search decides how much content counts, on validation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import optuna
import polars as pl

from recsys import phase1
from recsys.compose import Blend, Fallback, Shrinkage
from recsys.evaluation.evaluate import COLD, primary
from recsys.events import Surface
from recsys.models.content import ContentModel
from recsys.models.content_neighbours import ContentNeighboursModel
from recsys.models.fit.content import ContentRecommender
from recsys.models.fit.item_item import favouring_alike
from recsys.models.fit.kin import ContentNeighboursRecommender, KinRecommender
from recsys.models.fit.popularity import NewArrivalsRecommender, PopularityRecommender
from recsys.models.fit.regional import RegionalRecommender
from recsys.models.fit.segments import SegmentRecommender
from recsys.models.item_item import ItemItemModel
from recsys.models.popularity import OrderModel
from recsys.models.regional import RegionalModel
from recsys.models.segments import SegmentModel
from recsys.phase1 import Phase1Config, Surfaces, Workshop, baselines
from recsys.ranking import Model

NAME: Final = "phase2"
STRANGER_DEPTH: Final = 500
"""Of popularity, for a stranger: what is popular in a region is not far down everywhere."""
STRANGER_POWER: Final = 0.5
"""Strangers are many shoppers, not those who buy most."""
CANDIDATES: Final = 200
"""Content scores so many items, the most promising ones. More cost time; in a trial on validation, which no command repeats, they ranked new arrivals worse."""

__all__ = ["DEFAULT", "NAME", "Phase2Config", "Workshop", "baselines", "build_surfaces", "home", "rows", "searched"]


@dataclass(frozen=True, slots=True)
class Phase2Config(Phase1Config):
    """What the search decides: phase 1's, and how much content counts."""

    content_weight: float = 0.02
    kin_weight: float = 0.0
    """Of what an item inherits from items of similar content; 0 leaves it out. It pays where words tell items apart."""
    region_weight: float = 0.1
    """Exponent of regional demand on what is known of the shopper."""
    stranger_region_weight: float = 0.5
    """The same on popularity, which is all that a stranger can be told."""
    stranger_segment_weight: float = 0.2
    """Exponent of the lifts of a stranger's segments."""
    prior_items: float = 5.0
    """After so many items the shopper's own taste counts as much as what a stranger would be told; at 0 one item is enough to forget it."""
    wanted_weight: float = 0.6
    """See `Phase1Config`."""
    likeness_weight: float = 0.5
    """Of likeness beside being chosen together, on the page of an item, see `favouring_alike`. Not searched: what is bought later knows little of it."""


DEFAULT: Final = Phase2Config()


def default_params() -> dict[str, Any]:
    """`DEFAULT` as the first trial of a search."""
    own = ("content_weight", "kin_weight", "region_weight", "ridge_content_weight", "prior_items")
    return {**phase1.default_params(), **{name: getattr(DEFAULT, name) for name in own}}


def suggest(trial: optuna.Trial) -> Phase2Config:
    """The search space; what adds a part or needs a fit of its own has few values."""
    return Phase2Config(
        **{
            **asdict(phase1.suggest(trial)),
            "ridge_content_weight": trial.suggest_categorical("ridge_content_weight", [0.0, 3.0]),
            "wanted_weight": DEFAULT.wanted_weight,
        },
        content_weight=trial.suggest_float("content_weight", 0.002, 0.5, log=True),
        kin_weight=trial.suggest_categorical("kin_weight", [0.0, 0.1]),
        region_weight=trial.suggest_float("region_weight", 0.02, 0.3),
        prior_items=trial.suggest_categorical("prior_items", [0.0, 1.0, 5.0]),
    )


def objective(frame: pl.DataFrame) -> float:
    """What a trial is judged by: phase 1's objective, and the items that nobody had met before."""
    return phase1.objective(frame) + primary(frame, "trial", COLD)


def home(workshop: Workshop, config: Phase2Config) -> Model:
    """What is known of the shopper, moved towards what sells where they are; likewise popularity, for a stranger."""
    popularity = workshop.fit(PopularityRecommender(config.popularity_half_life_days))
    nearby = replace(
        _demand(workshop, RegionalRecommender()),
        model=known(workshop, config),
        weight=config.region_weight,
        depth=config.depth,
        name=NAME,
    )
    prior = stranger(workshop, config)
    shrunk = Shrinkage(nearby, prior, config.prior_items, config.depth, NAME)
    return Fallback((shrunk, prior, popularity), NAME)


searched = home


def known(workshop: Workshop, config: Phase2Config) -> Blend:
    """Phase 1's blend, and content."""
    parts = workshop.parts(config)
    if config.content_weight > 0:
        content = replace(_content(workshop), max_candidates=CANDIDATES)
        parts.append((content, config.content_weight))
    if config.kin_weight > 0:
        parts.append((kin(workshop, config), config.kin_weight))
    return phase1.blend(parts, config, NAME)


def kin(workshop: Workshop, config: Phase2Config) -> Model:
    """What items inherit; the half-life is read at query time, so it needs no fit of its own."""
    model = workshop.fit(KinRecommender(regularization=config.ridge_regularization))
    assert isinstance(model, ItemItemModel)
    return replace(model, half_life_days=config.ridge_half_life_days)


def stranger(workshop: Workshop, config: Phase2Config) -> Model:
    """What is said to somebody of whom nothing is known: what sells where they are, to shoppers like them."""
    popularity = workshop.fit(PopularityRecommender(config.popularity_half_life_days, power=STRANGER_POWER))
    demand = _demand(workshop, RegionalRecommender(half_life_days=80.0, power=STRANGER_POWER, smoothing=1_000.0))
    weight, depth, name = config.stranger_region_weight, STRANGER_DEPTH, popularity.name
    nearby = replace(demand, model=popularity, weight=weight, depth=depth, name=name)
    groups = workshop.fit(SegmentRecommender(power=STRANGER_POWER))
    assert isinstance(groups, SegmentModel)
    return replace(groups, model=nearby, weight=config.stranger_segment_weight, depth=depth, name=name)


def _demand(workshop: Workshop, recommender: RegionalRecommender) -> RegionalModel:
    model = workshop.fit(recommender)
    assert isinstance(model, RegionalModel)
    return model


def _content(workshop: Workshop) -> ContentModel:
    model = workshop.fit(ContentRecommender())
    assert isinstance(model, ContentModel)
    return model


def rows(workshop: Workshop, config: Phase2Config) -> dict[str, Model]:
    """Every row of the tables: those of phase 1, the content model alone, and the phase."""
    single: dict[str, Model] = {"content": _content(workshop)}
    if config.kin_weight > 0:
        single["kin"] = kin(workshop, config)
    return {**phase1.rows(workshop, config), **single, NAME: home(workshop, config)}


def build_surfaces(workshop: Workshop, config: Phase2Config) -> Surfaces:
    """Every surface's model."""
    surfaces, popularity = phase1.build_surfaces(workshop, config)
    similar = surfaces[Surface.SIMILAR]
    assert isinstance(similar, Fallback)
    fitted = workshop.fit(ContentNeighboursRecommender())
    assert isinstance(fitted, ItemItemModel)
    neighbours = ContentNeighboursModel(fitted, _content(workshop))
    together, *others = similar.models
    assert isinstance(together, ItemItemModel)
    both = favouring_alike(together, fitted, workshop.catalogue, config.likeness_weight)
    changed: Mapping[Surface, Model] = {
        Surface.HOME: home(workshop, config),
        Surface.SIMILAR: replace(similar, models=(both, neighbours, *others)),
        Surface.NEW_ARRIVALS: Fallback((_new_arrivals(workshop), surfaces[Surface.NEW_ARRIVALS]), "new_arrivals"),
    }
    return {**surfaces, **changed}, popularity


def _new_arrivals(workshop: Workshop) -> Model:
    """The new arrivals, ranked for who asks; what others know of them already does not count against them."""
    arrivals, content = workshop.fit(NewArrivalsRecommender()), _content(workshop)
    assert isinstance(arrivals, OrderModel)
    unknown, name = np.ones_like(content.unknown), "new_arrivals_for_you"
    return replace(content, order=arrivals.order, unknown=unknown, max_candidates=CANDIDATES, name=name)
