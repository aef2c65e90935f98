"""The closed loop in small: arms in the real service, shoppers whose truth is known, and a readout that finds it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from rich.console import Console

from pipelines.ingest import ingest
from recsys.publish import publish
from recsys.reality.study import Outcome, read, simulate, write_plan
from recsys.reality.study_tables import lift
from recsys.simulation.constants import Constants
from tests.integration.test_simulator import CUT, running_redis, world_of
from tests.shop import TILLS_MAPPING, tiny_dataset, write_tiny_bundle

ARMS = ("random", "random_again", "popularity", "phase1")
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
    write_plan(folder, ARMS, *days)
    constants = Constants.read()
    constants = replace(
        constants,
        # So small a catalogue would soon have been seen too often.
        clicks=replace(constants.clicks, random_ctr=0.03, fatigue=1.0),
        traffic=replace(constants.traffic, browsing_visits=25.0),
    )
    (folder / "redis").mkdir()
    with running_redis(folder / "redis") as url:
        log = simulate(folder, url, world, constants, 1, QUIET)
    return read(folder, log, QUIET)


def test_every_visit_is_in_an_arm_and_the_shares_are_those_of_the_plan(outcome: Outcome) -> None:
    assert outcome.readout.reason == ""
    assert outcome.readout.many_arms_share == 0
    assert set(outcome.readout.units) == set(ARMS)
    assert min(outcome.readout.units.values()) > 300


@pytest.mark.parametrize("arm", ARMS[1:])
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
