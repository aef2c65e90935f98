"""The bundles of a worker: what the pointers name is loaded, tried and swapped; what fails is refused, by reason, and the old one stays."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from recsys.bundle import BundleError, Flaw
from recsys.events import Surface
from recsys.publish import bundle_versions, end, promote, publish, publish_shadow, rollback
from recsys.ranking import EMPTY_RANKING, Mask, Query, Ranking
from service.arms import Arms
from service.bundles import BundleHolder, LiveBundle
from service.catalogue_log import CatalogueLog
from service.metrics import Metrics
from service.rules import RulesHolder
from service.schemas import RecommendRequest
from service.trial import try_out
from tests.shop import write_tiny_bundle


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three bundles."""
    folder = tmp_path_factory.mktemp("written")
    for spare in (1, 2, 3):
        write_tiny_bundle(folder, spare=spare)
    return folder / "bundles"


class Worker:
    """A holder with what it refused."""

    def __init__(self, bundles: Path) -> None:
        self.flaws: Counter[Flaw] = Counter()
        self.loads: Counter[str] = Counter()
        self.holder = BundleHolder(bundles, CatalogueLog(bundles / "none.jsonl"), self._refused)
        load = self.holder._load

        def counted(version: str) -> LiveBundle:
            self.loads[version] += 1
            return load(version)

        self.holder._load = counted  # type: ignore[method-assign]

    def _refused(self, flaw: Flaw) -> None:
        self.flaws[flaw] += 1

    def look(self, times: int = 1) -> str:
        for _ in range(times):
            asyncio.run(self.holder.reload())
        return self.holder.live.bundle.version


@pytest.fixture
def bundles(tmp_path: Path, written: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "bundles"))


@pytest.fixture
def versions(bundles: Path) -> list[str]:
    """All three; the first is live."""
    found = bundle_versions(bundles)
    publish(bundles, found[0])
    return found


def test_a_rollback_and_its_undoing_load_nothing(bundles: Path, versions: list[str]) -> None:
    first, second, _ = versions
    worker = Worker(bundles)
    publish(bundles, second)
    assert worker.look() == second
    assert worker.loads == {second: 1}
    rollback(bundles)
    assert worker.look() == first
    rollback(bundles, undo=True)
    assert worker.look() == second
    assert worker.loads == {second: 1} and worker.holder.trouble == ""


def test_what_a_rollback_brings_back_is_loaded_beforehand_and_what_it_would_not_is_let_go(
    bundles: Path, versions: list[str]
) -> None:
    first, second, third = versions
    publish(bundles, second)
    publish(bundles, third)
    worker = Worker(bundles)  # which never saw the others live
    worker.look()
    assert set(worker.holder.loaded) == {second, third}
    rollback(bundles)
    worker.look()
    assert set(worker.holder.loaded) == {first, second, third}  # third is there for an undo
    rollback(bundles)
    worker.look()
    assert set(worker.holder.loaded) == {first, second}


@pytest.mark.parametrize(
    ("pointer", "flaw"),
    [("../outside", Flaw.PATH), ("", Flaw.PATH), ("nothing", Flaw.MISSING)],
)
def test_a_pointer_that_leads_nowhere_is_refused_once(
    bundles: Path, versions: list[str], pointer: str, flaw: Flaw
) -> None:
    worker = Worker(bundles)
    (bundles / "live").write_text(pointer)
    assert worker.look(times=3) == versions[0]
    assert worker.flaws == {flaw: 1}
    assert "refused" in worker.holder.trouble


def test_a_damaged_bundle_is_refused_once_and_taken_when_it_is_mended(bundles: Path, versions: list[str]) -> None:
    first, second, _ = versions
    worker = Worker(bundles)
    publish(bundles, second)
    victim, whole = bundles / second / "arrays" / "history-items.npy", bundles / "whole.npy"
    shutil.copy(victim, whole)
    victim.write_bytes(whole.read_bytes()[:-4])
    assert worker.look(times=3) == first
    # Not where it lies on disk, which anybody could read off /health/ready.
    assert worker.flaws == {Flaw.TRUNCATED: 1} and worker.holder.trouble == f"{second} is refused: truncated"
    victim.write_bytes(whole.read_bytes())
    os.utime(bundles / second / "manifest.json", (1, 1))
    assert worker.look() == second
    assert worker.holder.trouble == ""


def test_a_worker_starts_with_the_last_good_bundle(bundles: Path, versions: list[str]) -> None:
    first, second, _ = versions
    publish(bundles, second)
    (bundles / second / "manifest.json").write_bytes(b"")
    worker = Worker(bundles)
    assert worker.look() == first
    assert worker.flaws == {Flaw.UNREADABLE: 1}
    (bundles / "live").write_text("../elsewhere")
    assert Worker(bundles).holder.live.bundle.version == first
    (bundles / "live").write_text(second)
    (bundles / first / "manifest.json").write_bytes(b"")
    with pytest.raises(BundleError, match=second):
        Worker(bundles)


