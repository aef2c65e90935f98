"""Guardrails of a canary: the arithmetic, what they let pass, and that a canary is ended once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import orjson
import pytest
from prometheus_client import CollectorRegistry

from recsys.experiments.sequential import factor, tuned_rho
from recsys.ledger import read_ledger
from recsys.publish import TrafficShare, traffic_share
from recsys.store.database import database_url, open_database, writing
from recsys.store.migrate import upgrade
from recsys.store.writing import insert_events, insert_exposures
from service.clicks import Clicks
from service.guardrail import ALPHA, Guardrail, Sums, Watch, Watched, breach, click_breach, difference
from service.metrics import Metrics
from service.settings import Settings

SETTINGS = Settings(guardrail_answers=100, guardrail_ctr=0.05)
NAME = "canary-b"


def sums(*units: tuple[float, float]) -> Sums:
    return Sums.of(units)


def test_a_ratio_and_its_variance_by_hand() -> None:
    # 3 clicks in 4 answers: 0.75. Residuals 1 - 0.75 * 1, 2 - 0.75 * 3: 0.25 and -0.25; squares 0.125 over 4^2.
    found = sums((1, 1), (2, 3))
    assert (found.ratio, found.variance) == (0.75, pytest.approx(0.125 / 16))
    assert math.isnan(Sums().ratio)


def test_a_difference_is_so_many_standard_errors_wide() -> None:
    canary, control = sums(*[(1, 1), (0, 1)] * 50), sums(*[(1, 1), (0, 1), (0, 1), (0, 1)] * 25)
    value, low, high = difference(canary, control)
    assert value == 0.25
    # Variances of means of 100: 0.5 * 0.5 / 100 and 0.25 * 0.75 / 100.
    half = float(factor(200, tuned_rho(1_000, ALPHA), ALPHA)) * math.sqrt(0.0025 + 0.001875)
    assert (low, high) == (pytest.approx(0.25 - half), pytest.approx(0.25 + half))


def watch(n: int, *, seconds: Sequence[float] = (0.002, 0.004), degraded: int = 0, empty: int = 0) -> Watch:
    """n answers, of which the first so many were degraded, or empty."""
    found = Watch()
    for at in range(n):
        found.answered(seconds[at % len(seconds)], degraded=at < degraded, empty=at < empty)
    return found


def test_what_is_no_worse_breaks_nothing() -> None:
    assert breach(watch(1_000), watch(10_000), SETTINGS) is None
    assert breach(watch(1_000, degraded=20, empty=20), watch(10_000, degraded=200, empty=200), SETTINGS) is None
    assert breach(Watch(), Watch(), SETTINGS) is None


@pytest.mark.parametrize(
    ("canary", "guardrail"),
    [
        (watch(1_000, degraded=100), "errors"),
        (watch(1_000, empty=100), "empty"),
        (watch(1_000, seconds=(0.04, 0.06)), "latency"),
    ],
)
def test_what_is_surely_worse_breaks(canary: Watch, guardrail: str) -> None:
    found = breach(canary, watch(10_000), SETTINGS)
    assert found is not None and found.guardrail == guardrail
    assert breach(canary, watch(99), SETTINGS) is None  # of control too little is known


def test_a_little_worse_than_is_allowed_is_not_enough() -> None:
    assert breach(watch(1_000, seconds=(0.02, 0.02)), watch(10_000), SETTINGS) is None  # 17 ms of 20
    assert breach(watch(150, degraded=5), watch(10_000), SETTINGS) is None  # 3%, but of 150 answers


def test_a_request_that_fails_is_an_error() -> None:
    canary = watch(100)
    for _ in range(60):
        canary.failed()
    found = breach(canary, watch(1_000), SETTINGS)
    assert found is not None and found.guardrail == "errors"


def test_alike_arms_hardly_ever_break_however_often_one_looks() -> None:
    rng = np.random.default_rng(0)
    broken = 0
    for _ in range(100):
        canary, control = Watch(), Watch()
        for _look in range(10):
            for arm, n in ((canary, 100), (control, 300)):
                for chance in rng.random(n):
                    arm.answered(0.002, degraded=bool(chance < 0.05), empty=False)
            if breach(canary, control, errors_allowed(0.0)) is not None:
                broken += 1
                break
    assert broken <= 4  # in a hundred; alpha is 1% in the limit


def errors_allowed(allowed: float) -> Settings:
    return Settings(guardrail_answers=100, guardrail_errors=allowed)


def test_clicks_are_judged_by_shopper() -> None:
    control = sums(*[(1, 5), (0, 5)] * 1_000)  # 10%
    assert click_breach(sums(*[(1, 5), (0, 5)] * 500), control, SETTINGS) is None
    worse = click_breach(sums(*[(1, 10), (0, 10)] * 500), control, SETTINGS)
    assert worse is not None and worse.guardrail == "ctr" and "0.05 for 0.1 of control" in worse.words
    assert click_breach(sums(*[(0, 5)] * 99), control, SETTINGS) is None


def exposure(n: int, arms: dict[str, tuple[str, str]], at: float, *, degraded: bool = False) -> dict[str, object]:
    return {
        "request_id": f"r{n}",
        "occurred_at": datetime.fromtimestamp(at, UTC).replace(tzinfo=None),
        "user_id": None,
        "session_id": None,
        "surface": "home",
        "served_by": "phase1",
        "model_version": "v",
        "phase": 1,
        "degraded": degraded,
        "page_id": None,
        "widget": None,
        "rules": None,
        "plan": None,
        "arms": arms,
        "seconds": 0.001,
        "items": [],
        "request": {"k": 1},
        "moved_by": None,
        "shown_before": None,
    }


def click(n: int, at: float) -> dict[str, object]:
    moment = datetime.fromtimestamp(at, UTC).replace(tzinfo=None)
    event: dict[str, object] = dict.fromkeys(("user_id", "session_id", "price_cents", "order_id", "surface", "region"))
    event |= {"event_id": f"e{n}-{at}", "type": "click", "item_id": "i", "occurred_at": moment, "received_at": moment}
    return {**event, "quantity": 1, "request_id": f"r{n}", "origin": "api"}


def test_clicks_are_read_on_from_the_database(tmp_path: Path) -> None:
    engine = open_database(database_url(tmp_path))
    upgrade(engine)
    of = {NAME: ("canary", "user:a")}
    rows = [
        exposure(0, of, 50.0),  # before the canary
        exposure(1, of, 110.0),
        exposure(2, of, 111.0),
        exposure(3, of, 112.0, degraded=True),
        exposure(4, {NAME: ("control", "user:b")}, 113.0),
        exposure(5, {"another": ("control", "user:c")}, 114.0),
    ]
    with writing(engine) as connection:
        insert_exposures(connection, rows)
        insert_events(connection, [click(n, 120.0) for n in (1, 3, 4, 5)])
    clicks = Clicks(NAME, 100.0)
    clicks.read_on(engine)
    assert list(clicks.of("canary")) == [(1.0, 2.0)]
    assert list(clicks.of("control")) == [(1.0, 1.0)]
    with writing(engine) as connection:
        insert_exposures(connection, [exposure(6, of, 130.0)])
        insert_events(connection, [click(2, 131.0)])
    clicks.read_on(engine)
    assert list(clicks.of("canary")) == [(2.0, 3.0)]
    engine.dispose()


def test_a_canary_is_ended_once_whoever_sees_it_first(tmp_path: Path) -> None:
    bundles = tmp_path / "bundles"
    bundles.mkdir()
    (bundles / "live").write_text("a\n")
    (bundles / "canary").write_bytes(orjson.dumps({"version": "b", "share": 0.5, "since": 0.0}))
    running = Watched("b", NAME, 0.0, watch(1_000, degraded=500), watch(1_000))
    engine = open_database(database_url(tmp_path))
    stopped: list[str] = []
    metrics = [Metrics("shop", CollectorRegistry()) for _ in range(2)]
    guards = [
        Guardrail(bundles, engine, lambda: running, lambda: stopped.append("here"), one, SETTINGS) for one in metrics
    ]

    async def look() -> None:
        await asyncio.gather(*(guard.look() for guard in guards))

    asyncio.run(look())
    assert stopped == ["here", "here"]
    assert traffic_share(bundles, "canary") is None
    (entry,) = read_ledger(bundles)
    assert (entry.action, entry.version, entry.previous, entry.by) == ("canary ended", "b", "a", "guardrail")
    assert entry.reason.startswith("errors: 0.5 for 0 of control")
    counted = [b'recsys_guardrail_rollbacks_total{guardrail="errors",shop="shop"} 1.0' in one.text() for one in metrics]
    assert sorted(counted) == [False, True]


def test_an_end_that_could_not_be_written_is_written_as_soon_as_it_can(tmp_path: Path) -> None:
    bundles = tmp_path / "bundles"
    bundles.mkdir()
    (bundles / "canary").write_bytes(orjson.dumps({"version": "b", "share": 0.5, "since": 0.0}))
    (bundles / "ledger.jsonl").mkdir()  # no entry can be written, as on a full disk
    found = [Watched("b", NAME, 0.0, watch(1_000, degraded=500), watch(1_000))]
    engine, metrics = open_database(database_url(tmp_path)), Metrics("shop", CollectorRegistry())
    guard = Guardrail(bundles, engine, lambda: found[0] if found else None, found.clear, metrics, SETTINGS)
    with pytest.raises(OSError, match="directory"):
        asyncio.run(guard.look())
    assert not found  # in this worker
    (bundles / "ledger.jsonl").rmdir()
    asyncio.run(guard.look())
    assert traffic_share(bundles, "canary") is None
    (entry,) = read_ledger(bundles)
    assert entry.reason.startswith("errors: 0.5 for 0 of control")


def test_a_canary_that_holds_goes_on(tmp_path: Path) -> None:
    bundles = tmp_path / "bundles"
    bundles.mkdir()
    (bundles / "canary").write_bytes(orjson.dumps({"version": "b", "share": 0.5, "since": 0.0}))
    running = Watched("b", NAME, 0.0, watch(1_000), watch(1_000))
    engine = open_database(database_url(tmp_path))
    upgrade(engine)
    guard = Guardrail(bundles, engine, lambda: running, lambda: None, Metrics("shop", CollectorRegistry()), SETTINGS)
    asyncio.run(guard.look())
    asyncio.run(guard.look_at_clicks())
    guard.close()
    assert traffic_share(bundles, "canary") == TrafficShare("b", 0.5, 0.0)
    engine.dispose()
