"""`service.ladder`: what answers when the best model cannot, and that no rung shows what may not be shown."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.bundle import load_bundle
from recsys.compose import Confident
from recsys.events import Surface
from recsys.models.content import ContentModel
from recsys.models.content_neighbours import ContentNeighboursModel
from recsys.ranking import EMPTY_RANKING, Query, Ranking
from service.ladder import REMEMBER_SECONDS, REMEMBERED, Memory, Rung, simplified
from service.schemas import RecommendRequest
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
    memory.forget("u", None)
    assert memory.of(asked(), "v1", 7, 1.0) is None


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
