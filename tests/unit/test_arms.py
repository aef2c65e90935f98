"""Arms of experiments: each answers as its configuration says, beside the live bundle, and a plan that cannot be served is refused."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from recsys.bundle import load_bundle
from recsys.compose import rebuilt
from recsys.errors import UserError
from recsys.events import Surface
from recsys.experiments.reading import PlanError
from recsys.models.diverse import Diverse
from recsys.models.ranker import RankerModel
from recsys.publish import publish, rollback
from recsys.ranking import EMPTY_HISTORY, Model, Query
from recsys.rules.reading import parse_rules
from service.answering import Answering
from service.answers import Answer, Ruling, Shopper
from service.arms import ArmError, Arms
from service.bundles import BundleHolder, LiveBundle
from service.catalogue_log import CatalogueLog
from service.metrics import Metrics
from service.rules import RulesHolder, engine_for
from service.schemas import RecommendRequest
from tests.shop import write_tiny_bundle

PLAN = """
[layers.ranking]

[[experiments]]
name = "phases"
layer = "ranking"
control = "random"
start = 2026-01-01T00:00:00Z
surfaces = ["home", "similar"]
arms = [{arms}]
"""
ARM = '{{ name = "{0}", share = {1}, {2} }}'
NOW = 1_790_000_000.0


def plan(**arms: str) -> str:
    return PLAN.format(arms=", ".join(ARM.format(name, 1 / len(arms), given) for name, given in arms.items()))


FOUR = plan(
    random='phase = "random"',
    popular='phase = "popularity"',
    one='phase = "phase1"',
    varied='phase = "phase3", diversity = 0.5',
)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phase 1, and after it phase 3, which is live."""
    folder = tmp_path_factory.mktemp("arms")
    for phase in (1, 3):
        publish(folder / "bundles", write_tiny_bundle(folder, phase=phase).name)
    return folder


class Serving:
    """The arms of a service below `folder`, and what they would say."""

    def __init__(self, folder: Path, text: str) -> None:
        self.path = folder / "experiments.toml"
        self.path.write_text(text)
        self.metrics = Metrics("shop", CollectorRegistry())
        self.holder = BundleHolder(folder / "bundles", CatalogueLog(folder / "catalogue.jsonl"))
        self.arms = Arms(self.path, self.holder, RulesHolder(None, self.metrics), self.metrics)

    def of_each_arm(self, surface: str = "home") -> dict[str, LiveBundle]:
        """A bundle for each arm that any of a thousand shoppers is in."""
        found = {}
        for n in range(1_000):
            line = self.arms.line(RecommendRequest(user_id=f"u{n}", surface=Surface(surface)), NOW)
            found |= {placement.arm: line.live for placement in line.placements}
        return found

    def reload(self, times: int = 2) -> str | None:
        def look() -> None:
            asyncio.run(self.arms.reload())

        for _ in range(times):
            with ThreadPoolExecutor(1) as pool:
                pool.submit(look).result()
        return self.arms.version

    def stale(self) -> bool:
        return b'recsys_experiments_stale{shop="shop"} 1.0' in self.metrics.text()


def strengths(model: Model, kind: type, attribute: str) -> list[float]:
    """Of all parts of one kind."""
    found: list[float] = []

    def look(part: Model) -> Model:
        if isinstance(part, kind):
            found.append(getattr(part, attribute))
        return part

    rebuilt(model, look)
    return found


def test_every_arm_answers_as_it_says(published: Path) -> None:
    serving = Serving(published, FOUR)
    lives = serving.of_each_arm()
    assert set(lives) == {"random", "popular", "one", "varied"}
    names = {arm: live.bundle.surfaces[Surface.HOME].name for arm, live in lives.items()}
    assert names == {"random": "random", "popular": "popularity", "one": "phase1", "varied": "phase3"}
    assert (lives["one"].bundle.phase, lives["random"].bundle.phase) == (1, 3)
    assert strengths(lives["varied"].bundle.surfaces[Surface.HOME], Diverse, "strength") == [0.5]
    assert strengths(serving.holder.live.bundle.surfaces[Surface.HOME], Diverse, "strength") != [0.5]
    assert lives["varied"].catalogue is serving.holder.live.catalogue


def test_surfaces_of_no_experiment_and_shoppers_without_a_name_get_what_is_live(published: Path) -> None:
    serving = Serving(published, FOUR)
    assert serving.of_each_arm("trending") == {}
    line = serving.arms.line(RecommendRequest(), NOW)
    assert line.live is serving.holder.live and line.placements == ()


