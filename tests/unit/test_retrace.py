"""Why an item is not in an answer, where the surface's own models decide."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.compose import Blend
from recsys.events import Surface
from recsys.models.diverse import Diverse
from recsys.ranking import Model
from service.answers import Shopper
from service.bundles import LiveBundle
from service.replay import Replayed, open_live
from service.retrace import Retraced, sources
from service.schemas import RecommendRequest
from tests.shop import publish_tiny_shop

K = 4


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> LiveBundle:
    folder: Path = tmp_path_factory.mktemp("shop")
    publish_tiny_shop(folder)
    return open_live(folder, None)


def retraced(live: LiveBundle, model: Model | None = None, **row: Any) -> Retraced:
    """Home of a household, answered by its bundle or by another model."""
    if model is not None:
        live = replace(live, bundle=replace(live.bundle, surfaces={**live.bundle.surfaces, Surface.HOME: model}))
    request = RecommendRequest(user_id="household-03", k=K)
    shopper = Shopper(live.bundle.histories.of("household-03"))
    logged = {"request_id": "r1", "degraded": False, "shown_before": None, "items": [], **row}
    return Retraced(logged, live, Replayed(request, shopper, 0.0, "r1"), None, ())


def test_diversity_says_where_the_item_stood_by_its_score(live: LiveBundle) -> None:
    plain = live.bundle.surfaces[Surface.HOME]
    category = np.array(live.bundle.catalogue.category)
    diverse = Diverse(plain, category, category, category, strength=0.95, depth=40)
    before, after = retraced(live).items, retraced(live, diverse)
    left = next(item for item in before if item not in after.items)
    place = before.index(left) + 1
    assert after.why(left).startswith(f"diversity: by score alone it stands at rank {place}; candidate at rank ")
    assert after.why(after.items[0]).startswith("shown at rank 1, by ")


def test_an_item_below_the_answer_has_its_rank_and_source(live: LiveBundle) -> None:
    found = retraced(live)
    fifth = next(one for one in found.candidates if one.rank == K + 1)
    assert fifth.place is None and fifth.score is not None
    assert found.why(fifth.item_id).startswith(f"candidate at rank {K + 1} by ")
    assert [one.place for one in found.candidates[:K]] == [1, 2, 3, 4]
    assert tuple(one.item_id for one in found.candidates[:K]) == found.items


def test_what_no_source_names_is_no_candidate(live: LiveBundle) -> None:
    own = next(one for one in sources(live.bundle.surfaces[Surface.HOME]) if one.name == "buy_again")
    found = retraced(live, own)
    named = {one.item_id for one in found.candidates}
    other = next(item for row in range(49) if (item := live.catalogue.item_id(row)) not in named)
    assert found.why(other) == "not a candidate: no source names it"


def test_a_model_without_weight_is_no_source(live: LiveBundle) -> None:
    first, second = live.bundle.popularity, live.bundle.surfaces[Surface.TRENDING]
    assert sources(Blend((first, second), (1.0, 0.0), 10, "one")) == [first]


def test_it_is_equal_only_with_the_same_items_from_the_same_sources(live: LiveBundle) -> None:
    made = retraced(live)
    logged = [[item, source, 1.0, None] for item, source in zip(made.items, made.answer.ranking.sources, strict=True)]
    assert retraced(live, items=logged).is_equal
    assert not retraced(live, items=logged[::-1]).is_equal
    assert not retraced(live, items=[[item, "another", *rest] for item, _, *rest in logged]).is_equal
    assert not retraced(live, items=logged[:-1]).is_equal
