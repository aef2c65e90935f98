"""`service.ladder`: what answers when the best model cannot, and that no rung shows what may not be shown."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from recsys.bundle import load_bundle
from recsys.compose import Confident
from recsys.events import Surface
from recsys.models.content import ContentModel
from recsys.models.content_neighbours import ContentNeighboursModel
from recsys.ranking import EMPTY_RANKING, History, Query, Ranking
from service import ladder
from service.answering import Answering
from service.answers import Shopper
from service.bundles import LiveBundle
from service.catalogue import LiveCatalogue
from service.catalogue_log import CatalogueLog
from service.ladder import REMEMBER_SECONDS, REMEMBERED, Memory, Remembered, Rung, simplified
from service.schemas import Filters, RecommendRequest
from tests.factories import history
from tests.shop import write_tiny_bundle


def ranking(*rows: int) -> Ranking:
    items = np.array(rows, dtype=np.int32)
    return Ranking(
        items, np.arange(len(rows), 0, -1, dtype=np.float32), ("m",) * len(rows), np.full(len(rows), -1, "i4")
    )


def asked(user: str | None = "u", **members: Any) -> RecommendRequest:
    return RecommendRequest(user_id=user, **members)


def kinds(model: object) -> set[type]:
    """Of a model and all that it is made of."""
    found = {type(model)}
    if is_dataclass(model):
        for one in fields(model):
            part = getattr(model, one.name)
            for each in part if isinstance(part, tuple) else (part,):
                found |= kinds(each) if hasattr(each, "recommend") else set()
    return found


@pytest.mark.parametrize("phase", [1, 2, 3])
def test_a_simplified_model_has_no_costly_part_and_still_fills_its_answer(tmp_path: Path, phase: int) -> None:
    bundle = load_bundle(write_tiny_bundle(tmp_path, phase=phase, with_chances=phase == 1))
    allowed = np.array(bundle.catalogue.available)
    for surface, model in bundle.surfaces.items():
        simple = simplified(model)
        assert not kinds(simple) & {Confident, ContentModel, ContentNeighboursModel}, surface
        if surface is not Surface.BUY_AGAIN:
            query = Query(surface=surface, history=history(2, 3), context_item=2)
            assert len(simple.recommend(query, 12, allowed)) == 12, surface


def test_what_is_cheap_already_stays_what_it_is(tmp_path: Path) -> None:
    bundle = load_bundle(write_tiny_bundle(tmp_path))
    assert all(simplified(model) is model for model in bundle.surfaces.values())


def test_what_was_said_is_said_again_but_for_what_may_not_be_shown_now() -> None:
    memory = Memory()
    memory.keep(asked(), "v1", ranking(5, 3, 8, 1), "phase3", 7, 0.0)
    said = memory.of(asked(), "v1", None, 1.0)
    assert said is not None and said.name == "phase3"
    allowed = np.ones(10, dtype=np.bool_)
    allowed[[3, 5]] = False
    assert said.recommend(Query(), 12, allowed).items.tolist() == [8, 1]
    assert said.recommend(Query(), 1, allowed).items.tolist() == [8]
    assert said.recommend(Query(), 1, np.zeros(10, dtype=np.bool_)).items.tolist() == []


def test_it_is_remembered_for_one_shopper_surface_bundle_and_history_and_not_for_ever() -> None:
    memory = Memory()
    memory.keep(asked(), "v1", ranking(5, 3), "m", 7, 0.0)
    memory.keep(asked(None), "v1", ranking(1), "m", 0, 0.0)  # a stranger's
    memory.keep(asked("w"), "v1", EMPTY_RANKING, "m", 0, 0.0)
    assert memory.of(asked(), "v1", 7, REMEMBER_SECONDS - 1) is not None
    assert memory.of(asked(), "v1", 8, 1.0) is None  # has done something since
    assert memory.of(asked(), "v2", 7, 1.0) is None  # rows of another bundle
    assert memory.of(asked(), "v1", 7, REMEMBER_SECONDS) is None
    assert memory.of(asked(surface="buy_again"), "v1", 7, 1.0) is None
    assert memory.of(asked(None, session_id="u"), "v1", 7, 1.0) is None  # a session called like the user
    assert memory.of(asked(None), "v1", 0, 1.0) is None
    assert memory.of(asked("w"), "v1", 0, 1.0) is None


@pytest.mark.parametrize("surface", ["similar", "bought_together", "cart"])
def test_what_goes_with_one_item_is_not_said_of_another(surface: str) -> None:
    memory = Memory()
    memory.keep(asked(surface=surface, item_id="a", cart=("a",)), "v", ranking(5, 3), "m", 7, 0.0)
    assert memory.of(asked(surface=surface, item_id="a", cart=("a",)), "v", 7, 1.0) is not None
    assert memory.of(asked(surface=surface, item_id="b", cart=("a", "b")), "v", 7, 1.0) is None


def test_the_one_who_came_longest_ago_is_forgotten_first() -> None:
    memory = Memory()
    for number in range(REMEMBERED):
        memory.keep(asked(f"u{number}"), "v", ranking(1), "m", 0, 0.0)
    memory.keep(asked("u0"), "v", ranking(2), "m", 0, 0.0)
    memory.keep(asked("new"), "v", ranking(3), "m", 0, 0.0)
    assert memory.of(asked("u1"), "v", 0, 1.0) is None
    assert memory.of(asked("u0"), "v", 0, 1.0) is not None
    assert memory.of(asked("new"), "v", 0, 1.0) is not None


def test_rungs_go_down() -> None:
    assert sorted(Rung) == [Rung.FULL, Rung.REMEMBERED, Rung.SIMPLE, Rung.POPULAR]
    assert Rung.POPULAR.word == "popular"


# Which rung a request gets


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> LiveBundle:
    folder = tmp_path_factory.mktemp("phase3")
    bundle = load_bundle(write_tiny_bundle(folder, phase=3))
    return LiveBundle(bundle, LiveCatalogue(bundle, CatalogueLog(folder / "changes.jsonl")))


@pytest.fixture
def answering() -> Answering:
    """What chooses the rung needs nothing of what it is made with."""
    return Answering(*(cast("Any", None) for _ in range(5)))


def rung(answering: Answering, live: LiveBundle, request: RecommendRequest, known: History | None, best: Rung) -> Rung:
    return answering._step(live, request, known, best).rung


def test_the_best_rung_that_can_be_stood_on(answering: Answering, live: LiveBundle) -> None:
    home, known = asked(), history(2, 3)
    similar = RecommendRequest(surface=Surface.SIMILAR, item_id="item-03")
    trending = RecommendRequest(surface=Surface.TRENDING)
    assert rung(answering, live, home, known, Rung.FULL) is Rung.FULL
    assert rung(answering, live, home, known, Rung.REMEMBERED) is Rung.SIMPLE  # nothing was said yet
    assert rung(answering, live, similar, None, Rung.REMEMBERED) is Rung.SIMPLE
    assert rung(answering, live, trending, None, Rung.REMEMBERED) is Rung.FULL  # as cheap as can be
    for request in (home, similar, trending):
        assert rung(answering, live, request, None, Rung.POPULAR) is Rung.POPULAR
    answer = Answering.rank(live, home, Shopper(known))
    answering._remember(live, home, answer, Shopper(known))
    assert rung(answering, live, home, known, Rung.REMEMBERED) is Rung.REMEMBERED
    assert rung(answering, live, home, history(2, 3, 4), Rung.REMEMBERED) is Rung.SIMPLE
    assert rung(answering, live, home, None, Rung.FULL) is Rung.REMEMBERED  # the history cannot be read
    assert rung(answering, live, asked("stranger"), None, Rung.FULL) is Rung.SIMPLE
    assert rung(answering, live, asked(explain=True), None, Rung.FULL) is Rung.POPULAR


def test_without_a_history_every_personal_surface_still_fills_its_answer(
    answering: Answering, live: LiveBundle
) -> None:
    for surface in (Surface.HOME, Surface.BUY_AGAIN, Surface.NEW_ARRIVALS):
        request = asked(surface=surface, k=12)
        step = answering._step(live, request, None, Rung.FULL)
        answer = Answering.rank(live, request, Shopper(), step=step, degraded=True)
        assert (len(answer.ranking), answer.rung, answer.degraded) == (12, Rung.SIMPLE, True), surface


def test_an_answer_to_a_filtered_question_is_not_remembered(answering: Answering, live: LiveBundle) -> None:
    known = Shopper(history(2, 3))
    filtered = asked(filters=Filters(max_price_cents=200))
    answering._remember(live, filtered, Answering.rank(live, filtered, known), known)
    assert rung(answering, live, asked(), None, Rung.FULL) is Rung.SIMPLE


def test_what_is_too_old_or_too_much_is_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "REMEMBERED", 3)
    memory, said = Memory(), ranking(*range(200))
    requests = [asked(f"u{n}") for n in range(5)]

    def known(now: float) -> list[int]:
        return [n for n, request in enumerate(requests) if memory.of(request, "v", None, now) is not None]

    for second, request in enumerate(requests):
        memory.keep(request, "v", said, "m", 0, float(second))
    assert known(5.0) == [2, 3, 4] and len(memory._entries) == 3
    assert known(ladder.REMEMBER_SECONDS + 3.0) == [4]
    memory.keep(requests[0], "v", said, "m", 0, ladder.REMEMBER_SECONDS + 10.0)
    assert len(memory._entries) == 1
    kept = memory.of(requests[0], "v", 0, ladder.REMEMBER_SECONDS + 10.0)
    assert isinstance(kept, Remembered) and len(kept.ranking) == ladder.MOST
