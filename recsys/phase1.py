"""Phase 1: what collaborative filtering is here, what it is compared with, and what the search may change.

Home blends what the shopper buys again with what shoppers like them buy, a little popularity and, where the search finds that it
pays, what sessions like this one went on to. iALS added nothing on validation and would cost a product with every item on the hot
path, so it stays a single model in the tables. The other surfaces need no search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import optuna
import polars as pl

from recsys.compose import Blend, Fallback
from recsys.dataset import Catalogue, Dataset
from recsys.evaluation.evaluate import ALL, NEW, primary
from recsys.events import Surface
from recsys.models.fit.als import ALSRecommender
from recsys.models.fit.frequency import FrequencyRecommender
from recsys.models.fit.item_item import BasketRecommender, CosineRecommender, LocalRidgeRecommender
from recsys.models.fit.matrix import Recommender
from recsys.models.fit.popularity import (
    CategoryPopularityRecommender,
    NewArrivalsRecommender,
    PopularityRecommender,
    RandomRecommender,
    TrendingRecommender,
)
from recsys.models.fit.session_knn import SessionKNNRecommender
from recsys.models.item_item import ItemItemModel
from recsys.ranking import Model

NAME: Final = "phase1"

Surfaces = tuple[Mapping[Surface, Model], Model]
"""The model of every surface, and the popularity that answers when nothing else can."""


@dataclass(frozen=True, slots=True)
class Phase1Config:
    """What the search decides. The blend's weights are relative to that of `buy_again`, which is 1."""

    frequency_half_life_days: float = 110.0
    ridge_regularization: float = 80.0
    ridge_half_life_days: float = 180.0
    ridge_weight: float = 0.1
    ridge_content_weight: float = 0.0
    """See `LocalRidgeRecommender`; phase 1 knows no content."""
    popularity_half_life_days: float = 10.0
    popularity_weight: float = 0.02
    session_weight: float = 0.0
    """Of session neighbours; 0 leaves them out. They pay where shoppers look around more than they buy again."""
    depth: int = 100
    wanted_weight: float = 0.0
    """What the popularity of an item's neighbours counts beside an item and a cart, see `favouring_wanted`; phase 1 goes by
    what was chosen together alone. Not searched, as the search sees home only."""


DEFAULT: Final = Phase1Config()


FIXED: Final = frozenset({"ridge_regularization", "ridge_content_weight", "depth", "wanted_weight"})
"""What the search leaves alone."""


def default_params() -> dict[str, Any]:
    """`DEFAULT` as the first trial of a search."""
    return {name: value for name, value in asdict(DEFAULT).items() if name not in FIXED}


def suggest(trial: optuna.Trial) -> Phase1Config:
    """The search space: what needs no new fit of an expensive component, so that a minute tries dozens."""
    return Phase1Config(
        frequency_half_life_days=trial.suggest_float("frequency_half_life_days", 30.0, 240.0, log=True),
        ridge_half_life_days=trial.suggest_float("ridge_half_life_days", 45.0, 360.0, log=True),
        ridge_weight=trial.suggest_float("ridge_weight", 0.02, 10.0, log=True),
        popularity_half_life_days=trial.suggest_categorical("popularity_half_life_days", [5.0, 10.0, 20.0]),
        popularity_weight=trial.suggest_float("popularity_weight", 0.005, 10.0, log=True),
        session_weight=trial.suggest_categorical("session_weight", [0.0, 0.1, 1.0, 10.0]),
    )


def objective(frame: pl.DataFrame) -> float:
    """What a trial of the search is judged by: the primary metric on all purchases plus that on new items.

    New items count three times, since their figure is an order of magnitude smaller and would else not be heard.
    """
    return primary(frame, "trial", ALL) + 3.0 * primary(frame, "trial", NEW)


def baselines(config: Phase1Config = DEFAULT) -> dict[str, Recommender]:
    """What stands in every table."""
    return {
        "random": RandomRecommender(),
        "popularity": PopularityRecommender(config.popularity_half_life_days),
        "buy_again": FrequencyRecommender(config.frequency_half_life_days),
    }