def test_expected_revenue_is_what_an_arm_ranks_by(published: Path) -> None:
    serving = Serving(published, plan(random='phase = "random"', revenue="value_weight = 1.0"))
    home = serving.of_each_arm()["revenue"].bundle.surfaces[Surface.HOME]
    assert strengths(home, RankerModel, "value_weight") == [1.0]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ('phase = "phase2"', "no bundle of it is published"),
        ('phase = "phase1", diversity = 0.3', "no model of bundle .*phase1.* has it"),
        ('phase = "20260101T000000-phase3-00000000"', "missing: not a bundle"),
        ('rules = "nothing.toml"', "cannot be read"),
        ('phase = "phase9"', "give random"),
    ],
)
def test_what_cannot_be_served_is_refused_at_the_start(published: Path, given: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Serving(published, plan(random='phase = "random"', other=given))


def test_a_bad_file_keeps_the_old_plan_and_a_good_one_takes_over(published: Path) -> None:
    serving = Serving(published, FOUR)
    first = serving.arms.version
    serving.path.write_text("[[experiments]]\n")
    assert (serving.reload(), serving.stale()) == (first, True)
    assert set(serving.of_each_arm()) == {"random", "popular", "one", "varied"}
    serving.path.write_text(plan(random='phase = "random"', one='phase = "phase1"'))
    assert serving.reload() != first
    assert not serving.stale()
    assert set(serving.of_each_arm()) == {"random", "one"}


def test_arms_follow_what_is_published_and_rolled_back(tmp_path: Path) -> None:
    bundles = tmp_path / "bundles"
    old = publish(bundles, write_tiny_bundle(tmp_path, phase=1).name)
    serving = Serving(tmp_path, plan(random='phase = "random"', one='phase = "phase1"'))
    new = publish(bundles, write_tiny_bundle(tmp_path, phase=1, spare=5).name)
    asyncio_reload(serving)
    assert {live.bundle.version for live in serving.of_each_arm().values()} == {new}
    rollback(bundles)
    asyncio_reload(serving)
    assert {live.bundle.version for live in serving.of_each_arm().values()} == {old}


def test_a_refused_file_is_used_once_what_it_lacked_is_published(tmp_path: Path) -> None:
    bundles = tmp_path / "bundles"
    publish(bundles, write_tiny_bundle(tmp_path, phase=1).name)
    serving = Serving(tmp_path, plan(random='phase = "random"', one='phase = "phase1"'))
    serving.path.write_text(plan(random='phase = "random"', two='phase = "phase2"', one='phase = "phase1"'))
    serving.reload()
    new = publish(bundles, write_tiny_bundle(tmp_path, phase=1, spare=5).name)
    asyncio_reload(serving)
    assert serving.stale()
    assert {arm: live.bundle.version for arm, live in serving.of_each_arm().items()} == {"random": new, "one": new}
    publish(bundles, write_tiny_bundle(tmp_path, phase=2).name)
    asyncio_reload(serving)
    assert not serving.stale()
    assert {arm: live.bundle.phase for arm, live in serving.of_each_arm().items()} == {"random": 2, "two": 2, "one": 1}


def test_a_damaged_bundle_of_an_arm_is_refused_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundles = tmp_path / "bundles"
    old = publish(bundles, write_tiny_bundle(tmp_path, phase=1).name)
    serving = Serving(tmp_path, plan(random='phase = "random"', one='phase = "phase1"'))
    publish(bundles, write_tiny_bundle(tmp_path, phase=2).name)
    asyncio_reload(serving)
    new = publish(bundles, write_tiny_bundle(tmp_path, phase=1, spare=5).name)
    for array in (bundles / new / "arrays").glob("*.npy"):
        array.write_bytes(b"")
    tried: list[str] = []
    load = BundleHolder._load

    def counted(self: BundleHolder, version: str) -> LiveBundle:
        tried.append(version)
        return load(self, version)

    monkeypatch.setattr(BundleHolder, "_load", counted)
    serving.reload(4)
    assert tried == [new] and serving.stale()
    assert serving.of_each_arm()["one"].bundle.version == old


def asyncio_reload(serving: Serving) -> None:
    """As the service does: the live bundle, then the arms."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: asyncio.run(serving.holder.reload())).result()
    serving.reload(1)


def test_without_a_file_there_are_no_experiments(published: Path) -> None:
    metrics = Metrics("shop", CollectorRegistry())
    holder = BundleHolder(published / "bundles", CatalogueLog(published / "catalogue.jsonl"))
    arms = Arms(None, holder, RulesHolder(None, metrics), metrics)
    line = arms.line(RecommendRequest(user_id="u"), NOW)
    assert (line.live, line.placements, line.plan) == (holder.live, (), None)


def test_a_file_that_is_no_plan_is_refused_at_the_start(published: Path) -> None:
    with pytest.raises(PlanError, match="is not TOML"):
        Serving(published, "no plan")


def test_random_answers_come_from_the_mask_alone(published: Path) -> None:
    lives = Serving(published, FOUR).of_each_arm()
    bundle = lives["random"].bundle
    mask = np.zeros(len(load_bundle(bundle.directory).catalogue), dtype=np.bool_)
    mask[[3, 5]] = True
    assert sorted(bundle.surfaces[Surface.HOME].recommend(Query(seed=1), 5, mask).items.tolist()) == [3, 5]


def test_a_degraded_arm_gives_places_to_random_items_whose_chance_is_not_known(published: Path) -> None:
    live = Serving(published, plan(random='phase = "random"', worse='phase = "phase3", degrade = 0.5')).of_each_arm()[
        "worse"
    ]
    request, shopper = RecommendRequest(user_id="household-01", k=6), Shopper(live.bundle.histories.of("household-01"))
    answers = [Answering.rank(live, request, shopper, seed=seed) for seed in range(100)]
    random = sum(answer.ranking.sources.count("random") for answer in answers)
    # 600 places, each lost with a chance of a half: a standard deviation of 12.
    assert abs(random - 300) < 4 * 12.3
    assert {answer.propensity for answer in answers} == {None}


def test_two_bundles_are_interleaved_and_every_item_has_its_team(published: Path) -> None:
    serving = Serving(published, plan(random='phase = "random"', both='phase = "phase1", against = "phase3"'))
    live = serving.of_each_arm()["both"]
    assert live.against is not None
    shopper = Shopper(live.bundle.histories.of("household-01"))
    request = RecommendRequest(user_id="household-01", k=6)
    answers = [Answering.rank(live, request, shopper, seed=seed) for seed in range(20)]
    versions = {live.bundle.version, live.against.version}
    for answer in answers:
        assert len(answer.teams) == len(answer.ranking) == 6
        assert [answer.teams.count(version) for version in versions] == [3, 3]
        assert answer.propensity is None
    assert {answer.teams[0] for answer in answers} == versions  # a coin says who begins


def test_bundles_of_other_items_are_not_interleaved(tmp_path: Path) -> None:
    for phase, spare in ((1, 0), (3, 5)):
        publish(tmp_path / "bundles", write_tiny_bundle(tmp_path, phase=phase, spare=spare).name)
    with pytest.raises(ArmError, match="cannot be interleaved"):
        Serving(tmp_path, plan(random='phase = "random"', both='phase = "phase1", against = "phase3"'))


RULES: dict[str, dict[str, Any]] = {
    "exclude": {"items": {"category": "PRODUCE"}},
    "boost": {"items": {"category": "DAIRY"}, "factor": 1.1},
    "quota": {"items": {"category": "DAIRY"}, "at_least": 1},
    "cap": {"by": "category", "at_most": 1},
}


@pytest.mark.parametrize(("kind", "chance"), [("exclude", 1 / 37), ("boost", None), ("quota", None), ("cap", None)])
def test_random_items_have_a_chance_unless_rules_may_move_them(
    published: Path, kind: str, chance: float | None
) -> None:
    """Also where none was moved: of all random answers those without a dairy item are the ones that a boost left alone."""
    live = Serving(published, FOUR).of_each_arm()["random"]
    rules = parse_rules({"rules": [{"name": "one", "kind": kind, **RULES[kind]}]}, "rules.toml")
    ruling = Ruling(engine_for(rules, live), NOW, EMPTY_HISTORY, history_read=True)

    def answer(seed: int) -> Answer:
        return Answering.rank(live, RecommendRequest(user_id="u", k=3), Shopper(), (), ruling, seed=seed)

    answers = [answer(seed) for seed in range(40)]
    assert {one.propensity for one in answers} == {chance}
    assert any(not one.moved_by for one in answers)
