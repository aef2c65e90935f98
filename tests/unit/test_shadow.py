"""Shadow scoring: how two lists differ, what the shadow's process answers, and that no answer ever waits for it."""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import orjson
import pytest
from prometheus_client import CollectorRegistry

from recsys.errors import UserError
from recsys.privacy.deletions import Deletions
from recsys.privacy.pseudonyms import Pseudonyms
from recsys.publish import TrafficShare
from recsys.ranking import EMPTY_RANKING
from service.answering import Answering
from service.answers import NOT_READ, Answer, Recorded, Shopper
from service.arms import Line
from service.bundles import LiveBundle
from service.load import AT_EASE
from service.metrics import Metrics
from service.replay import open_live
from service.rules import RulesHolder
from service.schemas import RecommendRequest
from service.session_store import RECORD, Records
from service.settings import Settings
from service.shadow import WAITING, Shadow
from service.shadow_process import Responder, overlap, rank_correlation, record
from service.shadow_table import read_comparisons, summed_up
from tests.shop import publish_tiny_shop


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ("abc", "abc", 1.0),
        ("abc", "cba", -1.0),
        ("abcd", "xaybzdwc", 0.8),  # places 1 2 4 3: squared differences 2, and 1 - 6 * 2 / (4 * 15)
        ("abc", "xay", None),
        ("", "", None),
    ],
)
def test_rank_correlation_by_hand(ours: str, theirs: str, expected: float | None) -> None:
    found = rank_correlation(ours, theirs)
    assert found == (None if expected is None else pytest.approx(expected))


def test_overlap_by_hand() -> None:
    assert overlap("abcd", "axcy") == 0.5
    assert overlap("", "ab") is None


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> LiveBundle:
    folder = tmp_path_factory.mktemp("shop")
    publish_tiny_shop(folder)
    return open_live(folder, None)


def asked(items: list[str], **request: Any) -> dict[str, Any]:
    nothing = base64.b64encode(np.empty(0, dtype=RECORD).tobytes()).decode()
    return {
        "request": {"k": 5, **request},
        "recorded": [nothing, nothing],
        "at": 1_700_000_000.0,
        "seconds": 0.002,
        "seed": 7,
        "items": items,
        "live": "v",
        "trend": [],
        "shown": [],
    }


def responder(live: LiveBundle) -> Responder:
    return Responder(live, RulesHolder(None, Metrics("shop", CollectorRegistry())))


def test_the_process_compares_its_answer_with_the_one_shown(live: LiveBundle, tmp_path: Path) -> None:
    nothing = responder(live).compare(asked([], user_id="household-03"))
    assert (nothing["outcome"], nothing["answered"], nothing["overlap"]) == ("compared", 5, None)
    broken = replace(live, bundle=replace(live.bundle, surfaces={}))
    failed = responder(broken).compare(asked(["item-01"], user_id="household-03"))
    assert (failed["outcome"], failed["shown"]) == ("failed", 1)
    for told in (nothing, failed):
        record(tmp_path / "shadow" / "v.jsonl", told)
    assert len(read_comparisons(tmp_path / "shadow" / "v.jsonl")) == 2


def test_the_same_bundle_is_equal_to_itself(live: LiveBundle) -> None:
    request = RecommendRequest(user_id="household-03", k=5)
    known = Shopper(live.bundle.histories.of("household-03"))
    shown = [live.catalogue.item_id(row) for row in Answering.rank(live, request, known, seed=7).ranking.items.tolist()]
    told = responder(live).compare(asked(shown, user_id="household-03"))
    assert (told["overlap"], told["correlation"]) == (1.0, 1.0)
    empty = responder(live).compare(asked(shown, user_id="household-03", filters={"brand": "nobody"}))
    assert (empty["outcome"], empty["overlap"], empty["correlation"]) == ("empty", 0.0, None)