def candidates(config: Phase1Config) -> dict[str, Recommender]:
    """Single collaborative models, each of which could have been phase 1."""
    return {
        "item_knn": CosineRecommender(),
        "local_ridge": _ridge(config),
        "als": ALSRecommender(),
        "session_knn": SessionKNNRecommender(),
    }


def _ridge(config: Phase1Config) -> LocalRidgeRecommender:
    return LocalRidgeRecommender(
        regularization=config.ridge_regularization,
        content_weight=config.ridge_content_weight,
        half_life_days=config.ridge_half_life_days,
    )


class Workshop:
    """Fits on one past, each component once: a search that changes weights refits nothing."""

    def __init__(self, past: Dataset, at: int, seed: int) -> None:
        """`past` lies before `at`, Unix second."""
        self._past = past
        self._at = at
        self._seed = seed
        self._fitted: dict[Recommender, Model] = {}

    @property
    def catalogue(self) -> Catalogue:
        """Of the past."""
        return self._past.catalogue

    def fit(self, recommender: Recommender) -> Model:
        """The fitted model, from the shelf where it stands there."""
        if recommender not in self._fitted:
            rng = np.random.default_rng(self._seed)
            self._fitted[recommender] = recommender.fit(self._past, self._at, rng)
        return self._fitted[recommender]

    def _ridge(self, config: Phase1Config) -> Model:
        """The half-life is read at query time, so it needs no fit of its own."""
        model = self.fit(replace(_ridge(config), half_life_days=DEFAULT.ridge_half_life_days))
        assert isinstance(model, ItemItemModel)
        return replace(model, half_life_days=config.ridge_half_life_days)

    def parts(self, config: Phase1Config) -> list[tuple[Model, float]]:
        """The blend's models and their weights."""
        found = [
            (self.fit(FrequencyRecommender(config.frequency_half_life_days)), 1.0),
            (self._ridge(config), config.ridge_weight),
            (self.fit(PopularityRecommender(config.popularity_half_life_days)), config.popularity_weight),
        ]
        if config.session_weight > 0:
            found.append((self.fit(SessionKNNRecommender()), config.session_weight))
        return found


def home(workshop: Workshop, config: Phase1Config) -> Model:
    """What answers on the home surface, and in the tables: the blend, filled up with popularity."""
    popularity = workshop.fit(PopularityRecommender(config.popularity_half_life_days))
    return Fallback((blend(workshop.parts(config), config, NAME), popularity), NAME)


def blend(parts: Sequence[tuple[Model, float]], config: Phase1Config, name: str) -> Blend:
    """The weighted sum of `parts`."""
    models, weights = zip(*parts, strict=True)
    return Blend(models, weights, config.depth, name)


searched = home


def rows(workshop: Workshop, config: Phase1Config) -> dict[str, Model]:
    """Every row of the tables: baselines, single models, and the phase."""
    found = {name: workshop.fit(one) for name, one in {**baselines(config), **candidates(config)}.items()}
    return {**found, NAME: home(workshop, config)}


def build_surfaces(workshop: Workshop, config: Phase1Config) -> Surfaces:
    """Every surface's model."""
    popularity = workshop.fit(PopularityRecommender(config.popularity_half_life_days))
    category = workshop.fit(CategoryPopularityRecommender())
    wanted = config.wanted_weight
    similar = CosineRecommender(reads="context", wanted_weight=wanted, name="similar")
    together = BasketRecommender(wanted_weight=wanted)
    surfaces: dict[Surface, Model] = {
        Surface.HOME: home(workshop, config),
        Surface.SIMILAR: Fallback((workshop.fit(similar), category, popularity), "similar"),
        Surface.BOUGHT_TOGETHER: Fallback((workshop.fit(together), category, popularity), "bought_together"),
        Surface.CART: Fallback(
            (workshop.fit(replace(together, reads="cart", name="cart")), category, popularity), "cart"
        ),
        # Nothing fills this one up: what was never bought cannot be bought again.
        Surface.BUY_AGAIN: workshop.fit(FrequencyRecommender(config.frequency_half_life_days)),
        Surface.TRENDING: Fallback((workshop.fit(TrendingRecommender()), popularity), "trending"),
        Surface.NEW_ARRIVALS: Fallback((workshop.fit(NewArrivalsRecommender()), popularity), "new_arrivals"),
    }
    return surfaces, popularity