def test_a_bundle_that_fails_its_trial_is_refused(bundles: Path, versions: list[str]) -> None:
    worker = Worker(bundles)

    async def trial(_candidate: LiveBundle, _live: LiveBundle) -> None:
        raise BundleError("it answers nothing", Flaw.EMPTY)

    worker.holder._trial = trial
    publish(bundles, versions[1])
    assert worker.look(times=2) == versions[0]
    assert worker.flaws == {Flaw.EMPTY: 1}
    assert worker.loads[versions[1]] == 1  # not tried again and again


@dataclass(frozen=True)
class Silent:
    """A model that says nothing, or what it should not."""

    kind: ClassVar[str] = "silent"
    says: Any = None
    name: str = "silent"

    def recommend(self, _query: Query, _k: int, _eligible: Mask) -> Ranking:
        if self.says is None:
            return EMPTY_RANKING
        if isinstance(self.says, Exception):
            raise self.says
        items = np.array(self.says, dtype=np.int32)
        return Ranking(items, np.zeros(len(items), dtype=np.float32), ("silent",) * len(items), items)


@pytest.mark.parametrize(
    ("says", "flaw"),
    [
        (None, Flaw.EMPTY),
        ([1], Flaw.EMPTY),
        (RuntimeError("no"), Flaw.WRONG),
        ([3, 3], Flaw.WRONG),
        ([1, 2, 3, 4, 5, 6], Flaw.WRONG),
    ],
)
def test_a_trial_on_recorded_requests_finds_what_is_wrong(bundles: Path, says: Any, flaw: Flaw) -> None:
    publish(bundles)
    live = Worker(bundles).holder.live
    model: Any = Silent(says)
    surfaces = {**live.bundle.surfaces, Surface.HOME: model}
    candidate = replace(live, bundle=replace(live.bundle, surfaces=surfaces))
    requests = [RecommendRequest(user_id="household-01", k=5), RecommendRequest(surface=Surface.TRENDING, k=1)]
    asyncio.run(try_out(live, live, requests))
    asyncio.run(try_out(candidate, live, requests[1:]))
    with pytest.raises(BundleError) as refused:
        asyncio.run(try_out(candidate, live, requests))
    assert refused.value.flaw is flaw


def arms_of(worker: Worker) -> Arms:
    metrics = Metrics("shop", CollectorRegistry())
    return Arms(None, worker.holder, RulesHolder(None, metrics), metrics)


def placed(arms: Arms) -> dict[str, tuple[str, str]]:
    """Arm and bundle of each of a thousand shoppers."""
    found = {}
    for n in range(1_000):
        line = arms.line(RecommendRequest(user_id=f"u{n}"), 0.0)
        (placement,) = line.placements
        found[f"u{n}"] = (placement.arm, line.live.bundle.version)
    return found


def test_a_canary_gets_its_share_keeps_its_shoppers_and_ends(bundles: Path, versions: list[str]) -> None:
    first, second, _ = versions
    worker = Worker(bundles)
    arms = arms_of(worker)

    def follow() -> None:
        worker.look()
        asyncio.run(arms.reload())

    publish(bundles, second, canary=0.1)
    follow()
    small = placed(arms)
    assert set(small.values()) == {("canary", second), ("control", first)}
    mine = {user for user, (arm, _) in small.items() if arm == "canary"}
    assert 70 <= len(mine) <= 130
    assert not arms.line(RecommendRequest(), 0.0).placements  # of whom nothing is known gets what is live
    publish(bundles, second, canary=0.5)
    follow()
    assert mine < {user for user, (arm, _) in placed(arms).items() if arm == "canary"}
    promote(bundles)
    follow()
    line = arms.line(RecommendRequest(user_id="u1"), 0.0)
    assert (line.placements, line.live.bundle.version, line.watch) == ((), second, None)


def test_a_canary_that_is_stopped_here_does_not_come_back_by_itself(bundles: Path, versions: list[str]) -> None:
    worker = Worker(bundles)
    arms = arms_of(worker)
    publish(bundles, versions[1], canary=0.5)
    worker.look()
    asyncio.run(arms.reload())
    assert arms.watched is not None and arms.canary_share == 0.5
    arms.stop_canary()
    asyncio.run(arms.reload())
    assert arms.watched is None
    end(bundles, "canary")
    publish(bundles, versions[1], canary=0.5, force="another try")
    worker.look()
    asyncio.run(arms.reload())
    assert arms.watched is not None  # another one, that a person has begun


def test_a_damaged_canary_harms_nobody(bundles: Path, versions: list[str]) -> None:
    publish(bundles, versions[1], canary=0.5)
    (bundles / versions[1] / "manifest.json").write_bytes(b"{}")
    worker = Worker(bundles)
    assert worker.look(times=2) == versions[0]
    assert worker.holder.canary is None and worker.flaws == {Flaw.INCOMPATIBLE: 1}


def test_the_shadow_is_known_and_loaded_by_nobody_here(bundles: Path, versions: list[str]) -> None:
    publish_shadow(bundles, versions[1], 0.25)
    worker = Worker(bundles)
    worker.look()
    assert worker.holder.shadow is not None and worker.holder.shadow.share == 0.25
    assert versions[1] not in worker.holder.loaded