def test_the_process_knows_nobody_who_was_deleted(tmp_path: Path) -> None:
    version = publish_tiny_shop(tmp_path)
    live = open_live(tmp_path, version)
    known, request = Shopper(live.bundle.histories.of("household-03")), RecommendRequest(user_id="household-03", k=5)

    def ids(shopper: Shopper) -> list[str]:
        ranked = Answering.rank(live, request, shopper, seed=7).ranking
        return [live.catalogue.item_id(row) for row in ranked.items.tolist()]

    shown, strangers = ids(known), ids(Shopper())
    assert shown != strangers
    environment = {**os.environ, "RECSYS_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "service.shadow_process", version]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None and process.stdout is not None

        def told(items: list[str]) -> dict[str, Any]:
            process.stdin.write(orjson.dumps(asked(items, user_id="household-03")) + b"\n")
            process.stdin.flush()
            found: dict[str, Any] = orjson.loads(process.stdout.readline())
            return found

        assert told(shown)["overlap"] == 1.0
        Deletions(tmp_path, Pseudonyms(tmp_path)).begin("household-03", time.time())
        assert told(strangers)["overlap"] == 1.0


def test_comparisons_are_summed_up_by_surface(tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    one = {
        "surface": "home",
        "outcome": "compared",
        "overlap": 0.5,
        "correlation": None,
        "live_seconds": 0.001,
        "seconds": 0.002,
    }
    other = {**one, "surface": "cart", "overlap": 1.0, "correlation": 0.5}
    path.write_bytes(b"\n".join([orjson.dumps(one), orjson.dumps(other), b'{"surfa']))
    cart, home, every = summed_up(read_comparisons(path))
    assert cart == ["cart", "1", "0", "0", "1.000", "0.500", "1.00", "1.00", "2.00", "2.00"]
    assert home[4:6] == ["0.500", ""]
    assert every[:6] == ["all", "2", "0", "0", "0.750", "0.500"]
    with pytest.raises(UserError, match="nothing was compared yet"):
        read_comparisons(tmp_path / "none.jsonl")


def test_what_is_too_much_is_dropped_and_what_was_degraded_is_not_offered(live: LiveBundle, tmp_path: Path) -> None:
    metrics = Metrics("shop", CollectorRegistry())
    shadow = Shadow(Settings(data_dir=tmp_path), metrics, lambda: 1.0)
    assert not shadow.wants()
    shadow.follow(TrafficShare("v", 1.0, 0.0))
    assert shadow.wants()
    line = Line(live, RulesHolder(None, metrics))
    whole, degraded = (Answer(EMPTY_RANKING, "phase1", is_degraded, ()) for is_degraded in (False, True))
    request = RecommendRequest()
    shadow.offer(line, request, NOT_READ, 0.0, degraded, ())
    shadow.offer(line, request, None, 0.0, whole, ())
    for _ in range(WAITING + 3):
        shadow.offer(line, request, NOT_READ, 0.0, whole, ())
    assert b'recsys_shadow_requests_total{outcome="dropped",shop="shop"} 3.0' in metrics.text()


def test_a_shadow_that_cannot_start_is_counted_and_harms_nobody(live: LiveBundle, tmp_path: Path) -> None:
    metrics = Metrics("shop", CollectorRegistry())

    times = [1.0]

    async def run() -> None:
        shadow = Shadow(Settings(data_dir=tmp_path), metrics, lambda: times[-1])
        shadow.follow(TrafficShare("no-such-bundle", 1.0, 0.0))
        answer = Answer(EMPTY_RANKING, "phase1", False, ())
        # In between it is left alone: to start it again each second would cost more than it tells.
        for now in (1.0, 20.0, 40.0):
            times.append(now)
            shadow.offer(Line(live, RulesHolder(None, metrics)), RecommendRequest(), NOT_READ, now, answer, ())
            await shadow.run()

    asyncio.run(run())
    assert b'recsys_shadow_requests_total{outcome="failed",shop="shop"} 2.0' in metrics.text()


def test_a_shadow_may_read_what_the_live_bundle_does_not(live: LiveBundle, tmp_path: Path) -> None:
    """Phase 1 needs no history beside an item, the phase 3 that is compared with it does."""
    metrics, read = Metrics("shop", CollectorRegistry()), Recorded(np.empty(1, RECORD), np.empty(0, RECORD))

    async def histories(*_: object) -> tuple[Records, Records]:
        return read.user, read.session

    answering = Answering(
        *(cast("Any", part) for part in (SimpleNamespace(histories=histories), None, None, metrics, None))
    )
    request = RecommendRequest(user_id="household-03", item_id="item-03")
    line = Line(live, RulesHolder(None, metrics))
    watched = replace(line, shadow=Shadow(Settings(data_dir=tmp_path), metrics, lambda: 1.0))
    assert asyncio.run(answering._recorded([(line, request)], AT_EASE)) is NOT_READ
    assert asyncio.run(answering._recorded([(watched, request)], AT_EASE)) == read
