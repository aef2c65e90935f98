"""What every model promises, asked of every model and composition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from recsys.calibration import Calibrated, Curve
from recsys.compose import MODELS, Blend, Confident, Fallback, Reranked, Shrinkage, model_from_state
from recsys.dataset import Segments
from recsys.explanation import Asked, explain
from recsys.models.content import ContentModel
from recsys.models.content_neighbours import ContentNeighboursModel
from recsys.models.degraded import Degraded
from recsys.models.fit.als import ALSRecommender
from recsys.models.fit.content import ContentRecommender
from recsys.models.fit.diverse import DiverseRecommender
from recsys.models.fit.frequency import FrequencyRecommender
from recsys.models.fit.item_item import BasketRecommender, CosineRecommender, LocalRidgeRecommender
from recsys.models.fit.kin import ContentNeighboursRecommender, KinRecommender
from recsys.models.fit.matrix import Recommender
from recsys.models.fit.popularity import (
    CategoryPopularityRecommender,
    NewArrivalsRecommender,
    PopularityRecommender,
    RandomRecommender,
    TrendingRecommender,
)
from recsys.models.fit.ranker import RankerRecommender, SourcePlan
from recsys.models.fit.regional import RegionalRecommender
from recsys.models.fit.segments import SegmentRecommender
from recsys.models.fit.sequence import SequenceRecommender
from recsys.models.fit.session_knn import SessionKNNRecommender
from recsys.models.item_item import ItemItemModel
from recsys.phase1 import Workshop
from recsys.phases import PHASES
from recsys.ranking import NO_ITEM, Mask, Model, ModelState, Query, Ranking
from tests.factories import checkerboard, query

N_ITEMS = 40
DATASET = checkerboard(n_items=N_ITEMS)
ALLOWED: Mask = np.ones(N_ITEMS, dtype=np.bool_)


def fitted(recommender: Recommender) -> Model:
    return recommender.fit(DATASET, DATASET.until, np.random.default_rng(0))


def blend() -> Model:
    parts = (fitted(CosineRecommender()), fitted(FrequencyRecommender()), fitted(PopularityRecommender()))
    return Fallback((Blend(parts, (1.0, 0.5, 0.1), 20, "blend"), fitted(PopularityRecommender())), "stack")


def regional() -> Model:
    """Odd items sell in the region 1, even ones in the region 0."""
    dataset = replace(DATASET, events=replace(DATASET.events, region=DATASET.events.item % 2), regions=("east", "west"))
    demand = RegionalRecommender().fit(dataset, dataset.until, np.random.default_rng(0))
    popularity = fitted(PopularityRecommender())
    return replace(demand, model=popularity, weight=3.0, depth=N_ITEMS)


def segments() -> Model:
    """Who tells that they are odd buys odd items."""
    offsets = np.arange(DATASET.n_users + 1, dtype=np.int64)
    told = Segments(("taste=even", "taste=odd"), offsets, (np.arange(DATASET.n_users) % 2).astype(np.int32))
    lifts = SegmentRecommender(smoothing=1.0).fit(
        replace(DATASET, segments=told), DATASET.until, np.random.default_rng(0)
    )
    return replace(lifts, model=fitted(PopularityRecommender()), weight=1.0, depth=N_ITEMS)


def shrinkage() -> Model:
    return Shrinkage(fitted(CosineRecommender()), fitted(PopularityRecommender()), 2.0, 20, "shrunk")


def reranked() -> Model:
    return Reranked(fitted(PopularityRecommender()), fitted(FrequencyRecommender()), weight=3.0, depth=30)


def fitted_content() -> Model:
    """Half of the items have never been sold; the content model ranks those."""
    keep = DATASET.events.item % 4 < 2
    dataset = replace(DATASET, events=DATASET.events.take(keep))
    return QUICK_CONTENT.fit(dataset, DATASET.until, np.random.default_rng(0))


def similar_content() -> Model:
    neighbours, content = fitted(ContentNeighboursRecommender()), fitted_content()
    assert isinstance(neighbours, ItemItemModel)
    assert isinstance(content, ContentModel)
    return ContentNeighboursModel(neighbours, content)


def diverse() -> Model:
    """Even items are of one category, odd ones of another."""
    codes = DiverseRecommender().fit(DATASET, DATASET.until, np.random.default_rng(0))
    return replace(codes, model=fitted(PopularityRecommender()), strength=0.3)


def with_chances() -> Model:
    """Chances over scores for own purchases, over ranks for all else."""
    score = Curve("score", np.array([0.5, 1.0, 4.0]), np.array([0.1, 0.2, 0.6]))
    rank = Curve("rank", np.array([1.0, 20.0]), np.array([0.3, 0.05]))
    return Calibrated(blend(), {"": rank, "buy_again": score})


QUICK_SEQUENCE = SequenceRecommender(dimensions=8, layers=2, min_steps=200, min_shoppers=1, learning_rate=5e-3)
QUICK_CONTENT = ContentRecommender(epochs=60, snapshots=3, window_days=7.0, folds=3)

QUICK_RANKER = RankerRecommender(
    (SourcePlan(FrequencyRecommender(), 20, 20), SourcePlan(CosineRecommender(), 20, 40)), window_days=7.0, hidden=(8,)
)


BUILDERS: dict[str, Callable[[], Model]] = {
    "random": lambda: fitted(RandomRecommender()),
    "popularity": lambda: fitted(PopularityRecommender()),
    "category_popularity": lambda: fitted(CategoryPopularityRecommender()),
    "trending": lambda: fitted(TrendingRecommender()),
    "new_arrivals": lambda: fitted(NewArrivalsRecommender()),
    "buy_again": lambda: fitted(FrequencyRecommender()),
    "item_knn": lambda: fitted(CosineRecommender()),
    "similar": lambda: fitted(CosineRecommender(reads="context")),
    "bought_together": lambda: fitted(BasketRecommender()),
    "cart": lambda: fitted(BasketRecommender(reads="cart")),
    "local_ridge": lambda: fitted(LocalRidgeRecommender()),
    "als": lambda: fitted(ALSRecommender(factors=8)),
    "session_knn": lambda: fitted(SessionKNNRecommender()),
    "sequence": lambda: fitted(QUICK_SEQUENCE),
    "content": lambda: fitted_content(),
    "kin": lambda: fitted(KinRecommender()),
    "regional": lambda: regional(),
    "segments": lambda: segments(),
    "reranked": reranked,
    "shrinkage": lambda: shrinkage(),
    "blend": blend,
    "similar_content": lambda: similar_content(),
    "ranker": lambda: fitted(QUICK_RANKER),
    "diverse": lambda: diverse(),
    "calibrated": lambda: with_chances(),
    "confident": lambda: Confident(fitted(QUICK_RANKER), 0.2),
    "degraded": lambda: Degraded(with_chances(), 0.5),
    **{
        f"phase{number} {surface}": lambda number=number, surface=surface: phase(number)[surface]  # type: ignore[misc]
        for number in PHASES
        for surface in ("home", "similar", "bought_together", "cart", "buy_again", "trending", "new_arrivals")
    },
}
COLLABORATIVE = (
    "item_knn",
    "similar",
    "bought_together",
    "cart",
    "local_ridge",
    "als",
    "session_knn",
    "sequence",
    "phase1 home",
)


@cache
def phase(number: int) -> dict[str, Model]:
    plan = PHASES[number]
    surfaces, _ = plan.build_surfaces(Workshop(DATASET, DATASET.until, 0), plan.DEFAULT)
    return {str(surface): model for surface, model in surfaces.items()}


@cache
def build(name: str) -> Model:
    return BUILDERS[name]()


@pytest.fixture(params=list(BUILDERS))
def model(request: pytest.FixtureRequest) -> Model:
    return build(request.param)


COMPARABLE = (
    "buy_again",
    "item_knn",
    "similar",
    "bought_together",
    "cart",
    "local_ridge",
    "als",
    "similar_content",
    "content",
    "phase1 buy_again",
)
"""Models whose scores compare between two questions: they are no shares of the best, and no other model fills them up."""
NETWORKS = ("sequence", "ranker", "confident", "phase3 home", "content", "phase2 new_arrivals", "phase3 new_arrivals")
"""What they explain is the mean over all that they might know; what they cite is what all that they know would miss."""

QUERIES = {
    "a known taste": query(0, 2, 4),
    "one event": query(7),
    "nobody": Query(),
    "an event repeated": query(3, 3, 3, 3),
    "everything": query(*range(N_ITEMS)),
}


@pytest.mark.parametrize("asked", QUERIES)
@pytest.mark.parametrize("k", [0, 1, 5, 1_000])
def test_a_ranking_is_well_formed(model: Model, asked: str, k: int) -> None:
    ranking = model.recommend(QUERIES[asked], k, ALLOWED)
    assert len(ranking) <= min(k, N_ITEMS)
    assert len(set(ranking.items.tolist())) == len(ranking)
    assert ranking.items.dtype == np.int32 and ranking.scores.dtype == np.float32
    assert len(ranking.sources) == len(ranking.because) == len(ranking)
    assert np.isfinite(ranking.scores).all()
    assert (np.diff(ranking.scores) <= 0).all()
    if ranking.chances is not None:
        assert ranking.chances.dtype == np.float32 and len(ranking.chances) == len(ranking)
        assert ((ranking.chances >= 0) & (ranking.chances <= 1) | np.isnan(ranking.chances)).all()
    if ranking.enhanced is not None:
        assert ranking.enhanced.dtype == np.bool_ and len(ranking.enhanced) == len(ranking)


@pytest.mark.parametrize("asked", QUERIES)
def test_only_eligible_items_and_as_many_as_before(model: Model, asked: str) -> None:
    rng = np.random.default_rng(1)
    for share in (0.0, 0.05, 0.5):
        mask = rng.random(N_ITEMS) < share
        ranking = model.recommend(QUERIES[asked], 10, mask)
        assert mask[ranking.items].all()
    # Masking comes before the cut: what was recommended and stays eligible is not crowded out.
    full = model.recommend(QUERIES[asked], N_ITEMS, ALLOWED)
    if len(full) and model.kind != "random":
        one = np.zeros(N_ITEMS, dtype=np.bool_)
        one[full.items[-1]] = True
        if model.name not in ("blend", "stack", "phase1", "phase2"):  # a blend may ask its parts less deep
            assert model.recommend(QUERIES[asked], 1, one).items.tolist() == [full.items[-1]]


def test_the_same_question_gets_the_same_answer(model: Model) -> None:
    first, second = (model.recommend(query(0, 2, 4), 10, ALLOWED) for _ in range(2))
    assert first.items.tolist() == second.items.tolist()
    assert first.scores.tolist() == second.scores.tolist()


def test_the_mask_is_left_as_it_was(model: Model) -> None:
    mask = ALLOWED.copy()
    mask.flags.writeable = False
    model.recommend(query(0, 2, 4), 10, mask)


def rebuilt(model: Model) -> Model:
    """Through plain data, as a bundle stores it; arrays read-only, as a memory map gives them."""
    state = model.state()
    arrays = {}
    for name, array in state.arrays.items():
        arrays[name] = array.copy()
        arrays[name].flags.writeable = False
    parts = tuple(rebuilt(part) for part in state.parts)
    return model_from_state(model.kind, ModelState(state.params, arrays, parts))


def test_a_stored_model_answers_alike(model: Model) -> None:
    again = rebuilt(model)
    for asked in QUERIES.values():
        before, after = (m.recommend(asked, 10, ALLOWED) for m in (model, again))
        assert before.items.tolist() == after.items.tolist()
        assert before.scores.tolist() == after.scores.tolist()
        assert before.sources == after.sources
        assert before.because.tolist() == after.because.tolist()
        for ours, theirs in ((before.chances, after.chances), (before.enhanced, after.enhanced)):
            assert (ours is None) == (theirs is None)
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", COLLABORATIVE)
@pytest.mark.parametrize("parity", [0, 1])
def test_collaborative_models_find_the_checkerboard(name: str, parity: int) -> None:
    seen = [parity, parity + 2, parity + 4]
    mask = ALLOWED.copy()
    mask[seen] = False
    ranking = build(name).recommend(query(*seen), 5, mask)
    assert len(ranking) == 5
    assert {int(item) % 2 for item in ranking.items} == {parity}


@pytest.mark.parametrize("parity", [0, 1])
def test_content_ranks_unsold_items_by_what_they_are(parity: int) -> None:
    unsold = np.arange(N_ITEMS) % 4 >= 2
    ranking = build("content").recommend(query(parity, parity + 4, parity + 8), 5, unsold)
    assert len(ranking) == 5
    assert {int(item) % 2 for item in ranking.items} == {parity}


@pytest.mark.parametrize("name", [n for n in BUILDERS if n.startswith("phase") and "buy_again" not in n])
def test_every_surface_but_buy_again_fills_an_answer_at_one_eligible_item_in_forty(name: str) -> None:
    for item in (0, 13, N_ITEMS - 1):
        mask = np.zeros(N_ITEMS, dtype=np.bool_)
        mask[item] = True
        assert build(name).recommend(Query(), 5, mask).items.tolist() == [item]


@pytest.mark.parametrize("region", [0, 1])
def test_a_stranger_gets_what_sells_where_they_are(region: int) -> None:
    ranking = build("regional").recommend(Query(region=region), 10, ALLOWED)
    assert {int(item) % 2 for item in ranking.items} == {region}


@pytest.mark.parametrize("region", [-1, 2, 10**6])
def test_an_unknown_region_changes_nothing(region: int) -> None:
    plain = fitted(PopularityRecommender()).recommend(Query(), 10, ALLOWED)
    assert build("regional").recommend(Query(region=region), 10, ALLOWED).items.tolist() == plain.items.tolist()


@pytest.mark.parametrize("segment", [0, 1])
def test_a_segment_gets_what_sells_to_it(segment: int) -> None:
    model = build("segments")
    asked = Query(segments=np.array([segment], dtype=np.int32))
    assert {int(item) % 2 for item in model.recommend(asked, 10, ALLOWED).items} == {segment}
    plain = model.recommend(Query(), 10, ALLOWED).items.tolist()
    for unknown in ([-1], [2], [10**6]):
        odd = Query(segments=np.array(unknown, dtype=np.int32))
        assert model.recommend(odd, 10, ALLOWED).items.tolist() == plain


def test_shrinkage_moves_from_the_prior_to_the_model() -> None:
    shrunk, taste, prior = build("shrinkage"), build("item_knn"), build("popularity")
    assert shrunk.recommend(Query(), 10, ALLOWED).items.tolist() == prior.recommend(Query(), 10, ALLOWED).items.tolist()
    sure = replace(shrunk, items=0.01)  # type: ignore[type-var]
    asked = query(0, 2)
    assert sure.recommend(asked, 10, ALLOWED).items.tolist() == taste.recommend(asked, 10, ALLOWED).items.tolist()
    known = {"taste": taste, "prior": prior}
    tops = {name: set(model.recommend(asked, 5, ALLOWED).items.tolist()) for name, model in known.items()}
    both = set(shrunk.recommend(asked, 10, ALLOWED).items.tolist())
    assert both & tops["taste"] and both & tops["prior"]


def test_what_ranks_anew_moves_candidates_and_adds_none() -> None:
    model, candidates = build("reranked"), build("popularity").recommend(Query(), 30, ALLOWED).items.tolist()
    assert model.recommend(Query(), 5, ALLOWED).items.tolist() == candidates[:5]
    own, foreign = candidates[-1], next(item for item in range(N_ITEMS) if item not in candidates)
    ranking = model.recommend(query(own, foreign), 30, ALLOWED)
    assert ranking.items[0] == own and ranking.sources[0] == "buy_again"
    assert sorted(ranking.items.tolist()) == sorted(candidates)


def test_buy_again_returns_only_what_was_bought() -> None:
    assert set(build("phase1 buy_again").recommend(query(1, 2, 3), 10, ALLOWED).items.tolist()) == {1, 2, 3}


@pytest.mark.parametrize("asked", QUERIES)
@pytest.mark.parametrize("k", [5, 1_000])
def test_an_explanation_sums_to_the_score(model: Model, asked: str, k: int) -> None:
    question = Asked(QUERIES[asked], k, ALLOWED)
    ranking = question.of(model)
    told = explain(model, question, ranking.items[::2])
    assert sorted(told) == sorted(ranking.items[::2].tolist())
    for item, score in zip(ranking.items[::2].tolist(), ranking.scores[::2].tolist(), strict=True):
        values = [one.value for one in told[item].contributions]
        assert told[item].score == score
        # Of single precision: of the terms, and of an inner product whose terms cancel.
        precision = 1e-5 * (abs(told[item].base) + sum(map(abs, values))) + 1e-6 * float(ranking.scores[0])
        assert abs(told[item].base + sum(values) - score) <= precision


CITE_NOTHING = (
    *("random", "popularity", "trending", "new_arrivals", "kin", "regional", "segments", "diverse"),
    *("phase1 trending", "phase1 new_arrivals", "phase2 trending", "phase3 trending"),
)
"""They answer alike whatever the shopper did, or these queries give them no reason to cite."""


@pytest.mark.parametrize("name", [name for name in BUILDERS if name not in NETWORKS])
def test_what_is_cited_contributes(name: str) -> None:
    model, cited = build(name), 0
    for asked in QUERIES.values():
        question = Asked(asked, 10, ALLOWED)
        ranking = question.of(model)
        told = explain(model, question, ranking.items)
        for item, because, _ in zip(*_listed(ranking), strict=True):
            if because != NO_ITEM:
                cited += 1
                assert sum(one.value for one in told[item].contributions if one.item == because) > 0
    assert (cited > 0) == (name not in CITE_NOTHING)


@pytest.mark.parametrize("name", COMPARABLE)
def test_without_what_is_cited_an_item_has_less(name: str) -> None:
    cited = 0
    for asked in (query(0, 2, 4), query(7), query(3, 3, 3, 3), query(*range(N_ITEMS))):
        for item, because, score in zip(*_listed(build(name).recommend(asked, 10, ALLOWED)), strict=True):
            if because == NO_ITEM:
                assert name == "content"  # it cites none where no single event carries the item
                continue
            other = build(name).recommend(without(asked, because), N_ITEMS, ALLOWED)
            left = dict(zip(other.items.tolist(), other.scores.tolist(), strict=True))
            assert left.get(item, 0.0) < score
            cited += 1
    assert cited > 0


def _listed(ranking: Ranking) -> tuple[list[int], list[int], list[float]]:
    return ranking.items.tolist(), ranking.because.tolist(), ranking.scores.tolist()


def without(asked: Query, item: int) -> Query:
    """The same from a shopper who has never met the item."""
    return replace(
        asked,
        history=asked.history.without(item),
        session_items=asked.session_items[asked.session_items != item],
        cart_items=asked.cart_items[asked.cart_items != item],
        context_item=NO_ITEM if asked.context_item == item else asked.context_item,
    )


def test_every_kind_is_asked() -> None:
    assert {build(name).kind for name in BUILDERS} | {"blend"} == set(MODELS)
