"""The closed loop in small: arms in the real service, shoppers whose truth is known, and a readout that finds it."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from pipelines.ingest import ingest
from recsys.experiments.offpolicy import Trust
from recsys.publish import publish
from recsys.reality.months import Order, prepared, read_month, simulate
from recsys.reality.outcome import Outcome, pooled
from recsys.reality.processes import Track, side_by_side
from recsys.reality.sensitivity_plot import plot_sensitivity
from recsys.reality.study import phase_arms, write_plan
from recsys.reality.study_tables import (
    checks_table,
    lift,
    lifts_table,
    needed_table,
    precision_table,
    steps_table,
    surfaces_table,
)
from recsys.simulation.constants import Constants
from recsys.simulation.traffic import plan_visits
from tests.integration.test_simulator import CUT, world_of
from tests.redis_server import running_redis
from tests.shop import TILLS_MAPPING, tiny_dataset, write_tiny_bundle

SHARES = {"random": 0.3, "random_again": 0.15, "random_plus5": 0.15, "popularity": 0.2, "phase1": 0.2}
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("loop")
    dataset = tiny_dataset(np.random.default_rng(0))
    publish(folder / "bundles", write_tiny_bundle(folder, dataset.before(CUT)).name)
    (folder / "tills.csv").write_text("user,item,at\nhousehold-00,item-01,2017-09-01\n")
    (folder / "shop.toml").write_text(TILLS_MAPPING)
    ingest(folder / "shop.toml", folder, QUIET)
    world = world_of(dataset)
    days = (datetime.fromtimestamp(second, UTC).date() for second in (world.cut, world.until + 86_400))
    start, stop = days
    constants = Constants.read()
    constants = replace(
        constants,
        # So small a catalogue would soon have been seen too often, and one page of rows would show all of it.
        clicks=replace(constants.clicks, random_ctr=0.03, fatigue=1.0),
        traffic=replace(constants.traffic, browsing_visits=25.0, page_share=0.0),
    )
    experiment = write_plan(folder / "experiments.toml", phase_arms(SHARES), start, stop)
    order = Order(
        folder / "month",
        folder / "bundles",
        folder,
        (str(start), str(stop)),
        SHARES,
        constants,
        seed=1,
        asked_again=5_000,
        unit="session",  # there are too few households to be one's units
        keep=True,
    )
    visits = plan_visits(world, constants.traffic, constants.mess, order.seed)
    with prepared(order):
        (order.folder / "redis").mkdir()
        with running_redis(order.folder / "redis") as url:
            log = simulate(order.folder, url, world, visits, constants)
        month = read_month(order, world, log)
    return pooled(experiment, [month])


def test_every_visit_is_in_an_arm_and_the_shares_are_those_of_the_plan(outcome: Outcome) -> None:
    assert outcome.readout.reason == ""
    assert outcome.readout.many_arms_share == 0
    assert set(outcome.readout.units) == set(SHARES)
    assert min(outcome.readout.units.values()) > 250


@pytest.mark.parametrize("arm", list(SHARES)[1:])
def test_the_readout_finds_the_truth(outcome: Outcome, arm: str) -> None:
    estimate = lift(outcome.readout, arm)
    assert estimate is not None
    value, low, high = estimate
    true = outcome.truth["all"]
    expected = true[arm].ctr / true["random"].ctr - 1
    # Answers of the random arm differ from run to run: within three standard errors, not two.
    assert value - 1.5 * (value - low) <= expected <= value + 1.5 * (high - value)


def test_what_knows_the_shopper_is_clicked_more(outcome: Outcome) -> None:
    true = outcome.truth["all"]
    assert true["phase1"].ctr > 1.1 * true["popularity"].ctr
    assert true["phase1"].ctr > 1.1 * true["random"].ctr
    assert true["random_again"].ctr == pytest.approx(true["random"].ctr, rel=0.1)
    found = lift(outcome.readout, "phase1")
    assert found is not None and found[0] > 0


def test_an_effect_that_was_put_in_is_found_beside_an_arm_without_one(outcome: Outcome) -> None:
    added, again = lift(outcome.expected, "random_plus5"), lift(outcome.expected, "random_again")
    assert added is not None and again is not None
    # The expectation of visits to random items is the same for each but for what they happen to be shown.
    assert added[0] - again[0] == pytest.approx(0.05, abs=0.04)
    assert added[2] - added[1] < 0.2


def test_the_random_log_tells_what_a_phase_gets(outcome: Outcome) -> None:
    found = outcome.whole["phase1"]
    assert found.trust is not Trust.NOT_ESTIMABLE
    # Clicks are few and rare: the error of their rate grows with its root, and is taken where the rate truly is. Within three of it.
    error = (found.high - found.low) / 2 / 1.96 * math.sqrt(found.true / found.value)
    assert abs(found.value - found.online) < 3 * error
    assert abs(found.value - found.true) < 3 * error


def test_the_month_can_be_looked_at_under_other_assumptions(outcome: Outcome, tmp_path: Path) -> None:
    own = outcome.moved.filter(pl.col("arm") == "phase1", constant="taste_share").sort("value")
    assert own["lift"].is_sorted() and own["lift"][0] < 0.1 < own["lift"][-1]
    unmoved = outcome.moved.filter(constant="curiosity", value=0.1, arm="phase1")["lift"][0]
    true = outcome.truth["all"]
    assert unmoved == pytest.approx(true["phase1"].ctr / true["random"].ctr - 1)
    plot_sensitivity(outcome.moved, Constants.read(), tmp_path / "img" / "sensitivity.png")
    assert (tmp_path / "img" / "sensitivity.png").stat().st_size > 10_000


def test_the_tables_say_it(outcome: Outcome) -> None:
    assert [row[0] for row in lifts_table(outcome).rows] == list(SHARES)
    checks = {str(row[0]): row for row in checks_table(outcome).rows}
    assert checks["sizes of the arms as planned"][-1] is True
    assert "5% more clicks put in, lift in %" in checks
    assert [row[0] for row in steps_table(outcome).rows] == ["phase1 over popularity"]
    (row,) = precision_table(outcome).rows
    arm, visits, half, needed, expected = row
    assert arm == "phase1" and visits == outcome.visits
    assert isinstance(needed, int)
    assert needed == pytest.approx(outcome.visits * (float(str(half)) / 3) ** 2, rel=0.05)
    assert float(str(expected)) < float(str(half))
    assert [row[0] for row in surfaces_table(outcome).rows] == list(SHARES)
    assert [row[1] for row in needed_table(outcome).rows] == ["+23%"]


def _squared(number: int, track: Track) -> int:
    if number < 0:
        raise ValueError("no square")
    return sum(1 for _ in track(range(number))) * number


def test_work_is_done_side_by_side_and_the_first_error_ends_it() -> None:
    assert side_by_side(_squared, [3, 4, 5], 12, QUIET) == [9, 16, 25]
    with pytest.raises(ValueError, match="no square"):
        side_by_side(_squared, [2, -1], 2, QUIET)


def _endless(pids: str, track: Track) -> int:
    with Path(pids).open("a") as file:
        file.write(f"{os.getpid()}\n")
    return sum(time.sleep(0.01) or 1 for _ in track(itertools.count()))


def _wait_for_ever(pids: str) -> None:
    side_by_side(_endless, [pids, pids], 2, QUIET)


def test_who_simulates_for_nobody_stops(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    parent = get_context("spawn").Process(target=_wait_for_ever, args=(str(pids),))
    parent.start()
    try:
        _within(240, lambda: pids.exists() and len(pids.read_text().split()) == 2)
    finally:
        parent.kill()
        parent.join()
    _within(60, lambda: not any(_is_running(int(pid)) for pid in pids.read_text().split()))


def _within(seconds: float, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _is_running(pid: int) -> bool:
    """Also a zombie is none that runs: whoever took over the orphans may not look after them."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
